// Any bytes as an engine file: an Error or a graph that verifies, never a crash. Every input is tried as it is, and once more with its
// checksums and sizes put right, so that what lies behind them is reached.

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "engine/engine_file.h"

namespace {

constexpr size_t kHeader = 32, kSection = 32, kAlign = 64;

void store(std::vector<std::byte>& bytes, size_t at, uint64_t value, size_t size = 8) { std::memcpy(bytes.data() + at, &value, size); }

// Layout: see engine_file.h. Sections keep their declared sizes as far as the file has bytes; the last one takes the rest.
void seal(std::vector<std::byte>& bytes) {
  // An engine for a GPU has a sixth section, its code, and is of version 2.
  const bool has_code = bytes[8] == std::byte{2};
  const size_t sections = has_code ? 6 : 5, first_section = has_code ? 256 : 192;
  bytes.resize(std::max(first_section, (bytes.size() + kAlign - 1) / kAlign * kAlign));
  std::memcpy(bytes.data(), "TOKAMAK\n", 8);
  store(bytes, 8, has_code ? 2 : 1, 4);
  store(bytes, 12, sections, 4);
  store(bytes, 16, bytes.size());
  size_t offset = first_section;
  for (size_t i = 0; i < sections; ++i) {
    const size_t at = kHeader + i * kSection, left = bytes.size() - offset;
    uint64_t size;
    std::memcpy(&size, bytes.data() + at + 16, 8);
    size = i + 1 == sections ? left : std::min<uint64_t>(size / kAlign * kAlign, left);
    store(bytes, at, i + 1, 4);
    store(bytes, at + 4, 0, 4);
    store(bytes, at + 8, offset);
    store(bytes, at + 16, size);
    store(bytes, at + 24, XXH3_64bits(bytes.data() + offset, size));
    offset += size;
  }
  store(bytes, 24, 0);
  store(bytes, 24, XXH3_64bits(bytes.data(), first_section));
}

void read(std::shared_ptr<std::vector<std::byte>> bytes) {
  try {
    tokamak::engine::read(std::span<const std::byte>(*bytes), bytes, "input");
  } catch (const tokamak::Error& e) {
    if (e.code() == tokamak::ErrorCode::Internal) throw;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto* begin = reinterpret_cast<const std::byte*>(data);
  read(std::make_shared<std::vector<std::byte>>(begin, begin + size));
  if (size < 192 || size > (4u << 20)) return 0;
  auto sealed = std::make_shared<std::vector<std::byte>>(begin, begin + size);
  seal(*sealed);
  read(sealed);
  return 0;
}
