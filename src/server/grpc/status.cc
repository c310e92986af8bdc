#include "server/grpc/status.h"

namespace tokamak::server {

namespace {

grpc::StatusCode to_grpc_code(ErrorCode code) {
  switch (code) {
    case ErrorCode::NotFound: return grpc::StatusCode::NOT_FOUND;
    case ErrorCode::Unavailable: return grpc::StatusCode::UNAVAILABLE;
    case ErrorCode::Unsupported: return grpc::StatusCode::UNIMPLEMENTED;
    case ErrorCode::AlreadyExists: return grpc::StatusCode::ALREADY_EXISTS;
    case ErrorCode::Cancelled: return grpc::StatusCode::CANCELLED;
    case ErrorCode::ResourceExhausted: return grpc::StatusCode::RESOURCE_EXHAUSTED;
    case ErrorCode::Io:
    case ErrorCode::Internal: return grpc::StatusCode::INTERNAL;
    case ErrorCode::InvalidArgument:
    case ErrorCode::Corrupt:
    case ErrorCode::OutOfRange: break;
  }
  return grpc::StatusCode::INVALID_ARGUMENT;
}

}  // namespace

grpc::Status to_grpc_status(ErrorCode code, const std::string& message) {
  // A status travels in a header: a client refuses long ones (8 KiB by default for all headers together).
  constexpr size_t kMaxMessage = 4096;
  return {to_grpc_code(code), message.size() <= kMaxMessage ? message : message.substr(0, kMaxMessage) + "..."};
}

}  // namespace tokamak::server
