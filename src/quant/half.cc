#include "quant/half.h"

#include <algorithm>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "ir/infer.h"
#include "ir/op.h"
#include "quant/matrices.h"

namespace tokamak::quant {
namespace {

using ir::Node;
using ir::Value;

constexpr double kLargestHalf = 65504;
constexpr int64_t kSmallConstant = 4096;  // elements; a fused region reads them in float32, which costs nothing

// Ops whose floats stay float32: ranges, running sums and coordinates need its 24 bits; quantization has its own arithmetic; the type of
// random numbers is an attribute.
bool is_exact(const Node& node) {
  static const std::set<std::string_view> kOps = {"range",        "cumsum",        "cumprod",        "reduce_prod",      "nms",
                                                  "unique",       "quantize",      "dequantize",     "dynamic_quantize", "matmul_integer",
                                                  "conv_integer", "bitcast",       "fill",           "eye_like",         "bernoulli",
                                                  "multinomial",  "random_normal", "random_uniform", "nonzero"};
  return kOps.contains(node.op().name) || node.op().has(ir::kControlFlow);
}

// Inputs that have a type of their own: scales and regions of resize, scales and weights of quantized products, the cache and what rotates.
bool is_fixed(const Node& node, int input) {
  if (node.is("resize")) return input >= 1;
  if (node.is("quantized_matmul")) return input == 1 || input == 2;
  if (node.is("kv_cache_write")) return input != 0;
  if (node.is("paged_attention") || node.is("cached_attention")) return input != 0;
  if (node.is("pow")) return input == 1;
  return false;
}

// Ops whose result is made of the same kind of numbers as what they read: exact stays exact.
bool passes_on(const Node& node) {
  return node.op().is_pointwise() || node.is("fused") || node.op().has(ir::kView) || node.op().has(ir::kMovement) ||
         node.op().name.starts_with("reduce_") || node.is("gather") || node.is("slice") || node.is("expand") || node.is("shape");
}

bool is_wide(const Value* v) { return v != nullptr && v->type.dtype == DType::F32; }

class Narrowing {
 public:
  Narrowing(ir::Graph& graph, const HalfOptions& options, ThreadPool& pool) : graph_(graph), options_(options), pool_(pool) {}

  HalfReport run() {
    for (const auto& node : graph_.nodes()) has_subgraphs_ |= !node->subgraphs.empty();
    find_coordinates();
    for (Node* node : graph_.nodes_snapshot()) visit(*node);
    restore_outputs();
    for (Node* node : dead_)
      if (node->output(0)->uses().empty() && !node->output(0)->is_graph_output()) graph_.erase(node);
    graph_.drop_unused_values();
    return std::move(report_);
  }

 private:
  bool is_half(const Value* v) const { return v != nullptr && v->type.dtype == options_.dtype; }
  bool was_narrowed(const Value* v) const { return narrowed_.contains(v); }

  double largest(const Value* v) const {
    if (options_.ranges == nullptr || options_.dtype != DType::F16) return 0;
    const auto found = options_.ranges->largest.find(v);
    return found == options_.ranges->largest.end() ? 0 : found->second;
  }
  bool is_large(const Value* v) const { return is_wide(v) && !v->is_constant() && largest(v) > options_.most; }
  bool is_tiny(const Value* v) const { return is_wide(v) && !v->is_constant() && largest(v) > 0 && largest(v) < options_.least; }

  // The constant in 16 bits, once for all that share its bytes; null when it does not fit.
  Value* narrow_constant(Value* v) {
    const auto [found, fresh] = constants_.emplace(std::pair{v->constant.raw(), v->constant.shape()}, nullptr);
    if (fresh)
      if (Tensor t = converted(v->constant, options_.dtype, pool_); t.defined()) found->second = v->graph()->add_constant(t, v->name);
    return found->second;
  }

  Value* cast(Value* v, DType to, Node* before, std::unordered_map<Value*, Value*>& known) {
    Value*& made = known[v];
    if (made == nullptr) {
      made = graph_.build("cast", {v}, {{"to", to}}, before);
      made->producer()->name = v->name + (to == DType::F32 ? ".wide" : ".narrow");
    }
    return made;
  }
  Value* widen(Value* v, Node* before) { return cast(v, DType::F32, before, wide_); }
  Value* narrow(Value* v, Node* before) { return cast(v, options_.dtype, before, narrow_); }
  // What is added to scores: beyond the range of f16 there is only infinity, which would make a wholly masked row NaN.
  static bool is_mask(const Node& node, int input) { return node.is("attention") && input == 3; }
  Value* narrow_mask(Value* v, Node* before) {
    if (options_.dtype != DType::F16) return v->is_constant() ? narrow_constant(v) : narrow(v, before);
    if (v->is_constant()) {
      Tensor limited = Tensor::empty(DType::F32, v->constant.shape());
      for (int64_t i = 0; i < limited.count(); ++i)
        limited.data<float>()[i] = static_cast<float>(std::clamp(v->constant.float_at(i), -kLargestHalf, kLargestHalf));
      return v->graph()->add_constant(converted(limited, options_.dtype, pool_), v->name);
    }
    Value*& made = masks_[v];
    if (made == nullptr) {
      made = graph_.build("fused", {v},
                          {{"expr", fmt::format("t0 = max(i0, -{0}); t1 = min(t0, {0}); ret t1", kLargestHalf)},
                           {"dtypes", ir::Strings{to_string(options_.dtype)}}},
                          before);
      made->producer()->name = v->name + ".narrow";
    }
    return made;
  }

  // A float input that must be, or may have to be, converted for a node in 16 bits.
  bool wants_narrow(const Node& node, int i) const {
    const Value* v = node.input(i);
    if (v == nullptr || is_fixed(node, i)) return false;
    const DType d = v->type.dtype;
    if (d != DType::F32 && d != DType::F16 && d != DType::BF16) return false;
    if (d == options_.dtype) return false;
    if (node.is("cast")) return false;
    if (!node.is("fused")) return true;
    return v->is_constant() && v->constant.count() > kSmallConstant;  // regions compute in float32 whatever they read
  }

  // Why the node stays float32, "" when it does not.
  enum class Keep { No, Nature, Range };
  Keep keeps(Node& node) {
    if (is_exact(node) || coordinates_.contains(&node)) return Keep::Nature;
    for (const Value* v : node.outputs())
      if (is_large(v) || is_tiny(v)) return Keep::Range;
    bool any_half = false, any_exact = false;
    for (int i = 0; i < node.num_inputs(); ++i) {
      Value* v = node.input(i);
      if (v == nullptr || is_fixed(node, i)) continue;
      if (v->is_constant()) {
        if (wants_narrow(node, i) && !is_mask(node, i) && narrow_constant(v) == nullptr) return Keep::Range;
        continue;
      }
      if (is_large(v) && !node.is("fused") && !node.is("cast") && !is_mask(node, i)) return Keep::Range;
      if (i > 0 && !node.op().is_pointwise() && !node.is("fused")) continue;  // indices, sizes
      any_half |= is_half(v) || (is_wide(v) && v->is_input());
      any_exact |= exact_.contains(v) || is_integer(v->type.dtype);
    }
    return passes_on(node) && any_exact && !any_half ? Keep::Nature : Keep::No;
  }

  // What boxes are computed by: in 16 bits a coordinate of a few hundred pixels is off by a good part of one.
  void find_coordinates() {
    const std::vector<Node*> nodes = graph_.nodes_snapshot();
    for (auto at = nodes.rbegin(); at != nodes.rend(); ++at) {
      const Node& node = **at;
      if (!passes_on(node) && !node.is("concat") && !node.is("split")) continue;
      for (const Value* v : node.outputs())
        for (const ir::Use& use : v->uses())
          if (use.node->is("nms") || coordinates_.contains(use.node)) coordinates_.insert(&node);
    }
  }

  void visit(Node& node) {
    bool any_wide = false;
    for (const Value* v : node.inputs()) any_wide |= is_wide(v) || is_half(v);
    for (const Value* v : node.outputs()) any_wide |= is_wide(v);
    if (!any_wide && !node.op().has(ir::kControlFlow)) return;
    const Keep keep = keeps(node);
    if (keep == Keep::Range) {
      double most = 0;
      for (const Value* v : node.outputs()) most = std::max(most, largest(v));
      for (const Value* v : node.inputs()) most = std::max(most, v ? largest(v) : 0);
      report_.kept_for_range.push_back(most > 0 ? fmt::format("{} ({:.2g})", node.label(), most) : node.label());
    }
    if (keep != Keep::No || !narrow_node(node)) keep_node(node, keep == Keep::Nature && !node.is("dequantize"));
    else if (std::any_of(node.outputs().begin(), node.outputs().end(), [&](const Value* v) { return is_half(v); })) ++report_.nodes;
    for (Value* v : node.outputs())
      if (v != nullptr && was_narrowed(v)) serve_subgraphs(v, &node);
  }

  void keep_node(Node& node, bool exact) {
    bool counts = false;
    for (int i = 0; i < node.num_inputs(); ++i) {
      Value* v = node.input(i);
      if (v == nullptr || !was_narrowed(v) || node.is("fused") || node.is("cast")) continue;
      node.set_input(i, widen(v, &node));
    }
    for (const Value* v : node.outputs()) counts |= is_wide(v);
    if (counts && !node.op().has(ir::kView)) ++report_.kept[std::string(node.op().name)];
    ir::infer_node(node);
    if (exact)
      for (const Value* v : node.outputs())
        if (is_wide(v)) exact_.insert(v);
  }

  // False when the op's inference refuses 16 bits; the node is then as it was.
  bool narrow_node(Node& node) {
    const std::vector<Value*> before(node.inputs().begin(), node.inputs().end());
    const ir::Attrs attrs = node.attrs;
    std::vector<ir::TensorType> types;
    for (const Value* v : node.outputs()) types.push_back(v ? v->type : ir::TensorType());
    for (int i = 0; i < node.num_inputs(); ++i) {
      if (!wants_narrow(node, i)) continue;
      Value* v = node.input(i);
      if (is_mask(node, i)) node.set_input(i, narrow_mask(v, &node));
      else node.set_input(i, v->is_constant() ? narrow_constant(v) : narrow(v, &node));
    }
    if (node.is("fused")) {
      ir::Strings dtypes;
      for (const Value* v : node.outputs())
        dtypes.push_back(to_string(is_wide(v) && !v->is_graph_output() ? options_.dtype : v->type.dtype));
      node.attrs.set("dtypes", dtypes);
    }
    // A cast between float types that was a region of its own.
    if (node.is("fused") && node.attrs.get_string("expr") == "ret i0" && is_half(node.input(0)) && !node.output(0)->is_graph_output() &&
        node.input(0)->type.dims == node.output(0)->type.dims && !has_subgraphs_) {
      graph_.replace_all_uses(node.output(0), node.input(0));
      dead_.push_back(&node);
      return true;
    }
    // A product that the model gives out (logits) is rounded once, not twice.
    const auto& specs = node.op().attrs;
    const bool has_out_dtype = std::any_of(specs.begin(), specs.end(), [](const ir::AttrSpec& s) { return s.name == "out_dtype"; });
    if (has_out_dtype && is_wide(node.output(0)) && node.output(0)->is_graph_output() && node.output(0)->uses().empty())
      node.attrs.set("out_dtype", DType::F32);
    if (node.is("cast") && node.attrs.get_dtype("to") == DType::F32 && !node.output(0)->is_graph_output()) {
      if (is_half(node.input(0)) && !has_subgraphs_) {  // what was 16 bits wide already
        graph_.replace_all_uses(node.output(0), node.input(0));
        dead_.push_back(&node);
        return true;
      }
      node.attrs.set("to", options_.dtype);
    }
    try {
      ir::infer_node(node);
    } catch (const Error& e) {
      if (e.code() != ErrorCode::InvalidArgument) throw;
      for (int i = 0; i < node.num_inputs(); ++i) node.set_input(i, before[i]);
      node.attrs = attrs;
      for (int i = 0; i < node.num_outputs(); ++i)
        if (node.output(i)) node.output(i)->type = types[i];
      const std::string why = fmt::format("{}: {}", node.op().name, e.what());
      if (std::find(report_.refused.begin(), report_.refused.end(), why) == report_.refused.end()) report_.refused.push_back(why);
      return false;
    }
    for (int i = 0; i < node.num_outputs(); ++i)
      if (node.output(i) && types[i].dtype == DType::F32 && is_half(node.output(i))) narrowed_.insert(node.output(i));
    return true;
  }

  // Subgraphs keep float32: what they take from here is widened.
  void serve_subgraphs(Value* v, Node* producer) {
    if (!has_subgraphs_) return;
    const std::vector<ir::Use> uses = v->uses();
    for (const ir::Use& use : uses)
      if (use.node->graph() != &graph_) use.node->set_input(use.index, widen(v, next_of(producer)));
    ir::for_each_graph(graph_, [&](ir::Graph& g) {
      for (size_t i = 0; &g != &graph_ && i < g.outputs().size(); ++i)
        if (g.outputs()[i] == v) g.set_output(static_cast<int>(i), widen(v, next_of(producer)));
    });
  }
  Node* next_of(Node* node) const {
    for (auto at = graph_.nodes().begin(); at != graph_.nodes().end(); ++at)
      if (at->get() == node) return ++at == graph_.nodes().end() ? nullptr : at->get();
    return nullptr;
  }

  void restore_outputs() {
    for (size_t i = 0; i < graph_.outputs().size(); ++i) {
      Value* v = graph_.outputs()[i];
      if (!was_narrowed(v)) continue;
      Value* wide = widen(v, nullptr);
      if (wide->producer()->name.ends_with(".wide") && wide->name != v->name) {
        wide->name = v->name;
        v->name += ".narrow";
      }
      graph_.set_output(static_cast<int>(i), wide);
    }
  }

  ir::Graph& graph_;
  const HalfOptions& options_;
  ThreadPool& pool_;
  HalfReport report_;
  std::map<std::pair<const void*, Shape>, Value*> constants_;
  std::unordered_map<Value*, Value*> narrow_, wide_, masks_;
  std::unordered_set<const Value*> narrowed_;  // were float32 and are 16 bits wide now
  std::unordered_set<const Value*> exact_;     // come from integers and stay float32
  std::unordered_set<const Node*> coordinates_;
  bool has_subgraphs_ = false;
  std::vector<Node*> dead_;
};

}  // namespace

HalfReport floats_to_half(ir::Graph& graph, const HalfOptions& options, ThreadPool& pool) {
  CHECK(options.dtype == DType::F16 || options.dtype == DType::BF16);
  HalfReport report = Narrowing(graph, options, pool).run();
  ir::verify(graph);
  return report;
}

}  // namespace tokamak::quant
