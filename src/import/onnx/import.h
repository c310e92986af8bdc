#pragma once
// ONNX file → Graph.

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ir/graph.h"

namespace tokamak::onnx {

struct UnsupportedNode {
  std::string name, op, domain, dtype, reason, advice;
  int64_t opset = 0;
};

struct ImportOptions {
  // Replaces an input's symbolic dims with numbers, by symbol name or by "input:axis".
  std::vector<std::pair<std::string, int64_t>> fix_dims;
  // When set, unsupported nodes are appended here and import returns null instead of throwing (for `check`).
  std::vector<UnsupportedNode>* unsupported = nullptr;
};

// Maps the file; initializers with raw_data (inline or external) refer to the mapping, which the graph's constants keep alive. Model files
// over 2 GB are fine. External data must lie in the model's folder or below (no absolute path, no "..", no symlink out). Throws NotFound,
// Corrupt, Unsupported (every unsupported node at once) or OutOfRange.
std::unique_ptr<ir::Graph> import_model(const std::string& path, const ImportOptions& options = {});
// From memory (external data refused unless `folder` is given). `owner` keeps `bytes` alive for the constants; null: they are copied.
std::unique_ptr<ir::Graph> import_model(std::span<const std::byte> bytes, std::shared_ptr<const void> owner = nullptr,
                                        const std::string& folder = "", const ImportOptions& options = {});

// A bare TensorProto (the conformance suite's input_0.pb). Throws Corrupt.
Tensor read_tensor_proto(std::span<const std::byte> bytes);

}  // namespace tokamak::onnx
