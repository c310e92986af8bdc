// layer_norm, rms_norm and their forms with a residual sum, float32: everything from `axis` on is one row. Also group_norm and
// instance_norm, whose rows are the groups and whose scale and bias belong to channels.

#include "backends/cpu/cpu_features.h"
#include "backends/cpu/kernels/parallel.h"
#include "backends/cpu/row_functions.h"
#include "runtime/kernel.h"

namespace tokamak::cpu {
namespace {

bool has_avx512() { return cpu_features().avx512; }
bool has_avx2() { return cpu_features().avx2; }

struct Norm : Kernel {
  const RowFunctions* rows_functions;
  bool rms = false, residual = false;
  int scale = -1, bias = -1;  // inputs, -1 absent
  int64_t rows = 1, size = 1;
  float epsilon = 1e-5f;

  bool can_alias(int output, int input) const override {
    if (!residual) return output == 0 && input == 0;
    // y over one operand and the sum over the other would tread on each other only if both took the same one, which the planner never does;
    // y is written after both operands were read only when the sum has a place of its own.
    return output == 1 && input <= 1;
  }
  void run(const RunArgs& args) const override {
    const auto input = [&](int i) { return i >= 0 ? args.inputs[i].data<float>() : nullptr; };
    const auto output = [&](size_t o) {
      return o < args.outputs.size() && args.outputs[o].defined() ? args.outputs[o].data<float>() : nullptr;
    };
    const float *const x = input(0), *const r = residual ? input(1) : nullptr, *const s = input(scale), *const b = input(bias);
    float *const y = output(0), *const second = output(1), *const third = output(2);
    parallel(args.pool, rows, size * 3, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t at = i * size;
        const float* const r_row = r != nullptr ? r + at : nullptr;
        float* const sum = residual && second != nullptr ? second + at : nullptr;
        if (rms) {
          rows_functions->rms_norm(y + at, sum, x + at, r_row, s, size, epsilon);
        } else {
          float* const mean = !residual && second != nullptr ? second + i : nullptr;
          rows_functions->layer_norm(y + at, sum, x + at, r_row, s, b, size, epsilon, mean, third != nullptr ? third + i : nullptr);
        }
      }
    });
  }
};

class NormDef : public KernelDef {
 public:
  NormDef(const char* isa, const char* op, bool (*available)(), const RowFunctions& (*table)())
      : name_(std::string(isa) + "." + op), op_(op), available_(available), table_(table) {}
  std::string_view name() const override { return name_; }
  std::string_view op() const override { return op_; }
  Support supports(const NodeView& node) const override {
    if (!available_()) return Support::no("the CPU lacks the instructions");
    for (int i = 0; i < node.num_inputs(); ++i)
      if (node.has_input(i) && node.input_dtypes[i] != DType::F32)
        return Support::no(fmt::format("dtype {}", to_string(node.input_dtypes[i])));
    const int64_t size = row_size(node);
    if (size == 0) return Support::no("an empty row");
    const int first = has_residual() ? 2 : 1;
    for (int i = first; i < node.num_inputs(); ++i)
      if (node.has_input(i) && num_elements(node.input_shapes[i]) != size) return Support::no("scale or bias broadcasts");
    if (has_residual() && node.input_shapes[1] != node.input_shapes[0]) return Support::no("the residual broadcasts");
    return Support::yes();
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    auto kernel = std::make_unique<Norm>();
    kernel->rows_functions = &table_();
    kernel->rms = op_.find("rms") != std::string::npos;
    kernel->residual = has_residual();
    const int first = has_residual() ? 2 : 1;
    if (node.has_input(first)) kernel->scale = first;
    if (node.has_input(first + 1)) kernel->bias = first + 1;
    kernel->size = row_size(node);
    kernel->rows = num_elements(node.input_shapes[0]) / kernel->size;
    kernel->epsilon = static_cast<float>(node.attrs().get_float("epsilon", 1e-5));
    return kernel;
  }

 private:
  bool has_residual() const { return op_.starts_with("add_"); }
  static int64_t row_size(const NodeView& node) {
    const Shape& shape = node.input_shapes[0];
    int64_t axis = node.attrs().get_int("axis", -1), size = 1;
    if (axis < 0) axis += static_cast<int64_t>(shape.size());
    for (size_t d = axis; d < shape.size(); ++d) size *= shape[d];
    return size;
  }
  std::string name_, op_;
  bool (*available_)();
  const RowFunctions& (*table_)();
};

// Rows are groups of channels [channels per group, pixels]; normalised as one, then scaled and shifted channel by channel.
struct GroupNorm : Kernel {
  const RowFunctions* rows_functions;
  int64_t rows = 1, groups = 1, channels = 1, pixels = 1;  // channels of one group
  float epsilon = 1e-5f;
  bool can_alias(int, int input) const override { return input == 0; }
  void run(const RunArgs& args) const override {
    const float *const x = args.inputs[0].data<float>(), *const scale = args.inputs[1].data<float>(),
                       *const bias = args.inputs[2].data<float>();
    float* const y = args.outputs[0].data<float>();
    const int64_t size = channels * pixels;
    parallel(args.pool, rows, size * 3, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        rows_functions->layer_norm(y + i * size, nullptr, x + i * size, nullptr, nullptr, nullptr, size, epsilon, nullptr, nullptr);
        for (int64_t c = 0; c < channels; ++c) {
          const float s = scale[i % groups * channels + c], b = bias[i % groups * channels + c];
          float* const p = y + i * size + c * pixels;
          for (int64_t j = 0; j < pixels; ++j) p[j] = p[j] * s + b;
        }
      }
    });
  }
};

class GroupNormDef : public KernelDef {
 public:
  GroupNormDef(const char* isa, const char* op, bool (*available)(), const RowFunctions& (*table)())
      : name_(std::string(isa) + "." + op), op_(op), available_(available), table_(table) {}
  std::string_view name() const override { return name_; }
  std::string_view op() const override { return op_; }
  Support supports(const NodeView& node) const override {
    if (!available_()) return Support::no("the CPU lacks the instructions");
    const Shape& shape = node.input_shapes[0];
    if (shape.size() < 2 || num_elements(shape) == 0) return Support::no("rank below 2 or empty");
    if (node.attrs().get_string("layout", "NCHW") != "NCHW") return Support::no("layout is not NCHW");
    for (int i = 0; i < 3; ++i)
      if (!node.has_input(i) || node.input_dtypes[i] != DType::F32) return Support::no("needs x, scale and bias in f32");
    for (int i = 1; i < 3; ++i)
      if (num_elements(node.input_shapes[i]) != shape[1]) return Support::no("scale or bias is not one value a channel");
    if (shape[1] % groups(node) != 0) return Support::no("channels do not divide into the groups");
    return Support::yes();
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    auto kernel = std::make_unique<GroupNorm>();
    const Shape& shape = node.input_shapes[0];
    kernel->rows_functions = &table_();
    kernel->groups = groups(node);
    kernel->channels = shape[1] / kernel->groups;
    kernel->rows = shape[0] * kernel->groups;
    kernel->pixels = num_elements(shape) / (shape[0] * shape[1]);
    kernel->epsilon = static_cast<float>(node.attrs().get_float("epsilon", 1e-5));
    return kernel;
  }

 private:
  int64_t groups(const NodeView& node) const {
    return op_ == "instance_norm" ? node.input_shapes[0][1] : std::max<int64_t>(1, node.attrs().get_int("num_groups", 1));
  }
  std::string name_, op_;
  bool (*available_)();
  const RowFunctions& (*table_)();
};

}  // namespace

#define NORM(op, Def)                                                      \
  const KernelDef& avx512_##op() {                                         \
    static const Def def("avx512", #op, has_avx512, row_functions_avx512); \
    return def;                                                            \
  }                                                                        \
  const KernelDef& avx2_##op() {                                           \
    static const Def def("avx2", #op, has_avx2, row_functions_avx2);       \
    return def;                                                            \
  }
NORM(layer_norm, NormDef)
NORM(rms_norm, NormDef)
NORM(add_layer_norm, NormDef)
NORM(add_rms_norm, NormDef)
NORM(group_norm, GroupNormDef)
NORM(instance_norm, GroupNormDef)
#undef NORM

}  // namespace tokamak::cpu
