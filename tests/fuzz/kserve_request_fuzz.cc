// Any bytes as the body of an inference request: an Error, or tensors that lie inside what was sent and an answer that can be written.

#include <cstddef>
#include <cstdint>

#include "server/http/kserve_request.h"
#include "server/http/kserve_response.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tokamak;
  using namespace tokamak::server;
  if (size < 2) return 0;
  // The first two bytes are Inference-Header-Content-Length; all ones is none.
  const size_t header = data[0] | size_t{data[1]} << 8;
  const auto* bytes = reinterpret_cast<const std::byte*>(data + 2);
  const auto body = std::make_shared<const std::vector<std::byte>>(bytes, bytes + size - 2);
  const std::optional<size_t> json_size = header == 0xffff ? std::nullopt : std::optional(header % (body->size() + 1));
  try {
    http::DecodedInfer decoded = http::read_infer("model", body, json_size, nullptr);
    InferResponse response{.model_name = "model", .model_version = 1, .id = decoded.request->id};
    response.parameters = decoded.request->parameters;
    for (const NamedTensor& input : decoded.request->inputs) {
      int64_t sum = 0;
      if (input.tensor.dtype() == DType::String)
        for (const std::string& text : input.tensor.strings()) sum += static_cast<int64_t>(text.size());
      else
        for (int64_t i = 0; i < input.tensor.size_bytes(); ++i) sum += static_cast<const uint8_t*>(input.tensor.raw())[i];
      volatile int64_t used = sum;
      (void)used;
      response.outputs.push_back(input);
    }
    http::write_infer(response, decoded.form);
    http::write_infer(response, {.is_binary = true});
  } catch (const Error& e) {
    if (e.code() == ErrorCode::Internal) throw;
  }
  return 0;
}
