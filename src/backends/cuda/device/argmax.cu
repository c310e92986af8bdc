// The index of the largest of `size` floats a row, the lowest among equals; -1 when one of them is not finite. Two kernels: some blocks a
// row leave their best, then one warp a row picks, for the device and for the host (pinned memory).
#include "logit_key.cuh"

extern "C" __global__ void __launch_bounds__(256) argmax_parts(const float* logits, uint64_t* __restrict__ parts, int size) {
  __shared__ uint64_t scratch[8];
  wait_for_previous();
  const float* row = logits + int64_t(blockIdx.y) * size;
  const int chunk = (size + gridDim.x - 1) / gridDim.x;
  const int begin = blockIdx.x * chunk, end = min(size, begin + chunk);
  uint64_t best = 0;
  for (int i = begin + threadIdx.x; i < end; i += 256) {
    const float x = row[i];
    const bool finite = (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u;
    const uint64_t c = finite ? logit_key(x, i) : kNotFinite;
    best = c > best ? c : best;
  }
  best = warp_largest(best);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x == 0) {
#pragma unroll
    for (int i = 1; i < 8; ++i) best = scratch[i] > best ? scratch[i] : best;
    parts[blockIdx.y * gridDim.x + blockIdx.x] = best;
  }
}

extern "C" __global__ void __launch_bounds__(32)
    argmax_rows(const uint64_t* parts, int32_t* __restrict__ tokens, int32_t* __restrict__ host_tokens, int splits) {
  wait_for_previous();
  uint64_t best = 0;
  for (int i = threadIdx.x; i < splits; i += 32) {
    const uint64_t c = parts[blockIdx.x * splits + i];
    best = c > best ? c : best;
  }
  best = warp_largest(best);
  if (threadIdx.x == 0) tokens[blockIdx.x] = host_tokens[blockIdx.x] = best == kNotFinite ? -1 : id_of(best);
}
