// reduce_sum, _mean, _max, _min, _prod over any set of axes. The axes, joined where neighbours agree, are walked as outputs around reduced
// ones. Where the innermost axis is reduced a warp or a block makes one output; where it is kept, neighbouring threads make neighbouring
// outputs and rows of threads share the reduction. Few outputs over much input: parts first (in the workspace), then the parts. Floor: x
// read once.

#include <algorithm>
#include <bit>

#include "backends/cuda/kernels/elementwise.h"

namespace tokamak::cuda {
namespace {

std::string accumulator_of(DType d) {
  if (d == DType::F64) return "double";
  if (is_float(d)) return "float";
  return is_signed_integer(d) ? "int64_t" : "uint64_t";
}
std::string compute_of(DType d) { return d == DType::Bool ? "bool" : device_type(d); }

// The input as joined axes, each kept or reduced, outermost first, with its stride in elements.
struct Axes {
  std::vector<int64_t> kept, kept_strides, reduced, reduced_strides;
  int64_t num_outputs = 1, num_terms = 1;

  Axes(const Shape& in, const std::vector<bool>& is_reduced) {
    struct Axis {
      int64_t size, stride;
      bool reduced;
    };
    std::vector<Axis> axes;  // innermost first
    int64_t stride = 1;
    for (size_t d = in.size(); d-- > 0;) {
      if (in[d] != 1) {
        if (!axes.empty() && axes.back().reduced == is_reduced[d]) axes.back().size *= in[d];
        else axes.push_back({in[d], stride, is_reduced[d]});
      }
      stride *= in[d];
    }
    inner_is_reduced = !axes.empty() && axes.front().reduced;
    for (size_t i = axes.size(); i-- > 0;) {
      (axes[i].reduced ? reduced : kept).push_back(axes[i].size);
      (axes[i].reduced ? reduced_strides : kept_strides).push_back(axes[i].stride);
      (axes[i].reduced ? num_terms : num_outputs) *= axes[i].size;
    }
  }
  bool inner_is_reduced = false;
};

// "int64_t NAME(int64_t i)": the offset of the i-th index of `sizes` walked in row-major order.
std::string offset_function(const std::string& name, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides) {
  std::string s = fmt::format("DEVICE Index {}(Index i) {{\n", name), sum;
  for (size_t d = sizes.size(); d-- > 0;) {
    const std::string digit = d > 0 ? fmt::format("i % {}", sizes[d]) : "i";
    s += fmt::format("  const Index c{} = {};\n", d, digit);
    if (d > 0) s += fmt::format("  i /= {};\n", sizes[d]);
    sum += fmt::format("{}c{} * {}", sum.empty() ? "" : " + ", d, strides[d]);
  }
  return s + "  return " + (sum.empty() ? "0" : sum) + ";\n}\n";
}

// One of the two kernels of a reduction: `from` to accumulators or to results.
struct Pass {
  Function function;
  Launch launch;
};

const char* const kRows = R"(
extern "C" __global__ void __launch_bounds__(ROW_THREADS * BLOCK_ROWS) reduce(const FROM* x, TO* __restrict__ y) {
  __shared__ ACCUMULATOR scratch[32];
  wait_with_next();
  const int64_t output = int64_t(blockIdx.x) * BLOCK_ROWS + threadIdx.x / ROW_THREADS;
  if (output >= NUM_OUTPUTS) return;
  const FROM* const row = x + kept_offset(Index(output));
  const Index begin = Index(blockIdx.y) * PART, end = begin + PART < NUM_TERMS ? begin + PART : NUM_TERMS;
  ACCUMULATOR sum[WIDTH];
#pragma unroll
  for (int k = 0; k < WIDTH; ++k) sum[k] = OP::identity<ELEMENT, ACCUMULATOR>();
#pragma unroll 4
  for (Index i = begin + Index(threadIdx.x % ROW_THREADS) * WIDTH; i < end; i += ROW_THREADS * WIDTH) {
    const Vec<FROM, WIDTH> v = load_vector<FROM, WIDTH>(row + reduced_offset(i));
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) sum[k] = OP::apply(sum[k], widen<ACCUMULATOR>(v.at[k]));
  }
#pragma unroll
  for (int k = 1; k < WIDTH; ++k) sum[0] = OP::apply(sum[0], sum[k]);
  sum[0] = block_reduce_of<OP, ROW_THREADS>(sum[0], scratch);
  if (threadIdx.x % ROW_THREADS == 0) y[int64_t(blockIdx.y) * NUM_OUTPUTS + output] = finish(sum[0]);
}
)";

const char* const kColumns = R"(
extern "C" __global__ void __launch_bounds__(X_THREADS * Y_THREADS) reduce(const FROM* x, TO* __restrict__ y) {
  __shared__ ACCUMULATOR scratch[Y_THREADS][X_THREADS * WIDTH];
  wait_with_next();
  const int64_t output = (int64_t(blockIdx.x) * X_THREADS + threadIdx.x) * WIDTH;
  const Index begin = Index(blockIdx.y) * PART, end = begin + PART < NUM_TERMS ? begin + PART : NUM_TERMS;
  ACCUMULATOR sum[WIDTH];
#pragma unroll
  for (int k = 0; k < WIDTH; ++k) sum[k] = OP::identity<ELEMENT, ACCUMULATOR>();
  if (output < NUM_OUTPUTS) {
    const FROM* const column = x + kept_offset(Index(output));
#pragma unroll 4
    for (Index i = begin + Index(threadIdx.y); i < end; i += Y_THREADS) {
      const Vec<FROM, WIDTH> v = load_vector<FROM, WIDTH>(column + reduced_offset(i));
#pragma unroll
      for (int k = 0; k < WIDTH; ++k) sum[k] = OP::apply(sum[k], widen<ACCUMULATOR>(v.at[k]));
    }
  }
  if (Y_THREADS > 1) {
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) scratch[threadIdx.y][threadIdx.x * WIDTH + k] = sum[k];
    __syncthreads();
    if (threadIdx.y > 0) return;
#pragma unroll
    for (int k = 0; k < WIDTH; ++k)
      for (int r = 1; r < Y_THREADS; ++r) sum[k] = OP::apply(sum[k], scratch[r][threadIdx.x * WIDTH + k]);
  }
  if (output < NUM_OUTPUTS) {
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) y[int64_t(blockIdx.y) * NUM_OUTPUTS + output + k] = finish(sum[k]);
  }
}
)";

class ReduceKernel final : public Kernel {
 public:
  ReduceKernel(const NodeView& node, const std::vector<bool>& is_reduced, const std::string& op) {
    const DType dtype = node.input_dtypes[0];
    const Axes axes(node.input_shapes[0], is_reduced);
    const std::string storage = dtype == DType::Bool ? "uint8_t" : device_type(dtype), accumulator = accumulator_of(dtype);
    const int64_t bytes = bits_of(dtype) / 8, accumulator_bytes = accumulator == "float" ? 4 : 8;
    // How much of the GPU the outputs alone keep busy decides how often the reduced range is cut.
    const int64_t width = vector_of(axes, bytes);
    const int64_t threads_wanted = int64_t{node.cuda->target().num_sms} * 1024;
    const int64_t work = axes.num_outputs * axes.num_terms / width;
    int64_t parts = 1;
    if (work > threads_wanted * 4) {
      const int64_t busy = axes.inner_is_reduced ? axes.num_outputs * std::min<int64_t>(1024, ceil_div(axes.num_terms, width * 4))
                                                 : ceil_div(axes.num_outputs, width) * std::min<int64_t>(16, axes.num_terms);
      parts = std::clamp<int64_t>(threads_wanted / std::max<int64_t>(busy, 1), 1, 1024);
    }
    int64_t part = ceil_div(ceil_div(axes.num_terms, parts), width) * width;
    if (part == 0) part = 1;
    parts = std::max<int64_t>(1, ceil_div(axes.num_terms, part));
    workspace_bytes_ = parts > 1 ? parts * axes.num_outputs * accumulator_bytes : 0;
    const Types types{storage, accumulator, storage, compute_of(dtype)};
    if (parts == 1) {
      passes_.push_back(pass(node, op, axes, types, width, part, 1, axes.num_terms));
      return;
    }
    Types first = types, second = types;
    first.to = accumulator, first.finish = "";
    second.from = accumulator;
    passes_.push_back(pass(node, op, axes, first, width, part, parts, axes.num_terms));
    const Axes of_parts(Shape{parts, axes.num_outputs}, {true, false});
    passes_.push_back(pass(node, op, of_parts, second, 1, parts, 1, axes.num_terms));
  }
  int64_t workspace_bytes() const override { return workspace_bytes_; }
  void run(const RunArgs& args) const override {
    const void* const x = args.inputs[0].raw();
    if (passes_.size() == 1) return passes_[0].function.launch(args.stream, passes_[0].launch, x, args.outputs[0].raw());
    passes_[0].function.launch(args.stream, passes_[0].launch, x, args.workspace);
    passes_[1].function.launch(args.stream, passes_[1].launch, args.workspace, args.outputs[0].raw());
  }

 private:
  struct Types {
    std::string from, accumulator, to, finish;  // finish: the element type of a result, "" for an accumulator
  };

  // Elements that one load can take: along the inner axis, whose size and all other strides they must divide.
  static int64_t vector_of(const Axes& axes, int64_t bytes) {
    int64_t width = std::min<int64_t>(8, 16 / bytes);
    const std::vector<int64_t>& inner = axes.inner_is_reduced ? axes.reduced : axes.kept;
    if (inner.empty()) return 1;
    while (inner.back() % width != 0) width /= 2;
    return width;  // outer strides are multiples of the inner size
  }

  static Pass pass(const NodeView& node, const std::string& op, const Axes& axes, const Types& types, int64_t width, int64_t part,
                   int64_t parts, int64_t num_terms) {
    const DType dtype = node.input_dtypes[0];
    const bool wide = num_elements(node.input_shapes[0]) > INT32_MAX / 2;
    std::string finish = "value";
    if (!types.finish.empty()) {
      const std::string terms = fmt::format("{}({})", types.accumulator, num_terms);
      if (op == "reduce_mean")
        finish = is_float(dtype) ? "value / " + terms : num_terms == 0 ? types.accumulator + "(0)" : "value / " + terms;
      finish = fmt::format("narrow<{}>({})", types.to, types.finish == "bool" ? "bool((" + finish + ") != 0)" : finish);
    }
    const char* const function = op == "reduce_max" ? "MaxOf" : op == "reduce_min" ? "MinOf" : op == "reduce_prod" ? "ProductOf" : "SumOf";
    std::string code = fmt::format("#include \"reduce.cuh\"\nusing Index = {};\n", wide ? "int64_t" : "int");
    code += offset_function("kept_offset", axes.kept, axes.kept_strides) +
            offset_function("reduced_offset", axes.reduced, axes.reduced_strides);
    code += fmt::format("DEVICE {} finish({} value) {{ return {}; }}\n", types.to, types.accumulator, finish);
    std::vector<std::string> defines = {"FROM=" + types.from,
                                        "TO=" + types.to,
                                        "ACCUMULATOR=" + types.accumulator,
                                        "ELEMENT=" + compute_of(dtype),
                                        fmt::format("OP={}", function),
                                        fmt::format("WIDTH={}", width),
                                        fmt::format("PART={}", part),
                                        fmt::format("NUM_OUTPUTS={}", axes.num_outputs),
                                        fmt::format("NUM_TERMS={}", axes.num_terms)};
    Launch launch{.overlap = true};
    launch.grid.y = static_cast<unsigned>(parts);
    if (axes.inner_is_reduced || axes.kept.empty()) {
      const int64_t vectors = ceil_div(std::min(part, std::max<int64_t>(axes.num_terms, 1)), width);
      int64_t threads = 32, rows = 4;
      if (vectors > 128 || (vectors > 32 && axes.num_outputs < 1024)) {
        threads = std::clamp<int64_t>(static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(ceil_div(vectors, 4)))), 64, 512), rows = 1;
      } else if (axes.num_outputs < 4) {
        rows = 1;
      }
      defines.push_back(fmt::format("ROW_THREADS={}", threads));
      defines.push_back(fmt::format("BLOCK_ROWS={}", rows));
      launch.grid.x = static_cast<unsigned>(ceil_div(axes.num_outputs, rows));
      launch.block.x = static_cast<unsigned>(threads * rows);
      code += kRows;
    } else {
      const int64_t columns = axes.num_outputs / width;
      const int64_t x = std::clamp<int64_t>(static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(columns))), 8, 32);
      const int64_t y = std::clamp<int64_t>(static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(ceil_div(part, 4)))), 1, 256 / x);
      defines.push_back(fmt::format("X_THREADS={}", x));
      defines.push_back(fmt::format("Y_THREADS={}", y));
      launch.grid.x = static_cast<unsigned>(ceil_div(columns, x));
      launch.block.x = static_cast<unsigned>(x), launch.block.y = static_cast<unsigned>(y);
      code += kColumns;
    }
    return {node.cuda->function({"cuda." + op, code, defines}, "reduce"), launch};
  }

  std::vector<Pass> passes_;
  int64_t workspace_bytes_ = 0;
};

class ReduceDef final : public CudaKernelDef {
 public:
  explicit ReduceDef(std::string op) : name_("cuda." + op), op_(std::move(op)) {}
  std::string_view name() const override { return name_; }
  std::string_view op() const override { return op_; }
  Support supports(const NodeView& node) const override {
    if (compute_of(node.input_dtypes[0]).empty()) return Support::no(fmt::format("dtype {}", to_string(node.input_dtypes[0])));
    if (node.has_input(1) && node.constants[1] == nullptr) return Support::no("axes must be constant");
    if (num_elements(node.output_shapes[0]) > INT32_MAX) return Support::no("more outputs than a grid has blocks");
    return Support::yes();
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    const bool none_when_empty = node.attrs().has("axes") || node.attrs().get_bool("noop_with_empty_axes", false);
    const std::vector<int64_t> axes = node.has_input(1) ? node.constants[1]->to_ints() : node.attrs().get_ints("axes", {});
    const int64_t rank = static_cast<int64_t>(node.input_shapes[0].size());
    std::vector<bool> reduced(static_cast<size_t>(rank), axes.empty() && !none_when_empty);
    for (int64_t axis : axes)
      if (rank > 0) reduced[axis < 0 ? axis + rank : axis] = true;
    return std::make_unique<ReduceKernel>(node, reduced, op_);
  }

 private:
  std::string name_, op_;
};

}  // namespace

std::vector<const KernelDef*> reduce_kernels() {
  static const ReduceDef sum("reduce_sum"), mean("reduce_mean"), max("reduce_max"), min("reduce_min"), prod("reduce_prod");
  return {&sum, &mean, &max, &min, &prod};
}

}  // namespace tokamak::cuda
