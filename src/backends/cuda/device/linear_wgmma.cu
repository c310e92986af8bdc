// y = epilogue(x (w * scale)^T) with Hopper's warpgroup products (sm_90a), for weights of 8 and 4 bits: a consumer warpgroup turns 64 rows
// of w into 16-bit floats in registers and multiplies them with TOKENS rows of x from shared memory. (PLAIN: weights of x's type, which are
// multiplied where they are; of x in E4M3 the scales, a row's each, lie behind it.) A producer warpgroup fills a ring of
// STAGES slots: boxes of ROWS rows and 128 bytes of w by the copy engine (the first of them before the kernel that makes x has finished),
// and x: as linear_wgmma_x.cuh does, or in one bulk copy a slot where it comes ARRANGED (with many tokens the producers' copies one by one
// take longer than the products). The SPLIT blocks of a cluster share k and add up in a fixed order. SHARE neighbours in a cluster have the
// same x (ARRANGED), of which each copies a part for all: that many times fewer reads of the L2 cache.
//
// Any order of k gives the same product as long as both operands share it, so w stays dense: of a step of 4 * UNIT bytes of a row, lane t
// of four takes UNIT neighbours, eights of elements in turn, each four pairs j of neighbours. Eight w's pair j of lane t is what A's
// registers want at k = 2t + 8 (j % 2) of product 2w + j / 2, and x's pair is put there: into 16-byte chunk 4b + j at 4t, b being the
// eight's number in its plane of 64 k. Planes are rows of 128 bytes as operand_descriptor() has them.
//   X_ELEMENT (f16, bf16; PLAIN: f8e4m3 too), W_ELEMENT, SCALE_ELEMENT, Y_ELEMENT, K_SIZE (rows of w are whole 16 bytes), GROUP (a multiple
//   of a step, or K_SIZE; 0: no scales), SCALE_GROUPS: at most, of a block; ARRANGED, TOKENS (of 8), ROWS (of 8), WARPGROUPS (of
//   consumers), UNIT, STAGES, SPLIT, SHARE, BLOCKS (an SM), CONSUMER_REGISTERS (0: as launched), VECTOR. X_SCALE: sums are multiplied by
//   it. NORM: x is normalised (rms_norm) by weights of NORM_ELEMENT. The products are those of x times a weight times norm_scale, a power
//   of two with which no weight is above one; the rest is one factor a token, for which the producers add up squares on the way. GATE: rows
//   of w are eight of the gate, eight of up, and so on; y = epilogue(GATE_FUNCTION(gate) * up) has half as many columns
#include "copy_bulk.cuh"
#include "epilogue.cuh"
#include "weight_pairs.cuh"
#include "wgmma.cuh"

constexpr int kBits = Weight<W_ELEMENT>::kBits, kConsumers = WARPGROUPS * 128, kThreads = kConsumers + 128;
constexpr bool kRounded = sizeof(X_ELEMENT) == 1;
constexpr int kStageK = 1024 / kBits, kPlanes = kStageK / (128 / int(sizeof(X_ELEMENT)));
constexpr int kEights = UNIT / kBits, kStepK = 32 * kEights;
constexpr int kStageW = ROWS * 128, kPlane = TOKENS * 128, kStageX = kPlanes * kPlane, kStage = kStageW + kStageX;
constexpr int kSteps = (K_SIZE + kStageK - 1) / kStageK;  // stages of all of k
constexpr int kGroups = GROUP == 0 ? 1 : (K_SIZE + GROUP - 1) / GROUP;
constexpr bool kGrouped = kGroups > 1;
constexpr int kFlushK = !kGrouped || GROUP % 128 == 0 ? 128 : GROUP % 64 == 0 ? 64 : 32;  // k of a group's sums before they are scaled
constexpr int kParts = kFlushK == 32 ? 2 : 1;                                             // of them in a plane
constexpr int kPitch = ROWS + 4;  // floats a token of the staged sums: a warp's stores meet 32 banks
constexpr int kArrivals = ARRANGED ? 1 : 1 + 128;
constexpr int kCluster = SPLIT * SHARE;
constexpr int kPerColumn = GATE ? 2 : 1;
static_assert(ROWS % 8 == 0 && ROWS <= WARPGROUPS * 64 && TOKENS % 8 == 0 && kEights >= 1 && (PLAIN || kPlanes % 2 == 0));
static_assert(!kGrouped || (GROUP % 32 == 0 && GROUP % kStepK == 0 && kFlushK >= kStepK));
static_assert(TOKENS * kPitch * 4 <= STAGES * kStage && (!GATE || ROWS % 16 == 0) && (!NORM || TOKENS <= 16) && (SHARE == 1 || ARRANGED) &&
              (!PLAIN || ARRANGED) && (!kRounded || PLAIN));

template <int kCount>
DEVICE void keep_all(float (&x)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) keep_in_place(x[i]);
}

// Consumers' own barrier, and that of consumers and producers.
DEVICE void consumer_barrier() { asm volatile("bar.sync 1, %0;" ::"n"(kConsumers) : "memory"); }
DEVICE void block_barrier() { asm volatile("bar.sync 2, %0;" ::"n"(kThreads) : "memory"); }
struct Ring {
  uint32_t slots, barriers;
  DEVICE uint32_t slot(int i) const { return slots + i * kStage; }
  DEVICE uint32_t full(int i) const { return barriers + i * 8; }
  DEVICE uint32_t empty(int i) const { return barriers + (STAGES + i) * 8; }
};

DEVICE void copy_weights(const Ring& ring, const TensorMap& w, int first_row, int step, int slot) {
  barrier_arrive_expecting(ring.full(slot), ARRANGED ? kStage : kStageW);
  copy_box(ring.slot(slot), w, step * 128, first_row, ring.full(slot));
}

#if ARRANGED
// After the first STAGES copies of weights: stages [begin, end) of rows of w from first_row on and of x, a tile of what arrange_rows.cu
// wrote. A slot is empty when those of all blocks with the same x are: each copies its part of x to all.
DEVICE void produce(const Ring& ring, const TensorMap& w, const char* x, int first_row, int begin, int end, int in_cluster) {
  if (threadIdx.x == kConsumers) {
    wait_for_previous();
    constexpr int kBytes = kStageX / SHARE;
    const int mine = in_cluster % SHARE * kBytes;
    int slot = 0, parity = 1;
    for (int step = begin; step < end; ++step) {
      if (step - begin >= STAGES) {
        barrier_wait(ring.empty(slot), parity);
        copy_weights(ring, w, first_row, step, slot);
      }
      const uint32_t to = ring.slot(slot) + kStageW + mine;
      const char* const from = x + int64_t(step) * kStageX + mine;
      if constexpr (SHARE == 1) copy_bytes(to, from, kBytes, ring.full(slot));
      else copy_bytes_to(((1 << SHARE) - 1) << (in_cluster / SHARE * SHARE), to, from, kBytes, ring.full(slot));
      if (++slot == STAGES) slot = 0, parity ^= 1;
    }
  }
  __syncwarp();
}
#else
#include "linear_wgmma_x.cuh"
#endif

// A warp's: this block and those with the same x may copy to the slot.
DEVICE void release(const Ring& ring, int slot, int in_cluster) {
  const int lane = threadIdx.x % 32;
  if constexpr (SHARE == 1) {
    if (lane == 0) barrier_arrive(ring.empty(slot));
  } else {
    if (lane < SHARE) barrier_arrive_at(cluster_address(ring.empty(slot), in_cluster / SHARE * SHARE + lane));
  }
}

#if PLAIN
// sum += the products of a consumer warpgroup's rows: of 8 tokens each four floats as mma_16x8x16 has them. Tensor cores keep 13 bits
// behind the first of a sum of E4M3 products: after kFlush stages it moves on to ordinary arithmetic.
DEVICE void consume(const Ring& ring, int begin, int end, int in_cluster, float (&sum)[TOKENS / 2]) {
  constexpr int kFlush = 4;
  const int first_row = threadIdx.x / 128 * 64;
  float part[TOKENS / 2] = {};
  float(&running)[TOKENS / 2] = kRounded ? part : sum;
  int slot = 0, parity = 0, previous = 0, held = 0;
  for (int step = begin; step < end; ++step) {
    barrier_wait(ring.full(slot), parity);
    const uint64_t w = operand_descriptor(ring.slot(slot) + first_row * 128), x = operand_descriptor(ring.slot(slot) + kStageW);
    products_begin();
#pragma unroll
    for (int k = 0; k < 4; ++k) product(running, w + k * 2, x + k * 2, !kRounded || k > 0 || held > 0);
    products_commit();
    if (kRounded && (++held == kFlush || step + 1 == end)) {
      products_wait<0>();
      keep_all(part);
#pragma unroll
      for (int e = 0; e < TOKENS / 2; ++e) sum[e] += part[e];
      held = 0;
    } else {
      products_wait<1>();
    }
    if (step > begin) release(ring, previous, in_cluster);
    previous = slot;
    if (++slot == STAGES) slot = 0, parity ^= 1;
  }
  products_wait<0>();
  keep_all(sum);
}
#else
// sum += the products of a consumer warpgroup's rows: of 8 tokens each four floats as mma_16x8x16 has them. `row`: of the first of the
// lane's two rows (8 apart) in the slot, with the exchange that the copy engine makes within 128 bytes.
DEVICE void consume(const Ring& ring, const SCALE_ELEMENT* scales, int row, int begin, int end, int in_cluster, uint32_t zero,
                    float (&sum)[TOKENS / 2]) {
  const int lane = threadIdx.x % 32, t = lane % 4;
  const int rows[2] = {min(row, ROWS - 8 + row % 8), min(row + 8, ROWS - 8 + row % 8)};  // what is behind the last row is not used
  const Pairs<X_ELEMENT, W_ELEMENT> pairs_of(zero);
  float part[kParts][TOKENS / 2];  // of groups
  uint32_t a[2][4][4], raw[2][8];

  const auto load = [&](int slot) {
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int unit = 0; unit < 32 / UNIT; ++unit) {
        const int byte = (unit * 4 + t) * UNIT;
        const uint32_t from = ring.slot(slot) + rows[h] * 128 + ((byte / 16) ^ (row % 8)) * 16 + byte % 16;
        uint32_t* const to = raw[h] + unit * (UNIT / 4);
        if constexpr (UNIT == 16)
          asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(from));
        else if constexpr (UNIT == 8) asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(to[0]), "=r"(to[1]) : "r"(from));
        else asm volatile("ld.shared.u32 %0, [%1];" : "=r"(to[0]) : "r"(from));
      }
  };
  const auto convert = [&](int plane, uint32_t(&to)[4][4]) {
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      uint32_t pairs[2][4];
#pragma unroll
      for (int h = 0; h < 2; ++h) pairs_of.convert(raw[h] + (2 * plane + b) * (kBits / 4), pairs[h]);
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int s = 0; s < 2; ++s)
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            to[2 * b + half][2 * s + h] = pairs[h][2 * half + s];
            asm volatile("" : "+r"(to[2 * b + half][2 * s + h]));  // here, beside the products under way, not behind the wait for them
          }
    }
  };

  barrier_wait(ring.full(0), 0);
  load(0);
  convert(0, a[0]);
  int slot = 0, parity = 0;
  for (int step = begin; step < end; ++step) {
    const uint64_t x = operand_descriptor(ring.slot(slot) + kStageW);
    const int this_slot = slot;
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      products_begin();
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const uint64_t b = x + ((plane * kPlane + k * 32) >> 4);
        if constexpr (kGrouped)
          product(part[kParts == 2 ? k / 2 : 0], a[plane % 2][k], b, !(kFlushK == 32 ? k % 2 == 0 : k == 0 && plane * 64 % kFlushK == 0));
        else product(sum, a[plane % 2][k], b, true);
      }
      products_commit();
      // Meanwhile the next registers; the next slot is looked at early, so that its loads are there in time.
      if (plane + 1 < kPlanes) convert(plane + 1, a[(plane + 1) % 2]);
      else if (step + 1 < end) convert(0, a[0]);
      if (plane == kPlanes - 2 && step + 1 < end) {
        if (++slot == STAGES) slot = 0, parity ^= 1;
        barrier_wait(ring.full(slot), parity);
        load(slot);
      }
      products_wait<0>();
      if constexpr (kGrouped) {
#pragma unroll
        for (int p = 0; p < kParts; ++p) {
          keep_all(part[p]);
          const int k = plane * 64 + p * 32;  // in the stage, within the plane's last group
          if (kFlushK == 128 && plane % 2 == 0) continue;
          const int group = min((step * kStageK + k) / GROUP, kGroups - 1) - begin * kStageK / GROUP;
          float factor[2];
#pragma unroll
          for (int h = 0; h < 2; ++h) factor[h] = to_float(scales[group * ROWS + rows[h]]);
#pragma unroll
          for (int e = 0; e < TOKENS / 2; ++e) sum[e] += factor[e / 2 % 2] * part[p][e];
        }
      } else {
        keep_all(sum);
      }
    }
    release(ring, this_slot, in_cluster);
  }
}
#endif

extern "C" __global__ void __launch_bounds__(kThreads, BLOCKS)
    linear_wgmma(const __grid_constant__ TensorMap w, const X_ELEMENT* x, Weights<SCALE_ELEMENT> scale, Y_ELEMENT* y, int n, int m,
                 Extras extras, Weights<NORM_ELEMENT> norm, float epsilon, float norm_scale) {
  extern __shared__ __align__(1024) char shared[];
  const int tiles_m = (m + TOKENS - 1) / TOKENS;
  const int tile = blockIdx.x / kCluster, in_cluster = blockIdx.x % kCluster, rank = in_cluster / SHARE;  // of those that share k
  const int first_token = tile % tiles_m * TOKENS, tokens = min(TOKENS, m - first_token);
  const int first_row = (tile / tiles_m * SHARE + in_cluster % SHARE) * ROWS;
  const int begin = kSteps * rank / SPLIT, end = kSteps * (rank + 1) / SPLIT;
  const uint32_t start = shared_address(shared), base = (start + 1023) & ~1023u;
  char* const memory = shared + (base - start);
  float* const squares = reinterpret_cast<float*>(memory + STAGES * (kStage + 16));
  SCALE_ELEMENT* const scales = reinterpret_cast<SCALE_ELEMENT*>(squares + (NORM ? TOKENS * 4 : 0));
  const Ring ring{base, base + STAGES * kStage};

  if (threadIdx.x == kConsumers) {
    prefetch_map(w);
    for (int i = 0; i < STAGES; ++i) {
      barrier_init(ring.full(i), kArrivals);
      barrier_init(ring.empty(i), WARPGROUPS * 4 * SHARE);
    }
    barrier_init_done();
    fence_shared_for_products();
    for (int i = 0; i < STAGES && begin + i < end; ++i) copy_weights(ring, w, first_row, begin + i, i);
  }
#if !ARRANGED
  // Tokens that are not there are zeros once for all.
  if (tokens < TOKENS)
    for (int e = threadIdx.x; e < STAGES * kPlanes * (TOKENS - tokens) * 8; e += kThreads) {
      const int chunk = e % ((TOKENS - tokens) * 8), plane = e / ((TOKENS - tokens) * 8);
      const uint32_t to = ring.slot(plane / kPlanes) + kStageW + plane % kPlanes * kPlane + tokens * 128 + chunk * 16;
      asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(to), "r"(0) : "memory");
    }
  fence_shared_for_products();
#endif
  __syncthreads();
  if constexpr (SHARE > 1) cluster_meet();  // the others' barriers are there
  allow_next();                             // its weights may come as soon as there is room

  if (threadIdx.x >= kConsumers) {
#if CONSUMER_REGISTERS > 0
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
#endif
#if ARRANGED
    produce(ring, w, reinterpret_cast<const char*>(x) + int64_t(tile % tiles_m) * kSteps * kStageX, first_row, begin, end, in_cluster);
#else
    produce(ring, w, x + int64_t(first_token) * K_SIZE, first_row, tokens, begin, end, norm, norm_scale, squares);
#endif
#if NORM
    block_barrier();
#endif
    if constexpr (SPLIT > 1) cluster_barrier();
    if constexpr (kCluster > 1) cluster_meet();
  } else {
#if CONSUMER_REGISTERS > 0
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(CONSUMER_REGISTERS));
#endif
    // Of groups: [group][row]; else of rows. Many loads at once: this is time in which nothing is multiplied.
    if constexpr (kGrouped) {
      const int first_group = begin * kStageK / GROUP, groups = min((end * kStageK - 1) / GROUP + 1, kGroups) - first_group;
      constexpr int kAtOnce = 16;
      for (int base = 0; base < ROWS * SCALE_GROUPS; base += kAtOnce * kConsumers) {
        SCALE_ELEMENT held[kAtOnce];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          const int e = base + i * kConsumers + threadIdx.x, row = e / SCALE_GROUPS, group = e % SCALE_GROUPS;
          const bool valid = row < ROWS && first_row + row < n && group < groups;
          held[i] = scale[valid ? int64_t(first_row + row) * kGroups + first_group + group : 0];
        }
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          const int e = base + i * kConsumers + threadIdx.x, row = e / SCALE_GROUPS, group = e % SCALE_GROUPS;
          if (row < ROWS) scales[group * ROWS + row] = held[i];
        }
      }
      consumer_barrier();
    } else if constexpr (GROUP != 0) {
      for (int row = threadIdx.x; row < ROWS; row += kConsumers) scales[row] = scale[min(first_row + row, n - 1)];
    }
    wait_for_previous();
    const int lane = threadIdx.x % 32, g = lane / 4;
    const float* const token_scales =
        reinterpret_cast<const float*>(reinterpret_cast<const char*>(x) + int64_t(tiles_m) * kSteps * kStageX);
    float sum[TOKENS / 2] = {};
#if PLAIN
    const int row = threadIdx.x / 32 * 16 + g;
    consume(ring, begin, end, in_cluster, sum);
#else
    // A's rows g and g + 8 are the slot's rows in another order, so that lanes that load together meet all banks.
    const int row = threadIdx.x / 32 * 16 + g % 2 * 4 + g / 2;
    consume(ring, scales, row, begin, end, in_cluster, uint32_t(n) >> 31, sum);
#endif
#if NORM
    block_barrier();
#else
    consumer_barrier();
#endif

    // Sums go through shared memory: [token][row].
    float* const staged = reinterpret_cast<float*>(memory);
#pragma unroll
    for (int e = 0; e < TOKENS / 2; ++e) {
      const int at = row + e / 2 % 2 * 8, token = e / 4 * 8 + lane % 4 * 2 + e % 2;
      if (at < ROWS) staged[token * kPitch + at] = sum[e];
    }
    consumer_barrier();
#if SPLIT > 1
    cluster_barrier();
#endif
    // VECTOR neighbouring rows' products, of all blocks.
    const auto finish = [&](int token, int at, float(&value)[VECTOR]) {
#if SPLIT > 1
      sum_of_cluster<SPLIT, SHARE>(base + (token * kPitch + at) * 4, value, in_cluster % SHARE);
#else
      load_floats<VECTOR>(staged + token * kPitch + at, value);
#endif
      float factor[VECTOR];
      if constexpr (!kGrouped && GROUP != 0) {
        load_floats<VECTOR>(scales + at, factor);
#pragma unroll
        for (int v = 0; v < VECTOR; ++v) value[v] *= factor[v];
      }
      if constexpr (X_SCALE != 1.f)
#pragma unroll
        for (int v = 0; v < VECTOR; ++v) value[v] *= X_SCALE;
      if constexpr (kRounded) {
        const float of_token = token_scales[first_token + token];
#pragma unroll
        for (int v = 0; v < VECTOR; ++v) value[v] *= of_token;
      }
#if NORM
      float total = 0.f;
#pragma unroll
      for (int b = 0; b < SPLIT; ++b) {
        float four[4];
#if SPLIT > 1
        cluster_load(cluster_address(shared_address(squares + token * 4), b), four);
#else
        load_floats<4>(squares + token * 4, four);
#endif
        total += (four[0] + four[1]) + (four[2] + four[3]);
      }
      const float inverse = rsqrtf(total * (1.f / K_SIZE) + epsilon) / norm_scale;
#pragma unroll
      for (int v = 0; v < VECTOR; ++v) value[v] *= inverse;
#endif
    };
    constexpr int kVectors = ROWS / kPerColumn / VECTOR;
    const int columns = n / kPerColumn;
    // Some at a time, so that what they load is under way together.
    constexpr int kAtOnce = 4;
    for (int base = rank * kConsumers; base < tokens * kVectors; base += kAtOnce * kConsumers * SPLIT) {
      float value[kAtOnce][VECTOR];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int e = base + i * kConsumers * SPLIT + threadIdx.x;
        const int token = e / kVectors, column = e % kVectors * VECTOR, col = first_row / kPerColumn + column;
        if (token >= tokens || col >= columns) continue;
#if GATE
        float up[VECTOR];
        const int at = column / 8 * 16 + column % 8;
        finish(token, at, value[i]);
        finish(token, at + 8, up);
#pragma unroll
        for (int v = 0; v < VECTOR; ++v) value[i][v] = GATE_FUNCTION(value[i][v]) * up[v];
#else
        finish(token, column, value[i]);
#endif
        epilogue<VECTOR>(value[i], first_token + token, col, extras);
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int e = base + i * kConsumers * SPLIT + threadIdx.x;
        const int token = e / kVectors, column = e % kVectors * VECTOR, col = first_row / kPerColumn + column;
        if (token >= tokens || col >= columns) continue;
        store_floats<VECTOR>(y + int64_t(first_token + token) * columns + col, value[i]);
      }
    }
    if constexpr (kCluster > 1) cluster_meet();  // a block's shared memory must outlive the others' reads and arrivals
  }
}
