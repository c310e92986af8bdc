#pragma once
// What this CPU (and operating system) can run. Read once; tests may lower it.

#include <string>

namespace tokamak {

struct CpuFeatures {
  bool avx2 = false;    // with FMA and F16C
  bool avx512 = false;  // F, BW, DQ, VL
  bool avx512_vnni = false;
  bool avx512_bf16 = false;
  bool amx_int8 = false;  // with GFNI; tile data permission granted
  bool amx_bf16 = false;
  std::string to_string() const;  // "avx2+avx512+vnni+bf16"
  static CpuFeatures parse(const std::string& text);
  bool covers(const CpuFeatures& needed) const;
};

const CpuFeatures& cpu_features();
std::string cpu_model_name();  // "AMD EPYC 9B45"

// TOKAMAK_CPU=avx2 lowers what is used, for debugging and tests. Never raises it.
}  // namespace tokamak
