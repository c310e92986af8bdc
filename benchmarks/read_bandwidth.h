#pragma once
// Read bandwidth of main memory. Each thread reads its share as several streams at once, a few lines of each in turn with prefetch ahead:
// one stream understates what the memory gives.

#include <emmintrin.h>

#include <algorithm>
#include <atomic>
#include <chrono>

#include "backends/cpu/thread_pool.h"
#include "base/tensor.h"

namespace tokamak {

inline constexpr int64_t kLine = 64, kLinesATurn = 4;

// The bitwise or of everything in [data, data + bytes), read as `streams` consecutive parts.
inline int64_t read_streams(const char* data, int64_t bytes, int streams, int64_t ahead) {
  __m128i sum[4] = {};
  const int64_t part = bytes / streams / (kLine * kLinesATurn) * (kLine * kLinesATurn);
  for (int64_t at = 0; at < part; at += kLine * kLinesATurn)
    for (int s = 0; s < streams; ++s) {
      const char* p = data + s * part + at;
      for (int64_t line = 0; line < kLinesATurn; ++line, p += kLine) {
        _mm_prefetch(p + ahead, _MM_HINT_T0);
        for (int i = 0; i < 4; ++i) sum[i] = _mm_or_si128(sum[i], _mm_load_si128(reinterpret_cast<const __m128i*>(p) + i));
      }
    }
  const __m128i all = _mm_or_si128(_mm_or_si128(sum[0], sum[1]), _mm_or_si128(sum[2], sum[3]));
  return _mm_cvtsi128_si64(all);
}

// GB/s (10^9 bytes) of reading `buffer`, the best of three runs.
inline double read_bandwidth(const Tensor& buffer, int threads, int streams, int64_t ahead) {
  const int64_t share = buffer.size_bytes() / threads / kLine * kLine;
  double best = 0;
  for (int repeat = 0; repeat < 3; ++repeat) {
    ThreadPool pool(threads);
    std::atomic<int64_t> keep{0};
    const auto begin = std::chrono::steady_clock::now();
    pool.parallel_for(threads, 1, [&](int64_t from, int64_t to, int) {
      for (int64_t t = from; t < to; ++t) keep += read_streams(buffer.data<char>() + t * share, share, streams, ahead);
    });
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    best = std::max(best, static_cast<double>(share * threads) / seconds / 1e9);
  }
  return best;
}

}  // namespace tokamak
