// Conversions between element types and the type that a kernel accumulates in.
#pragma once
#include "prelude.cuh"

template <class C, class E>
DEVICE C widen(E x) {
  return C(x);
}
template <class C>
DEVICE C widen(f16 x) {
  return C(to_float(x));
}
template <class C>
DEVICE C widen(bf16 x) {
  return C(to_float(x));
}

template <class E, class C>
struct Narrow {
  static DEVICE E from(C x) { return E(x); }
};
template <class E>
struct Narrow<E, float> {
  static DEVICE E from(float x) { return from_float<E>(x); }
};
