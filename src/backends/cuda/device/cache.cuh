// Elements of the KV cache as numbers, and which part of which sequence a row of a step is.
#pragma once
#include "prelude.cuh"

// --- f8e4m3: 4 exponent bits (bias 7), 3 of mantissa, no infinity; 0x7f and 0xff are NaN ---

// Two elements, the low byte first, as two f16 in one word: exact.
DEVICE uint32_t widen_f8x2(uint16_t bits) {
  uint32_t y;
#if TOKAMAK_ARCH >= 89
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(y) : "h"(bits));
#else
  // The exponent and mantissa where an f16 has them give the number divided by 256, subnormals included.
  const uint32_t both = (bits & 0xffu) | (bits & 0xff00u) << 8;
  const uint32_t small = (both & 0x00800080u) << 8 | (both & 0x007f007fu) << 7;
  asm("mul.f16x2 %0, %1, %2;" : "=r"(y) : "r"(small), "r"(0x5c005c00u));
  if ((both & 0x7fu) == 0x7fu) y |= 0x7fffu;
  if ((both & 0x7f0000u) == 0x7f0000u) y |= 0x7fff0000u;
#endif
  return y;
}

DEVICE float cached_to_float(float x) { return x; }
DEVICE float cached_to_float(f16 x) { return to_float(x); }
DEVICE float cached_to_float(bf16 x) { return to_float(x); }
DEVICE float cached_to_float(f8e4m3 x) { return to_float(f16{uint16_t(widen_f8x2(x.bits))}); }

// Rounds to nearest even; what an f8e4m3 cannot hold becomes +-448.
template <class T>
DEVICE T cached_from_float(float x) {
  return from_float<T>(x);
}
template <>
DEVICE f8e4m3 cached_from_float<f8e4m3>(float x) {
#if TOKAMAK_ARCH >= 89
  uint16_t y;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(y) : "f"(0.f), "f"(x));
  return f8e4m3{uint8_t(y)};
#else
  const uint32_t bits = __float_as_uint(x), sign = bits >> 24 & 0x80u;
  const float size = fabsf(x);
  if (!(size == size)) return f8e4m3{uint8_t(sign | 0x7fu)};
  if (size >= 448.f) return f8e4m3{uint8_t(sign | 0x7eu)};
  if (size < 0x1p-6f) return f8e4m3{uint8_t(sign | uint32_t(__float2int_rn(size * 512.f)))};
  const uint32_t u = bits & 0x7fffffffu, rounded = u + 0x7ffffu + (u >> 20 & 1u);
  return f8e4m3{uint8_t(sign | ((rounded >> 20) - (120u << 3)))};
#endif
}

// --- the step ---

// A row of a step as it attends: to tokens [begin, end) of `sequence`, all before and with itself. Empty when it belongs to none.
struct StepRow {
  int sequence = 0, begin = 0, end = 0;
};

// The sequence that `row` belongs to, or -1: starts[s] <= row < starts[s + 1]. Of starts that go backwards the answer is any in range.
DEVICE int sequence_of(const int32_t* starts, int num_sequences, int row) {
  if (row < num_sequences && starts[row] <= row && row < starts[row + 1]) return row;  // decoding: a row a sequence
  int low = 0, high = num_sequences + 1;                                               // the first start above row
  while (low < high) {
    const int middle = (low + high) / 2;
    if (starts[middle] <= row) low = middle + 1;
    else high = middle;
  }
  return low <= num_sequences ? low - 1 : -1;
}

// A sequence's rows, clamped: its last `count` of `length` tokens. `capacity`: tokens that a row of the block table can name.
struct SequenceRows {
  int first, count, length;
};
DEVICE SequenceRows sequence_rows(const int32_t* starts, const int32_t* lengths, int num_rows, int64_t capacity, int sequence) {
  const int first = min(max(starts[sequence], 0), num_rows);
  return {first, min(max(starts[sequence + 1], first), num_rows) - first, int(min(int64_t(max(lengths[sequence], 0)), capacity))};
}

// `capacity`: tokens that a row of the block table can name. The integers come from the caller; they are clamped, as on the CPU.
DEVICE StepRow step_row(const int32_t* starts, const int32_t* lengths, int num_sequences, int num_rows, int64_t capacity, int window,
                        int row) {
  StepRow r;
  const int s = sequence_of(starts, num_sequences, row);
  if (s < 0) return r;
  r.sequence = s;
  const int first = max(starts[s], 0), count = min(starts[s + 1], num_rows) - first;
  const int length = int(min(int64_t(max(lengths[s], 0)), capacity));
  r.end = max(length - count + (row - first) + 1, 0);
  r.begin = window > 0 ? max(r.end - window, 0) : 0;
  return r;
}

// The tokens of split `split` of `splits`: whole multiples of kTile tokens each, so that short sequences use few splits.
template <int kTile>
DEVICE void take_split(StepRow& r, int split, int splits) {
  const int first = r.begin / kTile * kTile, tiles = (r.end - first + kTile - 1) / kTile;
  const int chunk = (tiles + splits - 1) / splits * kTile;
  const int64_t from = first + int64_t(split) * chunk;
  r.begin = int(max(int64_t(r.begin), min(from, int64_t(r.end))));
  r.end = int(min(int64_t(r.end), from + chunk));
}

// A score as exp2's exponent.
struct Score {
  float scale;    // of q k, with the keys' own scale
  float softcap;  // 0: none
  DEVICE float operator()(float x) const {
    constexpr float kLog2E = 1.4426950408889634f;
    return softcap > 0.f ? softcap * kLog2E * tanhf(x * scale / softcap) : x * (scale * kLog2E);
  }
};

DEVICE float nothing() { return Max::identity(); }  // the score of what is not attended to
DEVICE float finite_or_zero(float largest) { return largest == nothing() ? 0.f : largest; }
