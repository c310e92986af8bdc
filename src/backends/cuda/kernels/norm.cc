// The normalisations but group_norm and instance_norm. Floor: one read of x (and the residual), one write of every output.

#include <algorithm>
#include <cmath>

#include "backends/cuda/kernels/elementwise.h"
#include "backends/cuda/kernels/expr_code.h"
#include "backends/cuda/kernels/row_plan.h"

namespace tokamak::cuda {
namespace {

bool is_row_float(DType d) { return d == DType::F32 || d == DType::F16 || d == DType::BF16; }

int64_t axis_of(const NodeView& node, int64_t otherwise) {
  const int64_t axis = node.attrs().get_int("axis", otherwise);
  return axis < 0 ? axis + static_cast<int64_t>(node.input_shapes[0].size()) : axis;
}

int64_t count_of(std::span<const int64_t> dims) { return num_elements(dims); }

// `own` covers exactly the axes of x from `axis` on, or is one element.
bool is_per_column(const Shape& own, const Shape& x, int64_t axis) {
  if (num_elements(own) == 1) return true;
  Shape tail(x.begin() + axis, x.end()), mine = own;
  const auto strip = [](Shape& s) {
    while (!s.empty() && s.front() == 1) s.erase(s.begin());
  };
  strip(tail), strip(mine);
  return tail == mine;
}

// --- layer_norm, rms_norm, add_layer_norm, add_rms_norm ---

class RowNorm final : public Kernel {
 public:
  RowNorm(Function function, const RowPlan& plan, int64_t rows, float epsilon, bool has_residual, bool residual_is_full)
      : function_(std::move(function)),
        launch_(plan.launch(rows)),
        rows_(rows),
        epsilon_(epsilon),
        has_residual_(has_residual),
        residual_is_full_(residual_is_full) {}
  bool can_alias(int output, int input) const override {
    return output <= (has_residual_ ? 1 : 0) && (input == 0 || (input == 1 && has_residual_ && residual_is_full_));
  }
  void run(const RunArgs& args) const override {
    const auto input = [&](size_t i) -> const void* {
      return i < args.inputs.size() && args.inputs[i].defined() ? args.inputs[i].raw() : nullptr;
    };
    const auto output = [&](size_t i) -> void* {
      return i < args.outputs.size() && args.outputs[i].defined() ? args.outputs[i].raw() : nullptr;
    };
    const size_t first = has_residual_ ? 2 : 1;
    const void* const residual = has_residual_ ? input(1) : input(0);
    void* const sum = has_residual_ ? output(1) : nullptr;
    void *const mean = has_residual_ ? nullptr : output(1), *const inverse = has_residual_ ? nullptr : output(2);
    function_.launch(args.stream, launch_, input(0), residual, input(first), input(first + 1), output(0), sum, mean, inverse, rows_,
                     epsilon_);
  }

 private:
  Function function_;
  Launch launch_;
  int64_t rows_;
  float epsilon_;
  bool has_residual_, residual_is_full_;
};

class RowNormDef final : public CudaKernelDef {
 public:
  explicit RowNormDef(std::string op) : name_("cuda." + op), op_(std::move(op)) {}
  std::string_view name() const override { return name_; }
  std::string_view op() const override { return op_; }
  Support supports(const NodeView& node) const override {
    const Shape& x = node.input_shapes[0];
    const int64_t axis = axis_of(node, -1);
    for (int i = 0; i < node.num_inputs(); ++i)
      if (node.has_input(i) && !is_row_float(node.input_dtypes[i])) return Support::no("inputs must be f32, f16 or bf16");
    if (has_residual() && node.input_dtypes[1] != node.input_dtypes[0]) return Support::no("x and residual differ in dtype");
    if (node.output_shapes[0] != x) return Support::no("the residual widens x");
    if (has_residual() && node.input_shapes[1] != x &&
        (num_elements(node.input_shapes[1]) == 1 || !is_per_column(node.input_shapes[1], x, axis)))
      return Support::no("the residual must have x's shape or be one row of it");
    for (int i = first(); i < node.num_inputs(); ++i)
      if (node.has_input(i) && !is_per_column(node.input_shapes[i], x, axis)) return Support::no("scale and bias must be per column");
    const int64_t cols = count_of(std::span(x).subspan(axis));
    if (cols > INT32_MAX / 2 || num_elements(x) / std::max<int64_t>(cols, 1) > INT32_MAX) return Support::no("rows too long or too many");
    return Support::yes();
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    const Shape& x = node.input_shapes[0];
    const int64_t cols = count_of(std::span(x).subspan(axis_of(node, -1))), rows = num_elements(x) / std::max<int64_t>(cols, 1);
    const RowPlan plan(rows, cols, bits_of(node.input_dtypes[0]) == 32 ? 4 : 8, 8);
    const int scale = first(), bias = first() + 1;
    const auto has = [&](int i) { return i < node.num_inputs() && node.has_input(i); };
    const auto type = [&](int i) { return device_type(has(i) ? node.input_dtypes[i] : node.input_dtypes[0]); };
    const auto step = [&](int i) { return has(i) && num_elements(node.input_shapes[i]) == 1 && cols != 1 ? 0 : 1; };
    std::vector<std::string> defines = plan.defines();
    const auto known = [&](int i) { return !has(i) || (node.constants[i] != nullptr && step(i) == 1); };
    const bool early = plan.in_registers && plan.items <= 4 && known(scale) && known(bias);
    const bool residual_is_full = has_residual() && node.input_shapes[1] == x;
    for (const std::string& define :
         {"ELEMENT=" + device_type(node.input_dtypes[0]), "Y_ELEMENT=" + device_type(node.output_dtypes[0]), "SCALE_TYPE=" + type(scale),
          "BIAS_TYPE=" + type(bias), fmt::format("IS_RMS={:d}", op_.ends_with("rms_norm")),
          fmt::format("HAS_RESIDUAL={:d}", has_residual()), fmt::format("HAS_SCALE={:d}", has(scale)),
          fmt::format("HAS_BIAS={:d}", has(bias)), fmt::format("HAS_SUM={:d}", has_residual() && node.num_outputs() > 1),
          fmt::format("HAS_STATISTICS={:d}", !has_residual() && node.num_outputs() > 1), fmt::format("SCALE_STEP={}", step(scale)),
          fmt::format("BIAS_STEP={}", step(bias)), fmt::format("EARLY={:d}", early),
          fmt::format("RESIDUAL_STEP={:d}", residual_is_full || !has_residual())})
      defines.push_back(define);
    return std::make_unique<RowNorm>(node.cuda->function(device_source(name_, "row_norm.cu", defines), "row_norm"), plan, rows,
                                     static_cast<float>(node.attrs().get_float("epsilon", 1e-5)), has_residual(), residual_is_full);
  }

 private:
  bool has_residual() const { return op_.starts_with("add_"); }
  int first() const { return has_residual() ? 2 : 1; }
  std::string name_, op_;
};

// --- batch_norm: pointwise ---

class BatchNormDef final : public CudaKernelDef {
 public:
  std::string_view name() const override { return "cuda.batch_norm"; }
  std::string_view op() const override { return "batch_norm"; }
  Support supports(const NodeView& node) const override {
    for (DType dtype : node.input_dtypes)
      if (!is_row_float(dtype)) return Support::no("inputs must be f32, f16 or bf16");
    return supports_elementwise(node, 6);
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    const Shape& x = node.input_shapes[0];
    ElementwiseCode code{.name = "cuda.batch_norm", .preamble = {}, .inputs = {}, .outputs = {}, .body = {}};
    Shape per_channel(x.size() - 1, 1);
    per_channel[0] = x[1];
    for (int i = 0; i < 5; ++i)
      code.inputs.push_back(
          {i, device_type(node.input_dtypes[i]), "float", i == 0 ? std::optional<Shape>() : std::optional<Shape>(per_channel)});
    code.outputs.push_back({0, device_type(node.output_dtypes[0]), "float", {}});
    code.preamble = "#include \"math.cuh\"\n";
    code.body = fmt::format("y0 = (x0 - x3) * (::rsqrtf(x4 + {}) * x1) + x2;",
                            device_literal(static_cast<float>(node.attrs().get_float("epsilon", 1e-5))));
    return make_elementwise(node, x, code);
  }
};

// --- lrn ---

class Lrn final : public Kernel {
 public:
  Lrn(Function function, int64_t count, float alpha, float beta, float bias)
      : function_(std::move(function)), count_(count), alpha_(alpha), beta_(beta), bias_(bias) {}
  void run(const RunArgs& args) const override {
    function_.launch(args.stream, {.grid = {static_cast<unsigned>(ceil_div(count_, 256))}, .block = {256}, .overlap = true},
                     args.inputs[0].raw(), args.outputs[0].raw(), count_, alpha_, beta_, bias_);
  }

 private:
  Function function_;
  int64_t count_;
  float alpha_, beta_, bias_;
};

class LrnDef final : public CudaKernelDef {
 public:
  std::string_view name() const override { return "cuda.lrn"; }
  std::string_view op() const override { return "lrn"; }
  Support supports(const NodeView& node) const override {
    return is_row_float(node.input_dtypes[0]) ? Support::yes() : Support::no("x must be f32, f16 or bf16");
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    const Shape& x = node.input_shapes[0];
    const int64_t size = node.attrs().get_int("size");
    const Source source = device_source("cuda.lrn", "lrn.cu",
                                        {"ELEMENT=" + device_type(node.input_dtypes[0]), fmt::format("CHANNELS={}", x[1]),
                                         fmt::format("AREA={}", count_of(std::span(x).subspan(2))), fmt::format("SIZE={}", size)});
    return std::make_unique<Lrn>(node.cuda->function(source, "lrn"), num_elements(x),
                                 static_cast<float>(node.attrs().get_float("alpha", 1e-4) / static_cast<double>(size)),
                                 static_cast<float>(node.attrs().get_float("beta", 0.75)),
                                 static_cast<float>(node.attrs().get_float("bias", 1)));
  }
};

}  // namespace

std::vector<const KernelDef*> norm_kernels() {
  static const RowNormDef layer_norm("layer_norm"), rms_norm("rms_norm"), add_layer_norm("add_layer_norm"), add_rms_norm("add_rms_norm");
  static const BatchNormDef batch_norm;
  static const LrnDef lrn;
  return {&layer_norm, &rms_norm, &add_layer_norm, &add_rms_norm, &batch_norm, &lrn};
}

}  // namespace tokamak::cuda
