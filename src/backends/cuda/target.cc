#include "backends/cuda/target.h"

#include "base/error.h"

namespace tokamak::cuda {

Target Target::named(std::string_view name) {
  // Multiprocessors, shared memory per block and L2: CUDA C++ Programming Guide (compute capabilities) and NVIDIA's data sheets of the card
  // named.
  static const Target kKnown[] = {
      {80, "sm_80", 108, 166912, int64_t{40} << 20, int64_t{80} << 30},      // A100
      {86, "sm_86", 84, 101376, int64_t{6} << 20, int64_t{24} << 30},        // A10, RTX 3090
      {89, "sm_89", 142, 101376, int64_t{48} << 20, int64_t{48} << 30},      // L40S
      {90, "sm_90", 132, 232448, int64_t{50} << 20, int64_t{80} << 30},      // H100
      {100, "sm_100", 148, 232448, int64_t{126} << 20, int64_t{180} << 30},  // B200
      {120, "sm_120", 188, 101376, int64_t{96} << 20, int64_t{96} << 30},    // RTX PRO 6000
  };
  std::string known;
  for (const Target& target : kKnown) {
    if (target.device_name == name) return target;
    known += (known.empty() ? "" : ", ") + target.device_name;
  }
  fail(ErrorCode::InvalidArgument, "unknown GPU architecture \"{}\"; known: {}", name, known);
}

}  // namespace tokamak::cuda
