#include "backends/cuda/kernels/elementwise.h"

#include <algorithm>
#include <bit>

#include "base/error.h"

namespace tokamak::cuda {
namespace {

constexpr int kThreads = 256;
constexpr size_t kMaxOperands = 48;

enum class Access { Full, Uniform, Strided };

int64_t size_of_type(DType dtype) { return bits_of(dtype) / 8; }

class ElementwiseKernel final : public Kernel {
 public:
  ElementwiseKernel(const NodeView& node, const Shape& shape, const ElementwiseCode& code) : num_node_inputs_(node.num_inputs()) {
    count_ = num_elements(shape);
    std::vector<std::vector<int64_t>> strides;
    std::vector<Access> access;
    int64_t largest = 1;
    for (const ElementwiseOperand& in : code.inputs) {
      const Shape& own = in.shape ? *in.shape : node.input_shapes[in.index];
      const int64_t own_count = num_elements(own);
      access.push_back(own_count == count_ ? Access::Full : own_count == 1 ? Access::Uniform : Access::Strided);
      strides.push_back(broadcast_strides(own, shape));
      inputs_.push_back(in.index);
      if (access.back() == Access::Full) largest = std::max(largest, size_of_type(node.input_dtypes[in.index]));
    }
    for (const ElementwiseOperand& out : code.outputs) {
      outputs_.push_back(out.index);
      largest = std::max(largest, size_of_type(node.output_dtypes[out.index]));
    }
    alias_.assign(outputs_.size() * num_node_inputs_, false);
    for (size_t i = 0; i < code.inputs.size(); ++i)
      for (size_t o = 0; o < outputs_.size(); ++o)
        alias_[o * num_node_inputs_ + inputs_[i]] =
            access[i] == Access::Full && size_of_type(node.input_dtypes[inputs_[i]]) == size_of_type(node.output_dtypes[outputs_[o]]);
    // Only operands that repeat need axes.
    std::vector<std::vector<int64_t>> strided;
    for (size_t i = 0; i < access.size(); ++i)
      if (access[i] == Access::Strided) strided.push_back(strides[i]);
    const JoinedAxes axes(strided.empty() ? Shape() : shape, strided, false);
    const int64_t V = std::clamp<int64_t>(16 / largest, 1, 8);
    bool by_vector = !axes.sizes.empty() && axes.sizes[0] % V == 0;
    for (const auto& s : axes.strides)
      for (size_t d = 0; d < s.size(); ++d) by_vector &= d == 0 ? s[d] <= 1 : s[0] == 0 || s[d] % V == 0;
    const bool wide = count_ + kThreads * 8 > INT32_MAX;
    const Source source{code.name, text(code, access, axes, V, by_vector, wide), {}};
    function_ = node.cuda->function(source, "elementwise");
    launch_ = {.grid = {static_cast<unsigned>(ceil_div(count_, kThreads * V))}, .block = {kThreads}, .overlap = true};
    for (size_t i = 0; i < inputs_.size() + outputs_.size(); ++i) words_.push(0);
    words_.push(static_cast<uint64_t>(count_));
    for (size_t d = 0; d < axes.sizes.size(); ++d) words_.push(DividerWords(d == 0 && by_vector ? axes.sizes[0] / V : axes.sizes[d]));
    for (const auto& s : axes.strides)
      for (int64_t stride : s) words_.push(static_cast<uint64_t>(stride));
  }

  bool can_alias(int output, int input) const override {
    for (size_t o = 0; o < outputs_.size(); ++o)
      if (outputs_[o] == output && input < num_node_inputs_) return alias_[o * num_node_inputs_ + input];
    return false;
  }

  void run(const RunArgs& args) const override { words_.launch(function_, launch_, args, inputs_, outputs_); }

 private:
  static std::string text(const ElementwiseCode& code, const std::vector<Access>& access, const JoinedAxes& axes, int64_t V, bool by_vector,
                          bool wide) {
    const size_t dims = axes.sizes.size();
    std::string t = "#include \"elementwise.cuh\"\n" + code.preamble + "\nstruct Args {\n";
    for (size_t i = 0; i < code.inputs.size(); ++i) t += fmt::format("  const {}* in{};\n", code.inputs[i].storage, i);
    for (size_t o = 0; o < code.outputs.size(); ++o) t += fmt::format("  {}* out{};\n", code.outputs[o].storage, o);
    t += "  int64_t count;\n";
    if (dims > 0) t += fmt::format("  Divider size[{}];\n  int64_t stride[{}][{}];\n", dims, axes.strides.size(), dims);
    t += fmt::format(
        "}};\nusing Index = {};\nconstexpr int V = {};\n"
        "extern \"C\" __global__ void __launch_bounds__({}) elementwise(const __grid_constant__ Args a) {{\n"
        "  wait_with_next();\n  const Index first = (Index(blockIdx.x) * {} + Index(threadIdx.x)) * V;\n"
        "  if (first >= Index(a.count)) return;\n  const int n = a.count - first < V ? int(a.count - first) : V;\n",
        wide ? "int64_t" : "int", V, kThreads, kThreads);
    // Coordinates and offsets of the operands that repeat, from `start` (in vectors or elements).
    std::vector<size_t> strided;
    for (size_t i = 0; i < access.size(); ++i)
      if (access[i] == Access::Strided) strided.push_back(i);
    const auto offsets = [&](const std::string& start, const std::string& indent, const char* scale) {
      std::string s = fmt::format("{}Index rest = {};\n", indent, start);
      for (size_t d = 0; d < dims; ++d) {
        if (d + 1 < dims)
          s += fmt::format(
              "{0}const Index q{1} = divide(rest, a.size[{1}]), c{1} = rest - q{1} * Index(a.size[{1}].divisor);\n{0}rest = q{1};\n",
              indent, d);
        else s += fmt::format("{}const Index c{} = rest;\n", indent, d);
      }
      for (size_t k = 0; k < strided.size(); ++k) {
        std::string sum;
        for (size_t d = 0; d < dims; ++d) {
          if (axes.strides[k][d] == 0) continue;
          sum += fmt::format("{}c{}{}", sum.empty() ? "" : " + ", d, d == 0 ? scale : "");
          if (d > 0 || axes.strides[k][0] != 1) sum += fmt::format(" * Index(a.stride[{}][{}])", k, d);
        }
        s += fmt::format("{}const Index at{} = {};\n", indent, strided[k], sum.empty() ? "0" : sum);
      }
      return s;
    };
    for (size_t i = 0; i < access.size(); ++i) {
      const std::string& type = code.inputs[i].storage;
      if (access[i] == Access::Full)
        t += fmt::format(
            "  const Vec<{0}, V> v{1} = n == V ? load_vector<{0}, V>(a.in{1} + first) : load_some<{0}, V>(a.in{1} + first, n);\n", type, i);
      else if (access[i] == Access::Uniform) t += fmt::format("  const {} v{} = *a.in{};\n", type, i, i);
      else if (!by_vector) t += fmt::format("  Vec<{}, V> v{};\n", type, i);
    }
    if (!strided.empty() && by_vector) {
      t += offsets("first / V", "  ", " * V");
      for (size_t k = 0; k < strided.size(); ++k) {
        const std::string& type = code.inputs[strided[k]].storage;
        if (axes.strides[k][0] == 0) t += fmt::format("  const {0} v{1} = a.in{1}[at{1}];\n", type, strided[k]);
        else t += fmt::format("  const Vec<{0}, V> v{1} = load_vector<{0}, V>(a.in{1} + at{1});\n", type, strided[k]);
      }
    } else if (!strided.empty()) {
      t += "#pragma unroll\n  for (int k = 0; k < V; ++k) {\n";
      t += offsets("k < n ? first + k : first", "    ", "");
      for (size_t i : strided) t += fmt::format("    v{0}.at[k] = a.in{0}[at{0}];\n", i);
      t += "  }\n";
    }
    for (size_t o = 0; o < code.outputs.size(); ++o) t += fmt::format("  Vec<{}, V> w{};\n", code.outputs[o].storage, o);
    t += "#pragma unroll\n  for (int k = 0; k < V; ++k) {\n";
    size_t next_strided = 0;
    for (size_t i = 0; i < access.size(); ++i) {
      bool scalar = access[i] == Access::Uniform;
      if (access[i] == Access::Strided) scalar = axes.strides[next_strided++][0] == 0 && by_vector;
      t += fmt::format("    const {0} x{1} = widen<{0}>(v{1}{2});\n", code.inputs[i].compute, i, scalar ? "" : ".at[k]");
    }
    for (size_t o = 0; o < code.outputs.size(); ++o) t += fmt::format("    {} y{};\n", code.outputs[o].compute, o);
    t += "    " + code.body + "\n";
    for (size_t o = 0; o < code.outputs.size(); ++o) t += fmt::format("    w{0}.at[k] = narrow<{1}>(y{0});\n", o, code.outputs[o].storage);
    t += "  }\n  if (n == V) {\n";
    for (size_t o = 0; o < code.outputs.size(); ++o)
      t += fmt::format("    store_vector<{0}, V>(a.out{1} + first, w{1});\n", code.outputs[o].storage, o);
    t += "  } else {\n";
    for (size_t o = 0; o < code.outputs.size(); ++o)
      t += fmt::format("    store_some<{0}, V>(a.out{1} + first, w{1}, n);\n", code.outputs[o].storage, o);
    return t + "  }\n}\n";
  }

  int num_node_inputs_;
  int64_t count_ = 0;
  std::vector<int> inputs_, outputs_;
  std::vector<bool> alias_;
  Function function_;
  Launch launch_;
  ArgumentWords words_;
};

}  // namespace

std::vector<int64_t> broadcast_strides(const Shape& own, const Shape& full) {
  std::vector<int64_t> strides(full.size(), 0);
  int64_t stride = 1;
  for (size_t d = 0; d < std::min(own.size(), full.size()); ++d) {
    const int64_t size = own[own.size() - 1 - d];
    strides[full.size() - 1 - d] = size == 1 ? 0 : stride;
    stride *= size;
  }
  return strides;
}

Shape broadcast_shape(const std::vector<Shape>& shapes) {
  Shape shape;
  for (const Shape& other : shapes) {
    if (other.size() > shape.size()) shape.insert(shape.begin(), other.size() - shape.size(), 1);
    for (size_t d = 0; d < other.size(); ++d) {
      int64_t& size = shape[shape.size() - 1 - d];
      if (size == 1) size = other[other.size() - 1 - d];
    }
  }
  return shape;
}

JoinedAxes::JoinedAxes(const Shape& shape, const std::vector<std::vector<int64_t>>& operand_strides, bool keep_last)
    : strides(operand_strides.size()) {
  const int rank = static_cast<int>(shape.size());
  for (int d = rank - 1; d >= 0; --d) {
    const bool last = keep_last && d == rank - 1;
    if (shape[d] == 1 && !last) continue;
    bool joins = !sizes.empty() && !(keep_last && sizes.size() == 1);
    for (size_t w = 0; w < strides.size() && joins; ++w) joins = operand_strides[w][d] == strides[w].back() * sizes.back();
    if (joins) {
      sizes.back() *= shape[d];
      continue;
    }
    sizes.push_back(shape[d]);
    for (size_t w = 0; w < strides.size(); ++w) strides[w].push_back(operand_strides[w][d]);
  }
}

DividerWords::DividerWords(int64_t divisor) : words{0, static_cast<uint64_t>(divisor)} {
  if (divisor < 1 || divisor > INT32_MAX) return;  // only 64-bit indices divide by it, with an instruction
  const uint64_t shift = static_cast<uint64_t>(std::bit_width(static_cast<uint64_t>(divisor - 1)));
  const uint64_t multiplier =
      ((uint64_t{1} << 32) * ((uint64_t{1} << shift) - static_cast<uint64_t>(divisor))) / static_cast<uint64_t>(divisor) + 1;
  words[0] = (multiplier & 0xffffffff) | shift << 32;
}

void ArgumentWords::push(uint64_t word) {
  CHECK(words_.size() < kMost);
  words_.push_back(word);
}

void ArgumentWords::push(const DividerWords& divider) {
  for (uint64_t word : divider.words) push(word);
}

void ArgumentWords::launch(const Function& function, const Launch& shape, const RunArgs& args, const std::vector<int>& inputs,
                           const std::vector<int>& outputs) const {
  uint64_t words[kMost];
  std::copy(words_.begin(), words_.end(), words);
  size_t at = 0;
  for (int i : inputs) words[at++] = reinterpret_cast<uint64_t>(args.inputs[i].raw());
  for (int o : outputs) words[at++] = reinterpret_cast<uint64_t>(args.outputs[o].raw());
  void* arguments[] = {words};
  function.launch_raw(args.stream, shape, arguments);
}

Support supports_elementwise(const NodeView& node, size_t num_operands) {
  if (num_operands > kMaxOperands) return Support::no(fmt::format("{} operands, at most {}", num_operands, kMaxOperands));
  for (const Shape& shape : node.output_shapes)
    if (shape.size() > 8) return Support::no(fmt::format("rank {}, at most 8", shape.size()));
  return Support::yes();
}

std::unique_ptr<Kernel> make_elementwise(const NodeView& node, const Shape& shape, const ElementwiseCode& code) {
  return std::make_unique<ElementwiseKernel>(node, shape, code);
}

}  // namespace tokamak::cuda
