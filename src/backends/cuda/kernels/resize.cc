// resize: the taps of every axis that changes are tables in the code, made by the reference's formulas; an output is their product. Nearest
// only moves elements, in units of up to 16 bytes where inner axes stay. Floor: x read and y written once.

#include "backends/cpu/kernels/ref/resize.h"

#include <algorithm>

#include "backends/cuda/kernels/indexed.h"

namespace tokamak::cuda {
namespace {

constexpr size_t kMostTaps = 1 << 17;  // in all tables: more would make compiling slow

using Taps = std::vector<std::vector<cpu::ref::ResizeTaps>>;

// Axes after joining neighbours that stay.
struct Axis {
  int64_t in, out;
  const std::vector<cpu::ref::ResizeTaps>* taps;  // null: stays
};

Taps taps_of(const NodeView& node) {
  const auto input = [&](int i) {
    return i < node.num_inputs() && node.has_input(i) && node.constants[i] != nullptr && node.constants[i]->count() > 0
               ? cpu::ref::to_doubles(*node.constants[i])
               : std::vector<double>{};
  };
  return cpu::ref::resize_taps(node, input(1), input(2), input(3));
}

std::vector<Axis> axes_of(const NodeView& node, const Taps& taps) {
  std::vector<Axis> axes;
  for (size_t d = 0; d < taps.size(); ++d) {
    const int64_t in = node.input_shapes[0][d], out = node.output_shapes[0][d];
    const bool stays = taps[d].empty();
    if (stays && !axes.empty() && axes.back().taps == nullptr) axes.back().in *= in, axes.back().out *= out;
    else axes.push_back({in, out, stays ? nullptr : &taps[d]});
  }
  return axes;
}

size_t most_taps(const std::vector<cpu::ref::ResizeTaps>& taps) {
  size_t most = 1;
  for (const auto& t : taps) most = std::max(most, t.index.size());
  return most;
}

class ResizeDef final : public CudaKernelDef {
 public:
  std::string_view name() const override { return "cuda.resize"; }
  std::string_view op() const override { return "resize"; }
  Support supports(const NodeView& node) const override {
    const DType dtype = node.input_dtypes[0];
    if (dtype == DType::Bool || device_type(dtype).empty()) return Support::no(fmt::format("dtype {}", to_string(dtype)));
    // Sizes that are taken as they are, are y's.
    const bool knows_sizes = node.attrs().get_string("keep_aspect_ratio_policy", "stretch") == "stretch";
    for (int i = 1; i < node.num_inputs(); ++i)
      if (node.has_input(i) && num_elements(node.input_shapes[i]) > 0 && node.constants[i] == nullptr && !(i == 3 && knows_sizes))
        return Support::no(knows_sizes ? "roi and scales must be constant" : "roi, scales and sizes must be constant");
    if (num_elements(node.output_shapes[0]) == 0 || num_elements(node.input_shapes[0]) == 0) return Support::no("an empty tensor");
    int64_t total = 0;
    for (int64_t d : node.output_shapes[0]) total += d;
    if (total > static_cast<int64_t>(kMostTaps)) return Support::no("tables too large");
    size_t count = 0;
    for (const auto& axis : taps_of(node)) count += axis.size() * most_taps(axis);
    return count <= kMostTaps ? Support::yes() : Support::no("tables too large");
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    const Taps taps = taps_of(node);
    std::vector<Axis> axes = axes_of(node, taps);
    const DType dtype = node.input_dtypes[0];
    bool moves = true, outside = false;  // moves: one tap of weight 1 everywhere
    for (const Axis& axis : axes)
      for (size_t o = 0; axis.taps && o < axis.taps->size(); ++o) {
        const auto& t = (*axis.taps)[o];
        outside |= t.index.empty();
        moves &= t.index.size() == 1 && t.weight[0] == 1;
      }
    IndexedCode code{.name = "cuda.resize", .preamble = {}, .body = {}};
    std::string type = device_type(dtype);
    if (moves) {
      const int64_t bytes = bytes_of_element(dtype);
      int64_t unit = bytes;
      if (axes.back().taps == nullptr) {
        unit = std::max(bytes, unit_bytes({axes.back().in * bytes}));
        axes.back().in /= unit / bytes, axes.back().out /= unit / bytes;
      }
      type = unit_type(unit);
    }
    code.inputs = {{0, type}};
    code.outputs = {{0, type}};
    Shape in_sizes, out_sizes;
    for (const Axis& axis : axes) in_sizes.push_back(axis.in), out_sizes.push_back(axis.out);
    code.count = num_elements(out_sizes), code.largest = num_elements(in_sizes);
    code.body = split_index(out_sizes);
    std::string base = "Index(0)";
    const std::vector<int64_t> strides = strides_of(in_sizes);
    for (size_t d = 0; d < axes.size(); ++d) base += fmt::format(" + {}{} * Index({})", axes[d].taps ? "s" : "c", d, strides[d]);
    if (moves) {
      for (size_t d = 0; d < axes.size(); ++d) {
        if (axes[d].taps == nullptr) continue;
        code.preamble += table("int", fmt::format("index{}", d), *axes[d].taps, 1, false);
        code.body += fmt::format("  const Index s{0} = index{0}[c{0}];\n", d);
      }
      code.body += "  out0[i] = in0[" + base + "];";
    } else {
      weigh(node, axes, base, outside, code);
    }
    return std::make_unique<IndexedKernel>(node, std::vector<IndexedCode>{code});
  }

 private:
  // "__device__ const TYPE NAME[] = {...};", `most` entries an output coordinate: its indices, or its weights.
  static std::string table(const std::string& type, const std::string& name, const std::vector<cpu::ref::ResizeTaps>& taps, size_t most,
                           bool weights) {
    std::string text;
    for (const auto& t : taps)
      for (size_t k = 0; k < most; ++k) {
        const bool here = k < t.index.size();
        if (weights) text += fmt::format("{:a},", here ? t.weight[k] : 0.);
        else text += fmt::format("{},", here ? t.index[k] : t.index.empty() ? -1 : 0);
      }
    return fmt::format("__device__ const {} {}[] = {{{}}};\n", type, name, text);
  }

  static void weigh(const NodeView& node, const std::vector<Axis>& axes, const std::string& at, bool outside, IndexedCode& code) {
    const DType dtype = node.input_dtypes[0];
    // Integers are truncated: the sum must then be the reference's, in double and without fused multiply-adds.
    const bool exact = is_integer(dtype) || dtype == DType::F64;
    const std::string compute = exact ? "double" : "float", type = device_type(dtype);
    const std::string bits = std::to_string(bits_of(dtype) - (is_signed_integer(dtype) ? 1 : 0));
    code.preamble += "#include \"cast.cuh\"\n";
    if (is_integer(dtype))
      code.preamble += fmt::format("DEVICE {0} stored(double v) {{ return convert<{0}>(fmin(fmax(v, {1}), exp2({2}.) - 1.)); }}\n", type,
                                   is_signed_integer(dtype) ? "-exp2(" + bits + ".)" : "0.", bits);
    else code.preamble += fmt::format("DEVICE {0} stored({1} v) {{ return narrow<{0}>(v); }}\n", type, compute);
    std::string statements, value = fmt::format("widen<{}>(in0[{}])", compute, at);
    // The first axis innermost: the reference sums it first.
    for (size_t d = 0; d < axes.size(); ++d) {
      if (axes[d].taps == nullptr) continue;
      const size_t most = most_taps(*axes[d].taps);
      code.preamble += table("int", fmt::format("index{}", d), *axes[d].taps, most, false);
      code.preamble += table(compute, fmt::format("weight{}", d), *axes[d].taps, most, true);
      if (outside)
        code.body += fmt::format("  if (index{0}[c{0} * {1}] < 0) {{\n    out0[i] = stored({2});\n    return;\n  }}\n", d, most,
                                 fmt::format("{:a}", node.attrs().get_float("extrapolation_value", 0)));
      const std::string term = fmt::format("weight{0}[c{0} * {1} + t{0}]", d, most);
      const std::string sum =
          exact ? fmt::format("__dadd_rn(v{}, __dmul_rn({}, {}))", d, term, value) : fmt::format("v{} + {} * {}", d, term, value);
      statements = fmt::format(
          "  {0} v{1} = 0;\n#pragma unroll\n  for (int t{1} = 0; t{1} < {2}; ++t{1}) {{\n  const Index s{1} = index{1}[c{1} * {2} + "
          "t{1}];\n{3}"
          "  v{1} = {4};\n  }}\n",
          compute, d, most, statements, sum);
      value = fmt::format("v{}", d);
    }
    code.body += statements + "  out0[i] = stored(" + value + ");";
  }
};

}  // namespace

std::vector<const KernelDef*> resize_kernels() {
  static const ResizeDef resize;
  return {&resize};
}

}  // namespace tokamak::cuda
