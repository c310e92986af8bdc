// Operators that move whole blocks: transpose, concat, split, pad, tile, and the block rearrangements.

#include <algorithm>

#include "ir/ops/helpers.h"

namespace tokamak::ir::ops {
namespace {

void infer_transpose(InferContext& ctx) {
  Ints perm = ctx.attrs().get_ints("perm", {});
  const DType dtype = ctx.dtype(0);
  if (!ctx.ranked(0) && perm.empty()) return ctx.set_unranked(0, dtype);
  const int64_t rank = ctx.ranked(0) ? ctx.rank(0) : static_cast<int64_t>(perm.size());
  if (perm.empty())
    for (int64_t i = rank; i-- > 0;) perm.push_back(i);
  if (static_cast<int64_t>(perm.size()) != rank) ctx.fail("`perm` has {} entries for {}", perm.size(), to_string(ctx.type(0)));
  std::vector<bool> seen(perm.size());
  Dims dims;
  for (int64_t& p : perm) {
    p = ctx.axis(p, rank);
    if (seen[p]) ctx.fail("`perm` names axis {} twice", p);
    seen[p] = true;
    dims.push_back(ctx.ranked(0) ? ctx.dim(0, p) : ctx.fresh_symbol());
  }
  ctx.set_type(0, dtype, std::move(dims));
  if (!ctx.type(0).is_static()) return;
  const Ints strides = row_major_strides(ctx.type(0).static_shape());
  move_ints(ctx, [&](std::span<const int64_t> index) {
    int64_t at = 0;
    for (size_t i = 0; i < index.size(); ++i) at += index[i] * strides[perm[i]];
    return at;
  });
}

void infer_concat(InferContext& ctx) {
  const DType dtype = ctx.dtype(0);
  std::optional<int64_t> rank;
  bool all_ranked = true;
  for (int i = 0; i < ctx.num_inputs(); ++i) {
    if (!ctx.has_input(i)) ctx.fail("input {} is absent", i);
    require_same_dtype(ctx, 0, i);
    if (!ctx.ranked(i)) {
      all_ranked = false;
      continue;
    }
    if (rank && *rank != ctx.rank(i)) ctx.fail("input {} has {} dimensions, an earlier one {}", i, ctx.rank(i), *rank);
    rank = ctx.rank(i);
  }
  if (!rank) return ctx.set_unranked(0, dtype);
  if (*rank == 0) ctx.fail("scalars cannot be concatenated");
  const int64_t axis = ctx.axis(ctx.attrs().get_int("axis"), *rank);
  Dims dims(static_cast<size_t>(*rank));
  Dim sum = 0;
  bool first = true;
  for (int i = 0; i < ctx.num_inputs(); ++i) {
    if (!ctx.ranked(i)) continue;
    for (int64_t d = 0; d < *rank; ++d) {
      if (d == axis) continue;
      if (!first) require_equal(ctx, dims[d], ctx.dim(i, d), fmt::format("dimension {}", d));
      dims[d] = first ? ctx.dim(i, d) : agreed(dims[d], ctx.dim(i, d));
    }
    sum = sum + ctx.dim(i, axis);
    first = false;
  }
  dims[axis] = all_ranked ? sum : ctx.fresh_symbol();
  ctx.set_type(0, dtype, std::move(dims));
  if (*rank != 1 || !all_ranked) return;
  Dims contents;
  for (int i = 0; i < ctx.num_inputs(); ++i) {
    const auto values = ctx.ints(i);
    if (!values || contents.size() + values->size() > kMaxKnownInts) return;
    contents.insert(contents.end(), values->begin(), values->end());
  }
  if (sum.is(static_cast<int64_t>(contents.size()))) ctx.set_ints(0, std::move(contents));
}

void infer_split(InferContext& ctx) {
  const int n = ctx.num_outputs();
  const DType dtype = ctx.dtype(0);
  std::optional<Dims> sizes = dims_from(ctx, "sizes", 1);
  if (!ctx.ranked(0)) {
    for (int i = 0; i < n; ++i) ctx.set_unranked(i, dtype);
    return;
  }
  const int64_t axis = ctx.axis(ctx.attrs().get_int("axis", 0), ctx.rank(0));
  const Dim& whole = ctx.dim(0, axis);
  if (sizes) {
    if (static_cast<int>(sizes->size()) != n) ctx.fail("{} sizes for {} outputs", sizes->size(), n);
    Dim sum = 0;
    for (const Dim& d : *sizes) {
      if (d.is_const() && d.value() < 0) ctx.fail("size {} is negative", d.value());
      sum = sum + d;
    }
    require_equal(ctx, sum, whole, fmt::format("the sum of sizes and dimension {}", axis));
  } else if (ctx.has_input(1)) {
    sizes = fresh_dims(ctx, n);
  } else {  // equal parts, the last takes what is left
    const Dim part = Dim::ceildiv(whole, n);
    sizes.emplace(static_cast<size_t>(n), part);
    if (!(part * Dim(n) == whole)) {
      sizes->back() = whole - part * Dim(n - 1);
      if (sizes->back().is_const() && sizes->back().value() < 0)
        ctx.fail("dimension {} of {} does not split into {} parts", axis, to_string(ctx.type(0)), n);
    }
  }
  const auto values = ctx.rank(0) == 1 ? ctx.ints(0) : std::nullopt;
  size_t start = 0;
  bool known = values.has_value();
  for (int i = 0; i < n; ++i) {
    const Dim& size = (*sizes)[i];
    Dims dims = ctx.type(0).dims;
    dims[axis] = size;
    ctx.set_type(i, dtype, std::move(dims));
    known = known && size.is_const() && start + static_cast<size_t>(size.value()) <= values->size();
    if (!known) continue;
    ctx.set_ints(i, Dims(values->begin() + start, values->begin() + start + size.value()));
    start += size.value();
  }
}

void infer_pad(InferContext& ctx) {
  const DType dtype = ctx.dtype(0);
  const std::string mode = ctx.attrs().get_string("mode", "constant");
  if (mode != "constant" && mode != "reflect" && mode != "edge" && mode != "wrap") ctx.fail("unknown mode \"{}\"", mode);
  require_same_dtype(ctx, 0, 2);
  if (!ctx.ranked(0)) return ctx.set_unranked(0, dtype);
  const int64_t rank = ctx.rank(0);
  std::optional<Dims> pads;
  if (ctx.attrs().has("pads")) {
    const Ints ints = ctx.attrs().get_ints("pads");
    pads = Dims(ints.begin(), ints.end());
  } else if (ctx.has_input(1)) {
    pads = ctx.ints(1);
  } else {
    ctx.fail("expected attribute `pads` or a second input");
  }
  Ints axes = ctx.attrs().get_ints("axes", {});
  if (!ctx.attrs().has("axes"))
    for (int64_t i = 0; i < rank; ++i) axes.push_back(i);
  Dims dims = ctx.type(0).dims;
  if (!pads) {
    for (int64_t a : axes) dims[ctx.axis(a, rank)] = ctx.fresh_symbol();
    return ctx.set_type(0, dtype, std::move(dims));
  }
  if (pads->size() != 2 * axes.size()) ctx.fail("expected {} pads (begins, then ends), found {}", 2 * axes.size(), pads->size());
  for (size_t i = 0; i < axes.size(); ++i) {
    Dim& d = dims[ctx.axis(axes[i], rank)];
    d = d + (*pads)[i] + (*pads)[axes.size() + i];
    if (d.is_const() && d.value() < 0) ctx.fail("dimension {} of {} becomes negative: {}", axes[i], to_string(ctx.type(0)), d.value());
  }
  ctx.set_type(0, dtype, std::move(dims));
}

void infer_tile(InferContext& ctx) {
  const DType dtype = ctx.dtype(0);
  const auto repeats = ctx.ints(1);
  if (!ctx.ranked(0)) return ctx.set_unranked(0, dtype);
  if (!repeats) {
    const Dim* length = ctx.ranked(1) && ctx.rank(1) == 1 ? &ctx.dim(1, 0) : nullptr;
    if (length) require_equal(ctx, *length, ctx.rank(0), "the number of repeats and dimensions");
    return ctx.set_type(0, dtype, fresh_dims(ctx, ctx.rank(0)));
  }
  if (static_cast<int64_t>(repeats->size()) != ctx.rank(0)) ctx.fail("{} repeats for {}", repeats->size(), to_string(ctx.type(0)));
  Dims dims = ctx.type(0).dims;
  for (size_t i = 0; i < dims.size(); ++i) {
    const Dim& r = (*repeats)[i];
    if (r.is_const() && r.value() < 0) ctx.fail("repeat {} is negative", r.value());
    dims[i] = dims[i] * r;
  }
  ctx.set_type(0, dtype, std::move(dims));
  const auto values = ctx.ints(0);
  if (values && ctx.rank(0) == 1 && (*repeats)[0].is_const() && !values->empty()) {
    const int64_t times = (*repeats)[0].value();
    if (times > static_cast<int64_t>(kMaxKnownInts / values->size())) return;
    Dims contents;
    for (int64_t i = 0; i < times; ++i) contents.insert(contents.end(), values->begin(), values->end());
    ctx.set_ints(0, std::move(contents));
  }
}

int64_t checked_blocksize(const InferContext& ctx) {
  const int64_t block = ctx.attrs().get_int("blocksize");
  if (block < 1 || block > (1 << 20)) ctx.fail("blocksize {} is not sensible", block);
  return block;
}

Dim exact(const InferContext& ctx, const Dim& d, int64_t by, std::string_view what) {
  if (d.is_const() && d.value() % by != 0) ctx.fail("{} {} does not divide by {}", what, d.value(), by);
  return Dim::floordiv(d, by);
}

void infer_depth_to_space(InferContext& ctx) {
  const int64_t block = checked_blocksize(ctx);
  require_rank(ctx, 0, "x", 4, 4);
  if (!ctx.ranked(0)) return ctx.set_type(0, ctx.dtype(0), fresh_dims(ctx, 4));
  ctx.set_type(0, ctx.dtype(0),
               {ctx.dim(0, 0), exact(ctx, ctx.dim(0, 1), block * block, "the number of channels"), ctx.dim(0, 2) * Dim(block),
                ctx.dim(0, 3) * Dim(block)});
}

void infer_space_to_depth(InferContext& ctx) {
  const int64_t block = checked_blocksize(ctx);
  require_rank(ctx, 0, "x", 4, 4);
  if (!ctx.ranked(0)) return ctx.set_type(0, ctx.dtype(0), fresh_dims(ctx, 4));
  ctx.set_type(0, ctx.dtype(0),
               {ctx.dim(0, 0), ctx.dim(0, 1) * Dim(block * block), exact(ctx, ctx.dim(0, 2), block, "the height"),
                exact(ctx, ctx.dim(0, 3), block, "the width")});
}

void infer_trilu(InferContext& ctx) {
  require_rank(ctx, 0, "x", 2, kMaxInferredRank);
  same_type(ctx);
}

void infer_reverse_sequence(InferContext& ctx) {
  require_rank(ctx, 0, "x", 2, kMaxInferredRank);
  require_rank(ctx, 1, "lens", 1, 1);
  for (const char* name : {"batch_axis", "time_axis"}) {
    const int64_t axis = ctx.attrs().get_int(name, name[0] == 'b');
    if (ctx.ranked(0)) ctx.axis(axis, ctx.rank(0));
  }
  same_type(ctx);
}

}  // namespace

std::span<const OpDef> movement() {
  constexpr AttrKind I = AttrKind::Int, Is = AttrKind::Ints;
  static const std::vector<OpDef> table = {
      {.name = "transpose",
       .doc = "(x){perm}: output axis i is x's axis perm[i]; reversed by default",
       .traits = kMovement,
       .attrs = {{"perm", Is}},
       .infer = infer_transpose},
      {.name = "concat",
       .doc = "(x...){axis}: the inputs one after the other along an axis",
       .max_inputs = -1,
       .traits = kMovement,
       .attrs = {{"axis", I, true}},
       .infer = infer_concat},
      {.name = "split",
       .doc = "(x, sizes?){axis=0, sizes: dims}: consecutive parts along an axis; equal ones without sizes",
       .max_inputs = 2,
       .max_outputs = -1,
       .traits = kMovement,
       .attrs = {{"axis", I}, {"sizes", AttrKind::Dims}},
       .infer = infer_split},
      {.name = "pad",
       .doc = "(x, pads?, value?){pads, mode=\"constant\", value=0.0, axes}: begins then ends of the axes; negative pads cut",
       .max_inputs = 3,
       .traits = kMovement,
       .attrs = {{"pads", Is}, {"mode", AttrKind::String}, {"value", AttrKind::Float}, {"axes", Is}},
       .infer = infer_pad},
      {.name = "tile",
       .doc = "(x, repeats): x repeated along each axis",
       .min_inputs = 2,
       .max_inputs = 2,
       .traits = kMovement,
       .infer = infer_tile},
      {.name = "depth_to_space",
       .doc = "(x){blocksize, mode=\"DCR\"|\"CRD\"}: channels into blocks of pixels, NCHW",
       .traits = kMovement,
       .attrs = {{"blocksize", I, true}, {"mode", AttrKind::String}},
       .infer = infer_depth_to_space},
      {.name = "space_to_depth",
       .doc = "(x){blocksize}: blocks of pixels into channels, NCHW",
       .traits = kMovement,
       .attrs = {{"blocksize", I, true}},
       .infer = infer_space_to_depth},
      {.name = "trilu",
       .doc = "(x, k?){upper=1}: the upper or lower triangle of the last two axes, other elements 0",
       .max_inputs = 2,
       .traits = kMovement,
       .attrs = {{"upper", I}},
       .infer = infer_trilu},
      {.name = "reverse_sequence",
       .doc = "(x, lens){batch_axis=1, time_axis=0}: reverses the first lens[b] steps of each sequence",
       .min_inputs = 2,
       .max_inputs = 2,
       .traits = kMovement,
       .attrs = {{"batch_axis", I}, {"time_axis", I}},
       .infer = infer_reverse_sequence},
  };
  return table;
}

}  // namespace tokamak::ir::ops
