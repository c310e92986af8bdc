// A token a row of logits, with the sampler's parameters (include/tokamak/llm.h) in their order: edits, temperature, min_p, top_k, top_p.
// One block a row. Logits are compared as (value, lower id first), a total order that every filter cuts: what is kept is all from a border
// up. The border is found from histograms of 256 bins, of counts for top_k and of weights for top_p: first by distance from the largest,
// which spreads logits evenly, then within one bin by comparing all pairs or, of many, eight bits of the key at a time. Weights are
// integers in units of 2^-40 of the largest, so that sums do not depend on the order of adding. SIZE: of the vocabulary.
#include "logit_key.cuh"

struct SampleRow {
  uint64_t seed;
  int64_t position;
  int32_t index, row, top_k, first_edit, num_edits;
  float temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
  int32_t unused;
};
struct TokenEdit {
  int32_t token, is_seen, in_answer;
  float bias;
  float saved;  // the row's own logit, while it is changed
};

constexpr int kThreads = 1024, kWarps = kThreads / 32;

// Philox4x32-10 (llm/random.h); 53 bits.
DEVICE uint64_t random_bits(const SampleRow& r) {
  uint32_t c[4] = {uint32_t(r.position), uint32_t(uint64_t(r.position) >> 32), uint32_t(r.index), 0u};
  uint32_t k[2] = {uint32_t(r.seed), uint32_t(r.seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t(0xD2511F53u) * c[0], b = uint64_t(0xCD9E8D57u) * c[2];
    const uint32_t next[4] = {uint32_t(b >> 32) ^ c[1] ^ k[0], uint32_t(b), uint32_t(a >> 32) ^ c[3] ^ k[1], uint32_t(a)};
    for (int i = 0; i < 4; ++i) c[i] = next[i];
    k[0] += 0x9E3779B9u, k[1] += 0xBB67AE85u;
  }
  return (uint64_t(c[0]) << 32 | c[1]) >> 11;
}

DEVICE uint64_t warp_sum(uint64_t x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
  return x;
}

constexpr int kFarBin = 1;  // of logits that are at least 254 bins from the largest: most of them, when the temperature is low

struct Shared {
  uint64_t bins[256], warps[kWarps];
  uint64_t keys[kThreads], measures[kThreads];  // candidates for a border
  uint64_t rest, border;
  int32_t token, count;
};

// The bin in which the sum over the bins from the highest down comes to `target`, and what of the target is left for it; the lowest with
// anything in it, and all of that, when the sum does not come to it. By the first warp; eight bins a lane.
DEVICE void pick_bin(uint64_t target, Shared& shared) {
  if (threadIdx.x >= 32) return;
  const int lane = threadIdx.x, first = 255 - 8 * lane;
  uint64_t own[8], sum = 0;
#pragma unroll
  for (int k = 0; k < 8; ++k) own[k] = shared.bins[first - k], sum += own[k];
  uint64_t upto = sum;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const uint64_t other = __shfl_up_sync(~0u, upto, offset);
    if (lane >= offset) upto += other;
  }
  const uint64_t all = __shfl_sync(~0u, upto, 31);
  const unsigned lanes = __ballot_sync(~0u, sum > 0);
  if (all >= target) {
    uint64_t left = target - (upto - sum);  // of lanes past the one in question wraps around
    if (upto - sum >= target || upto < target) return;
    for (int k = 0; k < 8; ++k) {
      if (own[k] >= left) {
        shared.token = first - k, shared.rest = left;
        return;
      }
      left -= own[k];
    }
  } else if (lane == 31 - __clz(lanes)) {
    for (int k = 7; k >= 0; --k)
      if (own[k] > 0) {
        shared.token = first - k, shared.rest = own[k];
        return;
      }
  }
}

// The greatest key such that the measures of all keys from it up come to `target` at least; the least key that has a measure when all
// together do not. `of(key, x)` is an id's measure, 0: not there. The largest key has one.
template <class Measure>
DEVICE uint64_t find_border(const float* x, float largest, float scale, uint64_t target, const Measure& of, Shared& shared) {
  const auto bin_of = [&](float y) { return 255 - int(fminf((largest - y) * scale, 254.f)); };
  for (int i = threadIdx.x; i < 256; i += kThreads) shared.bins[i] = 0;
  if (threadIdx.x == 0) shared.count = 0;
  __syncthreads();
  uint64_t far = 0;
  for (int i = threadIdx.x; i < SIZE; i += kThreads) {
    const uint64_t measure = of(logit_key(x[i], i), x[i]);
    const int bin = bin_of(x[i]);
    if (bin == kFarBin) far += measure;
    else if (measure != 0) atomicAdd(reinterpret_cast<unsigned long long*>(&shared.bins[bin]), measure);
  }
  far = warp_sum(far);
  if (threadIdx.x % 32 == 0 && far != 0) atomicAdd(reinterpret_cast<unsigned long long*>(&shared.bins[kFarBin]), far);
  __syncthreads();
  pick_bin(target, shared);
  __syncthreads();
  const int first_bin = shared.token;
  target = shared.rest;
  // Few are left as a rule: then each is compared with each.
  for (int i = threadIdx.x; i < SIZE; i += kThreads) {
    if (bin_of(x[i]) != first_bin) continue;
    const uint64_t key = logit_key(x[i], i), measure = of(key, x[i]);
    if (measure == 0) continue;
    const int at = atomicAdd(&shared.count, 1);
    if (at < kThreads) shared.keys[at] = key, shared.measures[at] = measure;
  }
  __syncthreads();
  const int count = shared.count;
  if (count <= kThreads) {
    if (threadIdx.x < count) {
      const uint64_t key = shared.keys[threadIdx.x];
      uint64_t above = 0;
      for (int j = 0; j < count; ++j) above += shared.keys[j] > key ? shared.measures[j] : 0;
      if (above < target && target <= above + shared.measures[threadIdx.x]) shared.border = key;
    }
    __syncthreads();
    return shared.border;
  }
  uint64_t border = 0, mask = 0;
  for (int shift = 56; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < 256; i += kThreads) shared.bins[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < SIZE; i += kThreads) {
      const uint64_t key = logit_key(x[i], i);
      if ((key & mask) != border || bin_of(x[i]) != first_bin) continue;
      const uint64_t measure = of(key, x[i]);
      if (measure != 0) atomicAdd(reinterpret_cast<unsigned long long*>(&shared.bins[key >> shift & 255]), measure);
    }
    __syncthreads();
    pick_bin(target, shared);
    __syncthreads();
    border |= uint64_t(shared.token) << shift, mask |= uint64_t(255) << shift;
    target = shared.rest;
    __syncthreads();
  }
  return border;
}

// logits [rows, SIZE]: changed and put back; tokens, and in pinned memory host_tokens: one a row, -1 when a logit is NaN or infinite, or
// none is above -infinity.
extern "C" __global__ void __launch_bounds__(kThreads)
    sample(float* logits, const SampleRow* rows, TokenEdit* edits, int32_t* __restrict__ tokens, int32_t* __restrict__ host_tokens) {
  __shared__ Shared shared;
  wait_for_previous();
  const SampleRow r = rows[blockIdx.x];
  float* const x = logits + int64_t(r.row) * SIZE;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int i = threadIdx.x; i < r.num_edits; i += kThreads) {
    TokenEdit& e = edits[r.first_edit + i];
    const float own = x[e.token];
    float y = own + e.bias;
    if (e.is_seen) {
      y = y > 0.f ? y / r.repetition_penalty : y * r.repetition_penalty;
      if (e.in_answer > 0) y -= float(e.in_answer) * r.frequency_penalty + r.presence_penalty;
    }
    e.saved = own;
    x[e.token] = y;
  }
  __syncthreads();

  // The largest, the lowest id among equals.
  uint64_t best = 0;
  for (int i = threadIdx.x; i < SIZE; i += kThreads) {
    const float y = x[i];
    const uint64_t key = y < __int_as_float(0x7f800000) ? logit_key(y, i) : kNotFinite;
    best = key > best ? key : best;
  }
  best = warp_largest(best);
  if (lane == 0) shared.warps[warp] = best;
  __syncthreads();
  for (int i = 0; i < kWarps; ++i) best = shared.warps[i] > best ? shared.warps[i] : best;
  __syncthreads();
  int32_t token = id_of(best);
  const float largest = best == kNotFinite ? 0.f : x[token], inverse = 1.f / r.temperature;
  const bool is_good = best != kNotFinite && largest > -__int_as_float(0x7f800000);

  if (is_good && inverse < __int_as_float(0x7f800000)) {
    const auto weight = [&](float y) { return __float2ull_rn(expf((y - largest) * inverse) * 0x1p40f); };
    // What min_p, then top_k leave: keys from `border` up.
    uint64_t border = 0;
    if (r.min_p > 0.f) border = uint64_t(ordered(largest + logf(r.min_p) * r.temperature)) << 32;
    if (r.top_k > 0 && r.top_k < SIZE) {
      const uint64_t least = border;
      const uint64_t cut = find_border(
          x, largest, 8.f * inverse, uint64_t(r.top_k), [&](uint64_t key, float) { return uint64_t(key >= least); }, shared);
      border = cut > border ? cut : border;
    }
    const auto total_weight = [&] {
      uint64_t sum = 0;
      for (int i = threadIdx.x; i < SIZE; i += kThreads)
        if (logit_key(x[i], i) >= border) sum += weight(x[i]);
      sum = warp_sum(sum);
      if (lane == 0) shared.warps[warp] = sum;
      __syncthreads();
      sum = 0;
      for (int i = 0; i < kWarps; ++i) sum += shared.warps[i];
      __syncthreads();
      return sum;
    };
    if (r.top_p < 1.f) {
      const uint64_t target = uint64_t(double(r.top_p) * double(total_weight())), least = border;
      border = find_border(
          x, largest, 8.f * inverse, target > 0 ? target : 1, [&](uint64_t key, float y) { return key >= least ? weight(y) : 0; }, shared);
    }
    // The token at a random place of the sum in the order of ids: first the warp's share, then in it.
    constexpr int kShare = (SIZE + kWarps - 1) / kWarps;
    const int begin = warp * kShare, end = min(SIZE, begin + kShare);
    const auto kept = [&](int i) {
      if (i >= end || logit_key(x[i], i) < border) return uint64_t(0);
      return uint64_t(weight(x[i]));
    };
    uint64_t sum = 0;
    for (int i = begin + lane; i < end; i += 32) sum += kept(i);
    sum = warp_sum(sum);
    if (lane == 0) shared.warps[warp] = sum;
    __syncthreads();
    uint64_t all = 0, before = 0;
    for (int i = 0; i < kWarps; ++i) {
      if (i == warp) before = all;
      all += shared.warps[i];
    }
    const uint64_t target = __umul64hi(all, random_bits(r) << 11);  // below `all`
    if (target >= before && target < before + sum)
      for (int base = begin; base < end; base += 32) {
        const uint64_t own = kept(base + lane);
        uint64_t upto = own;
#pragma unroll
        for (int offset = 1; offset < 32; offset *= 2) {
          const uint64_t other = __shfl_up_sync(~0u, upto, offset);
          if (lane >= offset) upto += other;
        }
        if (target >= before + upto - own && target < before + upto) shared.token = base + lane;
        before += __shfl_sync(~0u, upto, 31);
        if (before > target) break;
      }
    __syncthreads();
    token = shared.token;
  }
  if (threadIdx.x == 0) tokens[blockIdx.x] = host_tokens[blockIdx.x] = is_good ? token : -1;
  __syncthreads();
  for (int i = threadIdx.x; i < r.num_edits; i += kThreads) x[edits[r.first_edit + i].token] = edits[r.first_edit + i].saved;
}
