// The paged KV cache of language models (PagedAttention, arXiv:2309.06180): writing a step's keys and values, and attending over them.

#include <cmath>

#include "ir/ops/helpers.h"

namespace tokamak::ir::ops {
namespace {

struct Heads {
  int64_t query = 1, kv = 1, dim = 2;
};

Heads heads_of(const InferContext& ctx) {
  constexpr int64_t kMost = 1 << 16;  // keeps products of two far from overflow
  const Heads h{ctx.attrs().get_int("num_heads"), ctx.attrs().get_int("num_kv_heads"), ctx.attrs().get_int("head_dim")};
  for (const auto& [name, n] : {std::pair{"num_heads", h.query}, {"num_kv_heads", h.kv}, {"head_dim", h.dim}})
    if (n < 1 || n > kMost) ctx.fail("{} must be in 1..{}, found {}", name, kMost, n);
  if (h.query % h.kv != 0) ctx.fail("{} query heads are not a multiple of {} key heads", h.query, h.kv);
  if (h.dim % 2 != 0) ctx.fail("head_dim must be even, found {}", h.dim);
  return h;
}

void require_dtype(const InferContext& ctx, int input, std::string_view what, DType dtype) {
  if (ctx.dtype(input) != dtype) ctx.fail("{} must be {}, found {}", what, to_string(dtype), to_string(ctx.dtype(input)));
}

bool is_activation(DType dtype) { return dtype == DType::F32 || dtype == DType::F16 || dtype == DType::BF16; }

// An i32 input of a known rank.
void require_input(const InferContext& ctx, int input, std::string_view what, DType dtype, int64_t rank) {
  if (!ctx.has_input(input)) ctx.fail("{} is absent", what);
  require_dtype(ctx, input, what, dtype);
  require_rank(ctx, input, what, rank, rank);
}

void require_float_input(const InferContext& ctx, int input, std::string_view what, int64_t rank) {
  if (!ctx.has_input(input)) ctx.fail("{} is absent", what);
  if (!is_activation(ctx.dtype(input))) ctx.fail("{} must be f32, f16 or bf16, found {}", what, to_string(ctx.dtype(input)));
  require_rank(ctx, input, what, rank, rank);
}

void require_cache(const InferContext& ctx, int input, const Heads& h) {
  if (!ctx.has_input(input)) ctx.fail("cache is absent");
  const bool is_f8 = ctx.dtype(input) == DType::F8E4M3FN;
  if (!is_activation(ctx.dtype(input)) && !is_f8)
    ctx.fail("cache must be f32, f16, bf16 or f8e4m3fn, found {}", to_string(ctx.dtype(input)));
  for (const char* name : {"k_scale", "v_scale"}) {
    const double scale = ctx.attrs().get_float(name, 1);
    if (!(scale > 0) || std::isinf(scale)) ctx.fail("`{}` must be above 0, found {}", name, scale);
    if (!is_f8 && scale != 1)
      ctx.fail("`{}` is {}; only a cache of f8e4m3fn is scaled, found {}", name, scale, to_string(ctx.dtype(input)));
  }
  require_rank(ctx, input, "cache", 5, 5);
  if (!ctx.ranked(input)) return;
  require_equal(ctx, ctx.dim(input, 1), 2, "dimension 1 of the cache (keys and values)");
  require_equal(ctx, ctx.dim(input, 2), h.kv, "the number of heads of the cache");
  require_equal(ctx, ctx.dim(input, 4), h.dim, "the head size of the cache");
  const Dim& block_size = ctx.dim(input, 3);
  constexpr int64_t kMostTokens = 1 << 16;
  if (block_size.is_const() && (block_size.value() < 16 || block_size.value() % 16 != 0 || block_size.value() > kMostTokens))
    ctx.fail("the block size of the cache must be a multiple of 16 up to {}, found {}", kMostTokens, block_size.value());
}

// The number of tokens as input `input` (of `width` columns) and `other` tell it.
Dim tokens_of(InferContext& ctx, int input, std::string_view what, int64_t width, int other = -1) {
  require_float_input(ctx, input, what, 2);
  const bool other_known = other >= 0 && ctx.ranked(other);
  if (!ctx.ranked(input)) return other_known ? ctx.dim(other, 0) : ctx.fresh_symbol();
  require_equal(ctx, ctx.dim(input, 1), width, fmt::format("the width of {} and what the heads need", what));
  if (!other_known) return ctx.dim(input, 0);
  require_equal(ctx, ctx.dim(input, 0), ctx.dim(other, 0), "the number of tokens");
  return agreed(ctx.dim(input, 0), ctx.dim(other, 0));
}

// qkv, the cache, slot_mapping, then from `rope` on cos, sin, q_norm and k_norm: what writing takes. Returns the number of tokens.
Dim infer_write(InferContext& ctx, const Heads& h, int rope) {
  require_cache(ctx, 1, h);
  require_input(ctx, 2, "slot_mapping", DType::I32, 1);
  const Dim tokens = tokens_of(ctx, 0, "qkv", (h.query + 2 * h.kv) * h.dim, 2);
  const int cos = rope, sin = rope + 1, q_norm = rope + 2, k_norm = rope + 3;
  if (ctx.has_input(cos) != ctx.has_input(sin)) ctx.fail("cos and sin come together: one of them is absent");
  for (int i : {cos, sin}) {
    if (!ctx.has_input(i)) continue;
    require_float_input(ctx, i, i == cos ? "cos" : "sin", 2);
    if (!ctx.ranked(i)) continue;
    require_equal(ctx, ctx.dim(i, 0), tokens, "the number of tokens of cos and sin");
    const Dim& half = ctx.dim(i, 1);
    if (half.is_const() && half.value() > h.dim / 2)
      ctx.fail("{} {} rotates {} elements, head_dim is {}", i == cos ? "cos" : "sin", to_string(ctx.type(i)), 2 * half.value(), h.dim);
  }
  if (ctx.has_input(cos) && ctx.ranked(cos) && ctx.ranked(sin))
    require_equal(ctx, ctx.dim(cos, 1), ctx.dim(sin, 1), "the last dimension of cos and sin");
  for (int i : {q_norm, k_norm}) {
    if (!ctx.has_input(i)) continue;
    const std::string_view what = i == q_norm ? "q_norm" : "k_norm";
    require_float_input(ctx, i, what, 1);
    if (ctx.ranked(i)) require_equal(ctx, ctx.dim(i, 0), h.dim, fmt::format("the length of {} and head_dim", what));
  }
  return tokens;
}

// block_tables, seq_lens and query_starts from input `first` on.
void infer_sequences(InferContext& ctx, int first) {
  const int tables = first, lengths = first + 1, starts = first + 2;
  require_input(ctx, tables, "block_tables", DType::I32, 2);
  require_input(ctx, lengths, "seq_lens", DType::I32, 1);
  require_input(ctx, starts, "query_starts", DType::I32, 1);
  if (ctx.ranked(tables) && ctx.ranked(lengths)) require_equal(ctx, ctx.dim(tables, 0), ctx.dim(lengths, 0), "the number of sequences");
  if (ctx.ranked(lengths) && ctx.ranked(starts) && ctx.dim(lengths, 0).is_const() && ctx.dim(starts, 0).is_const() &&
      ctx.dim(starts, 0).value() - 1 != ctx.dim(lengths, 0).value())
    ctx.fail("query_starts must have one entry more than seq_lens: {} vs {}", ctx.dim(starts, 0).value(), ctx.dim(lengths, 0).value());
  if (ctx.attrs().get_int("window", 0) < 0) ctx.fail("window must not be negative, found {}", ctx.attrs().get_int("window", 0));
}

void infer_kv_cache_write(InferContext& ctx) {
  const Heads h = heads_of(ctx);
  const Dim tokens = infer_write(ctx, h, 3);
  ctx.set_type(0, ctx.dtype(0), {tokens, h.query * h.dim});
}

void infer_paged_attention(InferContext& ctx) {
  const Heads h = heads_of(ctx);
  require_cache(ctx, 1, h);
  infer_sequences(ctx, 2);
  const Dim tokens = tokens_of(ctx, 0, "q", h.query * h.dim);
  ctx.set_type(0, ctx.dtype(0), {tokens, h.query * h.dim});
}

void infer_cached_attention(InferContext& ctx) {
  const Heads h = heads_of(ctx);
  const Dim tokens = infer_write(ctx, h, 6);
  infer_sequences(ctx, 3);
  ctx.set_type(0, ctx.dtype(0), {tokens, h.query * h.dim});
}

}  // namespace

std::span<const OpDef> kv_cache() {
  constexpr AttrKind I = AttrKind::Int, F = AttrKind::Float;
  const std::vector<AttrSpec> of_both = {
      {"num_heads", I, true}, {"num_kv_heads", I, true}, {"head_dim", I, true}, {"k_scale", F}, {"v_scale", F}};
  const std::vector<AttrSpec> of_write = {{"epsilon", F}, {"interleaved", I}}, of_attention = {{"scale", F}, {"softcap", F}, {"window", I}};
  const auto joined = [&](std::initializer_list<std::vector<AttrSpec>> parts) {
    std::vector<AttrSpec> all = of_both;
    for (const auto& part : parts) all.insert(all.end(), part.begin(), part.end());
    return all;
  };
  static const std::vector<OpDef> table = {
      {.name = "kv_cache_write",
       .doc = "(qkv, cache, slot_mapping, cos?, sin?, q_norm?, k_norm?){num_heads, num_kv_heads, head_dim, epsilon=1e-6, interleaved=0, "
              "k_scale=1, v_scale=1}: norm and rope of q and k heads; k and v (divided by their scale, for a cache of f8e4m3fn) into the "
              "cache, q out",
       .min_inputs = 3,
       .max_inputs = 7,
       .traits = kDataDependentWork,
       .attrs = joined({of_write}),
       .infer = infer_kv_cache_write,
       .written_input = 1},
      {.name = "paged_attention",
       .doc = "(q, cache, block_tables, seq_lens, query_starts){num_heads, num_kv_heads, head_dim, scale, softcap=0, window=0, k_scale=1, "
              "v_scale=1}: causal attention of each sequence's new tokens over its cached ones",
       .min_inputs = 5,
       .max_inputs = 5,
       .traits = kDataDependentWork,
       .attrs = joined({of_attention}),
       .infer = infer_paged_attention},
      // Within a step no sequence attends to a slot that another one writes. With as many tokens as sequences, token i is sequence i's
      // only new one or belongs to none: a decoding step, which kernels may know by that.
      {.name = "cached_attention",
       .doc = "(qkv, cache, slot_mapping, block_tables, seq_lens, query_starts, cos?, sin?, q_norm?, k_norm?){attributes of both}: "
              "kv_cache_write, then paged_attention of what it gives",
       .min_inputs = 6,
       .max_inputs = 10,
       .traits = kDataDependentWork,
       .attrs = joined({of_write, of_attention}),
       .infer = infer_cached_attention,
       .written_input = 1},
  };
  return table;
}

}  // namespace tokamak::ir::ops
