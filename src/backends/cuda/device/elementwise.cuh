// What generated pointwise kernels stand on: vectors of V elements, conversions between storage and arithmetic, division by sizes that are
// arguments.
#pragma once
#include "prelude.cuh"

// --- index arithmetic ---

// n / divisor as a product: Granlund and Montgomery, Division by invariant integers using multiplication (1994), for n < 2^31.
struct Divider {
  uint32_t multiplier, shift;
  int64_t divisor;
};
DEVICE int divide(int n, const Divider& d) { return int((__umulhi(unsigned(n), d.multiplier) + unsigned(n)) >> d.shift); }
DEVICE int64_t divide(int64_t n, const Divider& d) { return n / d.divisor; }

// --- vectors ---

template <class T, int V>
DEVICE Vec<T, V> load_vector(const T* p) {
  Vec<T, V> v;
  if constexpr (sizeof(v) % 16 == 0) {
#pragma unroll
    for (int i = 0; i < int(sizeof(v) / 16); ++i) reinterpret_cast<uint4*>(&v)[i] = reinterpret_cast<const uint4*>(p)[i];
  } else if constexpr (sizeof(v) == 8) {
    *reinterpret_cast<uint2*>(&v) = *reinterpret_cast<const uint2*>(p);
  } else if constexpr (sizeof(v) == 4) {
    *reinterpret_cast<uint32_t*>(&v) = *reinterpret_cast<const uint32_t*>(p);
  } else {
#pragma unroll
    for (int k = 0; k < V; ++k) v.at[k] = p[k];
  }
  return v;
}
template <class T, int V>
DEVICE void store_vector(T* p, const Vec<T, V>& v) {
  if constexpr (sizeof(v) % 16 == 0) {
#pragma unroll
    for (int i = 0; i < int(sizeof(v) / 16); ++i) reinterpret_cast<uint4*>(p)[i] = reinterpret_cast<const uint4*>(&v)[i];
  } else if constexpr (sizeof(v) == 8) {
    *reinterpret_cast<uint2*>(p) = *reinterpret_cast<const uint2*>(&v);
  } else if constexpr (sizeof(v) == 4) {
    *reinterpret_cast<uint32_t*>(p) = *reinterpret_cast<const uint32_t*>(&v);
  } else {
#pragma unroll
    for (int k = 0; k < V; ++k) p[k] = v.at[k];
  }
}
// x * factor in another type; x where that is its own, whatever the factor.
template <class X, class Y>
constexpr bool kIsSame = false;
template <class X>
constexpr bool kIsSame<X, X> = true;
template <class Y, class X, int V>
DEVICE Vec<Y, V> converted(const Vec<X, V>& x, float factor) {
  if constexpr (kIsSame<X, Y>) {
    return x;
  } else {
    Vec<Y, V> y;
#pragma unroll
    for (int k = 0; k < V; ++k) y.at[k] = from_float<Y>(to_float(x.at[k]) * factor);
    return y;
  }
}
// Of weights, before wait_for_previous(): stays in its place.
template <class T, int V>
DEVICE Vec<T, V> load_early(const T* p) {
  Vec<T, V> v;
  if constexpr (sizeof(v) % 16 == 0) {
#pragma unroll
    for (int i = 0; i < int(sizeof(v) / 16); ++i) {
      uint4 word;
      asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(word.x), "=r"(word.y), "=r"(word.z), "=r"(word.w)
                   : "l"(reinterpret_cast<const uint4*>(p) + i));
      reinterpret_cast<uint4*>(&v)[i] = word;
    }
  } else {
    v = load_vector<T, V>(p);
  }
  return v;
}
// The first n elements only.
template <class T, int V>
DEVICE Vec<T, V> load_some(const T* p, int n) {
  Vec<T, V> v;
#pragma unroll
  for (int k = 0; k < V; ++k) v.at[k] = p[k < n ? k : 0];
  return v;
}
template <class T, int V>
DEVICE void store_some(T* p, const Vec<T, V>& v, int n) {
#pragma unroll
  for (int k = 0; k < V; ++k)
    if (k < n) p[k] = v.at[k];
}

// --- storage to arithmetic and back ---

template <class A, class B>
constexpr bool kSame = false;
template <class A>
constexpr bool kSame<A, A> = true;

template <class C, class S>
struct Widen {
  static DEVICE C apply(S x) { return C(x); }
};
template <class C>
struct Widen<C, f16> {
  static DEVICE C apply(f16 x) { return C(to_float(x)); }
};
template <class C>
struct Widen<C, bf16> {
  static DEVICE C apply(bf16 x) { return C(to_float(x)); }
};
template <class S>
struct Widen<bool, S> {
  static DEVICE bool apply(S x) { return x != 0; }
};
template <class C, class S>
DEVICE C widen(S x) {
  if constexpr (kSame<C, S>) return x;
  else return Widen<C, S>::apply(x);
}

template <class S, class C>
struct Narrow {
  static DEVICE S apply(C y) { return S(y); }
};
template <class C>
struct Narrow<f16, C> {
  static DEVICE f16 apply(C y) { return from_float<f16>(float(y)); }
};
template <class C>
struct Narrow<bf16, C> {
  static DEVICE bf16 apply(C y) { return from_float<bf16>(float(y)); }
};
template <class S, class C>
DEVICE S narrow(C y) {
  if constexpr (kSame<C, S>) return y;
  else return Narrow<S, C>::apply(y);
}
