#pragma once
// Errors as gRPC statuses.

#include <grpcpp/support/status.h>

#include "base/error.h"

namespace tokamak::server {

// NotFound, Unavailable, Unsupported (UNIMPLEMENTED), AlreadyExists, Cancelled, ResourceExhausted, Internal and Io (INTERNAL) have their
// own; the rest is INVALID_ARGUMENT, as Triton's clients expect for everything that is wrong with a request.
grpc::Status to_grpc_status(ErrorCode code, const std::string& message);

// The status of what `call` throws; OK otherwise.
template <class Call>
grpc::Status status_of(Call&& call) {
  try {
    call();
    return grpc::Status::OK;
  } catch (const Error& error) {
    return to_grpc_status(error.code(), error.what());
  } catch (const std::bad_alloc&) {
    return to_grpc_status(ErrorCode::ResourceExhausted, "out of memory");
  } catch (const std::exception& error) {
    return to_grpc_status(ErrorCode::Internal, error.what());
  }
}

}  // namespace tokamak::server
