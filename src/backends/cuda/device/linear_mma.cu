// y = epilogue(x (w * scale)^T) for up to 64 rows of x a block, on the tensor cores: w is the operand with 16 rows, x the one with 8
// columns, so that few tokens waste little. Weights of 8 and 4 bits become 16-bit floats in registers; sums of a group are scaled in float.
//
// Any order of k gives the same product as long as both operands share it: a lane takes UNIT neighbouring bytes of a row of w and the
// elements of x that belong to them, so dense rows feed mma without ldmatrix or a packed layout. A step is four lanes' units; a block's
// stage has WARPS_K * STEPS steps. w and x stream through STAGES buffers of shared memory; the first of w before the kernel that makes x
// has finished. The WARPS_K warps of the same rows, then the SPLIT blocks of a cluster, which share k, add up in a fixed order.
//   X_ELEMENT (f16, bf16), W_ELEMENT, SCALE_ELEMENT, Y_ELEMENT, K_SIZE, GROUP (0: no scales; else a multiple of a step, or K_SIZE)
//   XROWS: that many rows of x stay in shared memory as a whole (others are not read: their columns of the product are not either); 0: x
//   streams with w. OPERAND, X_SCALE (with XROWS; else X_ELEMENT and 1): x / X_SCALE is multiplied in that type. NORM (with XROWS): x is
//   normalised there, by weights of NORM_ELEMENT. GATE: rows of w are eight of the gate, eight of up, and so on; y =
//   epilogue(GATE_FUNCTION(gate) * up) has half as many columns. TILES: of 8 rows of x; ROW_TILES: of 16 rows of w a warp; WARPS_N,
//   WARPS_K, STEPS, UNIT, STAGES, SPLIT, BLOCKS (an SM), VECTOR
#include "epilogue.cuh"
#include "mma.cuh"
#include "norm_rows.cuh"
#include "weights_mma.cuh"

constexpr int kBits = Weight<W_ELEMENT>::kBits, kThreads = WARPS_N * WARPS_K * 32;
constexpr int kStepK = 4 * UNIT * 8 / kBits, kStageK = WARPS_K * STEPS * kStepK;
constexpr int kRows = WARPS_N * ROW_TILES * 16, kTokens = TILES * 8;          // of w and of x a block
constexpr int kChunksW = WARPS_K * STEPS * UNIT / 4, kChunksX = kStageK / 8;  // of 16 bytes, a row and stage
constexpr int kStageW = kRows * kChunksW * 16, kStage = kStageW + (XROWS > 0 ? 0 : kTokens * kChunksX * 16);
constexpr int64_t kRowBytes = int64_t(K_SIZE) * kBits / 8;
constexpr int kEights = UNIT / kBits;  // eights of elements in a unit
constexpr int kSteps = (K_SIZE + kStageK - 1) / kStageK;
constexpr int kGroups = GROUP == 0 ? 1 : (K_SIZE + GROUP - 1) / GROUP;
constexpr int kPitchX = XROWS > 0 ? kSteps* kChunksX : kChunksX;  // chunks from a row of x to the next
constexpr int kScaleBytes = kGroups > 1 ? kRows* kGroups* int(sizeof(SCALE_ELEMENT)) : 0;
constexpr int kPitch = kRows + 4;  // floats a token of the staged sums: a warp's stores meet 32 banks
static_assert(kChunksW % 8 == 0 && kChunksX % 8 == 0 && kRowBytes % 16 == 0 && kEights >= 1);
static_assert(kGroups == 1 || GROUP % kStepK == 0);
static_assert(!NORM || XROWS > 0);

// Byte offsets in a stage. Chunks change places within a row so that eight lanes that read together (two rows of four) meet all banks.
DEVICE int offset_w(int row, int chunk) { return (row * kChunksW + (chunk ^ ((row & 1) << 2 | (row >> 1 & 3)))) * 16; }
DEVICE int offset_x(int row, int chunk) {
  const int swap = kEights == 1 ? (row & 1) << 2 : kEights == 2 ? row & 1 : (row & 1) | (chunk >> 3 & 1) << 1;
  return (row * kPitchX + (chunk ^ swap)) * 16;
}

DEVICE void copy_weights(uint32_t to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

template <int kBytes>
DEVICE Raw<kBytes> load_shared(uint32_t address) {
  Raw<kBytes> r;
  if constexpr (kBytes == 16)
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r.word[0]), "=r"(r.word[1]), "=r"(r.word[2]), "=r"(r.word[3])
                 : "r"(address)
                 : "memory");
  else if constexpr (kBytes == 8)
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(r.word[0]), "=r"(r.word[1]) : "r"(address) : "memory");
  else asm volatile("ld.shared.u32 %0, [%1];" : "=r"(r.word[0]) : "r"(address) : "memory");
  return r;
}

using Sums = float[ROW_TILES][TILES][4];

DEVICE void clear(Sums& sums) {
#pragma unroll
  for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
    for (int t = 0; t < TILES; ++t)
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[r][t][e] = 0.f;
}

// sums += one step of a stage at `w` and `x`.
DEVICE void multiply_step(const Fragment<OPERAND, W_ELEMENT>& fragment, uint32_t w, uint32_t x, int step, Sums& sums) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int first = threadIdx.x / 32 % WARPS_N * (ROW_TILES * 16);
  Raw<UNIT> raw[ROW_TILES][2];
  const int byte = (step * 4 + t) * UNIT;
#pragma unroll
  for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
    for (int h = 0; h < 2; ++h) raw[r][h] = load_shared<UNIT>(w + offset_w(first + r * 16 + h * 8 + g, byte / 16) + byte % 16);
#pragma unroll
  for (int j = 0; j < kEights; ++j) {
    uint32_t a[ROW_TILES][2][4];
#pragma unroll
    for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
      for (int h = 0; h < 2; ++h) fragment.convert(raw[r][h].word + j * kBits / 4, a[r][h]);
#pragma unroll
    for (int i = 0; i < TILES; ++i) {
      const int row = XROWS > 0 && XROWS < kTokens ? min(i * 8 + g, XROWS - 1) : i * 8 + g;
      Raw<16> b = load_shared<16>(x + offset_x(row, step * (kStepK / 8) + t * kEights + j));
      if constexpr (XROWS == 0) order_like_weights<W_ELEMENT>(b.word);
#pragma unroll
      for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const uint32_t left[4] = {a[r][0][2 * half], a[r][1][2 * half], a[r][0][2 * half + 1], a[r][1][2 * half + 1]};
          mma_16x8x16(OPERAND{}, sums[r][i], left, b.word[2 * half], b.word[2 * half + 1]);
        }
    }
  }
}

extern "C" __global__ void __launch_bounds__(kThreads, BLOCKS)
    linear_mma(const X_ELEMENT* x, Weights<char> w, Weights<SCALE_ELEMENT> scale, Y_ELEMENT* y, int n, int m, Extras extras
#if NORM
               ,
               Weights<NORM_ELEMENT> norm, float epsilon
#endif
    ) {
  extern __shared__ __align__(128) char shared[];
  const int tiles_m = (m + kTokens - 1) / kTokens;
  const int tile = blockIdx.x / SPLIT, rank = SPLIT == 1 ? 0 : blockIdx.x % SPLIT;
  const int first_token = tile % tiles_m * kTokens, first_row = tile / tiles_m * kRows;
  const int begin = kSteps * rank / SPLIT, end = kSteps * (rank + 1) / SPLIT;
  const uint32_t base = shared_address(shared), scales_at = base + STAGES * kStage;
  [[maybe_unused]] const uint32_t x_at = scales_at + kScaleBytes;

  const auto copy_w = [&](uint32_t to, int step) {
#pragma unroll
    for (int i = 0; i < (kRows * kChunksW + kThreads - 1) / kThreads; ++i) {
      const int e = i * kThreads + threadIdx.x;
      if (kRows * kChunksW % kThreads != 0 && e >= kRows * kChunksW) break;
      const int row = e / kChunksW, chunk = e % kChunksW;
      const int64_t at = (int64_t(step) * kChunksW + chunk) * 16;
      const bool valid = first_row + row < n && at < kRowBytes;
      copy_weights(to + offset_w(row, chunk), valid ? w + (first_row + row) * kRowBytes + at : w, valid ? 16 : 0);
    }
  };
  const auto copy_x = [&](uint32_t to, int step) {
#pragma unroll
    for (int i = 0; i < (kTokens * kChunksX + kThreads - 1) / kThreads; ++i) {
      const int e = i * kThreads + threadIdx.x;
      if (kTokens * kChunksX % kThreads != 0 && e >= kTokens * kChunksX) break;
      const int row = e / kChunksX, chunk = e % kChunksX, k = step * kStageK + chunk * 8;
      const bool valid = first_token + row < m && k < K_SIZE;
      copy_async_16(to + offset_x(row, chunk), valid ? x + int64_t(first_token + row) * K_SIZE + k : x, valid);
    }
  };

  if constexpr (kGroups > 1) {  // all scales of the block's rows, as they lie in memory
    const int64_t at = int64_t(first_row) * kGroups * sizeof(SCALE_ELEMENT), size = int64_t(n) * kGroups * sizeof(SCALE_ELEMENT);
    for (int e = threadIdx.x * 16; e < kScaleBytes; e += kThreads * 16) {
      if (at + e + 16 <= size) {
        copy_weights(scales_at + e, reinterpret_cast<const char*>(scale) + at + e, 16);
        continue;
      }
      // The last ones: a copy of 16 bytes would read past them.
      SCALE_ELEMENT* const to = reinterpret_cast<SCALE_ELEMENT*>(shared + STAGES * kStage + e);
#pragma unroll
      for (int i = 0; i < 16 / int(sizeof(SCALE_ELEMENT)); ++i) {
        const int64_t from = (at + e) / int(sizeof(SCALE_ELEMENT)) + i;
        to[i] = from < int64_t(n) * kGroups ? scale[from] : from_float<SCALE_ELEMENT>(0.f);
      }
    }
  }
  if constexpr (GROUP != 0 && kGroups == 1)
    if (threadIdx.x < kRows && first_row + threadIdx.x < n) touch(scale + first_row + threadIdx.x);
#if XROWS > 0
#pragma unroll
  for (int s = 0; s < STAGES - 1; ++s) {
    if (begin + s < end) copy_w(base + s * kStage, begin + s);
    copy_async_commit();
  }
  // Row r, vector v of x: where multiply_step() looks for chunk v % kChunksX of stage v / kChunksX.
  const auto place_x = [&](int r, int v) {
    return reinterpret_cast<Vec<OPERAND, 8>*>(shared + STAGES * kStage + kScaleBytes + v / kChunksX * (kChunksX * 16) +
                                              offset_x(r, v % kChunksX));
  };
  constexpr int kVectorsX = K_SIZE / 8;
  const auto in_order = [](auto& vector) {
    Raw<16>& raw = reinterpret_cast<Raw<16>&>(vector);
    order_like_weights<W_ELEMENT>(raw.word);
  };
#if NORM
  NormRows<X_ELEMENT, NORM_ELEMENT, K_SIZE, XROWS, kThreads, 8, OPERAND> rows;
  rows.load_weights(norm);
#endif
  allow_next();  // its weights may come as soon as there is room
  wait_for_previous();
#if NORM
  rows.run(x, norm, m, epsilon, reinterpret_cast<float*>(shared + STAGES * kStage + kScaleBytes + XROWS * kPitchX * 16), place_x, in_order);
#else
  constexpr int kMine = (XROWS * kVectorsX + kThreads - 1) / kThreads, kBatch = kMine < 8 ? kMine : 8;  // loads of x under way
  for (int first = threadIdx.x; first < XROWS * kVectorsX; first += kBatch * kThreads) {
    Vec<X_ELEMENT, 8> raw[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int e = first + i * kThreads, r = e / kVectorsX;
      raw[i] = e < XROWS * kVectorsX && r < m ? load_vector<X_ELEMENT, 8>(x + int64_t(e) * 8) : Vec<X_ELEMENT, 8>{};
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i)
      if (const int e = first + i * kThreads; e < XROWS * kVectorsX) {
        Vec<OPERAND, 8> vector = converted<OPERAND>(raw[i], 1.f / X_SCALE);
        in_order(vector);
        *place_x(e / kVectorsX, e % kVectorsX) = vector;
      }
  }
#endif
  // What is behind the last column meets zeros of w, but may not be NaN.
  for (int e = threadIdx.x; e < XROWS * (kPitchX - kVectorsX); e += kThreads)
    *place_x(e % XROWS, kVectorsX + e / XROWS) = Vec<OPERAND, 8>{};
#else
#pragma unroll
  for (int s = 0; s < STAGES - 1; ++s)
    if (begin + s < end) copy_w(base + s * kStage, begin + s);
  allow_next();  // its weights may come as soon as there is room
  wait_for_previous();
#pragma unroll
  for (int s = 0; s < STAGES - 1; ++s) {
    if (begin + s < end) copy_x(base + s * kStage + kStageW, begin + s);
    copy_async_commit();
  }
#endif

  constexpr int kPerColumn = GATE ? 2 : 1, kColumnVectors = kRows / VECTOR / kPerColumn;
  const int tokens = min(kTokens, m - first_token), columns = n / kPerColumn;
  if (const int e = threadIdx.x + rank * kThreads, col = first_row / kPerColumn + e % kColumnVectors * VECTOR;
      e < tokens * kColumnVectors && col < columns)
    touch_extras(first_token + e / kColumnVectors, col, extras);

  const int lane = threadIdx.x % 32, warp_n = threadIdx.x / 32 % WARPS_N, warp_k = threadIdx.x / 32 / WARPS_N;
  const Fragment<OPERAND, W_ELEMENT> fragment(uint32_t(n) >> 31);
  Sums sums;
  clear(sums);
  int slot = 0, next_slot = STAGES - 1;
  for (int step = begin; step < end; ++step) {
    copy_async_wait<STAGES - 2>();
    __syncthreads();  // the step's copies are there, and nobody reads the slot any more that is filled next
    if (step + STAGES - 1 < end) {
      copy_w(base + next_slot * kStage, step + STAGES - 1);
      if constexpr (XROWS == 0) copy_x(base + next_slot * kStage + kStageW, step + STAGES - 1);
    }
    copy_async_commit();
    const uint32_t stage = base + slot * kStage, stage_x = XROWS > 0 ? x_at + step * (kChunksX * 16) : stage + kStageW;
#pragma unroll
    for (int s = 0; s < STEPS; ++s) {
      const int inner = warp_k * STEPS + s;
      if constexpr (kGroups == 1) {
        multiply_step(fragment, stage, stage_x, inner, sums);
      } else {
        Sums part;
        clear(part);
        multiply_step(fragment, stage, stage_x, inner, part);
        const int group = min((step * kStageK + inner * kStepK) / GROUP, kGroups - 1);
#pragma unroll
        for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const int row = (warp_n * ROW_TILES + r) * 16 + h * 8 + lane / 4;
            const float factor = to_float(reinterpret_cast<const SCALE_ELEMENT*>(shared + STAGES * kStage)[row * kGroups + group]);
#pragma unroll
            for (int i = 0; i < TILES; ++i) {
              sums[r][i][2 * h] += factor * part[r][i][2 * h];
              sums[r][i][2 * h + 1] += factor * part[r][i][2 * h + 1];
            }
          }
      }
    }
    slot = slot + 1 == STAGES ? 0 : slot + 1;
    next_slot = next_slot + 1 == STAGES ? 0 : next_slot + 1;
  }
  copy_async_wait<0>();
  __syncthreads();

  // Sums go through shared memory: [warp_k][token][row].
  float* const staged = reinterpret_cast<float*>(shared);
#pragma unroll
  for (int r = 0; r < ROW_TILES; ++r)
#pragma unroll
    for (int i = 0; i < TILES; ++i)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int row = (warp_n * ROW_TILES + r) * 16 + e / 2 * 8 + lane / 4, token = i * 8 + lane % 4 * 2 + e % 2;
        staged[(warp_k * kTokens + token) * kPitch + row] = sums[r][i][e];
      }
  __syncthreads();
  [[maybe_unused]] constexpr int kVectors = kRows / VECTOR;
  const auto sum_of_warps = [&](int at, float(&value)[VECTOR]) {
    load_floats<VECTOR>(staged + at, value);
#pragma unroll
    for (int k = 1; k < WARPS_K; ++k) {
      float more[VECTOR];
      load_floats<VECTOR>(staged + k * kTokens * kPitch + at, more);
#pragma unroll
      for (int v = 0; v < VECTOR; ++v) value[v] += more[v];
    }
  };
#if SPLIT > 1
  if constexpr (WARPS_K > 1)
    for (int e = threadIdx.x; e < tokens * kVectors; e += kThreads) {
      const int at = e / kVectors * kPitch + e % kVectors * VECTOR;
      float value[VECTOR];
      sum_of_warps(at, value);
      store_floats<VECTOR>(staged + at, value);
    }
  cluster_barrier();
#endif
  // VECTOR neighbouring rows' products, of all blocks.
  const auto finish = [&](int token, int row, float(&value)[VECTOR]) {
    const int at = token * kPitch + row;
#if SPLIT > 1
    sum_of_cluster<SPLIT>(base + at * 4, value);
#else
    sum_of_warps(at, value);
#endif
    if constexpr (GROUP != 0 && kGroups == 1) {
      float factor[VECTOR];
      load_floats<VECTOR>(scale + first_row + row, factor);
#pragma unroll
      for (int v = 0; v < VECTOR; ++v) value[v] *= factor[v];
    }
    if constexpr (X_SCALE != 1.f)
#pragma unroll
      for (int v = 0; v < VECTOR; ++v) value[v] *= X_SCALE;
  };
  for (int e = threadIdx.x + rank * kThreads; e < tokens * kColumnVectors; e += kThreads * SPLIT) {
    const int token = e / kColumnVectors, column = e % kColumnVectors * VECTOR, col = first_row / kPerColumn + column;
    if (col >= columns) continue;
    float value[VECTOR];
#if GATE
    float up[VECTOR];
    const int row = column / 8 * 16 + column % 8;
    finish(token, row, value);
    finish(token, row + 8, up);
#pragma unroll
    for (int v = 0; v < VECTOR; ++v) value[v] = GATE_FUNCTION(value[v]) * up[v];
#else
    finish(token, column, value);
#endif
    epilogue<VECTOR>(value, first_token + token, col, extras);
    store_floats<VECTOR>(y + int64_t(first_token + token) * columns + col, value);
  }
#if SPLIT > 1
  cluster_meet();  // a block's shared memory must outlive the others' reads
#endif
}
