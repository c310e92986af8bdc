// The index of the largest of SIZE floats a row, the lowest among equals; -1 when one of them is not finite. Two kernels: SPLITS blocks a
// row leave their best, then one warp a row picks. A candidate is 64 bits: the float's bits made monotonic, above the index's complement,
// so that one comparison of integers decides.
#include "prelude.cuh"

DEVICE uint64_t candidate(float x, uint32_t index) {
  const uint32_t bits = __float_as_uint(x);
  const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return uint64_t(ordered) << 32 | uint32_t(~index);
}

constexpr uint64_t kNotFinite = ~uint64_t(0);

DEVICE uint64_t warp_best(uint64_t best) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const uint64_t other = __shfl_xor_sync(~0u, best, offset);
    best = other > best ? other : best;
  }
  return best;
}

extern "C" __global__ void __launch_bounds__(256) argmax_parts(const float* __restrict__ logits, uint64_t* __restrict__ parts, int size) {
  __shared__ uint64_t scratch[8];
  wait_for_previous();
  const float* row = logits + int64_t(blockIdx.y) * size;
  const int chunk = (size + gridDim.x - 1) / gridDim.x;
  const int begin = blockIdx.x * chunk, end = min(size, begin + chunk);
  uint64_t best = 0;
  for (int i = begin + threadIdx.x; i < end; i += 256) {
    const float x = row[i];
    const bool finite = (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u;
    const uint64_t c = finite ? candidate(x, i) : kNotFinite;
    best = c > best ? c : best;
  }
  best = warp_best(best);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x == 0) {
#pragma unroll
    for (int i = 1; i < 8; ++i) best = scratch[i] > best ? scratch[i] : best;
    parts[blockIdx.y * gridDim.x + blockIdx.x] = best;
  }
}

extern "C" __global__ void __launch_bounds__(32) argmax_rows(const uint64_t* __restrict__ parts, int32_t* __restrict__ tokens, int splits) {
  wait_for_previous();
  uint64_t best = 0;
  for (int i = threadIdx.x; i < splits; i += 32) {
    const uint64_t c = parts[blockIdx.x * splits + i];
    best = c > best ? c : best;
  }
  best = warp_best(best);
  if (threadIdx.x == 0) tokens[blockIdx.x] = best == kNotFinite ? -1 : int32_t(~uint32_t(best));
}
