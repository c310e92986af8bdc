#pragma once
// The C ABI of include/tokamak/backend.h from the server's side: its functions, and the backends by name.

#include <string>
#include <vector>

#include "base/error.h"
#include "tokamak/backend.h"

namespace tokamak::server {

// The functions that backends call. Immutable, for the life of the process.
const tkb_server& server_functions();

// The backend of this name: a built-in one, else libtokamak_NAME.so in the first of `directories` that has it, else beside the program or
// in its ../lib/tokamak. A library stays loaded. Throws NotFound (with where it was looked for) or Unsupported (not a backend, or of
// another version). Thread-safe.
const tkb_backend& find_backend(const std::string& name, const std::vector<std::string>& directories);
// Adds a built-in one, or replaces it (tests).
void add_backend(const std::string& name, tkb_entry entry);

// The error as an exception, released; nothing when it is null.
void throw_if(tkb_error* error);
ErrorCode error_code(tkb_code code);

}  // namespace tokamak::server
