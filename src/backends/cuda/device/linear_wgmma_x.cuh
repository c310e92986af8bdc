// The producers of linear_wgmma.cu that bring x to the ring themselves: by 4-byte asynchronous copies, or, where it is to be normalised,
// through registers.
#pragma once

// Slots that a producer fills before it waits for its copies into one. Consumers hold one slot while they wait for the next, so two of the
// ring's at least must be full or being filled behind those.
constexpr int kLag = STAGES >= 4 ? 2 : STAGES - 2;
constexpr int kEvery = 4 / kPlanes;  // tokens from one of a producer warp's to its next

// The first `bytes` of 4, zeros behind them.
DEVICE void copy_async_4(uint32_t to, const void* from, int bytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

// What a producer thread copies of x: of each stage two neighbours in one plane, of every kEvery-th token.
struct XPlace {
  int warp, first, k;  // its first token; the two in a stage of k
  uint32_t to;         // where they go in a slot
  // A warp's lanes are (j, t, b).
  DEVICE XPlace() {
    const int id = threadIdx.x - kConsumers, j = id % 4, u = id / 4 % 8;
    warp = id / 32;
    const int plane = warp % kPlanes, t = kEights == 1 ? u % 4 : u / 2, b = kEights == 1 ? u / 4 : u % 2;
    const int chunk = kEights == 4 ? plane / 2 * 16 + t * 4 + plane % 2 * 2 + b : plane * 8 + u;
    first = warp / kPlanes, k = chunk * 8 + 2 * j;
    to = kStageW + plane * kPlane + first * 128 + ((4 * b + j) ^ first) * 16 + 4 * t;
  }
  // Of token first + i * kEvery; the bits of `first`, those of multiples of kEvery and those above do not meet.
  DEVICE uint32_t at(uint32_t slot, int i) const { return (slot + to + i * kEvery * 128) ^ (i * kEvery % 8 * 16); }
};

#if NORM
constexpr int kMyTokens = TOKENS / kEvery, kBatch = kMyTokens > 8 ? 2 : 4;  // of a thread; stages whose x is under way at once

DEVICE float2 widen_pair(f16, uint32_t pair) { return {to_float(f16{uint16_t(pair)}), to_float(f16{uint16_t(pair >> 16)})}; }
DEVICE float2 widen_pair(bf16, uint32_t pair) { return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000)}; }
DEVICE uint32_t narrow_pair(f16, float low, float high) {
  uint32_t y;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}
DEVICE uint32_t narrow_pair(bf16, float low, float high) {
  uint32_t y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}
#endif

// After the first STAGES copies of weights: stages [begin, end) of rows of w from first_row on and `tokens` rows of x. `squares`:
// [token][4], the sums of x's squares in parts.
DEVICE void produce(const Ring& ring, const TensorMap& w, const X_ELEMENT* x, int first_row, int tokens, int begin, int end,
                    const NORM_ELEMENT* norm, float norm_scale, float* squares) {
  const bool is_leader = threadIdx.x == kConsumers;
  wait_for_previous();
  const XPlace place;
  int slot = 0, parity = 1;
  const auto wait_for_slot = [&](int step) {
    if (step - begin < STAGES) return;
    barrier_wait(ring.empty(slot), parity);
    if (is_leader) copy_weights(ring, w, first_row, step, slot);
  };
  const auto next_slot = [&] {
    if (++slot == STAGES) slot = 0, parity ^= 1;
  };
#if NORM
  float square[kMyTokens] = {};
  for (int base = begin; base < end; base += kBatch) {
    uint32_t raw[kBatch][kMyTokens];
    Vec<NORM_ELEMENT, 2> weight[kBatch];
#pragma unroll
    for (int s = 0; s < kBatch; ++s) {
      const int k = (base + s) * kStageK + place.k;
      const bool valid = base + s < end && k < K_SIZE;
      weight[s] = valid ? *reinterpret_cast<const Vec<NORM_ELEMENT, 2>*>(norm + k) : Vec<NORM_ELEMENT, 2>{};
#pragma unroll
      for (int i = 0; i < kMyTokens; ++i) {
        const int token = place.first + i * kEvery;
        raw[s][i] = valid && token < tokens ? *reinterpret_cast<const uint32_t*>(x + int64_t(token) * K_SIZE + k) : 0;
      }
    }
#pragma unroll
    for (int s = 0; s < kBatch; ++s) {
      if (base + s >= end) break;
      wait_for_slot(base + s);
      const float low = to_float(weight[s].at[0]) * norm_scale, high = to_float(weight[s].at[1]) * norm_scale;
#pragma unroll
      for (int i = 0; i < kMyTokens; ++i) {
        const float2 v = widen_pair(X_ELEMENT{}, raw[s][i]);
        square[i] += v.x * v.x + v.y * v.y;
        if (place.first + i * kEvery < tokens)
          asm volatile("st.shared.u32 [%0], %1;" ::"r"(place.at(ring.slot(slot), i)), "r"(narrow_pair(X_ELEMENT{}, v.x * low, v.y * high))
                       : "memory");
      }
      fence_shared_for_products();
      barrier_arrive(ring.full(slot));
      next_slot();
    }
  }
#pragma unroll
  for (int i = 0; i < kMyTokens; ++i) {
    square[i] = warp_reduce<Sum>(square[i]);
    // The warps of a plane each have tokens of their own.
    if (threadIdx.x % 32 == 0)
      for (int other = 0; other < kEvery; ++other) squares[(other + i * kEvery) * 4 + place.warp] = other == place.first ? square[i] : 0.f;
  }
#else
  const X_ELEMENT* from = x + int64_t(place.first) * K_SIZE + begin * kStageK + place.k;
  int k = begin * kStageK + place.k, done = 0;
  // The next `count` slots are full: this thread's copies but the latest kPending are there, and products see them.
  const auto copied = [&]<int kPending>(int count) {
    copy_async_wait<kPending>();
    fence_shared_for_products();
    for (int i = 0; i < count; ++i) {
      barrier_arrive(ring.full(done));
      if (++done == STAGES) done = 0;
    }
  };
  for (int step = begin; step < end; ++step) {
    wait_for_slot(step);
    const int bytes = k < K_SIZE ? 4 : 0;
    const int64_t pitch = bytes == 0 ? 0 : K_SIZE * kEvery;
    const X_ELEMENT* row = bytes == 0 ? x : from;
    uint32_t at = ring.slot(slot);
#pragma unroll 1
    for (int token = place.first; token < tokens; token += 8) {
#pragma unroll
      for (int i = 0; i < 8 / kEvery; ++i) {
        if (token + i * kEvery < tokens) copy_async_4(place.at(at, i), row, bytes);
        row += pitch;
      }
      at += 1024;
    }
    copy_async_commit();
    from += kStageK, k += kStageK;
    next_slot();
    if (step - begin >= kLag) copied.template operator()<kLag>(1);
  }
  copied.template operator()<0>(min(kLag, end - begin));
#endif
}
