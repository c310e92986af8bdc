// Scaled dot-product attention and rotary position embedding.

#include "ir/ops/helpers.h"

namespace tokamak::ir::ops {
namespace {

// Positions of heads and sequence in a 4-D [B, H, S, D] or [B, S, H, D] tensor.
struct HeadLayout {
  int64_t heads = 1, sequence = 2;
};

HeadLayout head_layout(const InferContext& ctx, const char* attr, const std::string& otherwise = "BHSD") {
  const std::string layout = ctx.attrs().get_string(attr, otherwise);
  if (layout == "BHSD") return {1, 2};
  if (layout == "BSHD") return {2, 1};
  ctx.fail("`{}` must be BHSD or BSHD, found \"{}\"", attr, layout);
}

void infer_attention(InferContext& ctx) {
  for (int i = 0; i < 3; ++i) {
    require_float(ctx, i);
    require_rank(ctx, i, i == 0 ? "q" : i == 1 ? "k" : "v", 4, 4);
  }
  const HeadLayout q = head_layout(ctx, "q_layout"), kv = head_layout(ctx, "kv_layout");
  const HeadLayout out = head_layout(ctx, "out_layout", ctx.attrs().get_string("q_layout", "BHSD"));
  const auto dim = [&](int input, int64_t axis) { return ctx.ranked(input) ? std::optional(ctx.dim(input, axis)) : std::nullopt; };
  const auto same = [&](const std::optional<Dim>& a, const std::optional<Dim>& b, const char* what) {
    if (a && b) require_equal(ctx, *a, *b, what);
  };
  // Of a packed operand the attributes say which heads: [first, first + heads) of those that are there.
  const auto heads_of = [&](int i, const char* first, const char* count, int64_t axis) {
    std::optional<Dim> heads = dim(i, axis);
    if (!ctx.attrs().has(first)) return heads;
    const int64_t begin = ctx.attrs().get_int(first), size = ctx.attrs().get_int(count, 0);
    if (begin < 0 || size < 1 || begin > INT64_MAX - size || (heads && heads->is_const() && begin + size > heads->value()))
      ctx.fail("`{}` {} and `{}` {} do not fit the heads of input {}", first, begin, count, size, i);
    return std::optional<Dim>(size);
  };
  const auto q_heads = heads_of(0, "q_first", "q_heads", q.heads), kv_heads = heads_of(1, "k_first", "kv_heads", kv.heads);
  same(dim(0, 0), dim(1, 0), "the batch of q and k");
  same(dim(0, 0), dim(2, 0), "the batch of q and v");
  same(dim(0, 3), dim(1, 3), "the head size of q and k");
  same(kv_heads, heads_of(2, "v_first", "kv_heads", kv.heads), "the number of heads of k and v");
  same(dim(1, kv.sequence), dim(2, kv.sequence), "the length of k and v");
  if (q_heads && kv_heads && q_heads->is_const() && kv_heads->is_const() &&
      (kv_heads->value() < 1 || q_heads->value() % kv_heads->value() != 0))
    ctx.fail("{} query heads are not a multiple of {} key heads", q_heads->value(), kv_heads->value());
  if (ctx.has_input(3) && ctx.ranked(3)) {
    require_rank(ctx, 3, "mask", 0, 4);
    if (ctx.ranked(0) && ctx.ranked(1)) {
      const Dims scores{ctx.dim(0, 0), *q_heads, ctx.dim(0, q.sequence), ctx.dim(1, kv.sequence)};
      for (int64_t i = 1; i <= ctx.rank(3); ++i)
        if (!ctx.dim(3, -i).is(1)) require_equal(ctx, ctx.dim(3, -i), scores[4 - i], "a dimension of the mask and of the scores");
    }
  }
  Dims dims(4);
  const auto or_fresh = [&](const std::optional<Dim>& d) { return d ? *d : ctx.fresh_symbol(); };
  dims[0] = or_fresh(dim(0, 0));
  dims[out.heads] = or_fresh(q_heads);
  dims[out.sequence] = or_fresh(dim(0, q.sequence));
  dims[3] = or_fresh(dim(2, 3));
  ctx.set_type(0, ctx.dtype(0), std::move(dims));
}

void infer_rope(InferContext& ctx) {
  require_float(ctx, 0);
  require_rank(ctx, 0, "x", 3, 4);
  head_layout(ctx, "layout");
  require_rank(ctx, 1, "cos", 1, 4);
  require_rank(ctx, 2, "sin", 1, 4);
  if (ctx.ranked(1) && ctx.ranked(2)) require_equal(ctx, ctx.dim(1, -1), ctx.dim(2, -1), "the last dimension of cos and sin");
  if (ctx.ranked(0) && ctx.ranked(1) && ctx.dim(0, -1).is_const() && ctx.dim(1, -1).is_const() &&
      ctx.dim(1, -1).value() > ctx.dim(0, -1).value() / 2)
    ctx.fail("cos {} rotates more than x {} has", to_string(ctx.type(1)), to_string(ctx.type(0)));
  same_type(ctx);
}

}  // namespace

std::span<const OpDef> attention() {
  constexpr AttrKind I = AttrKind::Int, F = AttrKind::Float, S = AttrKind::String;
  static const std::vector<OpDef> table = {
      {.name = "attention",
       .doc =
           "(q, k, v, mask?){scale, is_causal=0, softcap=0, q_layout=\"BHSD\", kv_layout, out_layout, q_heads, kv_heads, q_first, k_first, "
           "v_first}: softmax(q k^T * scale + mask) v; with q_first only the heads [q_first, q_first + q_heads) of q are read, and so on",
       .min_inputs = 3,
       .max_inputs = 4,
       .attrs = {{"scale", F},
                 {"is_causal", I},
                 {"softcap", F},
                 {"q_layout", S},
                 {"kv_layout", S},
                 {"out_layout", S},
                 {"q_heads", I},
                 {"kv_heads", I},
                 {"q_first", I},
                 {"k_first", I},
                 {"v_first", I}},
       .infer = infer_attention},
      {.name = "rope",
       .doc = "(x, cos, sin){interleaved=0, layout=\"BHSD\"}: rotates the last axis, first 2 * cos.dim(-1) elements",
       .min_inputs = 3,
       .max_inputs = 3,
       .attrs = {{"interleaved", I}, {"layout", S}},
       .infer = infer_rope},
  };
  return table;
}

}  // namespace tokamak::ir::ops
