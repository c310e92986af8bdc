#pragma once
// What backends written in C++ share: exceptions to the ABI's errors, and values of its structs. Needs nothing of the server but the table
// it is given.

#include <fmt/format.h>

#include <optional>
#include <string>
#include <string_view>

#include "base/dtype.h"
#include "base/error.h"
#include "tokamak/backend.h"

namespace tokamak::backends {

inline tkb_code to_code(ErrorCode code) {
  switch (code) {
    case ErrorCode::InvalidArgument:
    case ErrorCode::OutOfRange:
    case ErrorCode::Corrupt: return TKB_INVALID_ARGUMENT;
    case ErrorCode::NotFound: return TKB_NOT_FOUND;
    case ErrorCode::Unsupported: return TKB_UNSUPPORTED;
    case ErrorCode::Unavailable: return TKB_UNAVAILABLE;
    case ErrorCode::ResourceExhausted: return TKB_RESOURCE_EXHAUSTED;
    case ErrorCode::Cancelled: return TKB_CANCELLED;
    case ErrorCode::AlreadyExists: return TKB_ALREADY_EXISTS;
    case ErrorCode::Io:
    case ErrorCode::Internal: break;
  }
  return TKB_INTERNAL;
}

// Both sides have the same order, strings last.
inline DType from_abi(tkb_dtype dtype) { return dtype == TKB_BYTES ? DType::String : static_cast<DType>(dtype); }
inline tkb_dtype to_abi(DType dtype) { return dtype == DType::String ? TKB_BYTES : static_cast<tkb_dtype>(dtype); }
static_assert(static_cast<int>(DType::F32) == TKB_F32 && static_cast<int>(DType::BF16) == TKB_BF16 &&
              static_cast<int>(DType::I64) == TKB_I64 && static_cast<int>(DType::Bool) == TKB_BOOL);

// Runs `f`; what it throws is the result.
template <class F>
tkb_error* guarded(const tkb_server& server, const F& f) noexcept {
  try {
    f();
    return nullptr;
  } catch (const Error& e) {
    return server.error(to_code(e.code()), e.what());
  } catch (const std::bad_alloc&) {
    return server.error(TKB_RESOURCE_EXHAUSTED, "out of memory");
  } catch (const std::exception& e) {
    return server.error(TKB_INTERNAL, e.what());
  } catch (...) {
    return server.error(TKB_INTERNAL, "an unknown exception");
  }
}

// The final response that is this error.
inline void respond_error(const tkb_server& server, const tkb_request& request, ErrorCode code, const std::string& message) {
  const tkb_response response = {.error = server.error(to_code(code), message.c_str()), .is_final = 1};
  server.respond(&request, &response);
}

// The setting or null.
inline const char* find_setting(const tkb_model_args& args, std::string_view key) {
  for (size_t i = 0; i < args.num_settings; ++i)
    if (key == args.settings[i].key) return args.settings[i].value;
  return nullptr;
}

inline int64_t count_of(const tkb_tensor& t) {
  int64_t count = 1;
  for (int32_t i = 0; i < t.rank; ++i) count *= t.dims[i];
  return count;
}

}  // namespace tokamak::backends
