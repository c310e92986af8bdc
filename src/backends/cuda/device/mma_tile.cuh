// One TILE_M x TILE_N tile of a product of 16-bit floats, accumulated in float: operands stream through STAGES buffers of shared memory in
// steps of 64 along k, WARPS_M x WARPS_N warps multiply: with WGMMA warpgroups of 64 rows (both operands along k), else warps by mma.sync.
// With SPLIT > 1 the SPLIT blocks of a cluster share the tile's k and add up through distributed shared memory. MmaTile
// (kernels/mma_tile.h) writes the defines, and `wgmma_tile` for WGMMA; ELEMENT is f16 or bf16.
//
// An operand's tile is `along k` (a row of shared memory has 64 elements of k for one m or n) or `across k` (a row has TILE elements of m
// or n for one k). Chunks of 16 bytes are exchanged within a row (swizzled) so that neither copies nor ldmatrix meet bank conflicts.
#pragma once
#include "epilogue.cuh"
#include "mma.cuh"
#include "wgmma.cuh"

constexpr int kTileK = 64, kThreads = WARPS_M * WARPS_N * 32;
constexpr int kWarpM = TILE_M / WARPS_M, kWarpN = TILE_N / WARPS_N, kTilesM = kWarpM / 16, kTilesN = kWarpN / 8;
constexpr int kStageA = TILE_M * kTileK * 2, kStage = kStageA + TILE_N * kTileK * 2;  // bytes
constexpr int kStageRow = TILE_N + 8;                                                 // floats a row of the staged tile
// Steps whose copies are under way: a warpgroup's product of one step still reads its buffer during the next.
constexpr int kAhead = WGMMA ? STAGES - 2 : STAGES - 1;
static_assert(kTilesM >= 1 && kTilesN % 2 == 0 && kAhead >= 1);

// Byte offset of a chunk in a buffer whose rows have kChunks chunks.
template <int kChunks>
DEVICE int swizzled(int row, int chunk) {
  if constexpr (kChunks >= 8) return (row * kChunks + (chunk ^ (row & 7))) * 16;
  if constexpr (kChunks == 4) return (row * 4 + (chunk ^ (row >> 1 & 3))) * 16;
  return (row * 2 + (chunk ^ (row >> 2 & 1))) * 16;
}

// Copies an operand's tile: kRows rows of kChunks chunks; `address(row, chunk, valid)` is where a chunk comes from.
template <int kRows, int kChunks, class Address>
DEVICE void copy_tile(uint32_t buffer, const Address& address) {
#pragma unroll
  for (int i = 0; i < (kRows * kChunks + kThreads - 1) / kThreads; ++i) {
    const int e = i * kThreads + threadIdx.x;
    if (kRows * kChunks % kThreads != 0 && e >= kRows * kChunks) break;
    const int row = e / kChunks, chunk = e % kChunks;
    bool valid;
    const ELEMENT* const from = address(row, chunk, valid);
    copy_async_16(buffer + swizzled<kChunks>(row, chunk), from, valid);
  }
}

// acc += the product of one stage.
#if WGMMA
template <bool kAAcross, bool kBAcross>
DEVICE void multiply_stage(uint32_t a, uint32_t b, float (&acc)[kTilesM][kTilesN][4]) {
  static_assert(!kAAcross && !kBAcross && kTilesM == 1);
  const uint64_t left = operand_descriptor(a + threadIdx.x / 128 * (64 * kTileK * 2)), right = operand_descriptor(b);
  products_begin();
#pragma unroll
  for (int k = 0; k < kTileK / 16; ++k) wgmma_tile(acc[0], left + k * (32 >> 4), right + k * (32 >> 4));
  products_commit();
  products_wait<1>();
}
#else
template <bool kAAcross, bool kBAcross>
DEVICE void multiply_stage(uint32_t a, uint32_t b, float (&acc)[kTilesM][kTilesN][4]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int first_m = warp / WARPS_N * kWarpM, first_n = warp % WARPS_N * kWarpN;
#pragma unroll
  for (int k = 0; k < kTileK; k += 16) {
    uint32_t left[kTilesM][4], right[kTilesN / 2][4];
#pragma unroll
    for (int i = 0; i < kTilesM; ++i) {
      const int m = first_m + i * 16;
      if constexpr (kAAcross)
        load_matrices_transposed(left[i], a + swizzled<TILE_M / 8>(k + lane / 16 * 8 + lane % 8, m / 8 + lane / 8 % 2));
      else load_matrices(left[i], a + swizzled<8>(m + lane % 16, k / 8 + lane / 16));
    }
#pragma unroll
    for (int j = 0; j < kTilesN / 2; ++j) {
      const int n = first_n + j * 16;
      if constexpr (kBAcross)
        load_matrices_transposed(right[j], b + swizzled<TILE_N / 8>(k + lane / 8 % 2 * 8 + lane % 8, n / 8 + lane / 16));
      else load_matrices(right[j], b + swizzled<8>(n + lane / 16 * 8 + lane % 8, k / 8 + lane / 8 % 2));
    }
#pragma unroll
    for (int i = 0; i < kTilesM; ++i)
#pragma unroll
      for (int j = 0; j < kTilesN; ++j) mma_16x8x16(ELEMENT{}, acc[i][j], left[i], right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]);
  }
}
#endif

// The whole tile: copy_a(buffer, step) and copy_b(buffer, step) start the copies of a step of 64 along k; then
// store(row, col, float (&x)[kVector]) gets every kVector neighbouring sums of the tile once. Calls wait_for_previous() before copy_a, and
// before copy_b unless kConstantB. `shared` is the block's dynamic shared memory.
template <bool kAAcross, bool kBAcross, bool kConstantB, int kVector, class CopyA, class CopyB, class Store>
DEVICE void multiply_tile(char* shared, int steps, const CopyA& copy_a, const CopyB& copy_b, const Store& store) {
  const int rank = SPLIT == 1 ? 0 : blockIdx.x % SPLIT;
  const int begin = int64_t(steps) * rank / SPLIT, end = int64_t(steps) * (rank + 1) / SPLIT;
  const uint32_t base = shared_address(shared);
  if constexpr (!kConstantB) wait_for_previous();
#pragma unroll
  for (int s = 0; s < kAhead; ++s)
    if (begin + s < end) copy_b(base + s * kStage + kStageA, begin + s);
  if constexpr (kConstantB) wait_for_previous();
#pragma unroll
  for (int s = 0; s < kAhead; ++s) {
    if (begin + s < end) copy_a(base + s * kStage, begin + s);
    copy_async_commit();
  }
  allow_next();
  float acc[kTilesM][kTilesN][4];
#pragma unroll
  for (int i = 0; i < kTilesM; ++i)
#pragma unroll
    for (int j = 0; j < kTilesN; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) acc[i][j][e] = 0.f;
  int slot = 0, next_slot = kAhead;
  for (int step = begin; step < end; ++step) {
    copy_async_wait<kAhead - 1>();
    if (WGMMA) fence_shared_for_products();
    __syncthreads();  // the step's copies are there, and nobody reads the slot any more that is filled next
    if (step + kAhead < end) {
      copy_a(base + next_slot * kStage, step + kAhead);
      copy_b(base + next_slot * kStage + kStageA, step + kAhead);
    }
    copy_async_commit();
    multiply_stage<kAAcross, kBAcross>(base + slot * kStage, base + slot * kStage + kStageA, acc);
    slot = slot + 1 == STAGES ? 0 : slot + 1;
    next_slot = next_slot + 1 == STAGES ? 0 : next_slot + 1;
  }
  copy_async_wait<0>();
#if WGMMA
  products_wait<0>();
#pragma unroll
  for (int j = 0; j < kTilesN; ++j)
#pragma unroll
    for (int e = 0; e < 4; ++e) keep_in_place(acc[0][j][e]);
#endif
  __syncthreads();

  // Sums go through shared memory, so that the output is written (and the epilogue's inputs are read) in whole vectors.
  float* const staged = reinterpret_cast<float*>(shared);
  {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int row = warp / WARPS_N * kWarpM + lane / 4, col = warp % WARPS_N * kWarpN + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < kTilesM; ++i)
#pragma unroll
      for (int j = 0; j < kTilesN; ++j)
#pragma unroll
        for (int h = 0; h < 2; ++h)
          *reinterpret_cast<Vec<float, 2>*>(staged + (row + i * 16 + h * 8) * kStageRow + col + j * 8) = {acc[i][j][h * 2],
                                                                                                          acc[i][j][h * 2 + 1]};
  }
  constexpr int kRows = TILE_M / SPLIT, kVectors = TILE_N / kVector;  // that this block stores
  static_assert(TILE_M % SPLIT == 0);
#if SPLIT > 1
  cluster_barrier();
#else
  __syncthreads();
#endif
#pragma unroll 2
  for (int e = threadIdx.x; e < kRows * kVectors; e += kThreads) {
    const int row = rank * kRows + e / kVectors, col = e % kVectors * kVector;
    float x[kVector];
#if SPLIT > 1
    const uint32_t own = base + (row * kStageRow + col) * 4;
#pragma unroll
    for (int i = 0; i < kVector; ++i) x[i] = 0.f;
#pragma unroll
    for (int r = 0; r < SPLIT; ++r) {
      const uint32_t from = cluster_address(own, r);
      if constexpr (kVector % 4 == 0) {
#pragma unroll
        for (int i = 0; i < kVector; i += 4) {
          float part[4];
          cluster_load(from + i * 4, part);
#pragma unroll
          for (int j = 0; j < 4; ++j) x[i + j] += part[j];
        }
      } else {
#pragma unroll
        for (int i = 0; i < kVector; ++i) x[i] += cluster_load(from + i * 4);
      }
    }
#else
    load_floats<kVector>(staged + row * kStageRow + col, x);
#endif
    store(row, col, x);
  }
#if SPLIT > 1
  cluster_barrier();  // a block's shared memory must outlive the others' reads
#endif
}
