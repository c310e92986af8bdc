#include "llm/cache_budget.h"

#include <algorithm>

#include "base/error.h"

namespace tokamak::llm {

int64_t cache_bytes(const CacheBudget& b, int64_t wanted) {
  constexpr int64_t kSpare = int64_t{512} << 20;
  const int64_t fixed = b.weights + b.activations + b.arrays;
  if (wanted > 0 && wanted < b.one_sequence)
    fail(ErrorCode::ResourceExhausted, "a KV cache of {} bytes does not hold one sequence of the largest length, which takes {} bytes",
         wanted, b.one_sequence);
  const int64_t smallest = wanted > 0 ? wanted : b.one_sequence;
  if (fixed + smallest > b.free)
    fail(
        ErrorCode::ResourceExhausted,
        "{} does not have room for this engine: {} bytes of weights, {} of activations and workspace, {} of index arrays and constants and "
        "a KV cache of {}{} are {} bytes more than the {} that are free",
        b.device_name, b.weights, b.activations, b.arrays, smallest, wanted > 0 ? "" : " (one sequence)", fixed + smallest - b.free,
        b.free);
  if (wanted > 0) return wanted / b.block * b.block;
  const int64_t rest = (b.free - fixed - kSpare) / 20 * 19;
  return std::max(b.one_sequence, std::min(rest, b.all_sequences)) / b.block * b.block;
}

}  // namespace tokamak::llm
