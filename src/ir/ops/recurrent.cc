// LSTM, GRU and plain recurrent layers with ONNX's shapes: x [seq, batch, input] (layout 1: [batch, seq, input]), w [dirs, gates*hidden,
// input], r [dirs, gates*hidden, hidden]; y [seq, dirs, batch, hidden] (layout 1: [batch, seq, dirs, hidden]), last states [dirs, batch,
// hidden] (layout 1: [batch, dirs, hidden]).

#include "ir/ops/helpers.h"

namespace tokamak::ir::ops {
namespace {

void infer_recurrent(InferContext& ctx, int64_t gates) {
  require_float(ctx, 0);
  require_rank(ctx, 0, "x", 3, 3);
  require_rank(ctx, 1, "w", 3, 3);
  require_rank(ctx, 2, "r", 3, 3);
  const std::string direction = ctx.attrs().get_string("direction", "forward");
  if (direction != "forward" && direction != "reverse" && direction != "bidirectional") ctx.fail("unknown direction \"{}\"", direction);
  const Dim directions = direction == "bidirectional" ? 2 : 1;
  const bool batch_first = ctx.attrs().get_bool("layout", false);
  Dim hidden;
  if (ctx.attrs().has("hidden_size")) {
    hidden = ctx.attrs().get_int("hidden_size");
    if (hidden.value() < 1) ctx.fail("hidden_size must be positive, found {}", hidden.value());
  } else {
    hidden = ctx.ranked(2) ? ctx.dim(2, 2) : ctx.fresh_symbol();
  }
  if (ctx.ranked(1)) {
    require_equal(ctx, ctx.dim(1, 0), directions, "the number of directions of w");
    require_equal(ctx, ctx.dim(1, 1), hidden * Dim(gates), "the number of rows of w");
    if (ctx.ranked(0)) require_equal(ctx, ctx.dim(1, 2), ctx.dim(0, 2), "the input size of w and x");
  }
  if (ctx.ranked(2)) {
    require_equal(ctx, ctx.dim(2, 0), directions, "the number of directions of r");
    require_equal(ctx, ctx.dim(2, 1), hidden * Dim(gates), "the number of rows of r");
    require_equal(ctx, ctx.dim(2, 2), hidden, "the hidden size of r");
  }
  const Dim steps = ctx.ranked(0) ? ctx.dim(0, batch_first ? 1 : 0) : ctx.fresh_symbol();
  const Dim batch = ctx.ranked(0) ? ctx.dim(0, batch_first ? 0 : 1) : ctx.fresh_symbol();
  const DType dtype = ctx.dtype(0);
  ctx.set_type(0, dtype, batch_first ? Dims{batch, steps, directions, hidden} : Dims{steps, directions, batch, hidden});
  for (int i = 1; i < ctx.num_outputs(); ++i)
    ctx.set_type(i, dtype, batch_first ? Dims{batch, directions, hidden} : Dims{directions, batch, hidden});
}

std::vector<AttrSpec> recurrent_attrs(std::vector<AttrSpec> more) {
  std::vector<AttrSpec> attrs = {{"hidden_size", AttrKind::Int},
                                 {"direction", AttrKind::String},
                                 {"activations", AttrKind::Strings},
                                 {"activation_alpha", AttrKind::Floats},
                                 {"activation_beta", AttrKind::Floats},
                                 {"clip", AttrKind::Float},
                                 {"layout", AttrKind::Int}};
  attrs.insert(attrs.end(), more.begin(), more.end());
  return attrs;
}

}  // namespace

std::span<const OpDef> recurrent() {
  static const std::vector<OpDef> table = {
      {.name = "lstm",
       .doc = "(x, w, r, b?, seq_lens?, h0?, c0?, p?){hidden_size, direction, activations, clip, input_forget, layout=0, ...}: outputs y, "
              "y_h?, y_c?",
       .min_inputs = 3,
       .max_inputs = 8,
       .max_outputs = 3,
       .attrs = recurrent_attrs({{"input_forget", AttrKind::Int}}),
       .infer = [](InferContext& ctx) { infer_recurrent(ctx, 4); }},
      {.name = "gru",
       .doc = "(x, w, r, b?, seq_lens?, h0?){hidden_size, direction, activations, clip, linear_before_reset=0, layout=0, ...}: outputs y, "
              "y_h?",
       .min_inputs = 3,
       .max_inputs = 6,
       .max_outputs = 2,
       .attrs = recurrent_attrs({{"linear_before_reset", AttrKind::Int}}),
       .infer = [](InferContext& ctx) { infer_recurrent(ctx, 3); }},
      {.name = "rnn",
       .doc = "(x, w, r, b?, seq_lens?, h0?){hidden_size, direction, activations, clip, layout=0, ...}: outputs y, y_h?",
       .min_inputs = 3,
       .max_inputs = 6,
       .max_outputs = 2,
       .attrs = recurrent_attrs({}),
       .infer = [](InferContext& ctx) { infer_recurrent(ctx, 1); }},
  };
  return table;
}

}  // namespace tokamak::ir::ops
