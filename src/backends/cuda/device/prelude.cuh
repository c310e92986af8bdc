// What every kernel starts with. No CUDA headers: NVRTC then compiles a kernel in tens of milliseconds, and needs no toolkit beside it.
#pragma once

using int8_t = signed char;
using uint8_t = unsigned char;
using int16_t = short;
using uint16_t = unsigned short;
using int32_t = int;
using uint32_t = unsigned;
using int64_t = long long;
using uint64_t = unsigned long long;

#define DEVICE __device__ __forceinline__

// --- element types: storage only, arithmetic is in float ---

struct alignas(2) f16 {
  uint16_t bits;
};
struct alignas(2) bf16 {
  uint16_t bits;
};
struct f8e4m3 {
  uint8_t bits;
};

DEVICE float to_float(float x) { return x; }
DEVICE float to_float(f16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}
DEVICE float to_float(bf16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }
DEVICE float to_float(int8_t x) { return float(x); }
DEVICE float to_float(uint8_t x) { return float(x); }
DEVICE float to_float(int16_t x) { return float(x); }
DEVICE float to_float(uint16_t x) { return float(x); }
DEVICE float to_float(int32_t x) { return float(x); }
DEVICE float to_float(uint32_t x) { return float(x); }
DEVICE float to_float(int64_t x) { return float(x); }
DEVICE float to_float(uint64_t x) { return float(x); }
DEVICE float to_float(double x) { return float(x); }
DEVICE float to_float(bool x) { return x ? 1.f : 0.f; }

// Rounds to nearest even.
template <class T>
DEVICE T from_float(float x) {
  return T(x);
}
template <>
DEVICE f16 from_float<f16>(float x) {
  f16 y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}
template <>
DEVICE bf16 from_float<bf16>(float x) {
  bf16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}
template <>
DEVICE bool from_float<bool>(float x) {
  return x != 0.f;
}

// --- vectors: N elements moved by one load or store of up to 16 bytes ---

template <class T, int N>
struct alignas(sizeof(T) * N) Vec {
  T at[N];
};

// --- programmatic dependent launch (sm_90): a kernel launched with `overlap` may run beside the end of the one before it ---

// Waits until the kernel before this one has finished and its writes are visible. Every thread calls it before it touches anything but
// weights, also in kernels that gain nothing: what follows relies on it.
DEVICE void wait_for_previous() {
#if TOKAMAK_ARCH >= 90
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// From here on the next kernel may be scheduled where there is room. Its wait_for_previous() still waits for the end of this one.
DEVICE void allow_next() {
#if TOKAMAK_ARCH >= 90
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// The only inputs that are __restrict__: what no kernel writes. The compiler takes such memory for constant and may move its reads ahead of
// wait_for_previous(), memory clobber or not.
template <class T>
using Weights = const T* __restrict__;

// wait_for_previous(), for kernels without a better place for allow_next(): a grid that leaves the GPU room lets the next kernel's blocks
// take their places beforehand, so that they start when this one ends.
DEVICE void wait_with_next() {
  if (gridDim.x * gridDim.y * gridDim.z <= 264) allow_next();
  wait_for_previous();
}

// --- reductions ---

struct Sum {
  static DEVICE float identity() { return 0.f; }
  static DEVICE float apply(float a, float b) { return a + b; }
};
struct Max {
  static DEVICE float identity() { return -__int_as_float(0x7f800000); }
  static DEVICE float apply(float a, float b) { return a != a || a > b ? a : b; }  // NaN stays
};
struct Min {
  static DEVICE float identity() { return __int_as_float(0x7f800000); }
  static DEVICE float apply(float a, float b) { return a != a || a < b ? a : b; }
};

// Over the warp; every lane gets the result.
template <class Op>
DEVICE float warp_reduce(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x = Op::apply(x, __shfl_xor_sync(~0u, x, offset));
  return x;
}

// Over a block of kThreads (a multiple of 32); every thread gets the result. `scratch` holds kThreads / 32 floats of shared memory and may
// be used again right after.
template <class Op, int kThreads>
DEVICE float block_reduce(float x, float* scratch) {
  x = warp_reduce<Op>(x);
  if constexpr (kThreads == 32) return x;
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  x = Op::identity();
#pragma unroll
  for (int i = 0; i < kThreads / 32; ++i) x = Op::apply(x, scratch[i]);
  __syncthreads();
  return x;
}
