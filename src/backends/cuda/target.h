#pragma once
// What code is generated for: a GPU that is here, or one that is only named.

#include <cstdint>
#include <string>
#include <string_view>

namespace tokamak::cuda {

struct Target {
  int arch = 90;            // compute capability, major * 10 + minor
  std::string device_name;  // "NVIDIA H100 80GB HBM3"; of a named target "sm_90"
  int num_sms = 132;
  int shared_bytes_per_block = 232448;  // with the opt-in
  int64_t l2_bytes = 50 << 20;
  int64_t memory_bytes = int64_t{80} << 30;

  // "sm_80", "sm_90", ...: a common GPU of that architecture. Throws InvalidArgument listing the known ones.
  static Target named(std::string_view name);

  std::string name() const { return "sm_" + std::to_string(arch); }
  // For the compiler: with the architecture's own instructions (wgmma) where it has a set of its own: "sm_90a".
  std::string compiler_arch() const { return name() + (arch >= 90 ? "a" : ""); }
  bool has_wgmma() const { return arch == 90; }
  bool has_pdl() const { return arch >= 90; }  // programmatic dependent launch
};

}  // namespace tokamak::cuda
