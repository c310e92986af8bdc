// y = epilogue(x (w * scale)^T) with Hopper's warpgroup products (sm_90a), for weights of 8 and 4 bits: a consumer warpgroup turns 64 rows
// of w into 16-bit floats in registers and multiplies them with TOKENS rows of x from shared memory. A producer warpgroup fills a ring of
// STAGES slots: boxes of ROWS rows and 128 bytes of w by the copy engine (the first of them before the kernel that makes x has finished),
// x by 4-byte asynchronous copies. The SPLIT blocks of a cluster share k and add up in a fixed order.
//
// Any order of k gives the same product as long as both operands share it, so w stays dense: of a step of 4 * UNIT bytes of a row, lane t
// of four takes UNIT neighbours, eights of elements in turn, each four pairs j of neighbours. Eight w's pair j of lane t is what A's
// registers want at k = 2t + 8 (j % 2) of product 2w + j / 2, and x's pair is put there: into 16-byte chunk 4b + j at 4t, b being the
// eight's number in its plane of 64 k. Planes are rows of 128 bytes as operand_descriptor() has them.
//   X_ELEMENT (f16, bf16), W_ELEMENT, SCALE_ELEMENT, Y_ELEMENT, K_SIZE (rows of w are whole 16 bytes), GROUP (a multiple of a step, or
//   K_SIZE), SCALE_GROUPS: at most, of a block; TOKENS (of 8), ROWS (of 8), WARPGROUPS (of consumers), UNIT, STAGES, SPLIT, BLOCKS (an SM),
//   CONSUMER_REGISTERS (0: as launched), VECTOR
#include "copy_bulk.cuh"
#include "epilogue.cuh"
#include "weights_mma.cuh"
#include "wgmma.cuh"

constexpr int kBits = Weight<W_ELEMENT>::kBits, kConsumers = WARPGROUPS * 128, kThreads = kConsumers + 128;
constexpr int kStageK = 1024 / kBits, kPlanes = kStageK / 64;
constexpr int kEights = UNIT / kBits, kStepK = 32 * kEights;
constexpr int kStageW = ROWS * 128, kPlane = TOKENS * 128, kStage = kStageW + kPlanes * kPlane;
constexpr int kSteps = (K_SIZE + kStageK - 1) / kStageK;  // stages of all of k
constexpr int kGroups = (K_SIZE + GROUP - 1) / GROUP;
constexpr bool kGrouped = kGroups > 1;
constexpr int kFlushK = !kGrouped || GROUP % 128 == 0 ? 128 : GROUP % 64 == 0 ? 64 : 32;  // k of a group's sums before they are scaled
constexpr int kParts = kFlushK == 32 ? 2 : 1;                                             // of them in a plane
constexpr int kPitch = ROWS + 4;  // floats a token of the staged sums: a warp's stores meet 32 banks
constexpr int kArrivals = 1 + 128;
static_assert(ROWS % 8 == 0 && ROWS <= WARPGROUPS * 64 && TOKENS % 8 == 0 && kEights >= 1 && kPlanes % 2 == 0);
static_assert(!kGrouped || (GROUP % 32 == 0 && GROUP % kStepK == 0 && kFlushK >= kStepK));
static_assert(TOKENS * kPitch * 4 <= STAGES * kStage);

// Eight weights as pairs of neighbours.
template <class X, class W>
struct Pairs : Fragment<X, W> {};
// A byte in both halves: its low nibble counts ones, its high one sixteens; both with the sign bit turned over, under an exponent.
template <>
struct Pairs<f16, i4> {
  static DEVICE void convert(const uint32_t* words, uint32_t (&out)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      out[i] = Halves<f16>::fma((__byte_perm(words[0], 0, i * 0x1111) & 0x00f0000f) ^ 0x64806408, 0x2c003c00, 0xd480e408);
  }
};
template <>
struct Pairs<bf16, i4> {
  static DEVICE void convert(const uint32_t* words, uint32_t (&out)[4]) {
    const uint32_t high = words[0] >> 4;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      out[i] = Halves<bf16>::fma((__byte_perm(words[0], high, i * 0x1111 + 0x4400) & 0x000f000f) ^ 0x43084308, 0x3f803f80, 0xc308c308);
  }
};

// Consumers' own barrier.
DEVICE void consumer_barrier() { asm volatile("bar.sync 1, %0;" ::"n"(kConsumers) : "memory"); }
// The first `bytes` of 4, zeros behind them.
DEVICE void copy_async_4(uint32_t to, const void* from, int bytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
// Arrives when this thread's copies so far are done.
DEVICE void barrier_arrive_after_copies(uint32_t barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

struct Ring {
  uint32_t slots, barriers;
  DEVICE uint32_t slot(int i) const { return slots + i * kStage; }
  DEVICE uint32_t full(int i) const { return barriers + i * 8; }
  DEVICE uint32_t empty(int i) const { return barriers + (STAGES + i) * 8; }
};

// Stages [begin, end) of rows of w from first_row on and `tokens` rows of x.
DEVICE void produce(const Ring& ring, const TensorMap& w, const X_ELEMENT* x, int first_row, int tokens, int begin, int end) {
  const int id = threadIdx.x - kConsumers, warp = id / 32, j = id % 4, u = id / 4 % 8;
  const auto copy_weights = [&](int step, int slot) {
    barrier_arrive_expecting(ring.full(slot), kStageW);
    copy_box(ring.slot(slot), w, step * 128, first_row, ring.full(slot));
  };
  if (id == 0)
    for (int i = 0; i < STAGES && begin + i < end; ++i) copy_weights(begin + i, i);
  wait_for_previous();
  // A warp copies 64 elements of a token: lane (j, t, b) a pair. Its tokens are kEvery apart.
  constexpr int kEvery = 4 / kPlanes;
  const int plane = warp % kPlanes, t = kEights == 1 ? u % 4 : u / 2, b = kEights == 1 ? u / 4 : u % 2;
  const int chunk = kEights == 4 ? plane / 2 * 16 + t * 4 + plane % 2 * 2 + b : plane * 8 + u;
  const int first = warp / kPlanes;  // below kEvery: its bits and those of multiples of kEvery do not meet
  const uint32_t to = kStageW + plane * kPlane + first * 128 + ((4 * b + j) ^ first) * 16 + 4 * t;
  const X_ELEMENT* from = x + int64_t(first) * K_SIZE + begin * kStageK + chunk * 8 + 2 * j;
  int k = begin * kStageK + chunk * 8 + 2 * j, slot = 0, parity = 1;
  for (int step = begin; step < end; ++step) {
    if (step - begin >= STAGES) {
      barrier_wait(ring.empty(slot), parity);
      if (id == 0) copy_weights(step, slot);
    }
    const int bytes = k < K_SIZE ? 4 : 0;
    const int64_t pitch = bytes == 0 ? 0 : K_SIZE * kEvery;
    const X_ELEMENT* row = bytes == 0 ? x : from;
    uint32_t at = ring.slot(slot) + to;
#pragma unroll 1
    for (int token = first; token < tokens; token += 8) {
#pragma unroll
      for (int i = 0; i < 8 / kEvery; ++i) {
        if (token + i * kEvery < tokens) copy_async_4((at + i * kEvery * 128) ^ (i * kEvery * 16), row, bytes);
        row += pitch;
      }
      at += 1024;
    }
    barrier_arrive_after_copies(ring.full(slot));
    from += kStageK, k += kStageK;
    if (++slot == STAGES) slot = 0, parity ^= 1;
  }
}

template <int kCount>
DEVICE void keep_all(float (&x)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) keep_in_place(x[i]);
}

// sum += the products of a consumer warpgroup's rows: of 8 tokens each four floats as mma_16x8x16 has them. `row`: of the first of the
// lane's two rows (8 apart) in the slot, with the exchange that the copy engine makes within 128 bytes.
DEVICE void consume(const Ring& ring, const SCALE_ELEMENT* scales, int row, int begin, int end, float (&sum)[TOKENS / 2]) {
  const int lane = threadIdx.x % 32, t = lane % 4;
  const int rows[2] = {min(row, ROWS - 8 + row % 8), min(row + 8, ROWS - 8 + row % 8)};  // what is behind the last row is not used
  float part[kParts][TOKENS / 2];                                                        // of groups
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
      for (int h = 0; h < 2; ++h) Pairs<X_ELEMENT, W_ELEMENT>::convert(raw[h] + (2 * plane + b) * (kBits / 4), pairs[h]);
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
  fence_shared_for_products();
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
      // Meanwhile the next registers.
      if (plane + 1 < kPlanes) {
        convert(plane + 1, a[(plane + 1) % 2]);
      } else if (step + 1 < end) {
        if (++slot == STAGES) slot = 0, parity ^= 1;
        barrier_wait(ring.full(slot), parity);
        fence_shared_for_products();
        load(slot);
        convert(0, a[0]);
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
    if (lane == 0) barrier_arrive(ring.empty(this_slot));
  }
}

extern "C" __global__ void __launch_bounds__(kThreads, BLOCKS)
    linear_wgmma(const __grid_constant__ TensorMap w, const X_ELEMENT* x, const SCALE_ELEMENT* __restrict__ scale, Y_ELEMENT* y, int n,
                 int m, Extras extras) {
  extern __shared__ __align__(1024) char shared[];
  const int tiles_m = (m + TOKENS - 1) / TOKENS;
  const int tile = blockIdx.x / SPLIT, rank = SPLIT == 1 ? 0 : blockIdx.x % SPLIT;
  const int first_token = tile % tiles_m * TOKENS, first_row = tile / tiles_m * ROWS, tokens = min(TOKENS, m - first_token);
  const int begin = kSteps * rank / SPLIT, end = kSteps * (rank + 1) / SPLIT;
  const uint32_t start = shared_address(shared), base = (start + 1023) & ~1023u;
  char* const memory = shared + (base - start);
  SCALE_ELEMENT* const scales = reinterpret_cast<SCALE_ELEMENT*>(memory + STAGES * kStage + 2 * STAGES * 8);
  const Ring ring{base, base + STAGES * kStage};

  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; ++i) {
      barrier_init(ring.full(i), kArrivals);
      barrier_init(ring.empty(i), WARPGROUPS * 4);
    }
    barrier_init_done();
  }
  // Tokens that are not there are zeros once for all.
  if (tokens < TOKENS)
    for (int e = threadIdx.x; e < STAGES * kPlanes * (TOKENS - tokens) * 8; e += kThreads) {
      const int chunk = e % ((TOKENS - tokens) * 8), plane = e / ((TOKENS - tokens) * 8);
      const uint32_t to = ring.slot(plane / kPlanes) + kStageW + plane % kPlanes * kPlane + tokens * 128 + chunk * 16;
      asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(to), "r"(0) : "memory");
    }
  fence_shared_for_products();
  __syncthreads();
  allow_next();  // its weights may come as soon as there is room

  if (threadIdx.x >= kConsumers) {
#if CONSUMER_REGISTERS > 0
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
#endif
    produce(ring, w, x + int64_t(first_token) * K_SIZE, first_row, tokens, begin, end);
#if SPLIT > 1
    cluster_barrier();
    cluster_barrier();
#endif
  } else {
#if CONSUMER_REGISTERS > 0
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(CONSUMER_REGISTERS));
#endif
    if constexpr (kGrouped) {  // [group][row]
      const int first_group = begin * kStageK / GROUP, groups = min((end * kStageK - 1) / GROUP + 1, kGroups) - first_group;
      for (int e = threadIdx.x; e < groups * ROWS; e += kConsumers) {
        const int row = e / groups, group = e % groups;
        if (first_row + row < n) scales[group * ROWS + row] = scale[int64_t(first_row + row) * kGroups + first_group + group];
      }
      consumer_barrier();
    }
    wait_for_previous();
    // A's rows g and g + 8 are the slot's rows in another order, so that lanes that load together meet all banks.
    const int lane = threadIdx.x % 32, g = lane / 4, row = threadIdx.x / 32 * 16 + g % 2 * 4 + g / 2;
    float sum[TOKENS / 2] = {};
    consume(ring, scales, row, begin, end, sum);
    consumer_barrier();

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
    constexpr int kVectors = ROWS / VECTOR;
    for (int e = threadIdx.x + rank * kConsumers; e < tokens * kVectors; e += kConsumers * SPLIT) {
      const int token = e / kVectors, at = e % kVectors * VECTOR, col = first_row + at;
      float value[VECTOR];
#if SPLIT > 1
#pragma unroll
      for (int v = 0; v < VECTOR; ++v) value[v] = 0.f;
#pragma unroll
      for (int b = 0; b < SPLIT; ++b) {
        const uint32_t from = cluster_address(base + (token * kPitch + at) * 4, b);
        if constexpr (VECTOR == 4) {
          float more[4];
          cluster_load(from, more);
#pragma unroll
          for (int v = 0; v < VECTOR; ++v) value[v] += more[v];
        } else {
          value[0] += cluster_load(from);
        }
      }
#else
      load_floats<VECTOR>(staged + token * kPitch + at, value);
#endif
      if (col >= n) continue;
      if constexpr (!kGrouped) {
        float factor[VECTOR];
        load_floats<VECTOR>(scale + col, factor);
#pragma unroll
        for (int v = 0; v < VECTOR; ++v) value[v] *= factor[v];
      }
      epilogue<VECTOR>(value, first_token + token, col, extras);
      store_floats<VECTOR>(y + int64_t(first_token + token) * n + col, value);
    }
#if SPLIT > 1
    cluster_barrier();  // a block's shared memory must outlive the others' reads
#endif
  }
}
