// Matrix products.

#include <cmath>

#include "ir/ops/helpers.h"

namespace tokamak::ir::ops {
namespace {

// NumPy's matmul: 1-D operands act as a row (a) or a column (b) that leaves no dimension; leading dimensions broadcast.
void infer_product(InferContext& ctx, DType dtype) {
  require_rank(ctx, 0, "a", 1, kMaxInferredRank);
  require_rank(ctx, 1, "b", 1, kMaxInferredRank);
  if (!ctx.ranked(0) || !ctx.ranked(1)) return ctx.set_unranked(0, dtype);
  const bool row = ctx.rank(0) == 1, column = ctx.rank(1) == 1;
  const bool trans_a = !row && ctx.attrs().get_bool("trans_a", false), trans_b = !column && ctx.attrs().get_bool("trans_b", false);
  const Dim& ka = ctx.dim(0, trans_a ? -2 : -1);
  const Dim& kb = ctx.dim(1, column || trans_b ? -1 : -2);
  require_equal(ctx, ka, kb, "k");
  const Dims& a = ctx.type(0).dims;
  const Dims& b = ctx.type(1).dims;
  Dims out = ctx.broadcast(Dims(a.begin(), a.end() - (row ? 1 : 2)), Dims(b.begin(), b.end() - (column ? 1 : 2)));
  if (!row) out.push_back(ctx.dim(0, trans_a ? -1 : -2));
  if (!column) out.push_back(ctx.dim(1, trans_b ? -2 : -1));
  ctx.set_type(0, dtype, std::move(out));
}

// The output's type: a's, or what attribute `out_dtype` says (logits in f32 of 16-bit activations).
DType product_dtype(InferContext& ctx) {
  const DType a = ctx.dtype(0), out = ctx.attrs().get_dtype("out_dtype", a);
  if (out != a && (!is_float(a) || !is_float(out)))
    ctx.fail("out_dtype is {} for a of {}, both need to be float types or the same", to_string(out), to_string(a));
  return out;
}

void infer_matmul(InferContext& ctx) {
  if (!is_float(ctx.dtype(0)) || !is_float(ctx.dtype(1))) require_same_dtype(ctx, 0, 1);
  infer_product(ctx, product_dtype(ctx));
}

void infer_matmul_integer(InferContext& ctx) {
  require_integer(ctx, 0);
  require_integer(ctx, 1);
  infer_product(ctx, DType::I32);
}

void infer_quantized_matmul(InferContext& ctx) {
  const auto is_activation = [](DType d) { return d == DType::F32 || d == DType::F16 || d == DType::BF16; };
  if (!is_activation(ctx.dtype(0))) ctx.fail("a is {}, needs f32, f16 or bf16", to_string(ctx.dtype(0)));
  if (ctx.dtype(1) != DType::I8 && ctx.dtype(1) != DType::I4 && ctx.dtype(1) != DType::F8E4M3FN)
    ctx.fail("b is {}, needs i8, i4 or f8e4m3fn", to_string(ctx.dtype(1)));
  if (!is_activation(ctx.dtype(2))) ctx.fail("scale is {}, needs f32, f16 or bf16", to_string(ctx.dtype(2)));
  const DType out_dtype = product_dtype(ctx);
  const int64_t group_size = ctx.attrs().get_int("group_size");
  if (group_size < 1) ctx.fail("group_size is {}, needs 1 or more", group_size);
  if (const std::string activation = ctx.attrs().get_string("activation", ""); !activation.empty() && activation != "f8e4m3fn")
    ctx.fail("activation is \"{}\", needs \"f8e4m3fn\" or nothing", activation);
  const int64_t first_extra = ctx.attrs().get_int("epilogue_input", 0);
  if (ctx.attrs().has("epilogue") && (first_extra < 3 || first_extra > ctx.num_inputs()))
    ctx.fail("epilogue_input is {}, needs 3 to {}", first_extra, ctx.num_inputs());
  require_rank(ctx, 0, "a", 1, kMaxInferredRank);
  require_rank(ctx, 1, "b", 2, 2);
  require_rank(ctx, 2, "scale", 2, 2);
  if (!ctx.ranked(0) || !ctx.ranked(1)) return ctx.set_unranked(0, out_dtype);
  const Dim& k = ctx.dim(1, 1);
  require_equal(ctx, ctx.dim(0, -1), k, "k");
  if (ctx.ranked(2)) {
    require_equal(ctx, ctx.dim(2, 0), ctx.dim(1, 0), "the rows of scale and b");
    const int64_t groups = !k.is_const() || k.value() == 0 ? 0 : (k.value() - 1) / group_size + 1;
    if (k.is_const() && ctx.dim(2, 1).is_const() && !ctx.dim(2, 1).is(groups))
      ctx.fail("scale {} does not fit k {} in groups of {}", to_string(ctx.type(2)), k.value(), group_size);
  }
  Dims out(ctx.type(0).dims);
  out.back() = ctx.dim(1, 0);
  ctx.set_type(0, out_dtype, std::move(out));
}

// What a linear layer of a language model is, with the norm before it and the gate behind it.
void infer_linear(InferContext& ctx) {
  const auto is_activation = [](DType d) { return d == DType::F32 || d == DType::F16 || d == DType::BF16; };
  const auto require_activation = [&](int input, const char* what) {
    if (!is_activation(ctx.dtype(input))) ctx.fail("{} is {}, needs f32, f16 or bf16", what, to_string(ctx.dtype(input)));
  };
  require_activation(0, "x");
  const DType w = ctx.dtype(1), out_dtype = product_dtype(ctx);
  const bool quantized = ctx.has_input(2);
  if (quantized && w != DType::I8 && w != DType::I4 && w != DType::F8E4M3FN)
    ctx.fail("w is {} and has scales, needs i8, i4 or f8e4m3fn", to_string(w));
  if (!quantized) require_activation(1, "w without scales");
  const int64_t group_size = ctx.attrs().get_int("group_size", 0);
  if (quantized != (group_size > 0)) ctx.fail("group_size is {}, needs 1 or more with scales and to be absent without", group_size);
  const std::string gate = ctx.attrs().get_string("gate", ""), activation = ctx.attrs().get_string("activation", "");
  if (!gate.empty() && gate != "silu" && gate != "gelu" && gate != "gelu_tanh")
    ctx.fail("gate is \"{}\", needs silu, gelu or gelu_tanh", gate);
  if (!activation.empty() && activation != "f8e4m3fn") ctx.fail("activation is \"{}\", needs f8e4m3fn", activation);
  if (const double x_scale = ctx.attrs().get_float("x_scale", 1);
      !(x_scale >= 0x1p-100 && x_scale <= 0x1p100) || std::exp2(std::round(std::log2(x_scale))) != x_scale)
    ctx.fail("x_scale is {}, needs a power of two of ordinary size", x_scale);
  const int64_t first_extra = ctx.attrs().get_int("epilogue_input", 0);
  if (ctx.attrs().has("epilogue") && (first_extra < 4 || first_extra > std::max(ctx.num_inputs(), 4)))
    ctx.fail("epilogue_input is {}, needs 4 to {}", first_extra, std::max(ctx.num_inputs(), 4));
  require_rank(ctx, 0, "x", 1, kMaxInferredRank);
  require_rank(ctx, 1, "w", 2, 2);
  if (quantized) require_activation(2, "scale"), require_rank(ctx, 2, "scale", 2, 2);
  if (ctx.has_input(3)) require_activation(3, "the norm's weight"), require_rank(ctx, 3, "the norm's weight", 1, 1);
  if (!ctx.ranked(0) || !ctx.ranked(1)) return ctx.set_unranked(0, out_dtype);
  const Dim &k = ctx.dim(1, 1), &rows = ctx.dim(1, 0);
  require_equal(ctx, ctx.dim(0, -1), k, "k");
  if (ctx.has_input(3) && ctx.ranked(3)) require_equal(ctx, ctx.dim(3, 0), k, "the length of the norm's weight and k");
  if (quantized && ctx.ranked(2)) {
    require_equal(ctx, ctx.dim(2, 0), rows, "the rows of scale and w");
    const int64_t groups = !k.is_const() || k.value() == 0 ? 0 : (k.value() - 1) / group_size + 1;
    if (k.is_const() && ctx.dim(2, 1).is_const() && !ctx.dim(2, 1).is(groups))
      ctx.fail("scale {} does not fit k {} in groups of {}", to_string(ctx.type(2)), k.value(), group_size);
  }
  Dims out(ctx.type(0).dims);
  if (gate.empty()) {
    out.back() = rows;
  } else {
    if (!rows.is_const() || rows.value() % 16 != 0) ctx.fail("w {} has a gate, needs a multiple of 16 rows", to_string(ctx.type(1)));
    out.back() = rows.value() / 2;
  }
  ctx.set_type(0, out_dtype, std::move(out));
}

}  // namespace

std::span<const OpDef> matmul() {
  constexpr AttrKind I = AttrKind::Int;
  static const std::vector<OpDef> table = {
      {.name = "matmul",
       .doc =
           "(a, b, extra...){trans_a=0, trans_b=0, alpha=1.0, out_dtype, epilogue, epilogue_input}: NumPy matrix product, in a's dtype or "
           "out_dtype",
       .min_inputs = 2,
       .max_inputs = -1,
       .attrs = {{"trans_a", I},
                 {"trans_b", I},
                 {"alpha", AttrKind::Float},
                 {"out_dtype", AttrKind::DType},
                 {"epilogue", AttrKind::String},
                 {"epilogue_input", I}},
       .infer = infer_matmul},
      {.name = "matmul_integer",
       .doc = "(a, b, a_zero?, b_zero?): i32 product of 8-bit matrices after subtracting their zero points",
       .min_inputs = 2,
       .max_inputs = 4,
       .infer = infer_matmul_integer},
      {.name = "quantized_matmul",
       .doc = "(a, b, scale, extra...){group_size, activation, out_dtype, epilogue, epilogue_input}: a @ (b * scale)^T for i8, i4 or "
              "f8e4m3fn weights b [N, K] with a scale [N, ceil(K / group_size)] a group of K, in a's dtype or out_dtype; kernels may round "
              "a to 8 bits, by row or by group: on a CPU to integers, on a GPU to fp8 where activation is \"f8e4m3fn\"",
       .min_inputs = 3,
       .max_inputs = -1,
       .attrs = {{"group_size", I, true},
                 {"activation", AttrKind::String},
                 {"out_dtype", AttrKind::DType},
                 {"epilogue", AttrKind::String},
                 {"epilogue_input", I}},
       .infer = infer_quantized_matmul},
      {.name = "linear",
       .doc = "(x, w, scale?, norm?, extra...){group_size, epsilon, gate=\"\", activation=\"\", x_scale, out_dtype, epilogue, "
              "epilogue_input}: "
              "rms_norm(x, norm) @ (w * scale)^T for w [R, K]; with a gate of silu, gelu or gelu_tanh w's rows are 8 of the gate and 8 of "
              "up in turn, and the result has R/2 columns gate(p_gate) * p_up; kernels for many rows may round x to 8 bits with "
              "activation=\"f8e4m3fn\"; x / x_scale, a power of two, is known to be within f16's range",
       .min_inputs = 2,
       .max_inputs = -1,
       .attrs = {{"group_size", I},
                 {"epsilon", AttrKind::Float},
                 {"x_scale", AttrKind::Float},
                 {"gate", AttrKind::String},
                 {"activation", AttrKind::String},
                 {"out_dtype", AttrKind::DType},
                 {"epilogue", AttrKind::String},
                 {"epilogue_input", I}},
       .infer = infer_linear},
  };
  return table;
}

}  // namespace tokamak::ir::ops
