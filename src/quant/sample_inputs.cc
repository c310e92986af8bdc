#include "quant/sample_inputs.h"

#include <algorithm>
#include <random>

#include "base/half.h"
#include "ir/op.h"

namespace tokamak::quant {
namespace {

// The smallest table that integer input `value` indexes through views and casts; -1 when it indexes none.
int64_t index_limit(const ir::Value& value, int depth = 0) {
  int64_t limit = -1;
  for (const ir::Use& use : value.uses()) {
    const ir::Node& node = *use.node;
    int64_t found = -1;
    if (node.is("gather") && use.index == 1) {
      const ir::TensorType& table = node.input(0)->type;
      int64_t axis = 0;
      if (node.attrs.has("axis")) axis = node.attrs.get_int("axis");
      if (axis < 0) axis += table.rank();
      if (table.ranked && axis < table.rank() && table.dims[axis].is_const()) found = table.dims[axis].value();
    } else if (depth < 4 && use.index == 0 && (node.op().has(ir::kView) || node.op().has(ir::kUnary) || node.is("cast"))) {
      found = index_limit(*node.output(), depth + 1);
    }
    if (found >= 0 && (limit < 0 || found < limit)) limit = found;
  }
  return limit;
}

bool name_has(const std::string& name, std::initializer_list<const char*> words) {
  for (const char* word : words)
    if (name.find(word) != std::string::npos) return true;
  return false;
}

void store_float(Tensor& tensor, int64_t i, float value) {
  switch (tensor.dtype()) {
    case DType::F32: tensor.data<float>()[i] = value; break;
    case DType::F64: tensor.data<double>()[i] = value; break;
    case DType::F16: tensor.data<uint16_t>()[i] = float_to_half(value); break;
    case DType::BF16: tensor.data<uint16_t>()[i] = float_to_bfloat16(value); break;
    default: break;
  }
}

void store_int(Tensor& tensor, int64_t i, int64_t value) {
  switch (bits_of(tensor.dtype())) {
    case 8: tensor.data<int8_t>()[i] = static_cast<int8_t>(value); break;
    case 16: tensor.data<int16_t>()[i] = static_cast<int16_t>(value); break;
    case 32: tensor.data<int32_t>()[i] = static_cast<int32_t>(value); break;
    case 64: tensor.data<int64_t>()[i] = value; break;
    default: break;
  }
}

}  // namespace

Tensor sample_input(const ir::Value& input, const Shape& shape, uint64_t seed) {
  const DType dtype = input.type.dtype;
  Tensor tensor = Tensor::zeros(dtype, shape);
  std::mt19937_64 random(seed * 0x9e3779b97f4a7c15u + std::hash<std::string>{}(input.name));
  if (is_float(dtype)) {
    for (int64_t i = 0; i < tensor.count(); ++i) store_float(tensor, i, static_cast<float>(random() >> 40) * 0x1p-23f - 1.0f);
    return tensor;
  }
  if (dtype == DType::Bool) {
    for (int64_t i = 0; i < tensor.count(); ++i) tensor.data<bool>()[i] = true;
    return tensor;
  }
  const int64_t limit = index_limit(input);
  const int64_t last = shape.empty() ? 1 : std::max<int64_t>(1, shape.back());
  for (int64_t i = 0; i < tensor.count() && is_integer(dtype); ++i) {
    int64_t value = 1;
    if (name_has(input.name, {"mask"})) value = 1;
    else if (name_has(input.name, {"position", "pos_ids"})) value = i % last;
    else if (name_has(input.name, {"token_type", "segment"})) value = 0;
    else if (limit > 0) value = static_cast<int64_t>(random() % static_cast<uint64_t>(limit));
    store_int(tensor, i, limit > 0 ? std::min(value, limit - 1) : value);
  }
  return tensor;
}

}  // namespace tokamak::quant
