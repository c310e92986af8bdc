#include "backends/cpu/cpu_features.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "base/error.h"

namespace tokamak {
namespace {

struct Field {
  const char* name;
  bool CpuFeatures::*member;
};
constexpr Field kFields[] = {
    {"avx2", &CpuFeatures::avx2},        {"avx512", &CpuFeatures::avx512},     {"vnni", &CpuFeatures::avx512_vnni},
    {"bf16", &CpuFeatures::avx512_bf16}, {"amx_int8", &CpuFeatures::amx_int8}, {"amx_bf16", &CpuFeatures::amx_bf16},
};

uint64_t read_xcr0() {
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

// Linux grants the use of tile registers (XSAVE component 18) to a process that asks.
bool ask_for_tiles() {
  constexpr long kArchReqXcompPerm = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kTileData) == 0;
}

CpuFeatures detect() {
  CpuFeatures f;
  uint32_t a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return f;
  const bool fma_f16c = (c & bit_FMA) && (c & bit_F16C);
  const uint64_t xcr0 = read_xcr0();
  const bool ymm = (xcr0 & 0x6) == 0x6, zmm = (xcr0 & 0xe6) == 0xe6, tiles = (xcr0 & 0x60000) == 0x60000;
  uint32_t b7 = 0, c7 = 0, d7 = 0, a71 = 0;
  if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7)) return f;
  if (a >= 1) __get_cpuid_count(7, 1, &a71, &b, &c, &d);
  const auto bit = [](uint32_t word, int i) { return (word >> i & 1) != 0; };
  f.avx2 = ymm && fma_f16c && bit(b7, 5) && bit(b7, 8);  // BMI2 too
  f.avx512 = f.avx2 && zmm && bit(b7, 16) && bit(b7, 17) && bit(b7, 30) && bit(b7, 31);
  f.avx512_vnni = f.avx512 && bit(c7, 11);
  f.avx512_bf16 = f.avx512 && bit(a71, 5);
  const bool amx = f.avx512 && tiles && bit(d7, 24) && ask_for_tiles();
  f.amx_bf16 = amx && bit(d7, 22);
  f.amx_int8 = amx && bit(d7, 25) && bit(c7, 8);  // GFNI, which no CPU with tiles lacks
  return f;
}

}  // namespace

std::string CpuFeatures::to_string() const {
  std::string text;
  for (const Field& field : kFields)
    if (this->*field.member) text += (text.empty() ? "" : "+") + std::string(field.name);
  return text.empty() ? "x86-64" : text;
}

CpuFeatures CpuFeatures::parse(const std::string& text) {
  CpuFeatures f;
  if (text.empty() || text == "x86-64") return f;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('+', begin), text.size());
    const std::string word = text.substr(begin, end - begin);
    bool known = false;
    for (const Field& field : kFields)
      if (word == field.name) f.*field.member = known = true;
    if (!known)
      fail(ErrorCode::InvalidArgument,
           "unknown CPU feature \"{}\" in \"{}\": use avx2, avx512, vnni, bf16, amx_int8, amx_bf16 joined by +, or x86-64", word, text);
    begin = end + 1;
  }
  // Each includes what it builds on.
  f.avx512 |= f.avx512_vnni || f.avx512_bf16 || f.amx_int8 || f.amx_bf16;
  f.avx2 |= f.avx512;
  return f;
}

bool CpuFeatures::covers(const CpuFeatures& needed) const {
  for (const Field& field : kFields)
    if (needed.*field.member && !(this->*field.member)) return false;
  return true;
}

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = [] {
    CpuFeatures f = detect();
    if (const char* text = std::getenv("TOKAMAK_CPU"); text && *text) {
      const CpuFeatures limit = CpuFeatures::parse(text);
      for (const Field& field : kFields) f.*field.member = f.*field.member && limit.*field.member;
    }
    return f;
  }();
  return features;
}

std::string cpu_model_name() {
  uint32_t words[12] = {};
  if (static_cast<uint32_t>(__get_cpuid_max(0x80000000, nullptr)) < 0x80000004) return "unknown x86-64";
  for (uint32_t i = 0; i < 3; ++i) __get_cpuid(0x80000002 + i, &words[4 * i], &words[4 * i + 1], &words[4 * i + 2], &words[4 * i + 3]);
  char text[sizeof(words) + 1] = {};
  std::memcpy(text, words, sizeof(words));
  std::string name = text;
  const size_t first = name.find_first_not_of(' '), last = name.find_last_not_of(' ');
  return first == std::string::npos ? "unknown x86-64" : name.substr(first, last - first + 1);
}

}  // namespace tokamak
