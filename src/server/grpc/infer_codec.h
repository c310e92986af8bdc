#pragma once
// ModelInfer's messages and the server's requests and responses, one into the other. Large tensors are copied in neither direction: inputs
// view the parsed message, outputs leave as slices that hold their tensor.

#include <grpcpp/support/byte_buffer.h>

#include <map>
#include <memory>
#include <string>

#include "grpc_service.pb.h"
#include "server/kserve.h"
#include "server/server.h"
#include "server/shared_memory.h"

namespace tokamak::server {

// Outputs that the client wants in shared memory, by name.
using OutputPlaces = std::map<std::string, std::pair<kserve::SharedMemoryRange, SharedBytes>, std::less<>>;

struct DecodedInfer {
  std::shared_ptr<Model> model;
  std::unique_ptr<InferRequest> request;  // without on_response
  OutputPlaces places;
  bool enable_empty_final_response = false;  // of streams
};

// Parses one message and lets go of its bytes. Throws InvalidArgument.
std::shared_ptr<const inference::ModelInferRequest> parse_infer(grpc::ByteBuffer&& bytes);

// Throws InvalidArgument for a message that is not consistent in itself, and what the server throws for the model and the regions it names.
// Whether it suits the model is the model's to check.
DecodedInfer decode_infer(const std::shared_ptr<const inference::ModelInferRequest>& message, Server& server, bool is_stream);

// A ModelInferResponse, or one within a ModelStreamInferResponse that carries triton_final_response. `response` must not be an error.
// Writes the outputs that have a place to it. Throws InvalidArgument for an output that does not fit its place and for answers of more
// than INT32_MAX bytes; Internal for dtypes that the protocol does not have.
grpc::ByteBuffer encode_response(const InferResponse& response, const OutputPlaces& places);
grpc::ByteBuffer encode_stream_response(const InferResponse& response, const OutputPlaces& places);
// A ModelStreamInferResponse with error_message.
grpc::ByteBuffer encode_stream_error(const std::string& model_name, const std::string& id, const std::string& message, bool is_final);

}  // namespace tokamak::server
