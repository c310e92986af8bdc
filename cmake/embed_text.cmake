# cmake -DINPUT=x.html -DOUTPUT=x.h -DNAME=kX -DNAMESPACE=a::b -P embed_text.cmake: a text file as a string_view.
file(READ ${INPUT} content)
# A literal may be no longer than 64 KiB everywhere; neighbours are one.
string(LENGTH "${content}" length)
set(pieces "")
set(at 0)
while(at LESS length)
  string(SUBSTRING "${content}" ${at} 16000 piece)
  string(APPEND pieces "R\"text(${piece})text\"\n")
  math(EXPR at "${at} + 16000")
endwhile()
file(WRITE ${OUTPUT} "#pragma once\n#include <string_view>\nnamespace ${NAMESPACE} {\ninline constexpr std::string_view ${NAME} =\n${pieces};\n}\n")
