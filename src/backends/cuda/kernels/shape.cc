// Tensors made from little: onehot, range, fill, eye_like; and shapes as data: shape, size.

#include <algorithm>

#include "backends/cpu/kernels/ref/ref.h"
#include "backends/cuda/kernels/indexed_def.h"

namespace tokamak::cuda {
namespace {

using cpu::ref::normalize_axis;

std::vector<IndexedCode> onehot(const NodeView& node) {
  const Shape& out = node.output_shapes[0];
  const int64_t axis = normalize_axis(node.attrs().get_int("axis", -1), static_cast<int64_t>(out.size()));
  const int64_t depth = out[axis], outer = num_elements(std::span(out).first(axis)), inner = num_elements(std::span(out).subspan(axis + 1));
  const std::string type = unit_type(bytes_of_element(node.output_dtypes[0]));
  IndexedCode code{.name = {}, .preamble = {}, .body = {}};
  code.inputs = {{0, device_type(node.input_dtypes[0])}, {2, type}};
  code.outputs = {{0, type}};
  code.count = num_elements(out);
  code.body =
      split_index({outer, depth, inner}) +
      fmt::format(
          "  int64_t index = int64_t(in0[c0 * Index({}) + c2]);\n  if (index < 0) index += {};\n  out0[i] = in1[index == c1 ? 1 : 0];",
          inner, depth);
  return {code};
}

std::vector<IndexedCode> range(const NodeView& node) {
  const DType dtype = node.output_dtypes[0];
  const std::string type = device_type(dtype);
  const bool real = is_float(dtype);
  IndexedCode code{.name = {}, .preamble = {}, .body = {}};
  code.inputs = {{0, type}, {2, type}};
  code.outputs = {{0, type}};
  code.count = num_elements(node.output_shapes[0]);
  const char* const wide = real ? "double" : "int64_t";
  code.body = fmt::format("  out0[i] = narrow<{0}>({1}(widen<{1}>(in0[0]) + {1}(i) * widen<{1}>(in1[0])));", type, wide);
  return {code};
}

std::vector<IndexedCode> fill(const NodeView& node) {
  const Tensor value = node.attrs().has("value") ? node.attrs().get_tensor("value") : Tensor::zeros(node.output_dtypes[0], {1});
  IndexedCode code{.name = {}, .preamble = {}, .body = {}};
  code.outputs = {{0, unit_type(bytes_of_element(node.output_dtypes[0]))}};
  code.count = num_elements(node.output_shapes[0]);
  code.body = "  out0[i] = " + element_literal(value) + ";";
  return {code};
}

std::vector<IndexedCode> eye_like(const NodeView& node) {
  const Shape& shape = node.output_shapes[0];
  Tensor one = Tensor::zeros(node.output_dtypes[0], {});
  if (one.dtype() == DType::Bool) *one.data<uint8_t>() = 1;
  else cpu::ref::from_doubles({1}, one);
  const std::string type = unit_type(bytes_of_element(one.dtype()));
  IndexedCode code{.name = {}, .preamble = {}, .body = {}};
  code.outputs = {{0, type}};
  code.count = num_elements(shape);
  code.body = split_index(shape) +
              fmt::format("  out0[i] = c0 + Index({}) == c1 ? {} : {}{{}};", node.attrs().get_int("k", 0), element_literal(one), type);
  return {code};
}

// "out0[i] = table[i];" of sizes that are known here.
std::vector<IndexedCode> sizes(const Shape& values) {
  IndexedCode code{.name = {}, .preamble = {}, .body = "  out0[i] = table[i];"};
  for (int64_t v : values) code.preamble += fmt::format("{}{}", code.preamble.empty() ? "" : ", ", v);
  code.preamble = "__device__ const int64_t table[] = {" + code.preamble + "};";
  code.outputs = {{0, "int64_t"}};
  code.count = static_cast<int64_t>(values.size());
  if (values.empty()) code.preamble = "__device__ const int64_t table[] = {0};";
  return {code};
}
std::vector<IndexedCode> shape(const NodeView& node) {
  const Shape& in = node.input_shapes[0];
  const int64_t rank = static_cast<int64_t>(in.size());
  int64_t start = node.attrs().get_int("start", 0), end = node.attrs().get_int("end", rank);
  start = std::clamp<int64_t>(start < 0 ? start + rank : start, 0, rank);
  end = std::clamp<int64_t>(end < 0 ? end + rank : end, start, rank);
  return sizes(Shape(in.begin() + start, in.begin() + end));
}
std::vector<IndexedCode> size(const NodeView& node) { return sizes({num_elements(node.input_shapes[0])}); }
Support always(const NodeView&) { return Support::yes(); }

Support output_movable(const NodeView& node) {
  return is_movable(node.output_dtypes[0]) ? Support::yes() : Support::no(fmt::format("elements of {}", to_string(node.output_dtypes[0])));
}
Support supports_typed_output(const NodeView& node) {
  return device_type(node.output_dtypes[0]).empty() || node.output_dtypes[0] == DType::Bool
             ? Support::no(fmt::format("elements of {}", to_string(node.output_dtypes[0])))
             : Support::yes();
}
Support supports_eye(const NodeView& node) { return node.output_dtypes[0] == DType::Bool ? Support::yes() : supports_typed_output(node); }
Support supports_onehot(const NodeView& node) {
  if (device_type(node.input_dtypes[0]).empty()) return Support::no(fmt::format("indices of {}", to_string(node.input_dtypes[0])));
  if (is_float(node.input_dtypes[0]) && bits_of(node.input_dtypes[0]) == 16) return Support::no("indices of 16-bit floats");
  return output_movable(node);
}

}  // namespace

std::vector<const KernelDef*> shape_kernels() {
  static const IndexedDef onehots("onehot", supports_onehot, onehot), ranges("range", supports_typed_output, range),
      fills("fill", output_movable, fill), eyes("eye_like", supports_eye, eye_like), shapes("shape", always, shape),
      counts("size", always, size);
  return {&onehots, &ranges, &fills, &eyes, &shapes, &counts};
}

}  // namespace tokamak::cuda
