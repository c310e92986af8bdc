// slice, with ONNX's clamping rules over symbolic sizes.

#include <limits>

#include "ir/ops/helpers.h"

namespace tokamak::ir::ops {
namespace {

// "To the end" as exporters write it: INT32_MAX, INT64_MAX and anything near.
constexpr int64_t kBeyond = std::numeric_limits<int32_t>::max();

bool is_beyond(const Dim& d) { return d.is_const() && d.value() >= kBeyond; }
bool is_far_below(const Dim& d) { return d.is_const() && d.value() <= -kBeyond; }

// A start or end as a position counted from the front, before clamping; nullopt when its sign cannot be told.
std::optional<Dim> position(const Dim& p, const Dim& size) {
  if (Dim::known_ge(p, 0)) return p;
  if (Dim::known_ge(Dim(-1), p) || (!p.is_const() && Dim::known_ge(0, p))) return p + size;  // -seq: see below
  return std::nullopt;
}

// Number of elements of [start, end) with `step` on an axis of `size`; nullopt when it cannot be told.
std::optional<Dim> slice_length(const Dim& size, const Dim& start, const Dim& end, int64_t step) {
  if (step > 0) {
    // max(.., 0) at the end makes clamping `from` above and `to` below superfluous, which keeps expressions short.
    const bool open = is_beyond(end) || end == size;
    std::optional<Dim> to = open ? size : is_far_below(end) ? Dim(0) : position(end, size);
    if (to) to = Dim::min(*to, size);
    std::optional<Dim> from = is_beyond(start) ? size : is_far_below(start) ? Dim(0) : position(start, size);
    if (!from || !to) return std::nullopt;
    if (open && Dim::known_ge(0, start) && !start.is(0) && !is_far_below(start) && !(size.is_const() && start.is_const())) {
      // The last k. A symbolic axis or count is taken not to be empty (binding is exact): the last one is 1, and -seq is not 0.
      const Dim last = start.is(-1) ? Dim(1) : Dim::min(Dim(0) - start, size);
      return Dim::ceildiv(last, step);
    }
    return Dim::max(Dim::ceildiv(*to - Dim::max(*from, 0), step), 0);
  }
  if (step == std::numeric_limits<int64_t>::min()) return std::nullopt;
  const auto clamp = [&](const Dim& p, const Dim& low) -> std::optional<Dim> {  // into [low, size - 1]
    if (is_beyond(p)) return size - 1;
    if (is_far_below(p)) return low;
    const auto at = position(p, size);
    if (!at) return std::nullopt;
    return Dim::max(Dim::min(*at, size - 1), low);
  };
  const auto from = clamp(start, 0), to = clamp(end, -1);
  if (!from || !to) return std::nullopt;
  // On an empty axis `from` clamps to 0 above -1: one element too many, so bound by the size.
  return Dim::min(Dim::max(Dim::ceildiv(*from - *to, -step), 0), size);
}

Ints int_list(const InferContext& ctx, std::string_view attr, int input, bool& known) {
  known = true;
  if (ctx.attrs().has(attr)) return ctx.attrs().get_ints(attr);
  if (!ctx.has_input(input)) return {};
  if (auto values = ctx.const_ints(input)) return *values;
  known = false;
  return {};
}

void infer_slice(InferContext& ctx) {
  const DType dtype = ctx.dtype(0);
  if (!ctx.ranked(0)) return ctx.set_unranked(0, dtype);
  const int64_t rank = ctx.rank(0);
  bool axes_known, steps_known;
  Ints axes = int_list(ctx, "axes", 3, axes_known);
  const Ints steps = int_list(ctx, "steps", 4, steps_known);
  if (!ctx.attrs().has("starts") && !ctx.has_input(1)) ctx.fail("expected attribute `starts` or an input");
  if (!ctx.attrs().has("ends") && !ctx.has_input(2)) ctx.fail("expected attribute `ends` or an input");
  if (!axes_known) return ctx.set_type(0, dtype, fresh_dims(ctx, rank));
  const auto starts = dims_from(ctx, "starts", 1), ends = dims_from(ctx, "ends", 2);
  if (axes.empty()) {
    std::optional<int64_t> count;  // one start and end for each of the first axes
    if (starts) count = static_cast<int64_t>(starts->size());
    else if (ends) count = static_cast<int64_t>(ends->size());
    else if (!(count = known_length(ctx, 1))) count = known_length(ctx, 2);
    for (int64_t i = 0; i < std::min(count.value_or(rank), rank + 1); ++i) axes.push_back(i);
  }
  if (starts && starts->size() != axes.size()) ctx.fail("{} starts for {} axes", starts->size(), axes.size());
  if (ends && ends->size() != axes.size()) ctx.fail("{} ends for {} axes", ends->size(), axes.size());
  if (steps_known && !steps.empty() && steps.size() != axes.size()) ctx.fail("{} steps for {} axes", steps.size(), axes.size());

  Dims dims = ctx.type(0).dims;
  std::vector<bool> seen(static_cast<size_t>(rank));
  for (size_t i = 0; i < axes.size(); ++i) {
    const int64_t axis = ctx.axis(axes[i], rank);
    if (seen[axis]) ctx.fail("axis {} is sliced twice", axis);
    seen[axis] = true;
    const int64_t step = steps.empty() ? 1 : steps[i];
    if (step == 0) ctx.fail("the step of axis {} is 0", axis);
    std::optional<Dim> length;
    if (starts && ends && steps_known) length = slice_length(dims[axis], (*starts)[i], (*ends)[i], step);
    dims[axis] = length ? *length : ctx.fresh_symbol();
  }
  ctx.set_type(0, dtype, std::move(dims));

  if (!starts || !steps_known || !ctx.type(0).is_static() || !ctx.outputs()[0].type.is_static() || !ctx.ints(0)) return;
  const Shape shape = ctx.type(0).static_shape();
  Ints from(shape.size()), by(shape.size(), 1);
  for (size_t i = 0; i < axes.size(); ++i) {
    const int64_t axis = ctx.axis(axes[i], rank), n = shape[axis];
    if (!(*starts)[i].is_const()) return;
    const int64_t start = (*starts)[i].value();
    by[axis] = steps.empty() ? 1 : steps[i];
    if (by[axis] > n || by[axis] < -n) by[axis] = 0;  // one element at most
    from[axis] = std::clamp<int64_t>(start < -n ? 0 : start < 0 ? start + n : start, 0, std::max<int64_t>(n - 1, 0));
  }
  const Ints strides = row_major_strides(shape);
  move_ints(ctx, [&](std::span<const int64_t> index) {
    int64_t at = 0;
    for (size_t i = 0; i < index.size(); ++i) {
      const int64_t p = from[i] + index[i] * by[i];
      if (p < 0 || p >= shape[i]) return int64_t{-1};
      at += p * strides[i];
    }
    return at;
  });
}

}  // namespace

std::span<const OpDef> slice() {
  constexpr AttrKind D = AttrKind::Dims, Is = AttrKind::Ints;
  static const std::vector<OpDef> table = {
      {.name = "slice",
       .doc = "(x, starts?, ends?, axes?, steps?){starts: dims, ends: dims, axes, steps}: ONNX's Slice; attributes where known",
       .max_inputs = 5,
       .traits = kMovement,
       .attrs = {{"starts", D}, {"ends", D}, {"axes", Is}, {"steps", Is}},
       .infer = infer_slice},
  };
  return table;
}

}  // namespace tokamak::ir::ops
