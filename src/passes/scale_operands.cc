// How far inputs of quantized linear layers can reach: x of a layer without a norm comes from attention, whose rows are averages of v's, or
// from a gate; both follow layers behind an rms_norm, whose rows are no longer than sqrt(k) times the largest weight. By Cauchy and Schwarz
// an element of such a layer is at most sqrt(k) |w g|, w being a row and g the norm's weights. Kernels for few rows may then multiply x in
// f16, which has more bits than bf16 and to which weights of few bits convert in fewer instructions: x / x_scale, a power of two, is within
// f16's range.

#include <algorithm>
#include <cmath>

#include "passes/match.h"
#include "passes/pass.h"

namespace tokamak::passes {
namespace {

// For everything that is rounded on the way: activations to 8 or 16 bits, a KV cache to 8.
constexpr double kMargin = 1.25;
// Powers of two between scales: coarse, so that equal layers keep equal kernels. f16 has 29 without loss.
constexpr int kStep = 6, kMostSteps = 16;

double largest_code(DType dtype) { return dtype == DType::I4 ? 8 : dtype == DType::I8 ? 128 : dtype == DType::F8E4M3FN ? 448 : INFINITY; }

bool is_quantized(const Node* n) { return n->num_inputs() > 2 && n->input(2) != nullptr; }

// Of each row of w: sqrt(k) |w g| at most. Empty when it is not known.
std::vector<double> row_limits(const Node* layer) {
  if (!is_quantized(layer) || layer->num_inputs() < 4 || layer->input(3) == nullptr || layer->attrs.has("epilogue")) return {};
  if (!layer->input(2)->is_constant() || !layer->input(3)->is_constant()) return {};
  const Tensor &scale = layer->input(2)->constant, &norm = layer->input(3)->constant;
  const int64_t k = norm.count(), groups = scale.dim(1), group = layer->attrs.get_int("group_size");
  std::vector<double> squares(static_cast<size_t>(groups));  // of the norm's weights of a group
  for (int64_t i = 0; i < k; ++i) squares[static_cast<size_t>(i / group)] += norm.float_at(i) * norm.float_at(i);
  const double most = kMargin * std::sqrt(static_cast<double>(k)) * largest_code(layer->input(1)->constant.dtype());
  std::vector<double> limits;
  for (int64_t row = 0; row < scale.dim(0); ++row) {
    double sum = 0;
    for (int64_t g = 0; g < groups; ++g) {
      const double s = scale.float_at(row * groups + g);
      sum += s * s * squares[static_cast<size_t>(g)];
    }
    limits.push_back(most * std::sqrt(sum));
  }
  return limits;
}

// What no element exceeds; infinity: unknown.
double limit_of(const Value* v) {
  const Node* n = v->producer();
  if (n == nullptr) return INFINITY;
  if (n->is("cached_attention")) return kMargin * limit_of(n->input(0));
  if (!n->is("linear")) return INFINITY;
  const std::vector<double> limits = row_limits(n);
  const bool gated = n->attrs.has("gate");  // |silu(x)|, |gelu(x)| <= |x|
  double most = limits.empty() ? INFINITY : 0;
  for (size_t row = 0; row < limits.size(); ++row) {
    const double limit = !gated ? limits[row] : row % 16 < 8 ? limits[row] * limits[row + 8] : 0;
    if (std::isnan(limit)) return INFINITY;
    most = std::max(most, limit);
  }
  return most;
}

}  // namespace

int scale_operands(Graph& graph, PassContext&) {
  int scaled = 0;
  for (Node* n : graph.nodes_snapshot()) {
    if (!n->is("linear") || !is_quantized(n) || n->attrs.has("x_scale") || n->input(0)->type.dtype != DType::BF16) continue;
    if (n->num_inputs() > 3 && n->input(3) != nullptr) continue;
    const double limit = limit_of(n->input(0));
    if (!std::isfinite(limit) || limit <= 0) continue;
    const int steps = static_cast<int>(std::ceil(std::log2(limit / 65504) / kStep));
    if (std::abs(steps) > kMostSteps) continue;
    n->attrs.set("x_scale", std::ldexp(1.0, steps * kStep));
    ++scaled;
  }
  return scaled;
}

}  // namespace tokamak::passes
