#pragma once
// The Python files of this folder, carried in the library.

#include <map>
#include <string>

namespace tokamak::backends::python {

const std::map<std::string, std::string>& embedded_files();

}  // namespace tokamak::backends::python
