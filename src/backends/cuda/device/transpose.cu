// Batched 2-D transpose through shared memory: for every batch, y[c][r] = x[r][c] with rows ROW_STRIDE apart in x and columns COLUMN_STRIDE
// apart in y. UNIT: the element, moved VECTOR at a time on both sides (VECTOR divides ROWS, COLS, the strides and the batch offsets).
// BATCH_OFFSETS: defines batch_offsets(batch, in, out).
#include "elementwise.cuh"

BATCH_FUNCTION

constexpr int kTile = 32 * VECTOR, kRowsAtOnce = 8;

extern "C" __global__ void __launch_bounds__(32 * kRowsAtOnce) transpose(const UNIT* x, UNIT* __restrict__ y) {
  // Four bytes more a row: reads along a column then touch every bank once.
  __shared__ UNIT tile[kTile][kTile + (sizeof(UNIT) < 4 ? 4 / sizeof(UNIT) : 1)];
  wait_with_next();
  constexpr int64_t kTilesAcross = (COLS + kTile - 1) / kTile, kTilesDown = (ROWS + kTile - 1) / kTile;
  const int64_t across = blockIdx.x % kTilesAcross, down = blockIdx.x / kTilesAcross % kTilesDown,
                batch = blockIdx.x / kTilesAcross / kTilesDown;
  int64_t in, out;
  batch_offsets(batch, in, out);
  const int64_t row0 = down * kTile, col0 = across * kTile;
  const int lane = threadIdx.x * VECTOR;
#pragma unroll
  for (int step = 0; step < kTile / kRowsAtOnce; ++step) {
    const int r = step * kRowsAtOnce + threadIdx.y;
    if (row0 + r >= ROWS || col0 + lane >= COLS) continue;
    const Vec<UNIT, VECTOR> v = load_vector<UNIT, VECTOR>(x + in + (row0 + r) * ROW_STRIDE + col0 + lane);
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) tile[r][lane + k] = v.at[k];
  }
  __syncthreads();
#pragma unroll
  for (int step = 0; step < kTile / kRowsAtOnce; ++step) {
    const int c = step * kRowsAtOnce + threadIdx.y;
    if (col0 + c >= COLS || row0 + lane >= ROWS) continue;
    Vec<UNIT, VECTOR> v;
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) v.at[k] = tile[lane + k][c];
    store_vector<UNIT, VECTOR>(y + out + (col0 + c) * COLUMN_STRIDE + row0 + lane, v);
  }
}
