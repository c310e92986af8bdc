#include "base/error.h"

namespace tokamak {

const char* to_string(ErrorCode code) {
  switch (code) {
    case ErrorCode::InvalidArgument: return "invalid argument";
    case ErrorCode::NotFound: return "not found";
    case ErrorCode::Unsupported: return "unsupported";
    case ErrorCode::Corrupt: return "corrupt data";
    case ErrorCode::OutOfRange: return "out of range";
    case ErrorCode::ResourceExhausted: return "resource exhausted";
    case ErrorCode::Io: return "i/o error";
    case ErrorCode::Unavailable: return "unavailable";
    case ErrorCode::AlreadyExists: return "already exists";
    case ErrorCode::Cancelled: return "cancelled";
    case ErrorCode::Internal: return "internal error";
  }
  return "unknown error";
}

void check_failed(const char* condition, const char* file, int line) {
  fail(ErrorCode::Internal, "internal error: {}:{}: `{}` does not hold; please report this with the model", file, line, condition);
}

}  // namespace tokamak
