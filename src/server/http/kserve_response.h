#pragma once
// The answer to an inference request: JSON, and behind it the outputs that were asked for as binary data.

#include "server/http/http.h"
#include "server/http/kserve_request.h"

namespace tokamak::server::http {

// `response` must not be an error. Numbers that leave as binary data are not copied; the answer keeps their tensors. Writes outputs that
// have a place in shared memory to it. Throws InvalidArgument for an output that does not fit its place and for strings that are not UTF-8
// and were not asked for as binary data.
Response write_infer(const InferResponse& response, const OutputForm& form);

// One response of `generate`, as a JSON object: outputs by name, a single value without brackets.
std::string write_generated(const InferResponse& response);

// {"error": message}
std::string error_json(std::string_view message);
Response error_answer(ErrorCode code, std::string_view message);
Response json_answer(std::string json);

}  // namespace tokamak::server::http
