#include "backends/cpu/kernels/kv_cache_write_loops.h"

namespace tokamak::cpu {

const KvCacheWriteFunctions& kv_cache_write_avx2() {
  static constexpr KvCacheWriteFunctions kFunctions = {write_tokens};
  return kFunctions;
}

}  // namespace tokamak::cpu
