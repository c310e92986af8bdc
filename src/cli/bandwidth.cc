#include "cli/bandwidth.h"

#include <emmintrin.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <vector>

#include "backends/cpu/thread_pool.h"
#include "base/error.h"

namespace tokamak::cli {

namespace {

constexpr int64_t kBytes = int64_t{3} << 29, kLine = 64, kLinesATurn = 4;

// A few lines of each stream in turn.
int64_t read_streams(const char* data, int64_t bytes, int streams, int64_t ahead) {
  __m128i sum[4] = {};
  const int64_t part = bytes / streams / (kLine * kLinesATurn) * (kLine * kLinesATurn);
  for (int64_t at = 0; at < part; at += kLine * kLinesATurn)
    for (int s = 0; s < streams; ++s) {
      const char* line = data + s * part + at;
      for (int64_t l = 0; l < kLinesATurn; ++l, line += kLine) {
        _mm_prefetch(line + ahead, _MM_HINT_T0);  // beyond the buffer it is only a hint
        for (int i = 0; i < 4; ++i) sum[i] = _mm_add_epi64(sum[i], _mm_load_si128(reinterpret_cast<const __m128i*>(line) + i));
      }
    }
  return _mm_cvtsi128_si64(_mm_add_epi64(_mm_add_epi64(sum[0], sum[1]), _mm_add_epi64(sum[2], sum[3])));
}

}  // namespace

double measure_read_bandwidth(int threads) {
  void* memory = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail(ErrorCode::ResourceExhausted, "measuring the memory bandwidth needs {} bytes of memory", kBytes);
  ::madvise(memory, kBytes, MADV_HUGEPAGE);
  auto* bytes = static_cast<char*>(memory);
  ThreadPool pool(threads > 0 ? threads : available_threads());
  const int64_t width = pool.width(), share = kBytes / width / kLine * kLine;
  // Untouched pages would all be the one page of zeros.
  pool.parallel_for(width, 1, [&](int64_t begin, int64_t end, int) { std::memset(bytes + begin * share, 1, (end - begin) * share); });
  std::vector<int64_t> sums(static_cast<size_t>(width));
  double best = 0;
  for (const int streams : {4, 8, 16})
    for (const int64_t ahead : {1024, 4096}) {
      const auto start = std::chrono::steady_clock::now();
      pool.parallel_for(width, 1, [&](int64_t begin, int64_t end, int) {
        for (int64_t w = begin; w < end; ++w) sums[static_cast<size_t>(w)] += read_streams(bytes + w * share, share, streams, ahead);
      });
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      best = std::max(best, static_cast<double>(share * width) / seconds);
    }
  ::munmap(memory, kBytes);
  int64_t sum = 0;
  for (const int64_t s : sums) sum += s;
  if (sum == 0) fail(ErrorCode::Internal, "the bandwidth probe read nothing");
  return best;
}

}  // namespace tokamak::cli
