// LinearAttention (opset 27): a recurrence over tokens on a state [batch, heads, key, value], written as a scan.

#include <cmath>

#include "import/onnx/importer.h"
#include "import/onnx/node_importer.h"
#include "ir/infer.h"

namespace tokamak::onnx {
namespace {

using ir::Ints;
using ir::TensorType;
using ir::Value;

// [B, T, heads * D] → [B, heads, T, D] in f32.
Value* by_head(NodeImporter& n, Value* x, int64_t heads, int64_t size) {
  return n.transpose(n.cast(n.reshape(x, n.i64({0, 0, heads, size})), DType::F32), {0, 2, 1, 3});
}

int64_t features(NodeImporter& n, Value* x, int64_t heads) {
  if (n.rank(x) != 3) n.bad("query, key and value should have three dimensions");
  if (!x->type.dims[2].is_const()) n.unsupported("the number of features is not known");
  const int64_t size = x->type.dims[2].value();
  if (heads < 1 || size % heads != 0) n.bad("{} features do not divide into {} heads", size, heads);
  return size / heads;
}

// One token: state, then q [B, H, G, Dk], k [B, H, Dk], v [B, H, Dv] and, where the rule has them, exp(decay) and beta [B, H, 1 or Dk].
struct Rule {
  bool gated, delta;
  double scale;
};

void make_body(NodeImporter& n, const Rule& rule, std::span<Value* const> in) {
  Value* state = in[0];
  Value* key = in[2];
  Value* value = n.unsqueeze(in[3], {2});  // [B, H, 1, Dv]
  if (rule.gated) state = n.add("mul", {state, n.unsqueeze(in[4], {3})});
  if (rule.delta) {
    Value* beta = n.unsqueeze(in[rule.gated ? 5 : 4], {3});
    Value* known = n.add("matmul", {n.unsqueeze(key, {2}), state});
    value = n.add("mul", {beta, n.add("sub", {value, known})});
  }
  state = n.add("add", {state, n.add("matmul", {n.unsqueeze(key, {3}), value})});
  Value* out = n.add("mul", {n.add("matmul", {in[1], state}), n.scalar(rule.scale, DType::F32)});
  n.graph().set_outputs({state, out});
}

void linear_attention(NodeImporter& n) {
  const std::string name = n.string_attr("update_rule", "gated_delta");
  if (name != "linear" && name != "gated" && name != "delta" && name != "gated_delta") n.bad("attribute 'update_rule' is '{}'", name);
  Rule rule{name.starts_with("gated"), name.ends_with("delta"), n.float_attr("scale", 0)};
  const int64_t heads = n.int_attr("kv_num_heads"), q_heads = n.int_attr("q_num_heads");
  if (heads < 1 || q_heads < 1 || q_heads % heads != 0) n.bad("{} query heads are not a multiple of {} key heads", q_heads, heads);
  const int64_t dk = features(n, n.input(0), q_heads), dv = features(n, n.input(2), heads);
  if (features(n, n.input(1), heads) != dk) n.bad("the head size of query and key differ");
  if (dk < 1 || rule.gated != n.has_input(4) || rule.delta != n.has_input(5)) n.bad("rule '{}' does not go with its inputs", name);
  if (rule.scale == 0) rule.scale = 1 / std::sqrt(static_cast<double>(dk));

  const int64_t group = q_heads / heads;
  Value* q = n.cast(n.reshape(n.input(0), n.i64({0, 0, heads, group * dk})), DType::F32);
  q = n.transpose(n.reshape(q, n.i64({0, 0, 0, group, dk})), {0, 2, 1, 3, 4});
  Values inputs{nullptr, q, by_head(n, n.input(1), heads, dk), by_head(n, n.input(2), heads, dv)};
  if (rule.gated) {
    const int64_t size = features(n, n.input(4), heads);
    if (size != 1 && size != dk) n.bad("decay has {} entries a head, expected 1 or {}", size, dk);
    inputs.push_back(n.add("exp", {by_head(n, n.input(4), heads, size)}));
  }
  if (rule.delta) {
    const int64_t size = features(n, n.input(5), 1);
    if (size != 1 && size != heads) n.bad("beta has {} entries, expected 1 or {}", size, heads);
    inputs.push_back(by_head(n, n.input(5), size, 1));
  }
  Value* past = n.maybe(3);
  inputs[0] =
      past ? n.cast(past, DType::F32) : n.add("expand", {n.scalar(0, DType::F32), n.concat({n.dim_of(q, 0), n.i64({heads, dk, dv})}, 0)});

  // The new state broadcasts q's batch size with the old one's, which may be the same under two names: unknown to the body.
  auto body = std::make_unique<ir::Graph>();
  body->name = "body";
  body->parent = &n.graph();
  Scope scope;
  scope.outer = &n.scope();
  scope.graph = body.get();
  scope.opsets = n.scope().opsets;
  Values tokens;
  for (size_t i = 0; i < inputs.size(); ++i) {
    TensorType type = inputs[i]->type;
    if (i > 0) type.dims.erase(type.dims.begin() + 2);
    type.dims[0] = inputs[0]->type.dims[0];
    tokens.push_back(body->add_input("", type));
  }
  NodeImporter inner(n.importer(), scope, n.node(), n.opset(), n.name() + "/body");
  make_body(inner, rule, tokens);

  const int64_t scanned = static_cast<int64_t>(inputs.size()) - 1;
  ir::Node* made = n.add_node(
      "scan", inputs, {{"num_scan_inputs", scanned}, {"scan_input_axes", Ints(scanned, 2)}, {"scan_output_axes", Ints{2}}}, 2, false);
  made->subgraphs.push_back(std::move(body));
  ir::infer_node(*made);
  Value* y = n.transpose(made->output(1), {0, 2, 1, 3, 4});  // [B, T, H, G, Dv]
  n.set_output(0, n.cast(n.reshape(y, n.i64({0, 0, q_heads * dv})), n.input(0)->type.dtype));
  n.set_output(1, n.cast(made->output(0), past ? past->type.dtype : n.input(0)->type.dtype));
}

constexpr OpImporter kImporters[] = {{"LinearAttention", linear_attention}};

}  // namespace

std::span<const OpImporter> linear_attention_importers() { return kImporters; }

}  // namespace tokamak::onnx
