#pragma once
// One error type for the whole project. Library code throws `Error`; the C API, the command line and the servers translate it.

#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace tokamak {

enum class ErrorCode {
  InvalidArgument,    // the caller asked for something that cannot be
  NotFound,           // a file or a name does not exist
  Unsupported,        // valid, but not something this build can do
  Corrupt,            // bytes that do not parse, checksums that do not match
  OutOfRange,         // a shape or index outside what was declared
  ResourceExhausted,  // memory, workspace or another limit
  Io,                 // the operating system said no
  Unavailable,        // not now: a model that is not ready, a queue that is full
  AlreadyExists,      // a name that is taken
  Cancelled,          // the caller no longer wants it
  Internal,           // a bug here
};

const char* to_string(ErrorCode code);

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, std::string message) : std::runtime_error(std::move(message)), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

// Throws Error{code, formatted message}. A message says what was expected, what was found, where, and what to do.
template <class... Args>
[[noreturn]] void fail(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

[[noreturn]] void check_failed(const char* condition, const char* file, int line);

}  // namespace tokamak

// A broken invariant of this program (a bug), never reachable from a file or a request.
#define CHECK(condition)                                       \
  do {                                                         \
    if (!(condition)) [[unlikely]]                             \
      ::tokamak::check_failed(#condition, __FILE__, __LINE__); \
  } while (0)

#ifdef NDEBUG
#define DCHECK(condition) ((void)0)
#else
#define DCHECK(condition) CHECK(condition)
#endif
