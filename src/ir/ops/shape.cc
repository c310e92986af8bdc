// Shapes as data, and tensors made from shapes.

#include <algorithm>
#include <cmath>

#include "ir/ops/helpers.h"

namespace tokamak::ir::ops {
namespace {

void infer_shape(InferContext& ctx) {
  if (!ctx.ranked(0)) return ctx.set_type(0, DType::I64, {ctx.fresh_symbol()});
  const int64_t rank = ctx.rank(0);
  const auto clamp = [&](int64_t p) { return std::clamp<int64_t>(p < 0 ? std::max(p, -rank) + rank : p, 0, rank); };
  const int64_t start = clamp(ctx.attrs().get_int("start", 0)), end = std::max(start, clamp(ctx.attrs().get_int("end", rank)));
  ctx.set_type(0, DType::I64, {end - start});
  const Dims& dims = ctx.type(0).dims;
  if (end - start <= static_cast<int64_t>(kMaxKnownInts)) ctx.set_ints(0, Dims(dims.begin() + start, dims.begin() + end));
}

void infer_size(InferContext& ctx) {
  ctx.set_type(0, DType::I64, {});
  if (ctx.ranked(0)) try_set_ints(ctx, 0, [&] { return Dims{ctx.type(0).num_elements()}; });
}

// Type of a tensor made to a shape that comes from attribute `shape` or input 0.
void set_shaped(InferContext& ctx, DType dtype) {
  if (!ctx.attrs().has("shape") && !ctx.has_input(0)) ctx.fail("expected attribute `shape` or an input");
  if (auto dims = dims_from(ctx, "shape", 0)) {
    for (const Dim& d : *dims)
      if (d.is_const() && d.value() < 0) ctx.fail("[{}] has a negative size", to_string(*dims));
    ctx.set_type(0, dtype, std::move(*dims));
  } else if (auto length = known_length(ctx, 0)) {
    ctx.set_type(0, dtype, fresh_dims(ctx, *length));
  } else {
    ctx.set_unranked(0, dtype);
  }
}

void infer_fill(InferContext& ctx) {
  const Attr* attr = ctx.attrs().find("value");
  const Tensor* value = attr ? &ctx.attrs().get_tensor("value") : nullptr;
  if (value && value->count() != 1) ctx.fail("`value` must have one element, found {}", tokamak::to_string(value->shape()));
  const DType dtype = value ? value->dtype() : DType::F32;
  set_shaped(ctx, dtype);
  const TensorType& out = ctx.outputs()[0].type;
  if (!value || (!is_integer(dtype) && dtype != DType::Bool) || !out.is_static()) return;
  try_set_ints(ctx, 0, [&]() -> std::optional<Dims> {
    const int64_t total = out.num_elements().value();
    if (total > static_cast<int64_t>(kMaxKnownInts)) return std::nullopt;
    return Dims(static_cast<size_t>(total), Dim(value->int_at(0)));
  });
}

void infer_range(InferContext& ctx) {
  require_same_dtype(ctx, 0, 1);
  require_same_dtype(ctx, 0, 2);
  const DType dtype = ctx.dtype(0);
  if (is_integer(dtype)) {
    const auto start = scalar_int(ctx, 0), limit = scalar_int(ctx, 1), delta = scalar_int(ctx, 2);
    if (delta && delta->is(0)) ctx.fail("the step is 0");
    if (!start || !limit || !delta || !delta->is_const()) return ctx.set_type(0, dtype, {ctx.fresh_symbol()});
    const Dim count = delta->value() > 0 ? Dim::ceildiv(*limit - *start, *delta) : Dim::ceildiv(*start - *limit, Dim(0) - *delta);
    const Dim n = Dim::max(count, 0);
    ctx.set_type(0, dtype, {n});
    if (!n.is_const() || n.value() > static_cast<int64_t>(kMaxKnownInts)) return;
    try_set_ints(ctx, 0, [&] {
      Dims contents;
      for (int64_t i = 0; i < n.value(); ++i) contents.push_back(*start + *delta * Dim(i));
      return contents;
    });
    return;
  }
  const Tensor *start = ctx.constant(0), *limit = ctx.constant(1), *delta = ctx.constant(2);
  if (!start || !limit || !delta || start->count() != 1 || limit->count() != 1 || delta->count() != 1)
    return ctx.set_type(0, dtype, {ctx.fresh_symbol()});
  const double n = std::ceil((limit->float_at(0) - start->float_at(0)) / delta->float_at(0));
  if (!(n < 1e15)) ctx.fail("the range [{}, {}) by {} has no sensible length", start->float_at(0), limit->float_at(0), delta->float_at(0));
  ctx.set_type(0, dtype, {n > 0 ? static_cast<int64_t>(n) : 0});
}

void infer_eye_like(InferContext& ctx) {
  require_rank(ctx, 0, "x", 2, 2);
  TensorType t = ctx.type(0);
  t.dtype = ctx.attrs().get_dtype("dtype", t.dtype);
  ctx.set_type(0, std::move(t));
}

void infer_onehot(InferContext& ctx) {
  const DType dtype = ctx.dtype(2);
  if (!ctx.ranked(0)) return ctx.set_unranked(0, dtype);
  const int64_t axis = ctx.axis(ctx.attrs().get_int("axis", -1), ctx.rank(0) + 1);
  std::optional<Dim> depth = scalar_int(ctx, 1);
  if (!depth && ctx.constant(1) && ctx.constant(1)->count() == 1) {  // the depth may be given as a float
    const double d = ctx.constant(1)->float_at(0);
    if (!(d >= 0 && d < 1e15)) ctx.fail("depth {} is not sensible", d);
    depth = static_cast<int64_t>(d);
  }
  if (depth && depth->is_const() && depth->value() < 0) ctx.fail("depth {} is negative", depth->value());
  Dims dims = ctx.type(0).dims;
  dims.insert(dims.begin() + axis, depth ? *depth : ctx.fresh_symbol());
  ctx.set_type(0, dtype, std::move(dims));
}

// random_normal and random_uniform: shape from the attribute, or from input 0 used as a pattern ("like").
void infer_random(InferContext& ctx) {
  if (ctx.attrs().has("shape")) return set_shaped(ctx, ctx.attrs().get_dtype("dtype", DType::F32));
  if (!ctx.has_input(0)) ctx.fail("expected attribute `shape` or an input to take the shape of");
  TensorType t = ctx.type(0);
  t.dtype = ctx.attrs().get_dtype("dtype", is_float(t.dtype) ? t.dtype : DType::F32);
  ctx.set_type(0, std::move(t));
}

void infer_bernoulli(InferContext& ctx) {
  TensorType t = ctx.type(0);
  t.dtype = ctx.attrs().get_dtype("dtype", t.dtype);
  ctx.set_type(0, std::move(t));
}

void infer_multinomial(InferContext& ctx) {
  require_rank(ctx, 0, "x", 2, 2);
  const int64_t samples = ctx.attrs().get_int("sample_size", 1);
  if (samples < 0) ctx.fail("sample_size {} is negative", samples);
  ctx.set_type(0, ctx.attrs().get_dtype("dtype", DType::I32), {ctx.ranked(0) ? ctx.dim(0, 0) : ctx.fresh_symbol(), samples});
}

}  // namespace

std::span<const OpDef> shape() {
  constexpr AttrKind I = AttrKind::Int, F = AttrKind::Float, T = AttrKind::DType, D = AttrKind::Dims;
  static const std::vector<OpDef> table = {
      {.name = "shape", .doc = "(x){start=0, end}: x's sizes, i64", .attrs = {{"start", I}, {"end", I}}, .infer = infer_shape},
      {.name = "size", .doc = "(x): number of x's elements, i64 scalar", .infer = infer_size},
      {.name = "range",
       .doc = "(start, limit, delta): start, start + delta, ... before limit; scalars",
       .min_inputs = 3,
       .max_inputs = 3,
       .infer = infer_range},
      {.name = "fill",
       .doc = "(shape?){value: tensor, shape: dims}: a tensor of one repeated element; f32 0 by default",
       .min_inputs = 0,
       .attrs = {{"value", AttrKind::Tensor}, {"shape", D}},
       .infer = infer_fill},
      {.name = "eye_like",
       .doc = "(x){dtype, k=0}: ones on diagonal k, in x's shape",
       .attrs = {{"dtype", T}, {"k", I}},
       .infer = infer_eye_like},
      {.name = "onehot",
       .doc = "(indices, depth, values){axis=-1}: values[1] where the new axis equals the index, else values[0]",
       .min_inputs = 3,
       .max_inputs = 3,
       .attrs = {{"axis", I}},
       .infer = infer_onehot},
      {.name = "random_normal",
       .doc = "(like?){shape: dims, dtype, mean=0, scale=1, seed}: normally distributed",
       .min_inputs = 0,
       .traits = kNondeterministic,
       .attrs = {{"shape", D}, {"dtype", T}, {"mean", F}, {"scale", F}, {"seed", F}},
       .infer = infer_random},
      {.name = "random_uniform",
       .doc = "(like?){shape: dims, dtype, low=0, high=1, seed}: uniform in [low, high)",
       .min_inputs = 0,
       .traits = kNondeterministic,
       .attrs = {{"shape", D}, {"dtype", T}, {"low", F}, {"high", F}, {"seed", F}},
       .infer = infer_random},
      {.name = "bernoulli",
       .doc = "(p){dtype, seed}: 1 with probability p, else 0",
       .traits = kNondeterministic,
       .attrs = {{"dtype", T}, {"seed", F}},
       .infer = infer_bernoulli},
      {.name = "multinomial",
       .doc = "(log_p){sample_size=1, dtype, seed}: [batch, sample_size] class indices drawn by unnormalised log probabilities",
       .traits = kNondeterministic,
       .attrs = {{"sample_size", I}, {"dtype", T}, {"seed", F}},
       .infer = infer_multinomial},
  };
  return table;
}

}  // namespace tokamak::ir::ops
