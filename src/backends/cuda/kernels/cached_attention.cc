// cached_attention's kernels, fastest first.

#include "backends/cuda/kernels/cached_attention.h"

namespace tokamak::cuda {

const KernelDef& cached_attention_decode();

Support RotateInputs::supports() const {
  for (const auto& [a, b] : {std::pair{0, 1}, {2, 3}})
    if (has(a) && has(b) && node_.input_dtypes[first_ + a] != node_.input_dtypes[first_ + b])
      return Support::no(fmt::format("inputs {} and {} differ in dtype", first_ + a, first_ + b));
  return Support::yes();
}

std::vector<std::string> RotateInputs::defines() const {
  const auto type_of = [&](int i) { return has(i) ? device_type(node_.input_dtypes[first_ + i]) : "float"; };
  return {"ANGLE=" + type_of(0),
          "NORM=" + type_of(has(2) ? 2 : 3),
          fmt::format("HALF={}", half()),
          fmt::format("INTERLEAVED={}", node_.attrs().get_bool("interleaved", false) ? 1 : 0),
          fmt::format("HAS_Q_NORM={}", has(2) ? 1 : 0),
          fmt::format("HAS_K_NORM={}", has(3) ? 1 : 0)};
}

std::vector<const KernelDef*> cached_attention_kernels() { return {&cached_attention_decode()}; }

}  // namespace tokamak::cuda
