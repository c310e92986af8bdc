// scatter_elements, scatter_nd: a copy of the data, then the updates. Updates of one element by several indices combine in any order; with
// reduction "none" any of them stays, as ONNX leaves it open.

#include <algorithm>

#include "backends/cpu/kernels/ref/ref.h"
#include "backends/cuda/kernels/bounded_index.h"
#include "backends/cuda/kernels/indexed_def.h"
#include "base/error.h"

namespace tokamak::cuda {
namespace {

using cpu::ref::normalize_axis;

// `combine(T* at, T update)` for one element.
std::string combine_function(DType dtype, const std::string& reduction, const std::string& type) {
  if (reduction == "none") return fmt::format("DEVICE void combine({0}* at, {0} update) {{ *at = update; }}\n", type);
  const bool is_half = dtype == DType::F16 || dtype == DType::BF16;
  const std::string compute = is_half ? "float" : type;
  std::string value = reduction == "add" ? "a + b" : reduction == "mul" ? "a * b" : reduction == "min" ? "b < a ? b : a" : "a < b ? b : a";
  std::string s = fmt::format(
      "DEVICE {0} combined({0} old, {0} update) {{\n  const {1} a = widen<{1}>(old), b = widen<{1}>(update);\n  return "
      "narrow<{0}>({1}({2}));\n}}\n",
      type, compute, value);
  // One compare-and-swap loop for every size; bytes go through the word that holds them.
  const int64_t bytes = bytes_of_element(dtype);
  const char* const word = bytes == 8 ? "unsigned long long" : bytes == 4 ? "unsigned" : bytes == 2 ? "unsigned short" : "unsigned";
  if (bytes > 1) {
    s += fmt::format(
        "DEVICE void combine({0}* at, {0} update) {{\n  {1}* const word = reinterpret_cast<{1}*>(at);\n  {1} old = *word, seen;\n  do {{\n "
        "   seen = old;\n"
        "    const {0} next = combined(*reinterpret_cast<{0}*>(&seen), update);\n    old = atomicCAS(word, seen, *reinterpret_cast<const "
        "{1}*>(&next));\n"
        "  }} while (old != seen);\n}}\n",
        type, word);
  } else {
    s += fmt::format(
        "DEVICE void combine({0}* at, {0} update) {{\n  const uint64_t address = reinterpret_cast<uint64_t>(at);\n"
        "  unsigned* const word = reinterpret_cast<unsigned*>(address & ~3ull);\n  const int shift = int(address & 3) * 8;\n  unsigned old "
        "= *word, seen;\n"
        "  do {{\n    seen = old;\n    const {0} next = combined({0}(seen >> shift), update);\n"
        "    old = atomicCAS(word, seen, (seen & ~(0xffu << shift)) | unsigned(uint8_t(next)) << shift);\n  }} while (old != seen);\n}}\n",
        type);
  }
  return s;
}

Support supports_scatter(const NodeView& node) {
  if (const Support support = supports_moving(node); !support) return support;
  const std::string reduction = node.attrs().get_string("reduction", "none");
  if (num_elements(node.input_shapes[1]) > 0 && num_elements(node.input_shapes[0]) == 0) return Support::no("x is empty");
  if (reduction != "none" && (node.input_dtypes[0] == DType::Bool || device_type(node.input_dtypes[0]).empty()))
    return Support::no(fmt::format("reduction of {}", to_string(node.input_dtypes[0])));
  return Support::yes();
}

std::string scatter_type(const NodeView& node) {
  return node.attrs().get_string("reduction", "none") == "none" ? unit_type(bytes_of_element(node.input_dtypes[0]))
                                                                : device_type(node.input_dtypes[0]);
}

IndexedCode copy_of_data(const NodeView& node) {
  const int64_t bytes = num_elements(node.input_shapes[0]) * bytes_of_element(node.input_dtypes[0]), unit = unit_bytes({bytes});
  IndexedCode code{.name = {}, .preamble = {}, .body = "  out0[i] = in0[i];"};
  code.inputs = {{0, unit_type(unit)}};
  code.outputs = {{0, unit_type(unit)}};
  code.count = bytes / unit;
  return code;
}

std::vector<IndexedCode> scatter_elements(const NodeView& node) {
  const Shape &in = node.input_shapes[0], &shape = node.input_shapes[1];
  const int64_t axis = normalize_axis(node.attrs().get_int("axis", 0), static_cast<int64_t>(in.size()));
  std::vector<int64_t> strides = strides_of(in);
  const int64_t step = strides[axis];
  strides[axis] = 0;
  const std::string type = scatter_type(node);
  IndexedCode code{.name = {}, .preamble = kBoundedIndex, .body = {}};
  code.preamble += combine_function(node.input_dtypes[0], node.attrs().get_string("reduction", "none"), type);
  code.inputs = {{2, type}, {1, device_type(node.input_dtypes[1])}};
  code.outputs = {{0, type}};
  code.count = num_elements(shape), code.largest = num_elements(in);
  code.body = split_index(shape) +
              fmt::format("  combine(out0 + ({} + Index(bounded(in1[i], {})) * Index({})), in0[i]);", dot_index(strides), in[axis], step);
  return {copy_of_data(node), code};
}

std::vector<IndexedCode> scatter_nd(const NodeView& node) {
  const Shape &in = node.input_shapes[0], &indices = node.input_shapes[1];
  const int64_t depth = indices.back();
  if (depth > static_cast<int64_t>(in.size()))
    fail(ErrorCode::InvalidArgument, "[scatter_nd] indices {} address more axes than {} has", to_string(indices), to_string(in));
  const int64_t tuples = num_elements(std::span(indices).first(indices.size() - 1)), inner = num_elements(std::span(in).subspan(depth));
  const std::string type = scatter_type(node);
  IndexedCode code{.name = {}, .preamble = kBoundedIndex, .body = {}};
  code.preamble += combine_function(node.input_dtypes[0], node.attrs().get_string("reduction", "none"), type);
  code.inputs = {{2, type}, {1, device_type(node.input_dtypes[1])}};
  code.outputs = {{0, type}};
  code.count = tuples * inner, code.largest = std::max(num_elements(in), tuples * depth);
  code.body = split_index({tuples, inner}) + fmt::format("  combine(out0 + ({} + c1), in0[i]);", tuple_offset(in, 0, depth, "c0"));
  return {copy_of_data(node), code};
}

}  // namespace

std::vector<const KernelDef*> scatter_kernels() {
  static const IndexedDef elements("scatter_elements", supports_scatter, scatter_elements, true),
      nd("scatter_nd", supports_scatter, scatter_nd, true);
  return {&elements, &nd};
}

}  // namespace tokamak::cuda
