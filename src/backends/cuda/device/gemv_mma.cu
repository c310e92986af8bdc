// y = epilogue(x (w * scale)^T) for up to eight rows of x: w goes from memory to registers and is the operand with 16 rows of mma, x the
// one with 8 columns, from shared memory. Nothing but x and the sums at the end is shared, so no barrier stands between a warp and its
// loads.
//
// As in linear_mma.cu any order of k will do that both operands share: a lane takes 16 neighbouring bytes of a row of w, four lanes a step,
// two steps (128 bytes of a row) an iteration. PREFETCH iterations are under way at any time, the first of them before the kernel that
// makes x has finished. The WARPS_K warps of the same rows take turns at the iterations and add up in a fixed order.
//   X_ELEMENT (f16, bf16), W_ELEMENT, SCALE_ELEMENT, Y_ELEMENT, K_SIZE; GROUP: elements of K a scale, a multiple of a step (0: no scales)
//   TOKENS: rows of x, at most 8; ROW_TILES: of 16 rows of w a warp; WARPS_N, WARPS_K, PREFETCH; BLOCKS on an SM
//   OPERAND, X_SCALE: x / X_SCALE is multiplied in that type; NORM: x is normalised first, by weights of NORM_ELEMENT; GATE: rows of w are
//   eight of the gate, eight of up, and so on; y = epilogue(GATE_FUNCTION(gate) * up) has half as many columns
#include "mma.cuh"
#include "norm_rows.cuh"
#include "weights_mma.cuh"

constexpr int kBits = Weight<W_ELEMENT>::kBits, kThreads = WARPS_N * WARPS_K * 32;
constexpr int kLane = 128 / kBits, kEights = kLane / 8, kStepK = 4 * kLane, kIterK = 2 * kStepK;  // elements of k
constexpr int kIters = (K_SIZE + kIterK - 1) / kIterK;
constexpr int64_t kRowBytes = int64_t(K_SIZE) * kBits / 8;
constexpr bool kWhole = kRowBytes % 128 == 0;
constexpr int kRows = WARPS_N * ROW_TILES * 16;                          // of w a block
constexpr int kVectors = K_SIZE / 8, kAllVectors = kIters * kIterK / 8;  // of a row of x, 16 bytes each
constexpr int kPitch = kAllVectors + 4;                                  // two rows' lanes meet all banks
constexpr int kGroups = GROUP == 0 ? 1 : (K_SIZE + GROUP - 1) / GROUP;
constexpr bool kPairs = kGroups > 1 && GROUP == kStepK&& kGroups % 2 == 0 && sizeof(SCALE_ELEMENT) == 2;  // of scales in one load
static_assert(kRowBytes % 64 == 0 && TOKENS <= 8 && (kGroups == 1 || GROUP % kStepK == 0));

using VecX = Vec<OPERAND, 8>;
using Words = Vec<uint32_t, 4>;  // of a VecX

// Where vector v of a row of x is: the four lanes of a step that read at the same time are neighbours.
DEVICE int place(int row, int v) {
  constexpr int kStep = kStepK / 8;
  const int inner = v % kStep;
  return row * kPitch + v - inner + inner % kEights * 4 + inner / kEights;
}

struct Piece {
  Raw<16> raw[ROW_TILES][2][2];  // [tile][rows g and g + 8][step]
  float scale[kGroups > 1 ? ROW_TILES : 1][2][2];
};

extern "C" __global__ void __launch_bounds__(kThreads, BLOCKS)
    gemv_mma(const X_ELEMENT* x, Weights<char> w, Weights<SCALE_ELEMENT> scale, Y_ELEMENT* y, int n, int m, Extras extras
#if NORM
             ,
             const NORM_ELEMENT* norm, float epsilon
#endif
    ) {
  extern __shared__ __align__(16) char shared[];
  VecX* const rows_of_x = reinterpret_cast<VecX*>(shared);
  float* const staged = reinterpret_cast<float*>(shared + TOKENS * kPitch * 16);  // [WARPS_K][TOKENS][kRows]
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int warp_n = threadIdx.x / 32 % WARPS_N, warp_k = threadIdx.x / 32 / WARPS_N;
  const int block_row = blockIdx.x * kRows, first_row = block_row + warp_n * (ROW_TILES * 16);

  const auto load = [&](Piece& piece, int iteration) {
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int64_t row = min(first_row + r * 16 + h * 8 + g, n - 1);  // rows beyond the last are not stored
#pragma unroll
        for (int s = 0; s < 2; ++s) {
          const int64_t at = int64_t(iteration) * 128 + s * 64 + t * 16;
          piece.raw[r][h][s] = kWhole || at < kRowBytes ? load_streaming<16>(w + row * kRowBytes + at) : Raw<16>{};
        }
        if constexpr (kPairs) {
          const Vec<SCALE_ELEMENT, 2> two = *reinterpret_cast<const Vec<SCALE_ELEMENT, 2>*>(scale + row * kGroups + iteration * 2);
          piece.scale[r][h][0] = to_float(two.at[0]), piece.scale[r][h][1] = to_float(two.at[1]);
        } else if constexpr (kGroups > 1) {
#pragma unroll
          for (int s = 0; s < 2; ++s)
            piece.scale[r][h][s] = to_float(scale[row * kGroups + min((iteration * kIterK + s * kStepK) / GROUP, kGroups - 1)]);
        }
      }
  };

  Piece pieces[PREFETCH];
#pragma unroll
  for (int p = 0; p < PREFETCH; ++p)
    if (warp_k + p * WARPS_K < kIters) load(pieces[p], warp_k + p * WARPS_K);
#if NORM
  __shared__ float scratch[kThreads / 32 * TOKENS];
  NormRows<X_ELEMENT, NORM_ELEMENT, K_SIZE, TOKENS, kThreads, 8, OPERAND> rows;
  rows.load_weights(norm);
#endif
  allow_next();
  wait_for_previous();
  const auto in_order = [](VecX& vector) { order_like_weights<W_ELEMENT>(reinterpret_cast<Words&>(vector).at); };
  const auto place_x = [&](int row, int v) { return rows_of_x + place(row, v); };
#if NORM
  rows.run(x, norm, m, epsilon, scratch, place_x, in_order);
#else
#pragma unroll
  for (int row = 0; row < TOKENS; ++row)
    for (int v = threadIdx.x; v < kVectors; v += kThreads) {
      VecX vector{};
      if (row < m) vector = converted<OPERAND>(load_vector<X_ELEMENT, 8>(x + int64_t(row) * K_SIZE + v * 8), 1.f / X_SCALE);
      in_order(vector);
      *place_x(row, v) = vector;
    }
#endif
#pragma unroll
  for (int row = 0; row < TOKENS; ++row)
    for (int v = kVectors + threadIdx.x; v < kAllVectors; v += kThreads) *place_x(row, v) = VecX{};
  __syncthreads();

  // Columns beyond TOKENS repeat the last one and are not stored.
  const Words* const lane_x = reinterpret_cast<const Words*>(rows_of_x) + min(g, TOKENS - 1) * kPitch + t;
  float sums[ROW_TILES][2][4] = {};
  const Fragment<OPERAND, W_ELEMENT> fragment(uint32_t(n) >> 31);
  const auto multiply = [&](const Piece& piece, int iteration) {
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      float part[ROW_TILES][2][4] = {};
#pragma unroll
      for (int j = 0; j < kEights; ++j) {
        const Words b = lane_x[iteration * (kIterK / 8) + s * (kStepK / 8) + j * 4];
#pragma unroll
        for (int r = 0; r < ROW_TILES; ++r) {
          uint32_t a[2][4];
#pragma unroll
          for (int h = 0; h < 2; ++h) fragment.convert(piece.raw[r][h][s].word + j * kBits / 4, a[h]);
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const uint32_t left[4] = {a[0][2 * half], a[1][2 * half], a[0][2 * half + 1], a[1][2 * half + 1]};
            mma_16x8x16(OPERAND{}, kGroups > 1 ? part[r][half] : sums[r][half], left, b.at[2 * half], b.at[2 * half + 1]);
          }
        }
      }
      if constexpr (kGroups > 1)
#pragma unroll
        for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
          for (int e = 0; e < 4; ++e) sums[r][0][e] += piece.scale[r][e / 2][s] * (part[r][0][e] + part[r][1][e]);
    }
  };
  for (int base = warp_k; base < kIters; base += PREFETCH * WARPS_K)
#pragma unroll
    for (int p = 0; p < PREFETCH; ++p) {
      const int iteration = base + p * WARPS_K, next = iteration + PREFETCH * WARPS_K;
      if (iteration >= kIters) break;
      multiply(pieces[p], iteration);
      if (next < kIters) load(pieces[p], next);
    }

#pragma unroll
  for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int token = t * 2 + e % 2, row = (warp_n * ROW_TILES + r) * 16 + e / 2 * 8 + g;
      if (token < TOKENS) staged[(warp_k * TOKENS + token) * kRows + row] = sums[r][0][e] + sums[r][1][e];
    }
  __syncthreads();
  constexpr int kColumns = GATE ? kRows / 2 : kRows;
  const int columns = GATE ? n / 2 : n;
  const auto sum_of = [&](int token, int row) {
    float value = 0;
#pragma unroll
    for (int k = 0; k < WARPS_K; ++k) value += staged[(k * TOKENS + token) * kRows + row];
    if constexpr (X_SCALE != 1.f) value *= X_SCALE;
    return GROUP != 0 && kGroups == 1 ? value * to_float(scale[block_row + row]) : value;
  };
  for (int e = threadIdx.x; e < TOKENS * kColumns; e += kThreads) {
    const int token = e / kColumns, c = e % kColumns, column = blockIdx.x * kColumns + c;
    if (token >= m || column >= columns) continue;
    float value[1];
#if GATE
    const int row = c / 8 * 16 + c % 8;
    const float gate = sum_of(token, row);
    value[0] = GATE_FUNCTION(gate) * sum_of(token, row + 8);
#else
    value[0] = sum_of(token, c);
#endif
    epilogue<1>(value, token, column, extras);
    y[int64_t(token) * columns + column] = from_float<Y_ELEMENT>(value[0]);
  }
}
