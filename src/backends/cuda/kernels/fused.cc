// fused: an expression over broadcast inputs. Without row reductions it is a pointwise kernel (elementwise.h); with them a warp or a block
// takes a row, holds the inputs in registers (long rows are read again), and evaluates, for each reduction and then for the results, the
// instructions that it depends on. Floor: every input read once, every output written once.

#include <algorithm>

#include "backends/cuda/kernels/elementwise.h"
#include "backends/cuda/kernels/expr_code.h"
#include "backends/cuda/kernels/row_plan.h"

namespace tokamak::cuda {
namespace {

bool loads(DType d) { return d == DType::Bool || !device_type(d).empty(); }
bool stores(DType d) { return d == DType::F32 || d == DType::F16 || d == DType::BF16 || d == DType::Bool || d == DType::F64; }
std::string storage_of(DType d) { return d == DType::Bool ? "uint8_t" : device_type(d); }

struct FusedNode {
  ir::Expr expr;
  std::vector<int64_t> reduced;
  Shape shape;

  explicit FusedNode(const NodeView& node)
      : expr(ir::Expr::parse(node.attrs().get_string("expr"))),
        reduced(node.attrs().get_ints("reduced", {})),
        shape(broadcast_shape(node.input_shapes)) {
    reduced.resize(expr.results.size(), 0);
  }
  bool by_rows() const {
    return expr.has_row_reduction() || std::any_of(reduced.begin(), reduced.end(), [](int64_t r) { return r != 0; });
  }
};

std::unique_ptr<Kernel> make_pointwise(const NodeView& node, const FusedNode& fused) {
  ElementwiseCode code{.name = "cuda.fused", .preamble = "#include \"math.cuh\"\n", .inputs = {}, .outputs = {}, .body = {}};
  for (int i = 0; i < fused.expr.num_inputs(); ++i) {
    code.inputs.push_back({i, storage_of(node.input_dtypes[i]), "float"});
    code.body += fmt::format("const float i{0} = x{0};\n    ", i);
  }
  for (size_t t = 0; t < fused.expr.code.size(); ++t)
    code.body += fmt::format("const float t{} = {};\n    ", t, device_instruction(fused.expr.code[t]));
  for (int o = 0; o < node.num_outputs(); ++o) {
    code.outputs.push_back({o, storage_of(node.output_dtypes[o]), node.output_dtypes[o] == DType::Bool ? "bool" : "float"});
    code.body +=
        fmt::format("y{} = {}{};\n    ", o, device_operand(fused.expr.results[o]), node.output_dtypes[o] == DType::Bool ? " != 0.f" : "");
  }
  return make_elementwise(node, fused.shape, code);
}

// --- rows ---

class RowText {
 public:
  RowText(const NodeView& node, const FusedNode& fused, const JoinedAxes& axes)
      : node_(node), expr_(fused.expr), fused_(fused), axes_(axes) {}

  std::string text() const {
    const int num_inputs = expr_.num_inputs();
    const size_t dims = axes_.sizes.size() - 1;
    std::string t = "#include \"row.cuh\"\n#include \"math.cuh\"\nstruct Args {\n";
    for (int i = 0; i < num_inputs; ++i) t += fmt::format("  const {}* in{};\n", storage(i), i);
    for (int o = 0; o < node_.num_outputs(); ++o) t += fmt::format("  {}* out{};\n", output_storage(o), o);
    t += "  int64_t rows;\n";
    if (dims > 0) t += fmt::format("  Divider size[{}];\n", dims);
    if (dims > 0 && num_inputs > 0) t += fmt::format("  int64_t stride[{}][{}];\n", num_inputs, dims);
    t += "};\nconstexpr int kStep = ROW_THREADS * WIDTH, kUnroll = IN_REGISTERS ? ITEMS : 1;\n"
         "extern \"C\" __global__ void __launch_bounds__(ROW_THREADS * BLOCK_ROWS) fused_rows(const __grid_constant__ Args a) {\n"
         "  __shared__ float scratch[32];\n  wait_with_next();\n"
         "  const int64_t row = int64_t(blockIdx.x) * BLOCK_ROWS + threadIdx.x / ROW_THREADS;\n  if (row >= a.rows) return;\n"
         "  const int lane = threadIdx.x % ROW_THREADS;\n";
    if (dims > 0) t += "  int64_t rest = row;\n";
    for (size_t d = 0; d < dims; ++d)
      t += d + 1 < dims ? fmt::format("  const int64_t c{0} = rest % a.size[{0}].divisor;\n  rest /= a.size[{0}].divisor;\n", d)
                        : fmt::format("  const int64_t c{} = rest;\n", d);
    for (int i = 0; i < num_inputs; ++i) {
      t += fmt::format("  const {}* p{} = a.in{}", storage(i), i, i);
      for (size_t d = 0; d < dims; ++d)
        if (axes_.strides[i][d + 1] != 0) t += fmt::format(" + c{} * a.stride[{}][{}]", d, i, d);
      t += ";\n";
      if (!along_row(i)) t += fmt::format("  const float i{} = widen<float>(*p{});\n", i, i);
    }
    t += "#if IN_REGISTERS\n";
    for (int i = 0; i < num_inputs; ++i)
      if (along_row(i)) t += fmt::format("  Vec<{}, WIDTH> r{}[ITEMS];\n", storage(i), i);
    t += "#pragma unroll\n  for (int item = 0; item < ITEMS; ++item) {\n    const int col = item * kStep + lane * WIDTH;\n    if (col >= "
         "COLS) break;\n";
    for (int i = 0; i < num_inputs; ++i)
      if (along_row(i)) t += fmt::format("    r{0}[item] = load_vector<{1}, WIDTH>(p{0} + col);\n", i, storage(i));
    t += "  }\n#endif\n";
    for (size_t r = 0; r < expr_.code.size(); ++r) {
      if (!ir::is_row_reduction(expr_.code[r].function)) continue;
      const std::string& f = expr_.code[r].function;
      const char* op = f == "row_max" ? "MaxNaN" : f == "row_min" ? "MinNaN" : "Sum";
      t += fmt::format("  float t{} = {}::identity();\n", r, op);
      t += open_pass({expr_.code[r].operands[0]});
      t += fmt::format("      t{0} = {1}::apply(t{0}, {2});\n    }}\n  }}\n  t{0} = row_reduce<{1}, ROW_THREADS>(t{0}, scratch);\n", r, op,
                       device_operand(expr_.code[r].operands[0]));
      if (f == "row_mean") t += fmt::format("  t{} /= float(COLS);\n", r);
    }
    // The results.
    std::vector<ir::ExprOperand> results = expr_.results;
    std::string before, body, after;
    for (int o = 0; o < node_.num_outputs(); ++o) {
      const bool is_bool = node_.output_dtypes[o] == DType::Bool;
      const std::string value = device_operand(results[o]) + (is_bool ? " != 0.f" : "");
      const std::string stored = fmt::format("narrow<{}>({})", output_storage(o), value);
      if (fused_.reduced[o] != 0) {
        body += fmt::format("      if (col + k == 0) a.out{}[row] = {};\n", o, stored);
      } else {
        before += fmt::format("    Vec<{}, WIDTH> w{};\n", output_storage(o), o);
        body += fmt::format("      w{}.at[k] = {};\n", o, stored);
        after += fmt::format("    store_vector<{0}, WIDTH>(a.out{1} + row * COLS + col, w{1});\n", output_storage(o), o);
      }
    }
    return t + open_pass(results, before) + body + "    }\n" + after + "  }\n}\n";
  }

 private:
  std::string storage(int i) const { return storage_of(node_.input_dtypes[i]); }
  std::string output_storage(int o) const { return storage_of(node_.output_dtypes[o]); }
  bool along_row(int i) const { return axes_.strides[i][0] != 0; }

  // The loops over the row's vectors and their elements, with everything computed that `wanted` depends on short of reductions.
  std::string open_pass(const std::vector<ir::ExprOperand>& wanted, const std::string& before_elements = "") const {
    std::vector<bool> inputs(static_cast<size_t>(expr_.num_inputs())), temps(expr_.code.size());
    const auto need = [&](const ir::ExprOperand& operand) {
      if (operand.kind == ir::ExprOperand::Input) inputs[operand.index] = true;
      if (operand.kind == ir::ExprOperand::Temp) temps[operand.index] = true;
    };
    for (const ir::ExprOperand& operand : wanted) need(operand);
    for (size_t t = expr_.code.size(); t-- > 0;)
      if (temps[t] && !ir::is_row_reduction(expr_.code[t].function))
        for (const ir::ExprOperand& operand : expr_.code[t].operands) need(operand);
    std::string s =
        "#pragma unroll kUnroll\n  for (int item = 0; item < ITEMS; ++item) {\n"
        "    const int col = item * kStep + lane * WIDTH;\n    if (col >= COLS) break;\n" +
        before_elements;
    for (int i = 0; i < expr_.num_inputs(); ++i)
      if (inputs[i] && along_row(i))
        s += fmt::format(
            "#if IN_REGISTERS\n    const Vec<{1}, WIDTH> v{0} = r{0}[item];\n#else\n    const Vec<{1}, WIDTH> v{0} = load_vector<{1}, "
            "WIDTH>(p{0} + col);\n#endif\n",
            i, storage(i));
    s += "#pragma unroll\n    for (int k = 0; k < WIDTH; ++k) {\n";
    for (int i = 0; i < expr_.num_inputs(); ++i)
      if (inputs[i] && along_row(i)) s += fmt::format("      const float i{0} = widen<float>(v{0}.at[k]);\n", i);
    for (size_t t = 0; t < expr_.code.size(); ++t)
      if (temps[t] && !ir::is_row_reduction(expr_.code[t].function))
        s += fmt::format("      const float t{} = {};\n", t, device_instruction(expr_.code[t]));
    return s;
  }

  const NodeView& node_;
  const ir::Expr& expr_;
  const FusedNode& fused_;
  const JoinedAxes& axes_;
};

class RowKernel final : public Kernel {
 public:
  RowKernel(const NodeView& node, const FusedNode& fused) : reduced_(fused.reduced) {
    Shape shape = fused.shape;
    if (shape.empty()) shape = {1};
    const int num_inputs = fused.expr.num_inputs();
    std::vector<std::vector<int64_t>> strides;
    int64_t largest = 1;
    for (int i = 0; i < num_inputs; ++i) {
      strides.push_back(broadcast_strides(node.input_shapes[i], shape));
      inputs_.push_back(i);
      full_.push_back(num_elements(node.input_shapes[i]) == num_elements(shape) ? bits_of(node.input_dtypes[i]) : 0);
      largest = std::max<int64_t>(largest, bits_of(node.input_dtypes[i]) / 8);
    }
    for (int o = 0; o < node.num_outputs(); ++o) {
      outputs_.push_back(o);
      output_bits_.push_back(bits_of(node.output_dtypes[o]));
      largest = std::max<int64_t>(largest, bits_of(node.output_dtypes[o]) / 8);
    }
    const JoinedAxes axes(shape, strides, true);
    const int64_t cols = shape.back(), rows = num_elements(shape) / std::max<int64_t>(cols, 1);
    const RowPlan plan(rows, cols, std::clamp<int64_t>(16 / largest, 1, 8), 8);
    launch_ = plan.launch(rows);
    function_ = node.cuda->function({"cuda.fused", RowText(node, fused, axes).text(), plan.defines()}, "fused_rows");
    for (size_t i = 0; i < inputs_.size() + outputs_.size(); ++i) words_.push(0);
    words_.push(static_cast<uint64_t>(rows));
    for (size_t d = 1; d < axes.sizes.size(); ++d) words_.push(DividerWords(axes.sizes[d]));
    for (const auto& s : axes.strides)
      for (size_t d = 1; d < s.size(); ++d) words_.push(static_cast<uint64_t>(s[d]));
  }
  bool can_alias(int output, int input) const override {
    return input < static_cast<int>(full_.size()) && reduced_[output] == 0 && full_[input] == output_bits_[output];
  }
  void run(const RunArgs& args) const override { words_.launch(function_, launch_, args, inputs_, outputs_); }

 private:
  std::vector<int64_t> reduced_;
  std::vector<int> inputs_, outputs_, full_, output_bits_;
  Function function_;
  Launch launch_;
  ArgumentWords words_;
};

class FusedDef final : public CudaKernelDef {
 public:
  std::string_view name() const override { return "cuda.fused"; }
  std::string_view op() const override { return "fused"; }
  Support supports(const NodeView& node) const override {
    for (DType dtype : node.input_dtypes)
      if (!loads(dtype)) return Support::no(fmt::format("input dtype {}", to_string(dtype)));
    for (DType dtype : node.output_dtypes)
      if (!stores(dtype)) return Support::no(fmt::format("output dtype {}", to_string(dtype)));
    if (broadcast_shape(node.input_shapes).size() > 8) return Support::no("rank above 8");
    const FusedNode fused(node);
    if (fused.by_rows() && num_elements(fused.shape) / std::max<int64_t>(1, fused.shape.empty() ? 1 : fused.shape.back()) > INT32_MAX)
      return Support::no("more rows than a grid has blocks");
    if (fused.by_rows() && !fused.shape.empty() && fused.shape.back() > INT32_MAX / 2)
      return Support::no("rows too long for 32-bit columns");
    return supports_elementwise(node, static_cast<size_t>(node.num_inputs() + node.num_outputs()));
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    const FusedNode fused(node);
    if (fused.expr.num_inputs() > node.num_inputs() || static_cast<int>(fused.expr.results.size()) != node.num_outputs())
      fail(ErrorCode::InvalidArgument, "[fused] the expression has {} inputs and {} results, the node {} and {}", fused.expr.num_inputs(),
           fused.expr.results.size(), node.num_inputs(), node.num_outputs());
    if (fused.by_rows()) return std::make_unique<RowKernel>(node, fused);
    return make_pointwise(node, fused);
  }
};

}  // namespace

std::vector<const KernelDef*> fused_kernels() {
  static const FusedDef fused;
  return {&fused};
}

}  // namespace tokamak::cuda
