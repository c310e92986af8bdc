#pragma once
// Writes small ONNX models for tests: a protobuf encoder for the messages of onnx.proto that the importer reads.
//
//   OnnxGraph g;
//   g.input("x", DType::F32, {"batch", 4}).output("y", DType::F32, {"batch", 4});
//   g.node("Relu", {"x"}, {"y"});
//   auto graph = onnx::import_model(as_bytes(onnx_model(g)));

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/tensor.h"

namespace tokamak::test {

// One protobuf message under construction.
class OnnxMessage {
 public:
  OnnxMessage& integer(int field, int64_t value);
  OnnxMessage& real(int field, float value);             // fixed32
  OnnxMessage& text(int field, std::string_view value);  // strings and bytes
  OnnxMessage& message(int field, const OnnxMessage& value) { return text(field, value.bytes()); }
  OnnxMessage& raw(std::string_view bytes);  // appended as they are
  const std::string& bytes() const { return bytes_; }

 private:
  void varint(uint64_t value);
  std::string bytes_;
};

using OnnxDim = std::variant<int, int64_t, const char*>;  // a size or a name; "" is unknown
using OnnxNames = std::vector<std::string>;

// onnx.proto's number for a dtype.
int64_t onnx_dtype(DType dtype);

OnnxMessage onnx_tensor(const std::string& name, const Tensor& tensor);  // as raw_data
OnnxMessage onnx_external_tensor(const std::string& name, DType dtype, const Shape& shape,
                                 const std::vector<std::pair<std::string, std::string>>& entries);
OnnxMessage onnx_value(const std::string& name, DType dtype, const std::vector<OnnxDim>& dims);

struct OnnxGraph;

// An attribute; the type follows the value.
struct OnnxAttr {
  OnnxAttr(std::string_view name, int value) : OnnxAttr(name, static_cast<int64_t>(value)) {}
  OnnxAttr(std::string_view name, int64_t value);
  OnnxAttr(std::string_view name, double value);
  OnnxAttr(std::string_view name, const char* value);
  OnnxAttr(std::string_view name, const std::vector<int64_t>& value);
  OnnxAttr(std::string_view name, const std::vector<double>& value);
  OnnxAttr(std::string_view name, const std::vector<std::string>& value);
  OnnxAttr(std::string_view name, const Tensor& value);
  OnnxAttr(std::string_view name, const OnnxGraph& value);
  // `name` takes the value of the enclosing function's attribute `reference`, of onnx.proto's AttributeType `type`.
  static OnnxAttr reference(std::string_view name, std::string_view reference, int64_t type);

  OnnxMessage message;

 private:
  explicit OnnxAttr(std::string_view name) { message.text(1, name); }
};

OnnxMessage onnx_node(std::string_view op, const OnnxNames& inputs, const OnnxNames& outputs, const std::vector<OnnxAttr>& attrs = {},
                      std::string_view name = "", std::string_view domain = "");

struct OnnxGraph {
  OnnxMessage message;

  OnnxGraph& input(const std::string& name, DType dtype, const std::vector<OnnxDim>& dims);
  OnnxGraph& output(const std::string& name, DType dtype = DType::F32, const std::vector<OnnxDim>& dims = {});
  OnnxGraph& initializer(const std::string& name, const Tensor& tensor);
  OnnxGraph& node(std::string_view op, const OnnxNames& inputs, const OnnxNames& outputs, const std::vector<OnnxAttr>& attrs = {},
                  std::string_view name = "", std::string_view domain = "");
};

struct OnnxFunction {
  std::string name, domain;
  OnnxNames inputs, outputs, attributes;
  std::vector<OnnxMessage> nodes;
  int64_t opset = 17;
};

struct OnnxModelOptions {
  int64_t opset = 17, ir_version = 8;
  std::vector<std::pair<std::string, int64_t>> more_opsets;
  std::vector<OnnxFunction> functions;
  std::vector<std::pair<std::string, std::string>> metadata;
};

std::string onnx_model(const OnnxGraph& graph, const OnnxModelOptions& options = {});

inline std::span<const std::byte> as_bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

}  // namespace tokamak::test
