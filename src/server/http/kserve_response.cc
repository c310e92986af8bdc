#include "server/http/kserve_response.h"

#include "server/http/json_out.h"

namespace tokamak::server::http {

namespace {

void append_parameters(std::string& out, const Parameters& parameters) {
  bool is_first = true;
  for (const auto& [name, value] : parameters) {
    if (!std::exchange(is_first, false)) out += ',';
    append_string(out, name);
    out += ':';
    append_value(out, value);
  }
}

// The output's bytes, without copying where they are one array already.
void append_piece(Response& answer, const Tensor& tensor, size_t size) {
  if (size == 0) return;
  if (tensor.dtype() == DType::String) {
    auto bytes = std::make_shared<std::vector<std::byte>>(size);
    kserve::write_wire(tensor, bytes->data());
    const std::span<const std::byte> view(*bytes);
    answer.pieces.emplace_back(std::move(bytes), view);
  } else {
    auto kept = std::make_shared<const Tensor>(tensor);
    const std::span view(static_cast<const std::byte*>(kept->raw()), size);
    answer.pieces.emplace_back(std::move(kept), view);
  }
}

void place(const NamedTensor& output, size_t size, const OutputForm::Place& place, Parameters& parameters) {
  const auto& [range, shared] = place;
  if (size > shared.bytes.size())
    fail(ErrorCode::InvalidArgument, "output '{}' has {} bytes, its place in shared memory region '{}' has {}", output.name, size,
         range.region, shared.bytes.size());
  kserve::write_wire(output.tensor, shared.bytes.data());
  parameters.insert_or_assign("shared_memory_region", range.region);
  parameters.insert_or_assign("shared_memory_byte_size", static_cast<uint64_t>(size));
  if (range.offset != 0) parameters.insert_or_assign("shared_memory_offset", range.offset);
}

// What every answer begins with: "id" when the request had one, "model_name", "model_version".
void append_model(std::string& json, const InferResponse& response) {
  if (!response.id.empty()) {
    json += "\"id\":";
    append_string(json, response.id);
    json += ',';
  }
  json += "\"model_name\":";
  append_string(json, response.model_name);
  json += ",\"model_version\":\"";
  append_number(json, response.model_version);
  json += '"';
}

}  // namespace

Response write_infer(const InferResponse& response, const OutputForm& form) {
  Response answer;
  std::string& json = answer.body;
  json = "{";
  append_model(json, response);
  if (!response.parameters.empty()) {
    json += ",\"parameters\":{";
    append_parameters(json, response.parameters);
    json += '}';
  }
  json += ",\"outputs\":[";
  bool is_first = true, has_binary = false;
  for (const NamedTensor& output : response.outputs) {
    if (!std::exchange(is_first, false)) json += ',';
    const std::string where = fmt::format("output '{}' of model '{}'", output.name, response.model_name);
    const char* datatype = kserve::datatype_name(output.tensor.dtype());
    if (*datatype == '\0')
      fail(ErrorCode::Internal, "{} has dtype {}, which the protocol has no name for", where, to_string(output.tensor.dtype()));
    json += "{\"name\":";
    append_string(json, output.name);
    json.append(",\"datatype\":\"").append(datatype).append("\",\"shape\":");
    append_shape(json, output.tensor.shape());

    Parameters parameters = output.parameters;
    const auto size = static_cast<size_t>(kserve::wire_size(output.tensor));
    const auto asked = form.binary.find(output.name);
    const auto where_to = form.places.find(output.name);
    const bool is_placed = where_to != form.places.end();
    const bool is_binary = !is_placed && (asked == form.binary.end() ? form.is_binary : asked->second);
    if (is_placed) place(output, size, where_to->second, parameters);
    if (is_binary) {
      has_binary = true;
      parameters.insert_or_assign("binary_data_size", static_cast<uint64_t>(size));
      append_piece(answer, output.tensor, size);
    }
    if (!parameters.empty()) {
      json += ",\"parameters\":{";
      append_parameters(json, parameters);
      json += '}';
    }
    if (!is_binary && !is_placed) {
      json += ",\"data\":[";
      append_elements(json, output.tensor, 0, output.tensor.count(), where);
      json += ']';
    }
    json += '}';
  }
  json += "]}";
  answer.headers.emplace_back("Content-Type", has_binary ? "application/octet-stream" : "application/json");
  if (has_binary) answer.headers.emplace_back("Inference-Header-Content-Length", std::to_string(json.size()));
  return answer;
}

std::string write_generated(const InferResponse& response) {
  std::string json = "{";
  append_model(json, response);
  if (!response.parameters.empty()) {
    json += ',';
    append_parameters(json, response.parameters);
  }
  for (const NamedTensor& output : response.outputs) {
    json += ',';
    append_string(json, output.name);
    json += ':';
    const bool is_single = output.tensor.count() == 1;
    if (!is_single) json += '[';
    append_elements(json, output.tensor, 0, output.tensor.count(),
                    fmt::format("output '{}' of model '{}'", output.name, response.model_name));
    if (!is_single) json += ']';
  }
  json += '}';
  return json;
}

std::string error_json(std::string_view message) {
  std::string json = "{\"error\":";
  append_string(json, message);
  json += '}';
  return json;
}

Response json_answer(std::string json) { return {.headers = {{"Content-Type", "application/json"}}, .body = std::move(json)}; }

Response error_answer(ErrorCode code, std::string_view message) {
  Response answer = json_answer(error_json(message));
  answer.status = http_status(code);
  return answer;
}

}  // namespace tokamak::server::http
