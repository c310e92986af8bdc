#pragma once
// What the infer functions of several families share. Attributes and types come from files: everything here checks and throws through
// InferContext::fail.

#include <functional>

#include "ir/op.h"

namespace tokamak::ir::ops {

inline constexpr size_t kMaxKnownInts = 64;      // longest contents that shape arithmetic follows
inline constexpr int64_t kMaxInferredRank = 64;  // a rank taken from a shape tensor's length

// Output i gets the type of an input; contents are not copied.
inline void same_type(InferContext& ctx, int input = 0, int output = 0) { ctx.set_type(output, ctx.type(input)); }

// Fails unless the input's rank is unknown or lies in [low, high].
void require_rank(const InferContext& ctx, int input, std::string_view what, int64_t low, int64_t high);
void require_same_dtype(const InferContext& ctx, int a, int b);
void require_float(const InferContext& ctx, int input);
void require_integer(const InferContext& ctx, int input);
// Fails when both are numbers and differ.
void require_equal(const InferContext& ctx, const Dim& a, const Dim& b, std::string_view what);
// The one of two dimensions that must agree which says more: the number, else `a`.
inline const Dim& agreed(const Dim& a, const Dim& b) { return a.is_const() || !b.is_const() ? a : b; }

// Contents of an integer input that is a scalar or has one element.
std::optional<Dim> scalar_int(const InferContext& ctx, int input);
// Dims from attribute `attr` when present, else from integer input `input`; nullopt when unknown.
std::optional<Dims> dims_from(const InferContext& ctx, std::string_view attr, int input);
// The length of a 1-D shape input when it is a sane number.
std::optional<int64_t> known_length(const InferContext& ctx, int input);
Dims fresh_dims(InferContext& ctx, int64_t count);

// Sets output contents when they are short enough; drops them silently when `compute` overflows or returns nothing.
void try_set_ints(InferContext& ctx, int output, const std::function<std::optional<Dims>()>& compute);

// Contents of output 0 taken from input 0, one element each, when the output is static and tiny: `source` gives the input's linear index of
// the element at an output index, or -1 when it is not known.
void move_ints(InferContext& ctx, const std::function<int64_t(std::span<const int64_t> index)>& source);
Ints row_major_strides(const Shape& shape);

// Contents of the inputs broadcast to the (static, tiny) output shape, combined element by element; f may decline.
void combine_ints(InferContext& ctx, const std::function<std::optional<Dim>(std::span<const Dim>)>& f);

}  // namespace tokamak::ir::ops
