#include "tests/support/onnx_writer.h"

#include <bit>

namespace tokamak::test {

void OnnxMessage::varint(uint64_t value) {
  for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>(value | 0x80);
  bytes_ += static_cast<char>(value);
}

OnnxMessage& OnnxMessage::integer(int field, int64_t value) {
  varint(static_cast<uint64_t>(field) << 3);
  varint(static_cast<uint64_t>(value));
  return *this;
}

OnnxMessage& OnnxMessage::real(int field, float value) {
  varint(static_cast<uint64_t>(field) << 3 | 5);
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  for (int i = 0; i < 4; ++i) bytes_ += static_cast<char>(bits >> (8 * i));
  return *this;
}

OnnxMessage& OnnxMessage::text(int field, std::string_view value) {
  varint(static_cast<uint64_t>(field) << 3 | 2);
  varint(value.size());
  bytes_ += value;
  return *this;
}

OnnxMessage& OnnxMessage::raw(std::string_view bytes) {
  bytes_ += bytes;
  return *this;
}

int64_t onnx_dtype(DType dtype) {
  switch (dtype) {
    case DType::F32: return 1;
    case DType::U8: return 2;
    case DType::I8: return 3;
    case DType::U16: return 4;
    case DType::I16: return 5;
    case DType::I32: return 6;
    case DType::I64: return 7;
    case DType::String: return 8;
    case DType::Bool: return 9;
    case DType::F16: return 10;
    case DType::F64: return 11;
    case DType::U32: return 12;
    case DType::U64: return 13;
    case DType::C64: return 14;
    case DType::C128: return 15;
    case DType::BF16: return 16;
    case DType::F8E4M3FN: return 17;
    case DType::F8E4M3FNUZ: return 18;
    case DType::F8E5M2: return 19;
    case DType::F8E5M2FNUZ: return 20;
    case DType::U4: return 21;
    case DType::I4: return 22;
    case DType::F4E2M1: return 23;
    case DType::F8E8M0: return 24;
    case DType::U2: return 25;
    case DType::I2: return 26;
  }
  return 0;
}

namespace {

OnnxMessage tensor_header(const std::string& name, DType dtype, const Shape& shape) {
  OnnxMessage m;
  for (int64_t d : shape) m.integer(1, d);
  m.integer(2, onnx_dtype(dtype));
  if (!name.empty()) m.text(8, name);
  return m;
}

}  // namespace

OnnxMessage onnx_tensor(const std::string& name, const Tensor& tensor) {
  OnnxMessage m = tensor_header(name, tensor.dtype(), tensor.shape());
  if (tensor.dtype() == DType::String) {
    for (const auto& s : tensor.strings()) m.text(6, s);
    return m;
  }
  return m.text(9, {static_cast<const char*>(tensor.raw()), static_cast<size_t>(tensor.size_bytes())});
}

OnnxMessage onnx_external_tensor(const std::string& name, DType dtype, const Shape& shape,
                                 const std::vector<std::pair<std::string, std::string>>& entries) {
  OnnxMessage m = tensor_header(name, dtype, shape);
  for (const auto& [key, value] : entries) m.message(13, OnnxMessage().text(1, key).text(2, value));
  return m.integer(14, 1);
}

OnnxMessage onnx_value(const std::string& name, DType dtype, const std::vector<OnnxDim>& dims) {
  OnnxMessage shape;
  for (const OnnxDim& dim : dims) {
    OnnxMessage d;
    if (const auto* size = std::get_if<int>(&dim)) d.integer(1, *size);
    if (const auto* size = std::get_if<int64_t>(&dim)) d.integer(1, *size);
    if (const auto* symbol = std::get_if<const char*>(&dim); symbol && **symbol) d.text(2, *symbol);
    shape.message(1, d);
  }
  OnnxMessage tensor_type = OnnxMessage().integer(1, onnx_dtype(dtype)).message(2, shape);
  return OnnxMessage().text(1, name).message(2, OnnxMessage().message(1, tensor_type));
}

OnnxAttr::OnnxAttr(std::string_view name, int64_t value) : OnnxAttr(name) { message.integer(3, value).integer(20, 2); }
OnnxAttr::OnnxAttr(std::string_view name, double value) : OnnxAttr(name) { message.real(2, static_cast<float>(value)).integer(20, 1); }
OnnxAttr::OnnxAttr(std::string_view name, const char* value) : OnnxAttr(name) { message.text(4, value).integer(20, 3); }

OnnxAttr::OnnxAttr(std::string_view name, const std::vector<int64_t>& value) : OnnxAttr(name) {
  for (int64_t v : value) message.integer(8, v);
  message.integer(20, 7);
}

OnnxAttr::OnnxAttr(std::string_view name, const std::vector<double>& value) : OnnxAttr(name) {
  for (double v : value) message.real(7, static_cast<float>(v));
  message.integer(20, 6);
}

OnnxAttr::OnnxAttr(std::string_view name, const std::vector<std::string>& value) : OnnxAttr(name) {
  for (const auto& v : value) message.text(9, v);
  message.integer(20, 8);
}

OnnxAttr::OnnxAttr(std::string_view name, const Tensor& value) : OnnxAttr(name) {
  message.message(5, onnx_tensor("", value)).integer(20, 4);
}
OnnxAttr::OnnxAttr(std::string_view name, const OnnxGraph& value) : OnnxAttr(name) { message.message(6, value.message).integer(20, 5); }

OnnxAttr OnnxAttr::reference(std::string_view name, std::string_view reference, int64_t type) {
  OnnxAttr a(name);
  a.message.integer(20, type).text(21, reference);
  return a;
}

OnnxMessage onnx_node(std::string_view op, const OnnxNames& inputs, const OnnxNames& outputs, const std::vector<OnnxAttr>& attrs,
                      std::string_view name, std::string_view domain) {
  OnnxMessage m;
  for (const auto& input : inputs) m.text(1, input);
  for (const auto& output : outputs) m.text(2, output);
  if (!name.empty()) m.text(3, name);
  m.text(4, op);
  for (const auto& a : attrs) m.message(5, a.message);
  if (!domain.empty()) m.text(7, domain);
  return m;
}

OnnxGraph& OnnxGraph::input(const std::string& name, DType dtype, const std::vector<OnnxDim>& dims) {
  message.message(11, onnx_value(name, dtype, dims));
  return *this;
}

OnnxGraph& OnnxGraph::output(const std::string& name, DType dtype, const std::vector<OnnxDim>& dims) {
  message.message(12, onnx_value(name, dtype, dims));
  return *this;
}

OnnxGraph& OnnxGraph::initializer(const std::string& name, const Tensor& tensor) {
  message.message(5, onnx_tensor(name, tensor));
  return *this;
}

OnnxGraph& OnnxGraph::node(std::string_view op, const OnnxNames& inputs, const OnnxNames& outputs, const std::vector<OnnxAttr>& attrs,
                           std::string_view name, std::string_view domain) {
  message.message(1, onnx_node(op, inputs, outputs, attrs, name, domain));
  return *this;
}

namespace {

OnnxMessage opset_import(const std::string& domain, int64_t version) { return OnnxMessage().text(1, domain).integer(2, version); }

}  // namespace

std::string onnx_model(const OnnxGraph& graph, const OnnxModelOptions& options) {
  OnnxMessage m;
  m.integer(1, options.ir_version).text(2, "tokamak tests");
  m.message(7, graph.message).message(8, opset_import("", options.opset));
  for (const auto& [domain, version] : options.more_opsets) m.message(8, opset_import(domain, version));
  for (const auto& [key, value] : options.metadata) m.message(14, OnnxMessage().text(1, key).text(2, value));
  for (const auto& f : options.functions) {
    OnnxMessage function = OnnxMessage().text(1, f.name);
    for (const auto& input : f.inputs) function.text(4, input);
    for (const auto& output : f.outputs) function.text(5, output);
    for (const auto& attribute : f.attributes) function.text(6, attribute);
    for (const auto& node : f.nodes) function.message(7, node);
    function.message(9, opset_import("", f.opset)).text(10, f.domain);
    m.message(25, function);
  }
  return m.bytes();
}

}  // namespace tokamak::test
