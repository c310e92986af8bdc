// Read bandwidth of main memory: what bounds the generation of tokens, one weight byte read a token.
//
//   tokamak_memory_bandwidth [megabytes=1024]
//
// For 1 to all threads, prints the best of a few stream counts and prefetch distances, in 10^9 bytes a second. The buffer
// must be well above the last-level cache; where a virtual machine shows a cache larger than the machine's share of it, above 1 GiB.

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "backends/cpu/cpu_features.h"
#include "benchmarks/read_bandwidth.h"

namespace tokamak {
namespace {

int run(int64_t megabytes) {
  Tensor buffer = Tensor::empty(DType::U8, {megabytes << 20});
  for (int64_t i = 0; i < buffer.size_bytes(); i += 8) buffer.data<uint64_t>()[i / 8] = static_cast<uint64_t>(i) * 0x9E3779B97F4A7C15ull;
  std::printf("%s, %ld MiB\n%8s %8s %8s %10s\n", cpu_model_name().c_str(), megabytes, "threads", "streams", "ahead", "GB/s");
  for (int threads = 1; threads <= available_threads(); threads *= 2) {
    double best = 0;
    int best_streams = 0;
    int64_t best_ahead = 0;
    for (int streams : {1, 2, 4, 8, 16})
      for (int64_t ahead : {512, 1024, 2048, 4096}) {
        const double speed = read_bandwidth(buffer, threads, streams, ahead);
        if (speed > best) best = speed, best_streams = streams, best_ahead = ahead;
      }
    std::printf("%8d %8d %8ld %10.1f\n", threads, best_streams, best_ahead, best);
  }
  return 0;
}

}  // namespace
}  // namespace tokamak

int main(int argc, char** argv) { return tokamak::run(argc > 1 ? std::max(1, std::atoi(argv[1])) : 1024); }
