// gather, gather_elements, gather_nd, scatter_elements, scatter_nd, onehot, range, fill, eye_like, shape, size. An index outside its axis,
// which the CPU reports, cannot be reported from here: it is brought to the nearest element, so that nothing outside the tensors is
// touched. Updates of one element by several indices combine in any order; with reduction "none" any of them stays, as ONNX leaves it open.

#include <algorithm>
#include <functional>

#include "backends/cpu/kernels/ref/ref.h"
#include "backends/cuda/kernels/indexed.h"
#include "base/error.h"

namespace tokamak::cuda {
namespace {

using cpu::ref::normalize_axis;

Support movable(const NodeView& node, int input = 0) {
  return is_movable(node.input_dtypes[input]) ? Support::yes()
                                              : Support::no(fmt::format("elements of {}", to_string(node.input_dtypes[input])));
}

const char* const kBounded = R"(
DEVICE int64_t bounded(int64_t index, int64_t bound) {
  if (index < 0) index += bound;
  return index < 0 ? 0 : index >= bound ? bound - 1 : index;
}
)";

class RuleDef final : public CudaKernelDef {
 public:
  using Supports = std::function<Support(const NodeView&)>;
  using Describe = std::function<std::vector<IndexedCode>(const NodeView&)>;
  RuleDef(std::string op, Supports supports, Describe describe, bool writes_into_copy = false)
      : name_("cuda." + op),
        op_(std::move(op)),
        supports_(std::move(supports)),
        describe_(std::move(describe)),
        writes_into_copy_(writes_into_copy) {}
  std::string_view name() const override { return name_; }
  std::string_view op() const override { return op_; }
  Support supports(const NodeView& node) const override { return supports_(node); }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    std::vector<IndexedCode> codes = describe_(node);
    for (IndexedCode& code : codes) code.name = name_;
    auto kernel = std::make_unique<IndexedKernel>(node, codes);
    if (writes_into_copy_) kernel->alias_first_input(1);
    return kernel;
  }

 private:
  std::string name_, op_;
  Supports supports_;
  Describe describe_;
  bool writes_into_copy_;
};

Support supports_gather(const NodeView& node) {
  if (num_elements(node.output_shapes[0]) > 0 && num_elements(node.input_shapes[0]) == 0) return Support::no("x is empty");
  return movable(node);
}

std::vector<IndexedCode> gather(const NodeView& node) {
  const Shape& in = node.input_shapes[0];
  const int64_t axis = normalize_axis(node.attrs().get_int("axis", 0), static_cast<int64_t>(in.size()));
  const int64_t outer = num_elements(std::span(in).first(axis)), bytes = bytes_of_element(node.input_dtypes[0]);
  const int64_t row_bytes = num_elements(std::span(in).subspan(axis + 1)) * bytes, count = num_elements(node.input_shapes[1]);
  const int64_t unit = unit_bytes({row_bytes}), units = row_bytes / unit;
  IndexedCode code{.name = {}, .preamble = kBounded, .body = {}};
  code.inputs = {{0, unit_type(unit)}, {1, device_type(node.input_dtypes[1])}};
  code.outputs = {{0, unit_type(unit)}};
  code.count = outer * count * units, code.largest = outer * in[axis] * units;
  code.body = split_index({outer, count, units}) +
              fmt::format("  out0[i] = in0[(c0 * Index({0}) + Index(bounded(in1[c1], {0}))) * Index({1}) + c2];", in[axis], units);
  return {code};
}

std::vector<IndexedCode> gather_elements(const NodeView& node) {
  const Shape &in = node.input_shapes[0], &out = node.output_shapes[0];
  const int64_t axis = normalize_axis(node.attrs().get_int("axis", 0), static_cast<int64_t>(in.size()));
  std::vector<int64_t> strides = strides_of(in);
  const int64_t step = strides[axis];
  strides[axis] = 0;
  const std::string type = unit_type(bytes_of_element(node.input_dtypes[0]));
  IndexedCode code{.name = {}, .preamble = kBounded, .body = {}};
  code.inputs = {{0, type}, {1, device_type(node.input_dtypes[1])}};
  code.outputs = {{0, type}};
  code.count = num_elements(out), code.largest = num_elements(in);
  code.body =
      split_index(out) + fmt::format("  out0[i] = in0[{} + Index(bounded(in1[i], {})) * Index({})];", dot_index(strides), in[axis], step);
  return {code};
}

// "bounded(in1[t * 3 + 0], 7) * 12 + ...": where tuple t of the indices points, for axes `first`... of `shape`.
std::string tuple_offset(const Shape& shape, int64_t first, int64_t depth, const std::string& tuple) {
  const std::vector<int64_t> strides = strides_of(shape);
  std::string text = "Index(0)";
  for (int64_t d = 0; d < depth; ++d)
    text += fmt::format(" + Index(bounded(in1[({}) * {} + {}], {})) * Index({})", tuple, depth, d, shape[first + d], strides[first + d]);
  return text;
}

std::vector<IndexedCode> gather_nd(const NodeView& node) {
  const Shape &in = node.input_shapes[0], &indices = node.input_shapes[1];
  const int64_t batch_dims = node.attrs().get_int("batch_dims", 0), depth = indices.back();
  if (batch_dims + depth > static_cast<int64_t>(in.size()))
    fail(ErrorCode::InvalidArgument, "[gather_nd] indices {} address more axes than {} has", to_string(indices), to_string(in));
  const int64_t batches = num_elements(std::span(in).first(batch_dims)), bytes = bytes_of_element(node.input_dtypes[0]);
  const int64_t tuples = num_elements(std::span(indices).first(indices.size() - 1));
  const int64_t row_bytes = num_elements(std::span(in).subspan(batch_dims + depth)) * bytes;
  const int64_t unit = unit_bytes({row_bytes}), units = row_bytes / unit, per_unit = unit / bytes;
  IndexedCode code{.name = {}, .preamble = kBounded, .body = {}};
  code.inputs = {{0, unit_type(unit)}, {1, device_type(node.input_dtypes[1])}};
  code.outputs = {{0, unit_type(unit)}};
  code.count = tuples * units, code.largest = std::max(num_elements(in), tuples * depth);
  code.body = split_index({batches, tuples / std::max<int64_t>(batches, 1), units}) +
              fmt::format("  const Index tuple = i / Index({}), offset = c0 * Index({}) + {};\n  out0[i] = in0[offset / {} + c2];",
                          std::max<int64_t>(units, 1), num_elements(std::span(in).subspan(batch_dims)),
                          tuple_offset(in, batch_dims, depth, "tuple"), per_unit);
  return {code};
}

// --- scatter ---

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
  if (const Support support = movable(node); !support) return support;
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
  IndexedCode code{.name = {}, .preamble = kBounded, .body = {}};
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
  IndexedCode code{.name = {}, .preamble = kBounded, .body = {}};
  code.preamble += combine_function(node.input_dtypes[0], node.attrs().get_string("reduction", "none"), type);
  code.inputs = {{2, type}, {1, device_type(node.input_dtypes[1])}};
  code.outputs = {{0, type}};
  code.count = tuples * inner, code.largest = std::max(num_elements(in), tuples * depth);
  code.body = split_index({tuples, inner}) + fmt::format("  combine(out0 + ({} + c1), in0[i]);", tuple_offset(in, 0, depth, "c0"));
  return {copy_of_data(node), code};
}

// --- tensors made from little ---

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

std::vector<const KernelDef*> gather_kernels() {
  static const RuleDef gathers("gather", supports_gather, gather), elements("gather_elements", supports_gather, gather_elements),
      nd("gather_nd", supports_gather, gather_nd), scatter("scatter_elements", supports_scatter, scatter_elements, true),
      scatters_nd("scatter_nd", supports_scatter, scatter_nd, true), onehots("onehot", supports_onehot, onehot),
      ranges("range", supports_typed_output, range), fills("fill", output_movable, fill), eyes("eye_like", supports_eye, eye_like),
      shapes("shape", always, shape), counts("size", always, size);
  return {&gathers, &elements, &nd, &scatter, &scatters_nd, &onehots, &ranges, &fills, &eyes, &shapes, &counts};
}

}  // namespace tokamak::cuda
