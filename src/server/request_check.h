#pragma once
// Whether a request is one that the model's config allows, with Triton's messages; and its inputs in the shapes that the backend wants.

#include <string>
#include <vector>

#include "model_config.pb.h"
#include "server/request.h"

namespace tokamak::server {

// What the config says about inputs and outputs, in a form that is quick to check against.
struct RequestRules {
  struct Input {
    std::string name;
    DType dtype = DType::F32;
    Shape dims;     // without the batch axis; -1: any
    Shape reshape;  // for the backend, when has_reshape
    bool has_reshape = false, is_optional = false, is_ragged = false;
    bool is_variable = false;  // some dim is -1
  };
  struct Output {
    std::string name;
    DType dtype = DType::F32;
    Shape dims, reshape;
    bool has_reshape = false;
  };
  std::string model_name;
  int64_t max_batch_size = 0;
  std::vector<Input> inputs;
  std::vector<Output> outputs;
  size_t num_required = 0;
  bool has_optional = false;

  explicit RequestRules(const inference::ModelConfig& config);
  // -1 when there is none.
  int find_input(std::string_view name) const;
  int find_output(std::string_view name) const;
};

// "[request id: 7] ", what Triton's messages begin with.
std::string request_prefix(const std::string& id);

struct CheckedRequest {
  int64_t rows = 0;                // 0 when the model does not batch
  std::vector<int> inputs;         // indices into the request's inputs, in the config's order
  std::vector<Shape> shapes;       // of these, for the backend
  std::vector<int> outputs;        // asked for: indices into the rules'
  std::vector<int64_t> batch_key;  // requests with equal keys may share a batch
};

// Throws InvalidArgument.
CheckedRequest check_request(const RequestRules& rules, const InferRequest& request);

// The shape that the client sees for an output of the backend's. Throws Internal when the output's rank or element count cannot be.
Shape client_shape(const RequestRules::Output& output, const Shape& shape, bool has_rows);

}  // namespace tokamak::server
