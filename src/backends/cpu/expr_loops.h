#pragma once
// Bodies of ExprIsa's functions for one instruction set; included by expr_program_avx512.cc and expr_program_avx2.cc only.

#include "backends/cpu/expr_isa.h"
#include "backends/cpu/simd_math.h"

namespace tokamak::cpu {
namespace {

inline F truth(M m) { return select(m, set1(1), zero()); }
inline M is_true(F a) { return ne(a, zero()); }

// Each function is a struct so that a table can name it even where C++ keeps the word (`not`, `and`).
#define UNARY_BODY(name, expression)                        \
  struct Do_##name {                                        \
    static inline F apply(F x, F, F) { return expression; } \
  };
#define BINARY_BODY(name, expression)                         \
  struct Do_##name {                                          \
    static inline F apply(F x, F y, F) { return expression; } \
  };
#define TERNARY_BODY(name, expression)                          \
  struct Do_##name {                                            \
    static inline F apply(F x, F y, F z) { return expression; } \
  };

UNARY_BODY(abs, abs(x))
UNARY_BODY(neg, neg(x))
UNARY_BODY(exp, exp(x))
UNARY_BODY(log, log(x))
UNARY_BODY(log1p, log1p(x))
UNARY_BODY(expm1, expm1(x))
UNARY_BODY(sqrt, sqrt(x))
UNARY_BODY(rsqrt, set1(1) / sqrt(x))
UNARY_BODY(reciprocal, set1(1) / x)
UNARY_BODY(sin, sin(x))
UNARY_BODY(cos, cos(x))
UNARY_BODY(tan, by_lane(__builtin_tanf, x))
UNARY_BODY(asin, by_lane(__builtin_asinf, x))
UNARY_BODY(acos, by_lane(__builtin_acosf, x))
UNARY_BODY(atan, by_lane(__builtin_atanf, x))
UNARY_BODY(sinh, by_lane(__builtin_sinhf, x))
UNARY_BODY(cosh, by_lane(__builtin_coshf, x))
UNARY_BODY(tanh, tanh(x))
UNARY_BODY(asinh, by_lane(__builtin_asinhf, x))
UNARY_BODY(acosh, by_lane(__builtin_acoshf, x))
UNARY_BODY(atanh, by_lane(__builtin_atanhf, x))
UNARY_BODY(erf, erf(x))
UNARY_BODY(sigmoid, sigmoid(x))
UNARY_BODY(relu, max_second(zero(), x))
UNARY_BODY(gelu, gelu(x))
UNARY_BODY(gelu_tanh, gelu_tanh(x))
UNARY_BODY(silu, silu(x))
UNARY_BODY(softplus, softplus(x))
UNARY_BODY(softsign, x / (set1(1) + abs(x)))
UNARY_BODY(sign, select(lt(zero(), x), set1(1), select(lt(x, zero()), set1(-1), x)))
UNARY_BODY(ceil, ceil(x))
UNARY_BODY(floor, floor(x))
UNARY_BODY(round, round(x))
UNARY_BODY(not, truth(eq(x, zero())))
UNARY_BODY(isnan, truth(is_nan(x)))
UNARY_BODY(isinf, truth(eq(abs(x), set1(__builtin_inff()))))
UNARY_BODY(hard_swish, x* min_second(set1(1), max_second(zero(), fma(x, set1(1.0f / 6), set1(0.5f)))))
UNARY_BODY(mish, x* tanh(softplus(x)))
UNARY_BODY(Copy, x)
UNARY_BODY(Cube, x* x* x)
BINARY_BODY(leaky_relu, select(lt(x, zero()), x* y, x))
BINARY_BODY(elu, select(lt(x, zero()), y* expm1(x), x))
BINARY_BODY(celu, max_second(zero(), x) + min_second(zero(), y* expm1(x / y)))
BINARY_BODY(thresholded_relu, select(lt(y, x), x, zero()))
BINARY_BODY(add, x + y)
BINARY_BODY(sub, x - y)
BINARY_BODY(mul, x* y)
BINARY_BODY(div, x / y)
BINARY_BODY(pow, by_lane(__builtin_powf, x, y))
BINARY_BODY(mod, by_lane(__builtin_fmodf, x, y))
BINARY_BODY(min, min(x, y))
BINARY_BODY(max, max(x, y))
BINARY_BODY(equal, truth(eq(x, y)))
BINARY_BODY(less, truth(lt(x, y)))
BINARY_BODY(less_equal, truth(le(x, y)))
BINARY_BODY(greater, truth(lt(y, x)))
BINARY_BODY(greater_equal, truth(le(y, x)))
BINARY_BODY(and, truth(is_true(x) & is_true(y)))
BINARY_BODY(or, truth(is_true(x) | is_true(y)))
BINARY_BODY(xor, truth(is_true(x) ^ is_true(y)))
BINARY_BODY(prelu, select(lt(x, zero()), x* y, x))
TERNARY_BODY(selu, z* select(le(x, zero()), y* expm1(x), x))
TERNARY_BODY(hard_sigmoid, min_second(set1(1), max_second(zero(), fma(x, y, z))))
TERNARY_BODY(shrink, select(lt(x, neg(z)), x + y, select(lt(z, x), x - y, select(is_nan(x), x, zero()))))
TERNARY_BODY(where, select(is_true(x), y, z))
TERNARY_BODY(clip, min_second(z, max_second(y, x)))
TERNARY_BODY(Fma, fma(x, y, z))

template <class Op, int kArity>
void strip(float* d, const StripOperand* operands, int64_t n) {
  const float* a = operands[0].data;
  const float* b = kArity > 1 ? operands[1].data : a;
  const float* c = kArity > 2 ? operands[2].data : a;
  const int64_t step_a = operands[0].uniform ? 0 : kLanes;
  const int64_t step_b = kArity > 1 && !operands[1].uniform ? kLanes : 0;
  const int64_t step_c = kArity > 2 && !operands[2].uniform ? kLanes : 0;
  for (; n >= kLanes; n -= kLanes) {
    store(d, Op::apply(load(a), kArity > 1 ? load(b) : zero(), kArity > 2 ? load(c) : zero()));
    d += kLanes, a += step_a, b += step_b, c += step_c;
  }
  if (n > 0) store_n(d, Op::apply(load_n(a, n), kArity > 1 ? load_n(b, n) : zero(), kArity > 2 ? load_n(c, n) : zero()), n);
}

struct Sum {
  static F first() { return zero(); }
  static F apply(F a, F b) { return a + b; }
  static float across(F a) { return sum(a); }
};
struct Largest {
  static F first() { return set1(-__builtin_inff()); }
  static F apply(F a, F b) { return max_second(a, b); }
  static float across(F a) { return largest(a); }
};
struct Smallest {
  static F first() { return set1(__builtin_inff()); }
  static F apply(F a, F b) { return min_second(a, b); }
  static float across(F a) { return smallest(a); }
};

// Four running values hide the latency of the adds and halve the rounding error of a single chain.
template <class Op, bool kMean = false>
void reduce(float* d, const StripOperand* operands, int64_t n) {
  const float* const a = operands[0].data;
  float result;
  if (operands[0].uniform) {
    result = operands[0].data[0];
    if (__is_same(Op, Sum) && !kMean) result *= static_cast<float>(n);
  } else {
    F r0 = Op::first(), r1 = r0, r2 = r0, r3 = r0;
    int64_t i = 0;
    for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
      r0 = Op::apply(r0, load(a + i)), r1 = Op::apply(r1, load(a + i + kLanes));
      r2 = Op::apply(r2, load(a + i + 2 * kLanes)), r3 = Op::apply(r3, load(a + i + 3 * kLanes));
    }
    for (; i + kLanes <= n; i += kLanes) r0 = Op::apply(r0, load(a + i));
    if (i < n) r1 = Op::apply(r1, keep_first(load_n(a + i, n - i), n - i, Op::first()));
    result = Op::across(Op::apply(Op::apply(r0, r1), Op::apply(r2, r3)));
    if (kMean) result /= static_cast<float>(n);
  }
  for (int i = 0; i < 16; ++i) d[i] = result;
}

using Do_row_sum = Sum;
using Do_row_max = Largest;
using Do_row_min = Smallest;
struct Do_row_mean {};
template <class Op>
struct Reducer {
  static constexpr StripFunction function = reduce<Op>;
};
template <>
struct Reducer<Do_row_mean> {
  static constexpr StripFunction function = reduce<Sum, true>;
};

template <class T, F (*kLoad)(const T*)>
void load_as(float* d, const void* data, int64_t n) {
  const T* s = static_cast<const T*>(data);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(d + i, kLoad(s + i));
  if (i < n) {
    T rest[kLanes] = {};
    for (int64_t j = i; j < n; ++j) rest[j - i] = s[j];
    store_n(d + i, kLoad(rest), n - i);
  }
}

void load_strip(float* d, const void* data, DType dtype, int64_t n) {
  switch (dtype) {
    case DType::F32: __builtin_memcpy(d, data, n * sizeof(float)); return;
    case DType::F16: return load_as<uint16_t, load_half>(d, data, n);
    case DType::BF16: return load_as<uint16_t, load_bfloat16>(d, data, n);
    case DType::Bool:
    case DType::U8: return load_as<uint8_t, load_u8>(d, data, n);
    case DType::I8: return load_as<int8_t, load_i8>(d, data, n);
    case DType::I32: return load_as<int32_t, load_i32>(d, data, n);
    case DType::I64: return load_as<int64_t, load_i64>(d, data, n);
    default: return;
  }
}

template <class T, void (*kStore)(T*, F)>
void store_as(void* data, const float* s, int64_t n) {
  T* d = static_cast<T*>(data);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) kStore(d + i, load(s + i));
  if (i < n) {
    T rest[kLanes];
    kStore(rest, load_n(s + i, n - i));
    for (int64_t j = i; j < n; ++j) d[j] = rest[j - i];
  }
}

void store_strip(void* data, DType dtype, const float* s, int64_t n) {
  switch (dtype) {
    case DType::F32: __builtin_memcpy(data, s, n * sizeof(float)); return;
    case DType::F16: return store_as<uint16_t, store_half>(data, s, n);
    case DType::BF16: return store_as<uint16_t, store_bfloat16>(data, s, n);
    case DType::Bool: return store_as<uint8_t, store_bool>(data, s, n);
    default: return;
  }
}

constexpr ExprIsa kIsa = {{
#define UNARY(name) strip<Do_##name, 1>,
#define BINARY(name) strip<Do_##name, 2>,
#define TERNARY(name) strip<Do_##name, 3>,
#define REDUCTION(name) Reducer<Do_##name>::function,
#include "backends/cpu/expr_functions.inc"
#undef UNARY
#undef BINARY
#undef TERNARY
#undef REDUCTION
                          },
                          load_strip,
                          store_strip};

}  // namespace
}  // namespace tokamak::cpu
