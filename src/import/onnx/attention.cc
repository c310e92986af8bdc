// Attention and rotary embeddings, of ai.onnx (opset 23 on) and com.microsoft.

#include <cmath>
#include <limits>

#include "import/onnx/node_importer.h"

namespace tokamak::onnx {
namespace {

using ir::Attrs;
using ir::Dim;
using ir::Dims;
using ir::Ints;
using ir::Value;

constexpr double kInf = std::numeric_limits<double>::infinity();

// [B, S, heads * D] → [B, S, heads, D]. Batch and sequence are copied by reshape's zeros, so they may be unknown.
Value* split_heads(NodeImporter& n, Value* x, int64_t heads) {
  if (heads <= 0) n.bad("the number of heads is {}", heads);
  const Dim& hidden = x->type.dims[2];
  if (hidden.is_const() && hidden.value() % heads != 0) n.bad("{} features do not divide into {} heads", hidden.value(), heads);
  const int64_t size = hidden.is_const() ? hidden.value() / heads : -1;
  return n.reshape(x, n.i64({0, 0, heads, size}));
}

Value* merge_heads(NodeImporter& n, Value* x) {  // from BSHD
  const Dim width = x->type.dims[2] * x->type.dims[3];
  return n.reshape(x, n.i64({0, 0, width.is_const() ? width.value() : -1}));
}

Value* to_bhsd(NodeImporter& n, Value* x) { return n.add("transpose", {x}, {{"perm", Ints{0, 2, 1, 3}}}); }

// Scores are masked where any mask says so. Float masks add, boolean ones (true = attend) select.
struct Mask {
  Value* allowed = nullptr;
  Value* bias = nullptr;

  void restrict_to(NodeImporter& n, Value* also) { allowed = allowed ? n.add("and", {allowed, also}) : also; }
  void add(NodeImporter& n, Value* mask) {
    if (mask->type.dtype == DType::Bool) restrict_to(n, mask);
    else bias = bias ? n.add("add", {bias, mask}) : mask;
  }
  // One mask input for the attention operator, or null.
  Value* value(NodeImporter& n) const {
    if (allowed && bias) return n.add("where", {allowed, bias, n.scalar_like(-kInf, bias)});
    return allowed ? allowed : bias;
  }
  Value* as_bias(NodeImporter& n, DType dtype) const {
    Value* v = value(n);
    if (v == nullptr || v->type.dtype != DType::Bool) return v;
    return n.add("where", {v, n.scalar(0, dtype), n.scalar(-kInf, dtype)});
  }
};

struct Operands {
  Value* q = nullptr;
  Value* k = nullptr;
  Value* v = nullptr;
  bool q_bshd = false, kv_bshd = false;
  int64_t q_sequence() const { return q_bshd ? 1 : 2; }
  int64_t kv_sequence() const { return kv_bshd ? 1 : 2; }
  const Dim& q_length() const { return q->type.dims[q_sequence()]; }
  const Dim& kv_length() const { return k->type.dims[kv_sequence()]; }
};

Value* scalar_dim(NodeImporter& n, Value* v, int64_t axis) { return n.squeeze(n.dim_of(v, axis), {0}); }
Value* positions(NodeImporter& n, Value* length) { return n.add("range", {n.i64_scalar(0), length, n.i64_scalar(1)}); }

// [Sq, 1] positions of the queries among the keys: their index plus an offset ([] or [B,1,1,1]).
Value* query_positions(NodeImporter& n, const Operands& o, Value* offset) {
  Value* i = n.unsqueeze(positions(n, scalar_dim(n, o.q, o.q_sequence())), {1});
  return offset ? n.add("add", {i, offset}) : i;
}

Value* attend(NodeImporter& n, const Operands& o, Value* mask, Attrs attrs, bool out_bshd) {
  attrs.set("q_layout", std::string(o.q_bshd ? "BSHD" : "BHSD"));
  attrs.set("kv_layout", std::string(o.kv_bshd ? "BSHD" : "BHSD"));
  attrs.set("out_layout", std::string(out_bshd ? "BSHD" : "BHSD"));
  Values inputs{o.q, o.k, o.v};
  if (mask) inputs.push_back(mask);
  return n.add("attention", inputs, attrs);
}

// The scores that opset 23 can return: raw, softcapped, with the masks, or after the softmax.
Value* scores_output(NodeImporter& n, const Operands& o, const Mask& mask, bool causal, double scale, double softcap, int64_t mode) {
  Value* q = o.q_bshd ? to_bhsd(n, o.q) : o.q;
  Value* k = o.kv_bshd ? to_bhsd(n, o.k) : o.k;
  const Dim &q_heads = q->type.dims[1], &kv_heads = k->type.dims[1];
  if (!(q_heads == kv_heads)) {
    if (!q_heads.is_const() || !kv_heads.is_const() || kv_heads.value() < 1) n.unsupported("the numbers of heads are not constant");
    const int64_t heads = q_heads.value(), group = heads / kv_heads.value();
    Value* wide = n.unsqueeze(k, {2});
    wide = n.add("expand", {wide, n.i64({1, 1, group, 1, 1})});
    k = n.reshape(wide, n.concat({n.dim_of(k, 0), n.i64({heads}), n.shape_of(k, 2)}, 0));
  }
  Value* s = n.add("matmul", {q, n.add("transpose", {k}, {{"perm", Ints{0, 1, 3, 2}}})});
  s = n.add("mul", {s, n.scalar_like(scale, s)});
  if (mode == 0) return s;
  if (softcap > 0) s = n.add("mul", {n.add("tanh", {n.add("mul", {s, n.scalar_like(1 / softcap, s)})}), n.scalar_like(softcap, s)});
  if (mode == 1) return s;
  Mask all = mask;
  if (causal) {
    Value* i = n.unsqueeze(positions(n, scalar_dim(n, q, 2)), {1});
    Value* offset = n.add("sub", {scalar_dim(n, k, 2), scalar_dim(n, q, 2)});
    all.restrict_to(n, n.add("less_equal", {positions(n, scalar_dim(n, k, 2)), n.add("add", {i, offset})}));
  }
  Value* bias = all.as_bias(n, s->type.dtype);
  if (bias) s = n.add("add", {s, bias});
  if (mode == 2) return s;
  Value* p = n.add("softmax", {s}, {{"axis", int64_t{3}}});
  if (!bias) return p;
  // A query with nothing to attend has probabilities zero, not NaN.
  Value* best = n.reduce("reduce_max", bias, {bias->type.rank() - 1});
  Value* none = n.add("equal", {best, n.scalar_like(-kInf, bias)});
  return n.add("where", {none, n.scalar_like(0, p), p});
}

void attention(NodeImporter& n) {
  Operands o{n.input(0), n.input(1), n.input(2)};
  const int64_t rank = n.rank(o.q);
  if (rank != 3 && rank != 4) n.bad("q should have 3 or 4 dimensions, found {}", rank);
  for (Value* v : {o.k, o.v})
    if (n.rank(v) != rank) n.bad("q, k and v should have the same number of dimensions");
  if (rank == 3) {
    o.q = split_heads(n, o.q, n.int_attr("q_num_heads"));
    o.k = split_heads(n, o.k, n.int_attr("kv_num_heads"));
    o.v = split_heads(n, o.v, n.int_attr("kv_num_heads"));
    o.q_bshd = o.kv_bshd = true;
  }
  const Dim new_length = o.kv_length();
  Value* past = n.maybe(4);
  if (o.kv_bshd && (past || n.wants(1) || n.wants(2))) {
    o.k = to_bhsd(n, o.k);
    o.v = to_bhsd(n, o.v);
    o.kv_bshd = false;
  }
  if (past) {
    o.k = n.concat({past, o.k}, 2);
    o.v = n.concat({n.input(5), o.v}, 2);
  }
  Value* lengths = n.maybe(6);  // of the valid keys in each batch entry
  Value* offset = nullptr;
  if (past) offset = scalar_dim(n, past, 2);
  else if (lengths) offset = n.unsqueeze(n.add("sub", {n.cast(lengths, DType::I64), scalar_dim(n, o.q, o.q_sequence())}), {1, 2, 3});

  Mask mask;
  if (Value* m = n.maybe(3)) {
    const Dim have = m->type.ranked && m->type.rank() > 0 ? m->type.dims.back() : o.kv_length();
    if (have.is_const() && o.kv_length().is_const() && have.value() < o.kv_length().value()) {
      Value* fill = m->type.dtype == DType::Bool ? n.scalar(0, DType::Bool) : n.scalar_like(-kInf, m);
      m = n.add(
          "pad", {m, nullptr, fill},
          {{"pads", Ints{0, o.kv_length().value() - have.value()}}, {"mode", std::string("constant")}, {"axes", Ints{m->type.rank() - 1}}});
    }
    mask.add(n, m);
  }
  // The operator's causal form lines the last query up with the last key; ONNX's lines the first up with the first new key.
  bool causal = n.int_attr("is_causal", 0) != 0;
  const auto keys = [&] { return positions(n, scalar_dim(n, o.k, o.kv_sequence())); };
  if (causal && (!(o.q_length() == new_length) || (lengths && !past))) {
    mask.restrict_to(n, n.add("less_equal", {keys(), query_positions(n, o, offset)}));
    causal = false;
  }
  const int64_t left = n.int_attr("left_window_size", -1), right = n.int_attr("right_window_size", -1);
  if (left >= 0) {
    Value* first = n.add("sub", {query_positions(n, o, offset), n.i64_scalar(left)});
    mask.restrict_to(n, n.add("greater_equal", {keys(), first}));
  }
  if (right >= 0) {
    Value* last = n.add("add", {query_positions(n, o, offset), n.i64_scalar(right)});
    mask.restrict_to(n, n.add("less_equal", {keys(), last}));
  }
  if (lengths) mask.restrict_to(n, n.add("less", {keys(), n.unsqueeze(n.cast(lengths, DType::I64), {1, 2, 3})}));

  const Dim& width = o.q->type.dims[3];
  double scale = n.float_attr("scale", 0);
  if (!n.has_attr("scale")) {
    if (!width.is_const() || width.value() < 1) n.unsupported("the size of a head is not known", "fix the last dimension of q");
    scale = 1 / std::sqrt(static_cast<double>(width.value()));
  }
  const double softcap = n.float_attr("softcap", 0);
  Value* y = attend(n, o, mask.value(n), {{"scale", scale}, {"is_causal", int64_t{causal}}, {"softcap", softcap}}, rank == 3);
  n.set_output(0, rank == 3 ? merge_heads(n, y) : y);
  if (n.wants(1)) n.set_output(1, o.k);
  if (n.wants(2)) n.set_output(2, o.v);
  if (n.wants(3)) n.set_output(3, scores_output(n, o, mask, causal, scale, softcap, n.int_attr("qk_matmul_output_mode", 0)));
}

// x is [B, H, S, D] or [B, S, heads * D]; cos and sin hold half a rotation a row, picked by position where positions are given.
void rotate(NodeImporter& n, Value* x, Value* position, Value* cos, Value* sin, int64_t heads) {
  const int64_t rank = n.rank(x);
  if (rank != 3 && rank != 4) n.bad("the input should have 3 or 4 dimensions, found {}", rank);
  if (position) {
    cos = n.add("gather", {cos, position}, {{"axis", int64_t{0}}});
    sin = n.add("gather", {sin, position}, {{"axis", int64_t{0}}});
  }
  Value* split = rank == 3 ? split_heads(n, x, heads) : x;
  Value* y = n.add("rope", {split, cos, sin},
                   {{"interleaved", n.int_attr("interleaved", 0)}, {"layout", std::string(rank == 3 ? "BSHD" : "BHSD")}});
  n.set_output(0, rank == 3 ? merge_heads(n, y) : y);
}

void rotary_embedding(NodeImporter& n) {
  const int64_t rotated = n.int_attr("rotary_embedding_dim", 0);
  const Dim& half = n.rank(n.input(1)) > 0 ? n.input(1)->type.dims.back() : Dim(0);
  if (rotated != 0 && half.is_const() && half.value() * 2 != rotated)
    n.bad("attribute 'rotary_embedding_dim' is {}, the caches rotate {}", rotated, 2 * half.value());
  rotate(n, n.input(0), n.maybe(3), n.input(1), n.input(2), n.int_attr("num_heads", 0));
}

// com.microsoft: positions come second; one position is where the sequence starts.
void rotary_embedding_ms(NodeImporter& n) {
  Value* x = n.input(0);
  Value* position = n.input(1);
  Value* cos = n.input(2);
  const Dim& half = n.rank(cos) > 0 ? cos->type.dims.back() : Dim(0);
  int64_t heads = n.int_attr("num_heads", 0);
  const int64_t rank = n.rank(x);
  if (heads == 0 && rank == 3) {
    if (!half.is_const() || !x->type.dims[2].is_const() || half.value() < 1) n.unsupported("the number of heads is not known");
    heads = x->type.dims[2].value() / (2 * half.value());
  }
  if (n.rank(position) == 1) position = n.add("add", {positions(n, scalar_dim(n, x, rank == 3 ? 1 : 2)), n.cast(position, DType::I64)});
  rotate(n, x, position, cos, n.input(3), heads);
}

// com.microsoft MultiHeadAttention with q, k, v of three dimensions (or k and v as [B, H, S, D]).
void multi_head_attention(NodeImporter& n) {
  const int64_t heads = n.int_attr("num_heads");
  if (!n.has_input(1) || !n.has_input(2)) n.unsupported("its q, k and v are packed", "export the model with separate projections");
  Values parts{n.input(0), n.input(1), n.input(2)};
  if (n.rank(parts[0]) != 3) n.unsupported("its q does not have three dimensions");
  if (Value* bias = n.maybe(3)) {
    int64_t at = 0;
    for (Value*& part : parts) {
      if (n.rank(part) != 3 || !part->type.dims[2].is_const()) n.unsupported("its bias does not fit k and v of four dimensions");
      const int64_t size = part->type.dims[2].value();
      part = n.add("add", {part, n.slice(bias, 0, at, at + size)});
      at += size;
    }
  }
  Operands o;
  o.q = split_heads(n, parts[0], heads);
  o.q_bshd = true;
  o.kv_bshd = n.rank(parts[1]) == 3;
  o.k = o.kv_bshd ? split_heads(n, parts[1], heads) : parts[1];
  o.v = o.kv_bshd ? split_heads(n, parts[2], heads) : parts[2];
  if (o.kv_bshd && (n.has_input(6) || n.wants(1))) {
    o.k = to_bhsd(n, o.k);
    o.v = to_bhsd(n, o.v);
    o.kv_bshd = false;
  }
  if (n.has_input(6)) {
    o.k = n.concat({n.input(6), o.k}, 2);
    o.v = n.concat({n.input(7), o.v}, 2);
  }
  Mask mask;
  if (Value* padding = n.maybe(4)) {
    if (n.rank(padding) != 2) n.unsupported("its key padding mask does not have the shape [batch, keys]");
    mask.restrict_to(n, n.unsqueeze(n.add("not", {n.add("equal", {padding, n.scalar_like(0, padding)})}), {1, 2}));
  }
  if (n.has_input(5)) mask.add(n, n.input(5));
  if (n.num_inputs() > 8) n.unsupported("it reads the cache through input 8 or later");
  const Dim& width = o.q->type.dims[3];
  double scale = n.float_attr("scale", 0);
  if (scale == 0) {
    if (!width.is_const() || width.value() < 1) n.unsupported("the size of a head is not known");
    scale = 1 / std::sqrt(static_cast<double>(width.value()));
  }
  Value* y = attend(n, o, mask.value(n), {{"scale", scale}, {"is_causal", n.int_attr("unidirectional", 0)}}, true);
  n.set_output(0, merge_heads(n, y));
  if (n.wants(1)) n.set_output(1, o.k);
  if (n.wants(2)) n.set_output(2, o.v);
}

constexpr int kAny = 1 << 20;
constexpr OpImporter kImporters[] = {
    {"Attention", attention, 23},
    {"RotaryEmbedding", rotary_embedding, 23},
    {"RotaryEmbedding", rotary_embedding_ms, 1, kAny, "com.microsoft"},
    {"MultiHeadAttention", multi_head_attention, 1, kAny, "com.microsoft"},
};

}  // namespace

std::span<const OpImporter> attention_importers() { return kImporters; }

}  // namespace tokamak::onnx
