#pragma once
// The body of an inference request: JSON, and behind it the binary tensors in the order they were declared (Triton's binary tensor
// extension).

#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/kserve.h"
#include "server/model.h"
#include "server/request.h"
#include "server/shared_memory.h"

namespace tokamak::server::http {

using Body = std::shared_ptr<const std::vector<std::byte>>;

// How the client wants the outputs.
struct OutputForm {
  struct Place {
    kserve::SharedMemoryRange range;
    SharedBytes shared;
  };
  bool is_binary = false;                                // of outputs that do not say
  std::map<std::string, bool, std::less<>> binary = {};  // of those that do
  std::map<std::string, Place, std::less<>> places = {};
};

struct DecodedInfer {
  std::unique_ptr<InferRequest> request;  // without on_response and version
  OutputForm form;
};

// `json_size` is Inference-Header-Content-Length, the bytes of JSON; nothing: all of the body. Tensors view the body and keep it, unless
// their bytes are not aligned to their size. `shared_memory` may be null: clients may use none. Throws InvalidArgument for whatever does
// not add up, NotFound for regions.
DecodedInfer read_infer(const std::string& model, const Body& body, std::optional<size_t> json_size, SharedMemoryRegistry* shared_memory);

// A body that is the one input of `model` (an Inference-Header-Content-Length of 0): a batch of one row. Throws InvalidArgument for models
// with more inputs or more than one variable dimension, and strings of other shapes than [1].
DecodedInfer read_raw_infer(const Model& model, const Body& body);

// The value of Inference-Header-Content-Length; nothing for "". Throws InvalidArgument for what is not a number of at most `body_size`.
std::optional<size_t> parse_json_size(std::string_view header, size_t body_size);

// The registry; throws Unsupported when clients may not use shared memory.
SharedMemoryRegistry& allowed(SharedMemoryRegistry* shared_memory);

}  // namespace tokamak::server::http
