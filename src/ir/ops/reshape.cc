// Operators that keep the elements' order: reshape, identity; and expand, which repeats along new or single dimensions.

#include <algorithm>

#include "ir/ops/helpers.h"

namespace tokamak::ir::ops {
namespace {

void infer_identity(InferContext& ctx) {
  same_type(ctx);
  if (auto values = ctx.ints(0)) ctx.set_ints(0, std::move(*values));
}

// The dimension that -1 stands for: all elements over the product of the others.
Dim remaining(InferContext& ctx, const Dims& target, size_t wildcard) {
  if (!ctx.ranked(0)) return ctx.fresh_symbol();
  // Cancel equal dimensions first: [batch, seq, 768] to [batch, -1] gives seq*768 without a division.
  Dims numerator = ctx.type(0).dims, denominator;
  for (size_t i = 0; i < target.size(); ++i) {
    if (i == wildcard) continue;
    const auto same = std::find(numerator.begin(), numerator.end(), target[i]);
    if (same != numerator.end() && !target[i].is(0)) numerator.erase(same);
    else denominator.push_back(target[i]);
  }
  Dim total = 1, known = 1;
  for (const Dim& d : numerator) total = total * d;
  for (const Dim& d : denominator) known = known * d;
  if (known.is(0)) {
    if (total.is_const() && !total.is(0)) ctx.fail("cannot reshape {} to [{}]: one size is 0", to_string(ctx.type(0)), to_string(target));
    return 0;
  }
  if (total.is_const() && known.is_const() && (known.value() < 0 || total.value() % known.value() != 0))
    ctx.fail("cannot reshape {} to [{}]: {} elements do not divide by {}", to_string(ctx.type(0)), to_string(target), total.value(),
             known.value());
  return Dim::floordiv(total, known);
}

void infer_reshape(InferContext& ctx) {
  const bool from_attr = ctx.attrs().has("shape");
  const DType dtype = ctx.dtype(0);
  if (!from_attr && !ctx.has_input(1)) ctx.fail("expected attribute `shape` or a second input");
  auto target = dims_from(ctx, "shape", 1);
  if (!target) {
    const auto length = known_length(ctx, 1);
    if (!length) return ctx.set_unranked(0, dtype);
    Dims dims = fresh_dims(ctx, *length);
    if (*length == 1 && ctx.ranked(0)) dims[0] = ctx.type(0).num_elements();
    return ctx.set_type(0, dtype, std::move(dims));
  }
  if (target->size() > static_cast<size_t>(kMaxInferredRank)) ctx.fail("a shape of {} dimensions is too long", target->size());
  // In an attribute sizes are literal (a symbol may be bound to 0); in an input 0 copies, unless allowzero.
  const bool zero_copies = !from_attr && !ctx.attrs().get_bool("allowzero", false);
  std::optional<size_t> wildcard;
  for (size_t i = 0; i < target->size(); ++i) {
    Dim& d = (*target)[i];
    if (d.is(0) && zero_copies) {
      if (!ctx.ranked(0)) d = ctx.fresh_symbol();
      else if (static_cast<int64_t>(i) >= ctx.rank(0))
        ctx.fail("size 0 at {} copies a dimension that {} does not have", i, to_string(ctx.type(0)));
      else d = ctx.dim(0, static_cast<int64_t>(i));
    } else if (d.is(-1)) {
      if (wildcard) ctx.fail("[{}] has more than one -1", to_string(*target));
      wildcard = i;
    } else if (d.is_const() && d.value() < 0) {
      ctx.fail("[{}] has a negative size", to_string(*target));
    }
  }
  if (wildcard) {
    (*target)[*wildcard] = remaining(ctx, *target, *wildcard);
  } else if (ctx.ranked(0)) {
    Dim wanted = 1;
    for (const Dim& d : *target) wanted = wanted * d;
    const Dim count = ctx.type(0).num_elements();
    if (wanted.is_const() && count.is_const() && wanted.value() != count.value())
      ctx.fail("cannot reshape {} ({} elements) to [{}] ({} elements)", to_string(ctx.type(0)), count.value(), to_string(*target),
               wanted.value());
  }
  ctx.set_type(0, dtype, std::move(*target));
  if (auto values = ctx.ints(0)) ctx.set_ints(0, std::move(*values));
}

void infer_expand(InferContext& ctx) {
  const DType dtype = ctx.dtype(0);
  if (!ctx.attrs().has("shape") && !ctx.has_input(1)) ctx.fail("expected attribute `shape` or a second input");
  const auto target = dims_from(ctx, "shape", 1);
  if (target) {
    for (const Dim& d : *target)
      if (d.is_const() && d.value() < 0) ctx.fail("[{}] has a negative size", to_string(*target));
    if (!ctx.ranked(0)) return ctx.set_unranked(0, dtype);
    ctx.set_type(0, dtype, ctx.broadcast(ctx.type(0).dims, *target));
    const auto values = ctx.ints(0);
    if (values && values->size() == 1) {
      try_set_ints(ctx, 0, [&]() -> std::optional<Dims> {
        const Dim total = ctx.outputs()[0].type.num_elements();
        if (!total.is_const() || total.value() > static_cast<int64_t>(kMaxKnownInts)) return std::nullopt;
        return Dims(static_cast<size_t>(total.value()), (*values)[0]);
      });
    } else if (values && ctx.outputs()[0].type == ctx.type(0)) {
      ctx.set_ints(0, *values);
    }
    return;
  }
  const auto length = known_length(ctx, 1);
  if (!length || !ctx.ranked(0)) return ctx.set_unranked(0, dtype);
  const int64_t rank = std::max(*length, ctx.rank(0));
  Dims dims = fresh_dims(ctx, rank);
  for (int64_t i = 0; i < ctx.rank(0); ++i) {
    const Dim& d = ctx.dim(0, i);
    // A number other than 1 stays; dimensions before the target's start stay as they are.
    if ((d.is_const() && d.value() != 1) || ctx.rank(0) - i > *length) dims[rank - ctx.rank(0) + i] = d;
  }
  ctx.set_type(0, dtype, std::move(dims));
}

}  // namespace

std::span<const OpDef> reshape() {
  constexpr AttrKind D = AttrKind::Dims;
  static const std::vector<OpDef> table = {
      {.name = "identity", .doc = "(x): x", .traits = kView, .infer = infer_identity},
      {.name = "reshape",
       .doc =
           "(x, shape?){shape: dims, allowzero=0}: x's elements under another shape; -1 is inferred, 0 copies when it comes from the input",
       .max_inputs = 2,
       .traits = kView,
       .attrs = {{"shape", D}, {"allowzero", AttrKind::Int}},
       .infer = infer_reshape},
      {.name = "expand",
       .doc = "(x, shape?){shape: dims}: x broadcast together with a shape",
       .max_inputs = 2,
       .traits = kMovement,
       .attrs = {{"shape", D}},
       .infer = infer_expand},
  };
  return table;
}

}  // namespace tokamak::ir::ops
