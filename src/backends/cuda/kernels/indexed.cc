#include "backends/cuda/kernels/indexed.h"

#include <algorithm>
#include <cstring>

#include "backends/cuda/kernels/indexed_def.h"
#include "base/error.h"

namespace tokamak::cuda {
namespace {

constexpr int kThreads = 256;
constexpr size_t kMaxPointers = 64;

}  // namespace

IndexedKernel::IndexedKernel(const NodeView& node, const std::vector<IndexedCode>& codes) {
  for (const IndexedCode& code : codes) {
    // Several indices a thread, a block's width apart, keep loads in flight; few indices are better spread over the GPU.
    const int64_t per_thread = code.count >= int64_t{node.cuda->target().num_sms} * 2048 * 4 ? 4 : 1;
    const bool wide = std::max(code.count, code.largest) > INT32_MAX - kThreads * per_thread;
    std::string parameters, arguments;
    Step step;
    const auto add = [&](const IndexedOperand& operand, const char* qualifier, const char* prefix, size_t k) {
      parameters += fmt::format("{}{}{}* {}{}", parameters.empty() ? "" : ", ", qualifier, operand.type, prefix, k);
      arguments += fmt::format(", {}{}", prefix, k);
    };
    for (size_t k = 0; k < code.inputs.size(); ++k) add(code.inputs[k], "const ", "in", k), step.inputs.push_back(code.inputs[k].index);
    for (size_t k = 0; k < code.outputs.size(); ++k) add(code.outputs[k], "", "out", k), step.outputs.push_back(code.outputs[k].index);
    CHECK(step.inputs.size() + step.outputs.size() <= kMaxPointers);
    const Source source{code.name,
                        fmt::format("#include \"elementwise.cuh\"\n{}\nusing Index = {};\nDEVICE void element(Index i, {}) {{\n{}\n}}\n"
                                    "extern \"C\" __global__ void __launch_bounds__({}) indexed({}) {{\n  wait_with_next();\n"
                                    "#pragma unroll\n  for (int k = 0; k < {}; ++k) {{\n"
                                    "    const Index i = (Index(blockIdx.x) * {} + k) * {} + Index(threadIdx.x);\n"
                                    "    if (i < {}) element(i{});\n  }}\n}}\n",
                                    code.preamble, wide ? "int64_t" : "int", parameters, code.body, kThreads, parameters, per_thread,
                                    per_thread, kThreads, code.count, arguments),
                        {}};
    step.function = node.cuda->function(source, "indexed");
    step.launch = {.grid = {static_cast<unsigned>(ceil_div(code.count, kThreads * per_thread))}, .block = {kThreads}, .overlap = true};
    if (code.count > 0) steps_.push_back(std::move(step));
  }
}

IndexedKernel& IndexedKernel::alias_first_input(int skip_when_aliased) {
  alias_ = true;
  skip_ = static_cast<size_t>(skip_when_aliased);
  return *this;
}

void IndexedKernel::run(const RunArgs& args) const {
  const bool aliased = alias_ && args.inputs[0].raw() == args.outputs[0].raw();
  for (size_t s = aliased ? skip_ : 0; s < steps_.size(); ++s) {
    const Step& step = steps_[s];
    const void* pointers[kMaxPointers];
    void* arguments[kMaxPointers];
    size_t n = 0;
    for (int i : step.inputs) pointers[n++] = args.inputs[i].raw();
    for (int o : step.outputs) pointers[n++] = args.outputs[o].raw();
    for (size_t k = 0; k < n; ++k) arguments[k] = &pointers[k];
    step.function.launch_raw(args.stream, step.launch, arguments);
  }
}

Support supports_moving(const NodeView& node, int input) {
  const DType dtype = node.input_dtypes[input];
  return is_movable(dtype) ? Support::yes() : Support::no(fmt::format("elements of {}", to_string(dtype)));
}

std::string unit_type(int64_t bytes) {
  switch (bytes) {
    case 1: return "uint8_t";
    case 2: return "uint16_t";
    case 4: return "uint32_t";
    case 8: return "uint2";
    default: CHECK(bytes == 16); return "uint4";
  }
}

int64_t unit_bytes(const std::vector<int64_t>& byte_counts) {
  int64_t bytes = 16;
  for (int64_t count : byte_counts)
    while (count % bytes != 0) bytes /= 2;
  return bytes;
}

std::string element_literal(const Tensor& tensor, int64_t unit) {
  const int64_t bytes = bytes_of_element(tensor.dtype());
  if (unit == 0) unit = bytes;
  uint32_t words[4] = {};
  for (int64_t at = 0; at < unit; at += bytes) std::memcpy(reinterpret_cast<char*>(words) + at, tensor.raw(), static_cast<size_t>(bytes));
  if (unit == 16) return fmt::format("make_uint4({}u, {}u, {}u, {}u)", words[0], words[1], words[2], words[3]);
  if (unit == 8) return fmt::format("make_uint2({}u, {}u)", words[0], words[1]);
  return fmt::format("{}({}u)", unit_type(unit), words[0]);
}

std::vector<int64_t> strides_of(const Shape& shape) {
  std::vector<int64_t> strides(shape.size());
  int64_t stride = 1;
  for (size_t d = shape.size(); d-- > 0;) {
    strides[d] = stride;
    stride *= shape[d];
  }
  return strides;
}

std::string split_index(const std::vector<int64_t>& sizes, const std::string& index) {
  std::string text, rest = index;
  for (size_t d = sizes.size(); d-- > 0;) {
    if (d == 0) {
      text += fmt::format("  const Index c0 = {};\n", rest);
    } else {
      text += fmt::format("  const Index q{0} = {1} / {2}, c{0} = {1} - q{0} * {2};\n", d, rest, sizes[d]);
      rest = fmt::format("q{}", d);
    }
  }
  return text;
}

std::string dot_index(const std::vector<int64_t>& strides, int64_t offset) {
  std::string text;
  for (size_t d = 0; d < strides.size(); ++d)
    if (strides[d] != 0) text += fmt::format("{}c{} * Index({})", text.empty() ? "" : " + ", d, strides[d]);
  if (offset != 0 || text.empty()) text += fmt::format("{}Index({})", text.empty() ? "" : " + ", offset);
  return text;
}

}  // namespace tokamak::cuda
