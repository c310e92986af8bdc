#include "ir/ops/helpers.h"

namespace tokamak::ir::ops {

void require_rank(const InferContext& ctx, int input, std::string_view what, int64_t low, int64_t high) {
  if (!ctx.ranked(input) || (ctx.rank(input) >= low && ctx.rank(input) <= high)) return;
  if (low == high) ctx.fail("{} must have {} dimensions, found {}", what, low, to_string(ctx.type(input)));
  ctx.fail("{} must have {} to {} dimensions, found {}", what, low, high, to_string(ctx.type(input)));
}

void require_same_dtype(const InferContext& ctx, int a, int b) {
  if (ctx.has_input(a) && ctx.has_input(b) && ctx.dtype(a) != ctx.dtype(b))
    ctx.fail("inputs {} and {} differ in type: {} vs {}", a, b, to_string(ctx.dtype(a)), to_string(ctx.dtype(b)));
}

void require_float(const InferContext& ctx, int input) {
  if (!is_float(ctx.dtype(input))) ctx.fail("input {}: expected a float type, found {}", input, to_string(ctx.dtype(input)));
}

void require_integer(const InferContext& ctx, int input) {
  if (!is_integer(ctx.dtype(input))) ctx.fail("input {}: expected an integer type, found {}", input, to_string(ctx.dtype(input)));
}

void require_equal(const InferContext& ctx, const Dim& a, const Dim& b, std::string_view what) {
  if (a.is_const() && b.is_const() && a.value() != b.value()) ctx.fail("{} differs: {} vs {}", what, a.value(), b.value());
}

std::optional<Dim> scalar_int(const InferContext& ctx, int input) {
  const auto values = ctx.ints(input);
  if (!values || values->size() != 1) return std::nullopt;
  return (*values)[0];
}

std::optional<Dims> dims_from(const InferContext& ctx, std::string_view attr, int input) {
  if (ctx.attrs().has(attr)) return ctx.dims_attr(attr);
  return ctx.ints(input);
}

std::optional<int64_t> known_length(const InferContext& ctx, int input) {
  if (!ctx.has_input(input) || !ctx.ranked(input) || ctx.rank(input) != 1 || !ctx.dim(input, 0).is_const()) return std::nullopt;
  const int64_t n = ctx.dim(input, 0).value();
  if (n < 0 || n > kMaxInferredRank) ctx.fail("a shape of {} dimensions; at most {} are supported", n, kMaxInferredRank);
  return n;
}

Dims fresh_dims(InferContext& ctx, int64_t count) {
  Dims dims;
  for (int64_t i = 0; i < count; ++i) dims.push_back(ctx.fresh_symbol());
  return dims;
}

void try_set_ints(InferContext& ctx, int output, const std::function<std::optional<Dims>()>& compute) {
  try {
    auto values = compute();
    if (values && values->size() <= kMaxKnownInts) ctx.set_ints(output, std::move(*values));
  } catch (const Error&) {
    // Contents may leave 64 bits where the arithmetic wraps (limits like INT64_MAX); they are then simply not known.
  }
}

Ints row_major_strides(const Shape& shape) {
  Ints strides(shape.size(), 1);
  // Unsigned: an empty shape may have dimensions whose product wraps; nothing lies at those strides.
  for (size_t i = shape.size(); i-- > 1;)
    strides[i - 1] = static_cast<int64_t>(static_cast<uint64_t>(strides[i]) * static_cast<uint64_t>(shape[i]));
  return strides;
}

void move_ints(InferContext& ctx, const std::function<int64_t(std::span<const int64_t>)>& source) {
  const TensorType& out = ctx.outputs()[0].type;
  const auto values = ctx.ints(0);
  if (!values || !out.is_static()) return;
  try_set_ints(ctx, 0, [&]() -> std::optional<Dims> {
    const int64_t total = out.num_elements().value();
    if (total < 0 || total > static_cast<int64_t>(kMaxKnownInts)) return std::nullopt;
    const Shape shape = out.static_shape();
    Ints index(shape.size());
    Dims result;
    for (int64_t linear = 0; linear < total; ++linear) {
      const int64_t from = source(index);
      if (from < 0 || from >= static_cast<int64_t>(values->size())) return std::nullopt;
      result.push_back((*values)[from]);
      for (size_t i = shape.size(); i-- > 0;) {
        if (++index[i] < shape[i]) break;
        index[i] = 0;
      }
    }
    return result;
  });
}

void combine_ints(InferContext& ctx, const std::function<std::optional<Dim>(std::span<const Dim>)>& f) {
  const TensorType& out = ctx.outputs()[0].type;
  if (!out.is_static() || (!is_integer(out.dtype) && out.dtype != DType::Bool)) return;
  try_set_ints(ctx, 0, [&]() -> std::optional<Dims> {
    const Dim total = out.num_elements();
    if (total.value() < 0 || total.value() > static_cast<int64_t>(kMaxKnownInts)) return std::nullopt;
    const Shape shape = out.static_shape();
    std::vector<Dims> contents;
    for (int i = 0; i < ctx.num_inputs(); ++i) {
      auto values = ctx.ints(i);
      if (!values || !ctx.type(i).is_static() || ctx.rank(i) > out.rank()) return std::nullopt;
      contents.push_back(std::move(*values));
    }
    Dims result;
    std::vector<Dim> operands(contents.size());
    for (int64_t linear = 0; linear < total.value(); ++linear) {
      for (size_t i = 0; i < contents.size(); ++i) {
        const Dims& dims = ctx.type(static_cast<int>(i)).dims;
        int64_t rest = linear, offset = 0, stride = 1;
        for (int64_t axis = out.rank() - 1, own = static_cast<int64_t>(dims.size()) - 1; own >= 0; --axis, --own) {
          const int64_t index = rest % shape[axis];
          rest /= shape[axis];
          if (!dims[own].is(1)) offset += index * stride;
          stride *= dims[own].value();
        }
        if (offset >= static_cast<int64_t>(contents[i].size())) return std::nullopt;
        operands[i] = contents[i][offset];
      }
      auto value = f(operands);
      if (!value) return std::nullopt;
      result.push_back(std::move(*value));
    }
    return result;
  });
}

}  // namespace tokamak::ir::ops
