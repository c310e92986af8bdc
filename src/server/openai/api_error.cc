#include "server/openai/api_error.h"

#include "llm/tokenizer/utf8.h"
#include "server/openai/json_text.h"

namespace tokamak::server::openai {

ApiError api_error(ErrorCode code, const std::string& message) {
  switch (code) {
    case ErrorCode::NotFound: return {404, "not_found_error", message, "model", "model_not_found"};
    case ErrorCode::OutOfRange: return {400, "invalid_request_error", message, "", "context_length_exceeded"};
    case ErrorCode::ResourceExhausted: return {503, "server_error", message, "", "overloaded"};
    case ErrorCode::Unavailable: return {503, "server_error", message, "", "unavailable"};
    case ErrorCode::Cancelled: return {499, "server_error", message, "", "cancelled"};
    case ErrorCode::Unsupported: return {400, "invalid_request_error", message, "", "unsupported"};
    case ErrorCode::InvalidArgument: return {400, "invalid_request_error", message};
    default: return {500, "server_error", message};
  }
}

ApiError api_error(std::exception_ptr thrown) {
  try {
    std::rethrow_exception(thrown);
  } catch (const ApiError& error) {
    return error;
  } catch (const Error& error) {
    return api_error(error.code(), error.what());
  } catch (const std::exception& error) {
    return {500, "server_error", error.what()};
  } catch (...) {
    return {500, "server_error", "an unknown error"};
  }
}

std::string error_json(const ApiError& error) {
  const auto text_or_null = [](std::string& out, const std::string& text) {
    if (text.empty()) out += "null";
    else append_json_string(out, llm::tokenizer::to_valid_utf8(text));
  };
  std::string out = R"({"error":{"message":)";
  append_json_string(out, llm::tokenizer::to_valid_utf8(error.what()));  // it may quote what the client sent, and cut it anywhere
  out += R"(,"type":)";
  append_json_string(out, error.type);
  out += R"(,"param":)";
  text_or_null(out, error.param);
  out += R"(,"code":)";
  text_or_null(out, error.code);
  return out += "}}";
}

http::Response error_response(const ApiError& error) {
  http::Response response{.status = error.status, .headers = {{"Content-Type", "application/json"}}, .body = error_json(error)};
  if (error.status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  if (error.status == 503) response.headers.emplace_back("Retry-After", "1");
  return response;
}

}  // namespace tokamak::server::openai
