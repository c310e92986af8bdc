# Warnings, and instruction-set flags by file name: foo_avx2.cc, foo_avx512.cc, foo_avx512_vnni.cc, foo_avx512_bf16.cc, foo_amx.cc.
# Everything else is compiled for plain x86-64; such files must not be entered unless cpu_features() allows it.

add_library(tokamak_options INTERFACE)
target_compile_options(tokamak_options INTERFACE -Wall -Wextra -Werror -Wno-missing-field-initializers -Wno-psabi -fno-math-errno)
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
  # Middle-end warnings that g++ 12 and 13 raise on correct inlined code of the standard library (GCC bugs 105329, 107852, 110498).
  target_compile_options(tokamak_options INTERFACE -Wno-restrict -Wno-array-bounds -Wno-stringop-overflow -Wno-stringop-overread)
endif()
target_link_options(tokamak_options INTERFACE -Wl,--as-needed)

set(TOKAMAK_SANITIZE "" CACHE STRING "address, undefined, thread or empty")
if(TOKAMAK_SANITIZE)
  string(REPLACE "+" "," sanitizers ${TOKAMAK_SANITIZE})
  add_compile_options(-fsanitize=${sanitizers} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${sanitizers})
endif()

if(TOKAMAK_FUZZ)
  # Coverage for libFuzzer and both sanitizers in every library; the targets alone link libFuzzer's main.
  add_compile_options(-fsanitize=fuzzer-no-link,address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=address,undefined)
endif()

# lld 14 (Debian 12) loses unwind tables of g++ 12's objects here: exceptions then end in abort().
if(CMAKE_EXE_LINKER_FLAGS MATCHES "fuse-ld=lld")
  message(FATAL_ERROR "lld breaks exceptions in this build: configure again with -DCMAKE_EXE_LINKER_FLAGS=")
endif()

set(TOKAMAK_AVX2 -mavx2 -mfma -mf16c -mbmi2)
# g++ 12 warns about its own AVX-512 headers (undefined pass-through operands).
set(TOKAMAK_AVX512 ${TOKAMAK_AVX2} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512)
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
  list(APPEND TOKAMAK_AVX512 -Wno-maybe-uninitialized -Wno-uninitialized)
endif()

function(tokamak_set_isa_flags)
  foreach(source ${ARGN})
    set(flags)
    if(source MATCHES "_avx2\\.cc$")
      set(flags ${TOKAMAK_AVX2})
    elseif(source MATCHES "_avx512\\.cc$")
      set(flags ${TOKAMAK_AVX512})
    elseif(source MATCHES "_avx512_vnni\\.cc$")
      set(flags ${TOKAMAK_AVX512} -mavx512vnni)
    elseif(source MATCHES "_avx512_bf16\\.cc$")
      set(flags ${TOKAMAK_AVX512} -mavx512bf16)
    elseif(source MATCHES "_amx\\.cc$")
      set(flags ${TOKAMAK_AVX512} -mavx512vnni -mavx512bf16 -mamx-tile -mamx-int8 -mamx-bf16 -mgfni)
    endif()
    if(flags)
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${flags}")
    endif()
  endforeach()
endfunction()
