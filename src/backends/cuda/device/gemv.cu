// y = epilogue(x (w * scale)^T) for few rows of x: reading w is what counts. A warp takes ROWS rows of w along all of K, PREFETCH loads of
// LOAD_BYTES a lane and row under way at any time; the first of them before the kernel that makes x has finished.
//   X_ELEMENT, W_ELEMENT, SCALE_ELEMENT, Y_ELEMENT;  K_SIZE; LOAD_BYTES divides a row and a group; GROUP: elements of K a scale (0: no
//   scales) TOKENS: rows of x a block (grid.y walks through the others); WARPS; NORM: x is normalised in shared memory by weights of
//   NORM_ELEMENT; GATE: rows of w are eight of the gate, eight of up, and so on; y = epilogue(GATE_FUNCTION(gate) * up) has half as many
//   columns
#include "norm_rows.cuh"
#include "weights.cuh"

constexpr int kElements = LOAD_BYTES * 8 / Weight<W_ELEMENT>::kBits;  // a load
constexpr int kLoads = K_SIZE / kElements;                            // a row
constexpr int kRounds = (kLoads + 31) / 32;
constexpr int64_t kRowBytes = int64_t(kLoads) * LOAD_BYTES;
constexpr int kPiece = kElements < 8 ? kElements : 8;  // elements converted at a time
constexpr int kGroups = GROUP == 0 ? 1 : (K_SIZE + GROUP - 1) / GROUP;
constexpr int kColumns = GATE ? ROWS / 2 : ROWS;  // of y a warp
static_assert(!GATE || ROWS % 2 == 0);

// Neighbouring elements of x, from L1.
DEVICE void load_x(const X_ELEMENT* p, float (&x)[kPiece]) {
  constexpr int kVector = sizeof(X_ELEMENT) * kPiece > 16 ? 16 / sizeof(X_ELEMENT) : kPiece;
#pragma unroll
  for (int i = 0; i < kPiece; i += kVector) {
    const Vec<X_ELEMENT, kVector> v = *reinterpret_cast<const Vec<X_ELEMENT, kVector>*>(p + i);
#pragma unroll
    for (int j = 0; j < kVector; ++j) x[i + j] = to_float(v.at[j]);
  }
}

extern "C" __global__ void __launch_bounds__(WARPS * 32)
    gemv(const X_ELEMENT* x, const char* w, const SCALE_ELEMENT* scale, Y_ELEMENT* y, int n, int m, Extras extras
#if NORM
         ,
         const NORM_ELEMENT* norm, float epsilon
#endif
    ) {
  const int lane = threadIdx.x % 32;
  const int first = (blockIdx.x * WARPS + threadIdx.x / 32) * kColumns, token = blockIdx.y * TOKENS;
  const int columns = GATE ? n / 2 : n;
  // Row r of the warp's: with a gate its columns' rows of the gate, then those of up.
  const auto row_of = [&](int r) {
    const int column = first + r % kColumns;
    return GATE ? column / 8 * 16 + column % 8 + r / kColumns * 8 : column;
  };
  Raw<LOAD_BYTES> raw[PREFETCH][ROWS];
  float group_scale[PREFETCH][ROWS];
  const auto load = [&](Raw<LOAD_BYTES>(&to)[ROWS], float(&s)[ROWS], int round) {
    const int at = round * 32 + lane;
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      const int row = row_of(r);
      const bool valid = at < kLoads && row < n;
      to[r] = valid ? load_streaming<LOAD_BYTES>(w + row * kRowBytes + int64_t(at) * LOAD_BYTES) : Raw<LOAD_BYTES>{};
      if constexpr (kGroups > 1) s[r] = valid ? to_float(scale[int64_t(row) * kGroups + at * kElements / GROUP]) : 0.f;
    }
  };
#pragma unroll
  for (int p = 0; p < PREFETCH; ++p) load(raw[p], group_scale[p], p);
#if NORM
  extern __shared__ __align__(16) char shared[];
  __shared__ float scratch[WARPS * TOKENS];
  NormRows<X_ELEMENT, NORM_ELEMENT, K_SIZE, TOKENS, WARPS * 32, NORM_VECTOR> rows;
  rows.load_weights(norm);
#endif
  if constexpr (GROUP != 0 && kGroups == 1)
    if (lane < ROWS && row_of(lane) < n) touch(scale + row_of(lane));
  allow_next();
  wait_for_previous();
  if (const int column = first + lane % kColumns, t = token + lane / kColumns; lane < kColumns * TOKENS && column < columns && t < m)
    touch_extras(t, column, extras);
#if NORM
  using VecX = Vec<X_ELEMENT, NORM_VECTOR>;
  rows.run(x + int64_t(token) * K_SIZE, norm, m - token, epsilon, scratch,
           [&](int r, int v) { return reinterpret_cast<VecX*>(shared) + r * (K_SIZE / NORM_VECTOR) + v; });
  __syncthreads();
  const X_ELEMENT* const block_x = reinterpret_cast<const X_ELEMENT*>(shared);
#else
  const X_ELEMENT* const block_x = x + int64_t(token) * K_SIZE;
#endif

  float sum[ROWS][TOKENS] = {};
  for (int base = 0; base < kRounds; base += PREFETCH) {
#pragma unroll
    for (int p = 0; p < PREFETCH; ++p) {
      const int at = (base + p) * 32 + lane;
      float part[ROWS][TOKENS] = {};
      if (at < kLoads) {
#pragma unroll
        for (int e = 0; e < kElements; e += kPiece) {
          float v[ROWS][kPiece];
#pragma unroll
          for (int r = 0; r < ROWS; ++r)
#pragma unroll
            for (int i = 0; i < kPiece; ++i) v[r][i] = weight_at<W_ELEMENT>(raw[p][r], e + i);
#pragma unroll
          for (int t = 0; t < TOKENS; ++t) {
            if (token + t >= m) break;
            float piece[kPiece];
            load_x(block_x + int64_t(t) * K_SIZE + at * kElements + e, piece);
#pragma unroll
            for (int r = 0; r < ROWS; ++r)
#pragma unroll
              for (int i = 0; i < kPiece; ++i) part[r][t] += v[r][i] * piece[i];
          }
        }
      }
#pragma unroll
      for (int r = 0; r < ROWS; ++r)
#pragma unroll
        for (int t = 0; t < TOKENS; ++t) sum[r][t] += kGroups > 1 ? part[r][t] * group_scale[p][r] : part[r][t];
      load(raw[p], group_scale[p], base + p + PREFETCH);
    }
  }

#pragma unroll
  for (int r = 0; r < ROWS; ++r)
#pragma unroll
    for (int t = 0; t < TOKENS; ++t) sum[r][t] = warp_reduce<Sum>(sum[r][t]);
  const auto scaled = [&](float value, int row) { return GROUP != 0 && kGroups == 1 ? value * to_float(scale[row]) : value; };
  // Each lane finishes one element.
#pragma unroll
  for (int begin = 0; begin < kColumns * TOKENS; begin += 32) {
    float value[1] = {0};
    [[maybe_unused]] float up = 0;
#pragma unroll
    for (int i = 0; i < 32; ++i)
      if (begin + i < kColumns * TOKENS && lane == i) {
        value[0] = sum[(begin + i) % kColumns][(begin + i) / kColumns % TOKENS];
        if (GATE) up = sum[(begin + i) % kColumns + ROWS - kColumns][(begin + i) / kColumns % TOKENS];
      }
    const int r = (begin + lane) % kColumns, column = first + r, t = token + (begin + lane) / kColumns;
    if (begin + lane >= kColumns * TOKENS || column >= columns || t >= m) continue;
    value[0] = scaled(value[0], row_of(r));
#if GATE
    value[0] = GATE_FUNCTION(value[0]) * scaled(up, row_of(r + kColumns));
#endif
    epilogue<1>(value, t, column, extras);
    y[int64_t(t) * columns + column] = from_float<Y_ELEMENT>(value[0]);
  }
}
