#pragma once
// The page, carried in the program.

#include <map>
#include <string>

namespace tokamak::server {

const std::map<std::string, std::string>& page_files();

}  // namespace tokamak::server
