#pragma once
// Text files as commands take them.

#include <string>
#include <vector>

namespace tokamak::cli {

// The file's text; gzip (by its first bytes) is unpacked. Throws NotFound, Io, Corrupt (a damaged gzip file), ResourceExhausted when the
// text is over `limit_bytes`.
std::string read_text_file(const std::string& path, size_t limit_bytes = size_t{1} << 30);

// Parts between blank lines, without them; empty parts are left out. "\r\n" ends a line too.
std::vector<std::string> split_documents(const std::string& text);

}  // namespace tokamak::cli
