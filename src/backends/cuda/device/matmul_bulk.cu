// C = epilogue(alpha A B^T) of 16-bit floats for many rows (sm_90a): A [m, k] and B [n, k] come in boxes of 64 along k by the copy engine,
// a warp asks for them, WARPGROUPS warpgroups of 64 rows multiply. The whole tile is staged in shared memory behind the last product, so
// that the output is written in vectors; where two blocks share a multiprocessor one multiplies meanwhile.
//   TILE_M (64 * WARPGROUPS), TILE_N, STAGES, WARPGROUPS, RESIDENT (blocks a multiprocessor); ELEMENT; OUT_ELEMENT; VECTOR: columns stored
//   together, divides n; `wgmma_tile` of MmaTile::code()
#include "copy_bulk.cuh"
#include "epilogue.cuh"
#include "wgmma.cuh"

constexpr int kTileK = 64, kConsumers = WARPGROUPS * 128, kThreads = kConsumers + 32, kTilesN = TILE_N / 8;
constexpr int kStageA = TILE_M * kTileK * 2, kStage = kStageA + TILE_N * kTileK * 2;  // bytes
constexpr int kStagedRow = TILE_N + 8;                                                // floats
// Behind the pipeline and the staged tile, which share their place.
constexpr int kBarriersAt = STAGES * kStage > TILE_M* kStagedRow * 4 ? STAGES* kStage : TILE_M* kStagedRow * 4;
static_assert(TILE_M == 64 * WARPGROUPS && STAGES >= 2);

DEVICE void consumers_barrier() { asm volatile("bar.sync 1, %0;" ::"n"(kConsumers) : "memory"); }

extern "C" __global__ void __launch_bounds__(kThreads, RESIDENT)
    matmul_bulk(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, OUT_ELEMENT* __restrict__ c, int m, int n, int k,
                float alpha, Extras extras) {
  extern __shared__ __align__(1024) char shared[];
  const uint32_t base = shared_address(shared), full = base + kBarriersAt, empty = full + STAGES * 8;
  const int tiles_m = (m + TILE_M - 1) / TILE_M, steps = (k + kTileK - 1) / kTileK;
  const int first_m = blockIdx.x % tiles_m * TILE_M, first_n = blockIdx.x / tiles_m * TILE_N;
  if (threadIdx.x == 0) {
    for (int s = 0; s < STAGES; ++s) barrier_init(full + s * 8, 1), barrier_init(empty + s * 8, WARPGROUPS);
    barrier_init_done();
  }
  __syncthreads();
  wait_for_previous();
  allow_next();

  if (threadIdx.x >= kConsumers) {
    if (threadIdx.x != kConsumers) return;
    prefetch_map(a);
    prefetch_map(b);
    // Step s fills slot s % STAGES once the products of step s - STAGES are done: phase s / STAGES - 1 of `empty`.
    for (int step = 0; step < steps; ++step) {
      const int slot = step % STAGES, turn = step / STAGES;
      if (turn > 0) barrier_wait(empty + slot * 8, (turn - 1) & 1);
      barrier_arrive_expecting(full + slot * 8, kStage);
      copy_box(base + slot * kStage, a, step * kTileK, first_m, full + slot * 8);
      copy_box(base + slot * kStage + kStageA, b, step * kTileK, first_n, full + slot * 8);
    }
    return;
  }

  float acc[kTilesN][4];
#pragma unroll
  for (int j = 0; j < kTilesN; ++j)
#pragma unroll
    for (int e = 0; e < 4; ++e) acc[j][e] = 0.f;
  for (int step = 0; step < steps; ++step) {
    const int slot = step % STAGES;
    barrier_wait(full + slot * 8, step / STAGES & 1);
    const uint32_t left_at = base + slot * kStage + threadIdx.x / 128 * (64 * kTileK * 2);
    const uint64_t left = operand_descriptor(left_at), right = operand_descriptor(base + slot * kStage + kStageA);
    products_begin();
#pragma unroll
    for (int i = 0; i < kTileK / 16; ++i) wgmma_tile(acc, left + i * (32 >> 4), right + i * (32 >> 4));
    products_commit();
    products_wait<1>();  // those of the step before
    if (step > 0 && threadIdx.x % 128 == 0) barrier_arrive(empty + (step - 1) % STAGES * 8);
  }
  products_wait<0>();
#pragma unroll
  for (int j = 0; j < kTilesN; ++j)
#pragma unroll
    for (int e = 0; e < 4; ++e) keep_in_place(acc[j][e]);
  consumers_barrier();  // nobody multiplies from shared memory any more, and all copies have come

  float* const staged = reinterpret_cast<float*>(shared);
  {
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4, col = lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < kTilesN; ++j)
#pragma unroll
      for (int h = 0; h < 2; ++h)
        *reinterpret_cast<Vec<float, 2>*>(staged + (row + h * 8) * kStagedRow + col + j * 8) = {acc[j][h * 2], acc[j][h * 2 + 1]};
  }
  consumers_barrier();
  constexpr int kVectors = TILE_N / VECTOR;
#pragma unroll 2
  for (int e = threadIdx.x; e < TILE_M * kVectors; e += kConsumers) {
    const int row = e / kVectors, col = e % kVectors * VECTOR, i = first_m + row, j = first_n + col;
    if (i >= m || j >= n) continue;
    float x[VECTOR];
    load_floats<VECTOR>(staged + row * kStagedRow + col, x);
#pragma unroll
    for (int v = 0; v < VECTOR; ++v) x[v] *= alpha;
    epilogue<VECTOR>(x, i, j, extras);
    store_floats<VECTOR>(c + int64_t(i) * n + j, x);
  }
}
