// topk: one block a row. Elements become unsigned keys in the order wanted (NaN is the largest value, -0 equals 0); the K_COUNT largest
// keys, of equal ones those with the smaller index, are found by selecting digit by digit from the top, and sorted in shared memory.
// ELEMENT; KEY: uint32_t or uint64_t. SIZE, INNER as in arg.cu. LARGEST. SORT_SIZE: a power of two from K_COUNT on. IS_FLOAT, IS_SIGNED.
#include "elementwise.cuh"

constexpr int kBits = sizeof(KEY) * 8, kDigits = 256;

DEVICE KEY key_of(ELEMENT element) {
#if IS_FLOAT
  const KEY top = KEY(1) << (kBits - 1);
  const COMPUTE v = widen<COMPUTE>(element);
  KEY bits;
#if KEY_BYTES == 8
  bits = KEY(__double_as_longlong(v));
#else
  bits = __float_as_uint(v);
#endif
  if (v != v) bits = ~KEY(0);
  else if (v == COMPUTE(0)) bits = top;
  else bits = bits & top ? ~bits : bits | top;
#elif IS_SIGNED
  const KEY bits = KEY(COMPUTE(element)) ^ (KEY(1) << (kBits - 1));
#else
  const KEY bits = KEY(element);
#endif
  return LARGEST ? bits : KEY(~bits);
}

struct Entry {
  KEY key;
  int index;
};
DEVICE bool comes_before(const Entry& a, const Entry& b) { return a.key != b.key ? a.key > b.key : a.index < b.index; }

extern "C" __global__ void __launch_bounds__(THREADS) topk(const ELEMENT* x, ELEMENT* __restrict__ y, int64_t* __restrict__ indices) {
  __shared__ Entry sorted[SORT_SIZE];
  __shared__ int histogram[kDigits];
  __shared__ int chosen, wanted, taken;
  wait_with_next();
  const int64_t row = blockIdx.x;
  const ELEMENT* const from = x + row / INNER * (int64_t(SIZE) * INNER) + row % INNER;

#if SIZE <= SORT_SIZE
  for (int i = threadIdx.x; i < SORT_SIZE; i += THREADS)
    sorted[i] = i < SIZE ? Entry{key_of(from[int64_t(i) * INNER]), i} : Entry{0, 0x7fffffff};
#else
  // The K_COUNT-th largest key, 8 bits a round: `prefix` holds the digits found, `wanted` how many are still to take among keys with them.
  KEY prefix = 0, mask = 0;
  if (threadIdx.x == 0) wanted = K_COUNT;
  for (int shift = kBits - 8; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < kDigits; i += THREADS) histogram[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < SIZE; i += THREADS) {
      const KEY key = key_of(from[int64_t(i) * INNER]);
      if ((key & mask) == prefix) atomicAdd(&histogram[int(key >> shift) & 255], 1);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int digit = kDigits - 1, left = wanted;
      while (digit > 0 && histogram[digit] < left) left -= histogram[digit--];
      chosen = digit, wanted = left;
    }
    __syncthreads();
    prefix |= KEY(chosen) << shift;
    mask |= KEY(255) << shift;
  }
  // All above it, in any order; of those equal to it the first `wanted` in the order of the row.
  const int above = K_COUNT - wanted;
  if (threadIdx.x == 0) taken = 0;
  for (int i = threadIdx.x; i < SORT_SIZE; i += THREADS) sorted[i] = {0, 0x7fffffff};
  __syncthreads();
  int equal_before = 0;
  for (int start = 0; start < SIZE; start += THREADS) {
    const int i = start + threadIdx.x;
    const KEY key = i < SIZE ? key_of(from[int64_t(i) * INNER]) : KEY(0);
    const bool is_above = i < SIZE && key > prefix, is_equal = i < SIZE && key == prefix;
    if (is_above) sorted[atomicAdd(&taken, 1)] = {key, i};
    // Rank among the equal ones of this stretch.
    const unsigned ballot = __ballot_sync(~0u, is_equal);
    if (threadIdx.x % 32 == 0) histogram[threadIdx.x / 32] = __popc(ballot);
    const int any = __syncthreads_or(ballot != 0);
    if (any) {
      int rank = equal_before + __popc(ballot & ((1u << (threadIdx.x % 32)) - 1));
      int total = 0;
      for (int w = 0; w < THREADS / 32; ++w) {
        if (w < int(threadIdx.x / 32)) rank += histogram[w];
        total += histogram[w];
      }
      if (is_equal && rank < wanted) sorted[above + rank] = {key, i};
      equal_before += total;
    }
    __syncthreads();
  }
#endif
  __syncthreads();
  for (int size = 2; size <= SORT_SIZE; size *= 2)
    for (int stride = size / 2; stride > 0; stride /= 2) {
      for (int i = threadIdx.x; i < SORT_SIZE / 2; i += THREADS) {
        const int a = 2 * i - (i & (stride - 1)), b = a + stride;
        const bool forward = (a & size) == 0;
        const Entry left = sorted[a], right = sorted[b];
        if (comes_before(right, left) == forward) sorted[a] = right, sorted[b] = left;
      }
      __syncthreads();
    }
  const int64_t base = row / INNER * (int64_t(K_COUNT) * INNER) + row % INNER;
  for (int i = threadIdx.x; i < K_COUNT; i += THREADS) {
    const int index = sorted[i].index;
    y[base + int64_t(i) * INNER] = from[int64_t(index) * INNER];
    if (indices != nullptr) indices[base + int64_t(i) * INNER] = index;
  }
}
