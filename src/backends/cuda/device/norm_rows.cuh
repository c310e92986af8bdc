// A few rows of x normalised (rms_norm) into shared memory, for products that read them more than once. Each thread keeps to its own
// vectors of every row, so only the sums of squares meet.
#pragma once
#include "elementwise.cuh"

// X: elements of x; N: of the norm's weights; V: neighbours moved at once, a divisor of kCols; Y: elements of the result, as large as X.
template <class X, class N, int kCols, int kRows, int kThreads, int V, class Y = X>
struct NormRows {
  static constexpr int kVectors = kCols / V, kHeld = (kVectors + kThreads - 1) / kThreads;  // of a row; a thread's
  static constexpr int kEarly = kHeld < 4 ? kHeld : 4;
  static constexpr int kBatch = kRows >= 4 ? 1 : 4 / kRows;  // loads of x under way: four at least
  static constexpr int kScratch = kThreads / 32 * kRows;     // floats

  Vec<N, V> early[kEarly];

  // The first of the weights, before the kernel that makes x has finished.
  DEVICE void load_weights(const N* norm) {
#pragma unroll
    for (int i = 0; i < kEarly; ++i)
      if (const int v = i * kThreads + threadIdx.x; v < kVectors) early[i] = load_early<N, V>(norm + v * V);
  }

  // Rows beyond `rows` become zeros. `at(row, vector)`: where that vector goes in shared memory, as Vec<Y, V>*; `last(vector)`: changes it
  // at the end. Ends before a barrier: the caller's, before anyone reads other threads' vectors. `scratch`: kScratch floats.
  struct Unchanged {
    DEVICE void operator()(Vec<Y, V>&) const {}
  };
  template <class At, class Last = Unchanged>
  DEVICE void run(const X* x, const N* norm, int rows, float epsilon, float* scratch, const At& at, const Last& last = {}) const {
    static_assert(sizeof(X) == sizeof(Y));
    const auto raw_at = [&](int row, int v) { return reinterpret_cast<Vec<X, V>*>(at(row, v)); };  // until it is normalised
    float square[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) square[r] = 0.f;
#pragma unroll
    for (int base = 0; base < kHeld; base += kBatch) {
      Vec<X, V> raw[kBatch][kRows];
#pragma unroll
      for (int b = 0; b < kBatch; ++b)
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const int v = (base + b) * kThreads + threadIdx.x;
          raw[b][r] = v < kVectors && r < rows ? load_vector<X, V>(x + int64_t(r) * kCols + v * V) : Vec<X, V>{};
        }
#pragma unroll
      for (int b = 0; b < kBatch; ++b)
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const int v = (base + b) * kThreads + threadIdx.x;
          if (v >= kVectors) continue;
#pragma unroll
          for (int k = 0; k < V; ++k) square[r] += to_float(raw[b][r].at[k]) * to_float(raw[b][r].at[k]);
          *raw_at(r, v) = raw[b][r];
        }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      square[r] = warp_reduce<Sum>(square[r]);
      if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32 * kRows + r] = square[r];
    }
    __syncthreads();
    float inverse[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      inverse[r] = 0.f;
#pragma unroll
      for (int w = 0; w < kThreads / 32; ++w) inverse[r] += scratch[w * kRows + r];
      inverse[r] = rsqrtf(inverse[r] * (1.f / kCols) + epsilon);
    }
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int v = i * kThreads + threadIdx.x;
      if (v >= kVectors) continue;
      const Vec<N, V> weight = i < kEarly ? early[i < kEarly ? i : 0] : load_vector<N, V>(norm + v * V);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const Vec<X, V> before = *raw_at(r, v);
        Vec<Y, V> value;
#pragma unroll
        for (int k = 0; k < V; ++k) value.at[k] = from_float<Y>(to_float(before.at[k]) * inverse[r] * to_float(weight.at[k]));
        last(value);
        *at(r, v) = value;
      }
    }
  }
};
