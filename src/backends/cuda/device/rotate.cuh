// A head of q, k or v in a warp's registers: norm, rope, rounding. ACTIVATION, ANGLE (cos, sin), NORM: element types; HEAD_DIM, VECTOR
// (divides it; even), HALF: rotated pairs, INTERLEAVED: pairs lie together.
#pragma once
#include "load_now.cuh"

constexpr int kHeadVectors = HEAD_DIM / VECTOR, kHeadParts = (kHeadVectors + 31) / 32;
constexpr bool kWholeAngles = INTERLEAVED ? HALF % (VECTOR / 2) == 0 : HALF % VECTOR == 0;  // a vector's are one load

// cos and sin for a lane's elements; the sine with the sign that its element's partner takes.
struct RowAngles {
  float cosine[kHeadParts][VECTOR], sine[kHeadParts][VECTOR];

  // To the L2 cache, by a warp: a hint, also before they are written.
  static DEVICE void prefetch(const ANGLE* cos, const ANGLE* sin, int64_t row, int lane) {
    const int at = lane * int(128 / sizeof(ANGLE));
    if (at >= HALF) return;
    asm volatile("prefetch.global.L2 [%0];" ::"l"(cos + row * HALF + at));
    asm volatile("prefetch.global.L2 [%0];" ::"l"(sin + row * HALF + at));
  }

  DEVICE void load(const ANGLE* cos, const ANGLE* sin, int64_t row, int lane) {
    if constexpr (HALF == 0) return;
    constexpr int kLoad = INTERLEAVED ? VECTOR / 2 : VECTOR;
    cos += row * HALF, sin += row * HALF;
#pragma unroll
    for (int j = 0; j < kHeadParts; ++j) {
      const int d = (j * 32 + lane) * VECTOR;
      if (kWholeAngles) {
        Vec<ANGLE, kLoad> c{}, s{};
        const int pair = INTERLEAVED ? d / 2 : d < HALF ? d : d - HALF;
        if (d < 2 * HALF) {
          c = load_now(reinterpret_cast<const Vec<ANGLE, kLoad>*>(cos + pair));
          s = load_now(reinterpret_cast<const Vec<ANGLE, kLoad>*>(sin + pair));
        }
#pragma unroll
        for (int i = 0; i < VECTOR; ++i)
          cosine[j][i] = to_float(c.at[INTERLEAVED ? i / 2 : i]), sine[j][i] = to_float(s.at[INTERLEAVED ? i / 2 : i]);
      } else {
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) {
          const int pair = INTERLEAVED ? (d + i) / 2 : d + i < HALF ? d + i : d + i - HALF;
          const bool is_rotated = d + i < 2 * HALF;
          cosine[j][i] = is_rotated ? to_float(cos[pair]) : 1.f, sine[j][i] = is_rotated ? to_float(sin[pair]) : 0.f;
        }
      }
#pragma unroll
      for (int i = 0; i < VECTOR; ++i)
        if (INTERLEAVED ? i % 2 == 0 : d + i < HALF) sine[j][i] = -sine[j][i];
    }
  }
};

// The weights of a norm for a lane's elements.
struct NormPart {
  Vec<NORM, VECTOR> at[kHeadParts];

  DEVICE void load(const NORM* norm, int lane) {
#pragma unroll
    for (int j = 0; j < kHeadParts; ++j) {
      const int v = j * 32 + lane;
      at[j] = {};
      if (v < kHeadVectors) at[j] = load_now(reinterpret_cast<const Vec<NORM, VECTOR>*>(norm) + v);
    }
  }
};

// As it lies in memory: converting it waits for it, and for nothing that is asked for in between.
struct RawHeadPart {
  Vec<ACTIVATION, VECTOR> at[kHeadParts];

  DEVICE void load(const ACTIVATION* from, int lane) {
#pragma unroll
    for (int j = 0; j < kHeadParts; ++j) {
      const int v = j * 32 + lane;
      at[j] = {};
      if (v < kHeadVectors) at[j] = load_now(reinterpret_cast<const Vec<ACTIVATION, VECTOR>*>(from) + v);
    }
  }
};

struct HeadPart {
  float at[kHeadParts][VECTOR];

  DEVICE void convert(const RawHeadPart& raw) {
#pragma unroll
    for (int j = 0; j < kHeadParts; ++j)
#pragma unroll
      for (int i = 0; i < VECTOR; ++i) at[j][i] = to_float(raw.at[j].at[i]);
  }
  DEVICE void load(const ACTIVATION* from, int lane) {
    RawHeadPart raw;
    raw.load(from, lane);
    convert(raw);
  }
  DEVICE void normalize(const NormPart& norm, float epsilon) {
    float squares = 0;
#pragma unroll
    for (int j = 0; j < kHeadParts; ++j)
#pragma unroll
      for (int i = 0; i < VECTOR; ++i) squares += at[j][i] * at[j][i];
    const float inverse = rsqrtf(warp_reduce<Sum>(squares) / HEAD_DIM + epsilon);
#pragma unroll
    for (int j = 0; j < kHeadParts; ++j)
#pragma unroll
      for (int i = 0; i < VECTOR; ++i) at[j][i] *= inverse * to_float(norm.at[j].at[i]);
  }
  // `exchange`: HEAD_DIM floats of shared memory for the warp, 16-byte aligned.
  DEVICE void rotate(const RowAngles& angles, float* exchange, int lane) {
    if constexpr (HALF == 0) return;
    constexpr int kPiece = VECTOR < 4 ? VECTOR : 4;
    if constexpr (!INTERLEAVED) {
      __syncwarp();
#pragma unroll
      for (int j = 0; j < kHeadParts; ++j)
#pragma unroll
        for (int i = 0; i < VECTOR; i += kPiece) {
          Vec<float, kPiece> piece;
#pragma unroll
          for (int e = 0; e < kPiece; ++e) piece.at[e] = at[j][i + e];
          if (j * 32 + lane < kHeadVectors) *reinterpret_cast<Vec<float, kPiece>*>(exchange + (j * 32 + lane) * VECTOR + i) = piece;
        }
      __syncwarp();
    }
#pragma unroll
    for (int j = 0; j < kHeadParts; ++j) {
      const int d = (j * 32 + lane) * VECTOR;
      float other[VECTOR];
#pragma unroll
      for (int i = 0; i < VECTOR; ++i) other[i] = INTERLEAVED ? at[j][i ^ 1] : 0.f;
      if constexpr (!INTERLEAVED) {
#pragma unroll
        for (int i = 0; i < VECTOR; i += kPiece) {
          if (HALF % kPiece == 0) {
            const int from = d + i < HALF ? d + i + HALF : d + i - HALF;
            Vec<float, kPiece> piece{};
            if (d + i < 2 * HALF) piece = *reinterpret_cast<const Vec<float, kPiece>*>(exchange + from);
#pragma unroll
            for (int e = 0; e < kPiece; ++e) other[i + e] = piece.at[e];
          } else {
#pragma unroll
            for (int e = i; e < i + kPiece; ++e)
              if (d + e < 2 * HALF) other[e] = exchange[d + e < HALF ? d + e + HALF : d + e - HALF];
          }
        }
      }
#pragma unroll
      for (int i = 0; i < VECTOR; ++i)
        if (d + i < 2 * HALF) at[j][i] = at[j][i] * angles.cosine[j][i] + other[i] * angles.sine[j][i];
    }
  }
  template <class T>
  DEVICE void store(T* to, float scale, int lane) const {
#pragma unroll
    for (int j = 0; j < kHeadParts; ++j) {
      Vec<T, VECTOR> out;
#pragma unroll
      for (int i = 0; i < VECTOR; ++i) out.at[i] = cached_from_float<T>(at[j][i] * scale);
      if (j * 32 + lane < kHeadVectors) reinterpret_cast<Vec<T, VECTOR>*>(to)[j * 32 + lane] = out;
    }
  }
};
