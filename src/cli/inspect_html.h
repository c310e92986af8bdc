#pragma once
// The report page of `inspect --html`: one file, no scripts, nothing fetched.

#include <string>

#include "cli/command.h"

namespace tokamak::cli {

// `info` as `inspect --json` writes it.
std::string inspect_html(const Json& info);

}  // namespace tokamak::cli
