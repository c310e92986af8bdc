// Constants, shapes, and tensors made from nothing.

#include <cmath>
#include <numbers>

#include "import/onnx/importer.h"
#include "import/onnx/node_importer.h"

namespace tokamak::onnx {
namespace {

using ir::Attrs;
using ir::Dims;
using ir::Ints;
using ir::Value;

Tensor floats_tensor(Shape shape, const ir::Floats& values) {
  Tensor t = Tensor::empty(DType::F32, std::move(shape));
  for (size_t i = 0; i < values.size(); ++i) t.data<float>()[i] = static_cast<float>(values[i]);
  return t;
}

Tensor strings_tensor(Shape shape, const ir::Strings& values) {
  Tensor t = Tensor::empty(DType::String, std::move(shape));
  t.strings() = values;
  return t;
}

void constant(NodeImporter& n) {
  const auto length = [](const auto& list) { return Shape{static_cast<int64_t>(list.size())}; };
  Tensor t;
  if (n.has_attr("value")) t = n.tensor_attr("value");
  else if (const auto* a = n.attr("sparse_value"); a && a->sparse_tensor) t = make_tensor(*a->sparse_tensor, n.importer().source());
  else if (n.has_attr("value_float")) t = floats_tensor({}, {n.float_attr("value_float", 0)});
  else if (n.has_attr("value_floats")) t = floats_tensor(length(n.floats_attr("value_floats")), n.floats_attr("value_floats"));
  else if (n.has_attr("value_int")) t = Tensor::scalar<int64_t>(n.int_attr("value_int"));
  else if (n.has_attr("value_ints")) t = Tensor::of<int64_t>(length(n.ints_attr("value_ints")), n.ints_attr("value_ints"));
  else if (n.has_attr("value_string")) t = strings_tensor({}, {n.string_attr("value_string", "")});
  else if (n.has_attr("value_strings")) t = strings_tensor(length(n.strings_attr("value_strings")), n.strings_attr("value_strings"));
  else n.bad("it has no value");
  n.set_output(0, n.constant_value(std::move(t)));
}

void shape(NodeImporter& n) {
  const bool ranged = n.opset() >= 15;
  std::optional<int64_t> end;
  if (ranged && n.has_attr("end")) end = n.int_attr("end");
  n.set_output(0, n.shape_of(n.input(0), ranged ? n.int_attr("start", 0) : 0, end));
}

void size(NodeImporter& n) { n.set_output(0, n.add("size", {n.input(0)})); }
void range(NodeImporter& n) { n.set_output(0, n.add("range", {n.input(0), n.input(1), n.input(2)})); }

void constant_of_shape(NodeImporter& n) {
  Attrs attrs;
  const Tensor value = n.has_attr("value") ? n.tensor_attr("value") : Tensor::zeros(DType::F32, {1});
  if (value.count() != 1) n.bad("attribute 'value' has {} elements, expected one", value.count());
  attrs.set("value", value.reshaped({1}));
  const auto known = n.const_ints(n.input(0));
  if (!known) {
    n.set_output(0, n.add("fill", {n.input(0)}, attrs));
    return;
  }
  attrs.set("shape", Dims(known->begin(), known->end()));
  for (int64_t d : *known)
    if (d < 0) n.bad("the shape has a negative dimension {}", d);
  (void)num_elements(*known);
  n.set_output(0, n.add("fill", {}, attrs));
}

void eye_like(NodeImporter& n) {
  Value* x = n.input(0);
  n.set_output(0,
               n.add("eye_like", {x}, {{"dtype", n.has_attr("dtype") ? n.dtype_attr("dtype") : x->type.dtype}, {"k", n.int_attr("k", 0)}}));
}

void one_hot(NodeImporter& n) {
  n.set_output(0, n.add("onehot", {n.input(0), n.input(1), n.input(2)}, {{"axis", n.int_attr("axis", -1)}}));
}

// --- random ---

void random_like(NodeImporter& n, Text op, const char* a, double a_default, const char* b, double b_default, bool like) {
  Attrs attrs{{a, n.float_attr(a, a_default)}, {b, n.float_attr(b, b_default)}};
  if (n.has_attr("seed")) attrs.set("seed", n.float_attr("seed", 0));
  if (n.has_attr("dtype")) attrs.set("dtype", n.dtype_attr("dtype"));
  else attrs.set("dtype", like ? n.input(0)->type.dtype : DType::F32);
  if (like) {
    n.set_output(0, n.add(op, {n.shape_of(n.input(0))}, attrs));
    return;
  }
  const Ints shape = n.ints_attr("shape");
  attrs.set("shape", Dims(shape.begin(), shape.end()));
  n.set_output(0, n.add(op, {}, attrs));
}

void random_normal(NodeImporter& n) { random_like(n, "random_normal", "mean", 0, "scale", 1, false); }
void random_normal_like(NodeImporter& n) { random_like(n, "random_normal", "mean", 0, "scale", 1, true); }
void random_uniform(NodeImporter& n) { random_like(n, "random_uniform", "low", 0, "high", 1, false); }
void random_uniform_like(NodeImporter& n) { random_like(n, "random_uniform", "low", 0, "high", 1, true); }

void bernoulli(NodeImporter& n) {
  Attrs attrs{{"dtype", n.has_attr("dtype") ? n.dtype_attr("dtype") : n.input(0)->type.dtype}};
  if (n.has_attr("seed")) attrs.set("seed", n.float_attr("seed", 0));
  n.set_output(0, n.add("bernoulli", {n.input(0)}, attrs));
}

void multinomial(NodeImporter& n) {
  Attrs attrs{{"dtype", n.has_attr("dtype") ? n.dtype_attr("dtype") : DType::I32}, {"sample_size", n.int_attr("sample_size", 1)}};
  if (n.has_attr("seed")) attrs.set("seed", n.float_attr("seed", 0));
  n.set_output(0, n.add("multinomial", {n.input(0)}, attrs));
}

// --- windows: a0 - a1 cos(2 pi i / N) + a2 cos(4 pi i / N), with N the size, or one less when symmetric ---

void window(NodeImporter& n, double a0, double a1, double a2) {
  const DType dtype = n.has_attr("output_datatype") ? n.dtype_attr("output_datatype") : DType::F32;
  if (!is_float(dtype)) n.unsupported("an integer window is not supported");
  Value* count = n.input(0);
  Value* periods = n.int_attr("periodic", 1) != 0 ? count : n.add("sub", {count, n.scalar_like(1, count)});
  Value* i = n.cast(n.add("range", {n.scalar_like(0, count), count, n.scalar_like(1, count)}), DType::F32);
  Value* angle = n.add("div", {n.add("mul", {i, n.scalar(2 * std::numbers::pi, DType::F32)}), n.cast(periods, DType::F32)});
  Value* y = n.add("sub", {n.scalar(a0, DType::F32), n.add("mul", {n.add("cos", {angle}), n.scalar(a1, DType::F32)})});
  if (a2 != 0) {
    Value* twice = n.add("cos", {n.add("mul", {angle, n.scalar(2, DType::F32)})});
    y = n.add("add", {y, n.add("mul", {twice, n.scalar(a2, DType::F32)})});
  }
  n.set_output(0, n.cast(y, dtype));
}

void hann_window(NodeImporter& n) { window(n, 0.5, 0.5, 0); }
void hamming_window(NodeImporter& n) { window(n, 25.0 / 46, 21.0 / 46, 0); }
void blackman_window(NodeImporter& n) { window(n, 0.42, 0.5, 0.08); }

constexpr OpImporter kImporters[] = {
    {"Constant", constant},
    {"Shape", shape},
    {"Size", size},
    {"Range", range},
    {"ConstantOfShape", constant_of_shape},
    {"EyeLike", eye_like},
    {"OneHot", one_hot},
    {"RandomNormal", random_normal},
    {"RandomNormalLike", random_normal_like},
    {"RandomUniform", random_uniform},
    {"RandomUniformLike", random_uniform_like},
    {"Bernoulli", bernoulli},
    {"Multinomial", multinomial},
    {"HannWindow", hann_window},
    {"HammingWindow", hamming_window},
    {"BlackmanWindow", blackman_window},
};

}  // namespace

std::span<const OpImporter> shape_importers() { return kImporters; }

}  // namespace tokamak::onnx
