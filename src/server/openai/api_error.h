#pragma once
// OpenAI's error form: {"error": {"message", "type", "param", "code"}} under an HTTP status.

#include <fmt/format.h>

#include <exception>
#include <stdexcept>
#include <string>
#include <string_view>

#include "base/error.h"
#include "server/http/http.h"

namespace tokamak::server::openai {

// An answer that is an error. `param` is the field of the request at fault, as a path ("messages[2].content"), and `code` OpenAI's word for
// the reason; both may be empty (null on the wire).
class ApiError : public std::runtime_error {
 public:
  ApiError(int status, std::string type, std::string message, std::string param = {}, std::string code = {})
      : std::runtime_error(std::move(message)), status(status), type(std::move(type)), param(std::move(param)), code(std::move(code)) {}

  int status;
  std::string type, param, code;
};

// 400, invalid_request_error.
template <class... Args>
[[noreturn]] void bad_request(std::string_view param, fmt::format_string<Args...> format, Args&&... args) {
  throw ApiError(400, "invalid_request_error", fmt::format(format, std::forward<Args>(args)...), std::string(param));
}

// How an error from below looks to a client. OutOfRange from LlmEngine is a prompt that fills the context.
ApiError api_error(ErrorCode code, const std::string& message);
// The same of whatever was thrown.
ApiError api_error(std::exception_ptr thrown);

std::string error_json(const ApiError& error);
http::Response error_response(const ApiError& error);

}  // namespace tokamak::server::openai
