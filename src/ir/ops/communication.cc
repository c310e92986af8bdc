// What the engines of a split model exchange (runtime/communicator.h).

#include "ir/ops/helpers.h"

namespace tokamak::ir::ops {
namespace {

void infer_all_reduce(InferContext& ctx) {
  if (!ctx.has_input(0)) ctx.fail("x is absent");
  const DType dtype = ctx.dtype(0);
  if (dtype != DType::F32 && dtype != DType::F16 && dtype != DType::BF16)
    ctx.fail("x must be f32, f16 or bf16, found {}", to_string(dtype));
  const int64_t rank = ctx.attrs().get_int("rank"), world_size = ctx.attrs().get_int("world_size");
  if (world_size < 1 || rank < 0 || rank >= world_size)
    ctx.fail("rank {} of world_size {}; expected 0 to world_size - 1", rank, world_size);
  ctx.set_type(0, ctx.type(0));
}

}  // namespace

std::span<const OpDef> communication() {
  constexpr AttrKind I = AttrKind::Int;
  static const std::vector<OpDef> table = {
      {.name = "all_reduce",
       .doc = "(x){rank, world_size}: the sum of x over all ranks, each an engine of its own; every rank comes here in the same order",
       // What it gives depends on others, and timing it alone would wait for them.
       .traits = kNondeterministic | kDataDependentWork,
       .attrs = {{"rank", I, true}, {"world_size", I, true}},
       .infer = infer_all_reduce},
  };
  return table;
}

}  // namespace tokamak::ir::ops
