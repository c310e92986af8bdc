// C = epilogue(alpha A B) of 16-bit floats on the tensor cores. mma_tile.cuh's defines, and
//   A_ACROSS: A is stored [k, m]; B_ACROSS: B is stored [k, n] (else [n, k]); CONSTANT_B; VECTOR: columns stored together, divides n
//   A_OFFSET(z), B_OFFSET(z): of batch item z; OUT_ELEMENT
// Rows of A and B are multiples of 8 elements.
#include "mma_tile.cuh"

extern "C" __global__ void __launch_bounds__(kThreads)
    matmul_mma(const ELEMENT* a, const ELEMENT* b, OUT_ELEMENT* __restrict__ c, int m, int n, int k, float alpha, Extras extras) {
  extern __shared__ __align__(1024) char shared[];
  const int tiles_n = (n + TILE_N - 1) / TILE_N, tiles_m = (m + TILE_M - 1) / TILE_M;
  const int tile = blockIdx.x / SPLIT;
  const int64_t z = tile / (tiles_n * tiles_m);
  const int first_m = tile % tiles_m * TILE_M, first_n = tile / tiles_m % tiles_n * TILE_N;
  a += A_OFFSET(z);
  b += B_OFFSET(z);
  const auto copy_a = [&](uint32_t buffer, int step) {
    if constexpr (A_ACROSS)
      copy_tile<kTileK, TILE_M / 8>(buffer, [&](int row, int chunk, bool& valid) {
        const int i = step * kTileK + row, j = first_m + chunk * 8;
        valid = i < k && j < m;
        return valid ? a + int64_t(i) * m + j : a;
      });
    else
      copy_tile<TILE_M, 8>(buffer, [&](int row, int chunk, bool& valid) {
        const int i = first_m + row, j = step * kTileK + chunk * 8;
        valid = i < m && j < k;
        return valid ? a + int64_t(i) * k + j : a;
      });
  };
  const auto copy_b = [&](uint32_t buffer, int step) {
    if constexpr (B_ACROSS)
      copy_tile<kTileK, TILE_N / 8>(buffer, [&](int row, int chunk, bool& valid) {
        const int i = step * kTileK + row, j = first_n + chunk * 8;
        valid = i < k && j < n;
        return valid ? b + int64_t(i) * n + j : b;
      });
    else
      copy_tile<TILE_N, 8>(buffer, [&](int row, int chunk, bool& valid) {
        const int i = first_n + row, j = step * kTileK + chunk * 8;
        valid = i < n && j < k;
        return valid ? b + int64_t(i) * k + j : b;
      });
  };
  multiply_tile<A_ACROSS, B_ACROSS, CONSTANT_B, VECTOR>(shared, (k + kTileK - 1) / kTileK, copy_a, copy_b,
                                                        [&](int row, int col, float(&x)[VECTOR]) {
                                                          const int i = first_m + row, j = first_n + col;
                                                          if (i >= m || j >= n) return;
#pragma unroll
                                                          for (int e = 0; e < VECTOR; ++e) x[e] *= alpha;
                                                          epilogue<VECTOR>(x, z * m + i, j, extras);
                                                          store_floats<VECTOR>(c + (z * m + i) * n + j, x);
                                                        });
}
