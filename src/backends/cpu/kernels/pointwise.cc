// Single pointwise operators, as expressions of one instruction; attributes become literal operands.

#include <cmath>
#include <limits>

#include "backends/cpu/kernels/fused.h"

namespace tokamak::cpu {
namespace {

using ir::ExprOperand;

// Attributes that follow the inputs as operands, with their defaults.
struct AttrOperands {
  std::string_view op;
  const char* names[2];
  double defaults[2];
};
constexpr AttrOperands kAttrOperands[] = {
    {"leaky_relu", {"alpha", nullptr}, {0.01, 0}},
    {"elu", {"alpha", nullptr}, {1, 0}},
    {"celu", {"alpha", nullptr}, {1, 0}},
    {"thresholded_relu", {"alpha", nullptr}, {1, 0}},
    {"selu", {"alpha", "gamma"}, {1.67326319217681884765625, 1.05070102214813232421875}},
    {"hard_sigmoid", {"alpha", "beta"}, {0.2, 0.5}},
    {"shrink", {"bias", "lambd"}, {0, 0.5}},
};

ExprOperand literal(double value) { return {ExprOperand::Literal, 0, static_cast<float>(value)}; }

class PointwiseDef : public KernelDef {
 public:
  PointwiseDef(const IsaChoice& isa, const char* op) : isa_(isa), op_(op), name_(std::string(isa.name) + "." + op) {}
  std::string_view name() const override { return name_; }
  std::string_view op() const override { return op_; }

  Support supports(const NodeView& node) const override {
    if (!isa_.available()) return Support::no(std::string("needs ") + isa_.name);
    if (node.num_outputs() != 1) return Support::no("one output only");
    const bool cast = op_ == "cast";
    for (int i = 0; i < node.num_inputs(); ++i) {
      if (!node.has_input(i)) continue;
      // Integers pass through float32 exactly only where they are 8 bits wide; a cast to float32 rounds the same way either way.
      const DType dtype = node.input_dtypes[i];
      if (!(cast && node.output_dtypes[0] == DType::F32 ? expr_loads(dtype) : expr_stores(dtype)))
        return Support::no(fmt::format("input dtype {}", to_string(dtype)));
    }
    if (!expr_stores(node.output_dtypes[0])) return Support::no(fmt::format("output dtype {}", to_string(node.output_dtypes[0])));
    if (node.output_shapes[0].size() > 12) return Support::no("rank above 12");
    const ir::Attrs& attrs = node.attrs();
    if (op_ == "mod" && attrs.get_int("fmod", 0) == 0) return Support::no("floor modulo");
    if (op_ == "isinf" && !(attrs.get_bool("detect_negative", true) && attrs.get_bool("detect_positive", true)))
      return Support::no("detects one sign only");
    return Support::yes();
  }

  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    ir::Expr expr;
    std::vector<int> inputs;
    std::vector<ExprOperand> operands;
    for (int i = 0; i < node.num_inputs(); ++i) {
      if (!node.has_input(i)) continue;
      operands.push_back({ExprOperand::Input, static_cast<int>(inputs.size()), 0});
      inputs.push_back(i);
    }
    if (op_ == "cast") {
      expr.results = operands;
    } else {
      add_attributes(node, operands);
      expr.code.push_back({op_, operands});
      expr.results.push_back({ExprOperand::Temp, 0, 0});
    }
    return make_expr_kernel(node, expr, inputs, node.output_shapes[0], {}, isa_.table());
  }

 private:
  void add_attributes(const NodeView& node, std::vector<ExprOperand>& operands) const {
    if (op_ == "clip") {
      constexpr double kInf = std::numeric_limits<double>::infinity();
      const ExprOperand x = operands[0];
      size_t next = 1;
      const ExprOperand low = node.has_input(1) ? operands[next++] : literal(node.attrs().get_float("min", -kInf));
      const ExprOperand high = node.has_input(2) ? operands[next++] : literal(node.attrs().get_float("max", kInf));
      operands = {x, low, high};
    }
    for (const AttrOperands& row : kAttrOperands)
      for (int i = 0; i < 2 && row.op == op_; ++i)
        if (row.names[i] != nullptr) operands.push_back(literal(node.attrs().get_float(row.names[i], row.defaults[i])));
  }

  const IsaChoice& isa_;
  std::string op_;
  std::string name_;
};

}  // namespace

#define POINTWISE(op)                            \
  const KernelDef& avx512_##op() {               \
    static const PointwiseDef def(kAvx512, #op); \
    return def;                                  \
  }                                              \
  const KernelDef& avx2_##op() {                 \
    static const PointwiseDef def(kAvx2, #op);   \
    return def;                                  \
  }
#include "backends/cpu/kernels/pointwise_ops.inc"
#undef POINTWISE

}  // namespace tokamak::cpu
