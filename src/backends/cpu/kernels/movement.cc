// transpose, expand, slice, concat, split and constant pad as strided copies of any element size; gather.

#include <cstring>

#include "backends/cpu/kernels/parallel.h"
#include "backends/cpu/kernels/strided_copy.h"
#include "base/error.h"
#include "runtime/kernel.h"

namespace tokamak::cpu {
namespace {

constexpr size_t kMaxRank = 16;

int64_t element_bytes(DType dtype) { return bits_of(dtype) / 8; }

// Copies from inputs to outputs, one after another, each perhaps after a fill of its output.
struct CopyKernel : Kernel {
  struct Part {
    int input, output;
    StridedCopy copy;
  };
  std::vector<Part> parts;
  bool fills = false;
  int64_t bytes = 4, fill_count = 0;
  char fill_value[16] = {};

  void run(const RunArgs& args) const override {
    if (fills) fill(static_cast<char*>(args.outputs[0].raw()), args.pool);
    for (const Part& part : parts) part.copy.run(args.inputs[part.input].raw(), args.outputs[part.output].raw(), args.pool);
  }
  void fill(char* out, ThreadPool* pool) const {
    parallel(pool, fill_count, 1, [&](int64_t begin, int64_t end, int) {
      bool zeros = true;
      for (char c : fill_value) zeros &= c == 0;
      if (zeros) std::memset(out + begin * bytes, 0, (end - begin) * bytes);
      else
        for (int64_t i = begin; i < end; ++i) std::memcpy(out + i * bytes, fill_value, bytes);
    });
  }
};

int64_t axis_of(const NodeView& node, int64_t otherwise, size_t rank) {
  const int64_t axis = node.attrs().get_int("axis", otherwise);
  return axis < 0 ? axis + static_cast<int64_t>(rank) : axis;
}

// Integers of an attribute with its symbols bound, or of a constant input; false when neither tells.
bool known_ints(const NodeView& node, const char* attr, int input, std::vector<int64_t>& out) {
  if (node.attrs().has(attr)) {
    for (const ir::Dim& dim : node.attrs().get_dims(attr)) {
      const ir::Dim bound = dim.substitute(node.bindings);
      if (!bound.is_const()) return false;
      out.push_back(bound.value());
    }
    return true;
  }
  if (!node.has_input(input)) return true;
  const Tensor* constant = input < static_cast<int>(node.constants.size()) ? node.constants[input] : nullptr;
  if (constant == nullptr) return false;
  out = constant->to_ints();
  return true;
}

std::unique_ptr<CopyKernel> new_copy(const NodeView& node) {
  auto kernel = std::make_unique<CopyKernel>();
  kernel->bytes = element_bytes(node.input_dtypes[0]);
  return kernel;
}
void add_part(CopyKernel& kernel, int input, int output, Shape sizes, Shape source, int64_t source_offset, Shape destination,
              int64_t destination_offset) {
  kernel.parts.push_back(
      {input, output,
       StridedCopy(kernel.bytes, std::move(sizes), std::move(source), source_offset, std::move(destination), destination_offset)});
}

using Kernels = std::unique_ptr<Kernel>;

Kernels make_transpose(const NodeView& node) {
  auto kernel = new_copy(node);
  const Shape &in = node.input_shapes[0], &out = node.output_shapes[0];
  const int64_t rank = static_cast<int64_t>(in.size());
  ir::Ints perm = node.attrs().get_ints("perm", {});
  for (int64_t i = rank - 1; perm.size() < in.size(); --i) perm.push_back(i);
  const Shape strides = dense_strides(in);
  Shape source;
  for (int64_t p : perm) source.push_back(strides[p < 0 ? p + rank : p]);
  add_part(*kernel, 0, 0, out, source, 0, dense_strides(out), 0);
  return kernel;
}

Kernels make_expand(const NodeView& node) {
  auto kernel = new_copy(node);
  const Shape &in = node.input_shapes[0], &out = node.output_shapes[0], strides = dense_strides(in);
  Shape source(out.size(), 0);
  for (size_t d = 0; d < in.size(); ++d)
    if (in[d] != 1) source[out.size() - in.size() + d] = strides[d];
  add_part(*kernel, 0, 0, out, source, 0, dense_strides(out), 0);
  return kernel;
}

Kernels make_concat(const NodeView& node) {
  auto kernel = new_copy(node);
  const Shape& out = node.output_shapes[0];
  const Shape strides = dense_strides(out);
  const int64_t axis = axis_of(node, 0, out.size());
  int64_t at = 0;
  for (int i = 0; i < node.num_inputs(); ++i) {
    add_part(*kernel, i, 0, node.input_shapes[i], dense_strides(node.input_shapes[i]), 0, strides, at * strides[axis]);
    at += node.input_shapes[i][axis];
  }
  return kernel;
}

Kernels make_split(const NodeView& node) {
  auto kernel = new_copy(node);
  const Shape& in = node.input_shapes[0];
  const Shape strides = dense_strides(in);
  const int64_t axis = axis_of(node, 0, in.size());
  int64_t at = 0;
  for (int o = 0; o < node.num_outputs(); ++o) {
    add_part(*kernel, 0, o, node.output_shapes[o], strides, at * strides[axis], dense_strides(node.output_shapes[o]), 0);
    at += node.output_shapes[o][axis];
  }
  return kernel;
}

Support slice_known(const NodeView& node) {
  std::vector<int64_t> scratch;
  if (known_ints(node, "starts", 1, scratch) && known_ints(node, "axes", 3, scratch) && known_ints(node, "steps", 4, scratch))
    return Support::yes();
  return Support::no("starts, axes or steps are computed at run time");
}

Kernels make_slice(const NodeView& node) {
  auto kernel = new_copy(node);
  const Shape &in = node.input_shapes[0], &out = node.output_shapes[0];
  std::vector<int64_t> starts, axes, steps;
  known_ints(node, "starts", 1, starts), known_ints(node, "axes", 3, axes), known_ints(node, "steps", 4, steps);
  Shape source = dense_strides(in);
  int64_t offset = 0;
  for (size_t i = 0; i < starts.size(); ++i) {
    int64_t axis = axes.empty() ? static_cast<int64_t>(i) : axes[i];
    if (axis < 0) axis += static_cast<int64_t>(in.size());
    const int64_t n = in[axis], step = steps.empty() ? 1 : steps[i];
    int64_t start = starts[i];
    if (start < 0) start = start < -n ? 0 : start + n;
    start = std::clamp<int64_t>(start, 0, step > 0 ? n : std::max<int64_t>(n - 1, 0));
    offset += start * source[axis];
    source[axis] *= step;
  }
  add_part(*kernel, 0, 0, out, source, offset, dense_strides(out), 0);
  return kernel;
}

Support pad_known(const NodeView& node) {
  if (node.attrs().get_string("mode", "constant") != "constant") return Support::no("mode is not constant");
  std::vector<int64_t> pads;
  if (!known_ints(node, "pads", 1, pads)) return Support::no("pads are computed at run time");
  if (node.input_shapes[0].empty()) return Support::no("a scalar");
  if (node.has_input(2)) return node.constants[2] != nullptr ? Support::yes() : Support::no("the value is computed at run time");
  return node.input_dtypes[0] == DType::F32 || node.attrs().get_float("value", 0.0) == 0 ? Support::yes()
                                                                                         : Support::no("a fill value that is not f32");
}

Kernels make_pad(const NodeView& node) {
  auto kernel = new_copy(node);
  const Shape &in = node.input_shapes[0], &out = node.output_shapes[0];
  std::vector<int64_t> pads, axes;
  known_ints(node, "pads", 1, pads), known_ints(node, "axes", 3, axes);
  Shape begin(in.size(), 0), sizes = in;
  const size_t count = pads.size() / 2;
  for (size_t i = 0; i < count; ++i) {
    const int64_t axis = axes.empty() ? static_cast<int64_t>(i) : axes[i] < 0 ? axes[i] + static_cast<int64_t>(in.size()) : axes[i];
    begin[axis] = pads[i];
  }
  const Shape source = dense_strides(in), destination = dense_strides(out);
  int64_t source_offset = 0, destination_offset = 0;
  bool whole = true;
  for (size_t d = 0; d < in.size(); ++d) {  // the part of the input that lands inside the output
    const int64_t first = std::max<int64_t>(0, -begin[d]), to = std::max<int64_t>(0, begin[d]);
    sizes[d] = std::max<int64_t>(0, std::min(in[d] - first, out[d] - to));
    whole &= sizes[d] == out[d];
    source_offset += first * source[d], destination_offset += to * destination[d];
  }
  kernel->fills = !whole;
  kernel->fill_count = num_elements(out);
  if (node.has_input(2)) {
    std::memcpy(kernel->fill_value, node.constants[2]->raw(), kernel->bytes);
  } else if (node.input_dtypes[0] == DType::F32) {
    const float value = static_cast<float>(node.attrs().get_float("value", 0.0));
    std::memcpy(kernel->fill_value, &value, sizeof value);
  }
  add_part(*kernel, 0, 0, sizes, source, source_offset, destination, destination_offset);
  return kernel;
}

// out[o, i, :] = x[o, indices[i], :].
struct Gather : Kernel {
  int64_t outer = 1, size = 1, run_bytes = 1, count = 0;
  bool wide_indices = true;

  int64_t index(const Tensor& indices, int64_t i) const {
    const int64_t at = wide_indices ? indices.data<int64_t>()[i] : indices.data<int32_t>()[i];
    return at < 0 ? at + size : at;
  }
  void run(const RunArgs& args) const override {
    const Tensor& indices = args.inputs[1];
    for (int64_t i = 0; i < count; ++i)
      if (const int64_t at = index(indices, i); at < 0 || at >= size)
        fail(ErrorCode::OutOfRange, "[gather] index {} is outside an axis of {}", at < 0 ? at - size : at, size);
    const char* const x = static_cast<const char*>(args.inputs[0].raw());
    char* const y = static_cast<char*>(args.outputs[0].raw());
    parallel(args.pool, outer * count, run_bytes / 16 + 2, [&](int64_t begin, int64_t end, int) {
      int64_t o = begin / count, i = begin % count;
      for (int64_t task = begin; task < end; ++task) {
        copy_run(y + task * run_bytes, x + (o * size + index(indices, i)) * run_bytes);
        if (++i == count) i = 0, ++o;
      }
    });
  }
  void copy_run(char* d, const char* s) const {
    if (run_bytes == 4) std::memcpy(d, s, 4);
    else if (run_bytes == 8) std::memcpy(d, s, 8);
    else std::memcpy(d, s, run_bytes);
  }
};

Support gather_fits(const NodeView& node) {
  const DType dtype = node.input_dtypes[1];
  return dtype == DType::I64 || dtype == DType::I32 ? Support::yes() : Support::no("indices are neither i32 nor i64");
}

Kernels make_gather(const NodeView& node) {
  auto kernel = std::make_unique<Gather>();
  const Shape& in = node.input_shapes[0];
  const int64_t axis = axis_of(node, 0, in.size());
  kernel->run_bytes = element_bytes(node.input_dtypes[0]);
  for (int64_t d = 0; d < static_cast<int64_t>(in.size()); ++d)
    (d < axis ? kernel->outer : d == axis ? kernel->size : kernel->run_bytes) *= in[d];
  kernel->count = num_elements(node.input_shapes[1]);
  kernel->wide_indices = node.input_dtypes[1] == DType::I64;
  return kernel;
}

class MovementDef : public KernelDef {
 public:
  MovementDef(const char* op, Kernels (*make)(const NodeView&), Support (*fits)(const NodeView&) = nullptr)
      : name_(std::string("cpu.") + op), op_(op), make_(make), fits_(fits) {}
  std::string_view name() const override { return name_; }
  std::string_view op() const override { return op_; }
  Support supports(const NodeView& node) const override {
    if (!StridedCopy::handles(bits_of(node.input_dtypes[0]))) return Support::no(fmt::format("dtype {}", to_string(node.input_dtypes[0])));
    for (const Shape& shape : node.input_shapes)
      if (shape.size() > kMaxRank) return Support::no(fmt::format("rank above {}", kMaxRank));
    for (const Shape& shape : node.output_shapes)
      if (shape.size() > kMaxRank) return Support::no(fmt::format("rank above {}", kMaxRank));
    return fits_ != nullptr ? fits_(node) : Support::yes();
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override { return make_(node); }

 private:
  std::string name_, op_;
  Kernels (*make_)(const NodeView&);
  Support (*fits_)(const NodeView&);
};

}  // namespace

#define MOVEMENT(op, ...)                           \
  const KernelDef& cpu_##op() {                     \
    static const MovementDef def(#op, __VA_ARGS__); \
    return def;                                     \
  }
MOVEMENT(transpose, make_transpose)
MOVEMENT(expand, make_expand)
MOVEMENT(concat, make_concat)
MOVEMENT(split, make_split)
MOVEMENT(slice, make_slice, slice_known)
MOVEMENT(pad, make_pad, pad_known)
MOVEMENT(gather, make_gather, gather_fits)
#undef MOVEMENT

}  // namespace tokamak::cpu
