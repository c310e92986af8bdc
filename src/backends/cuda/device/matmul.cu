// matmul and matmul_integer of any strides: tiles through shared memory, PER x PER outputs a thread.
//   A_ELEMENT, B_ELEMENT, OUT_ELEMENT, ACCUMULATOR; TILE_M, TILE_N, PER; A_OFFSET(z), B_OFFSET(z): of batch item z
//   INTEGER: zero points are subtracted, A_ZEROS and B_ZEROS of them (0: none, 1: one for all, 2: one a row of A or column of B)
//   EPILOGUE: `epilogue` is defined (kernels/epilogue.h)
#include "prelude.cuh"
#include "widen.cuh"

constexpr int kTileK = 16, kThreads = (TILE_M / PER) * (TILE_N / PER);

extern "C" __global__ void __launch_bounds__(kThreads)
    matmul(const A_ELEMENT* a, const B_ELEMENT* b, OUT_ELEMENT* __restrict__ c, int64_t m, int64_t n, int64_t k, int64_t a_row,
           int64_t a_col, int64_t b_row, int64_t b_col, double alpha, const A_ELEMENT* a_zero, const B_ELEMENT* b_zero, Extras extras) {
  using Acc = ACCUMULATOR;
  __shared__ Acc a_tile[kTileK][TILE_M + 1], b_tile[kTileK][TILE_N + 1];
  wait_for_previous();
  const int64_t tiles_n = (n + TILE_N - 1) / TILE_N, tiles_m = (m + TILE_M - 1) / TILE_M;
  const int64_t z = blockIdx.x / (tiles_n * tiles_m);
  const int64_t first_row = blockIdx.x / tiles_n % tiles_m * TILE_M, first_col = blockIdx.x % tiles_n * TILE_N;
  a += A_OFFSET(z);
  b += B_OFFSET(z);
  const int row = threadIdx.x / (TILE_N / PER), col = threadIdx.x % (TILE_N / PER);
  Acc acc[PER][PER];
#pragma unroll
  for (int i = 0; i < PER; ++i)
#pragma unroll
    for (int j = 0; j < PER; ++j) acc[i][j] = Acc(0);
  for (int64_t base = 0; base < k; base += kTileK) {
    // Neighbouring threads read neighbours in memory.
    for (int e = threadIdx.x; e < TILE_M * kTileK; e += kThreads) {
      const int i = a_col == 1 ? e / kTileK : e % TILE_M, kk = a_col == 1 ? e % kTileK : e / TILE_M;
      Acc value(0);
      if (first_row + i < m && base + kk < k) {
        value = widen<Acc>(a[(first_row + i) * a_row + (base + kk) * a_col]);
        if (A_ZEROS != 0) value -= widen<Acc>(a_zero[A_ZEROS == 2 ? first_row + i : 0]);
      }
      a_tile[kk][i] = value;
    }
    for (int e = threadIdx.x; e < TILE_N * kTileK; e += kThreads) {
      const int j = b_col == 1 ? e % TILE_N : e / kTileK, kk = b_col == 1 ? e / TILE_N : e % kTileK;
      Acc value(0);
      if (first_col + j < n && base + kk < k) {
        value = widen<Acc>(b[(base + kk) * b_row + (first_col + j) * b_col]);
        if (B_ZEROS != 0) value -= widen<Acc>(b_zero[B_ZEROS == 2 ? first_col + j : 0]);
      }
      b_tile[kk][j] = value;
    }
    __syncthreads();
#pragma unroll
    for (int kk = 0; kk < kTileK; ++kk) {
      Acc left[PER], right[PER];
#pragma unroll
      for (int i = 0; i < PER; ++i) left[i] = a_tile[kk][row + i * (TILE_M / PER)], right[i] = b_tile[kk][col + i * (TILE_N / PER)];
#pragma unroll
      for (int i = 0; i < PER; ++i)
#pragma unroll
        for (int j = 0; j < PER; ++j) acc[i][j] += left[i] * right[j];
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < PER; ++i) {
    const int64_t r = first_row + row + i * (TILE_M / PER);
#pragma unroll
    for (int j = 0; j < PER; ++j) {
      const int64_t q = first_col + col + j * (TILE_N / PER);
      if (r >= m || q >= n) continue;
      OUT_ELEMENT* const out = c + (z * m + r) * n + q;
#if EPILOGUE
      float x[1] = {float(acc[i][j] * Acc(alpha))};
      epilogue<1>(x, z * m + r, q, extras);
      *out = from_float<OUT_ELEMENT>(x[0]);
#elif INTEGER
      *out = OUT_ELEMENT(acc[i][j]);
#else
      *out = Narrow<OUT_ELEMENT, Acc>::from(acc[i][j] * Acc(alpha));
#endif
    }
  }
}
