#include "engine/code_section.h"

#include <elf.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace tokamak::engine {
namespace {

constexpr size_t kKeySize = 32;
constexpr uint64_t kAlign = 64;

struct Entry {
  char key[kKeySize];
  uint64_t offset, size;
};
static_assert(sizeof(Entry) == 48);

uint64_t padded(uint64_t size) { return (size + kAlign - 1) / kAlign * kAlign; }

bool is_key(std::string_view key) {
  return std::all_of(key.begin(), key.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

// Tables and sections of an ELF file inside `bytes`.
bool is_elf_within(std::span<const std::byte> bytes) {
  Elf64_Ehdr head;
  if (bytes.size() < sizeof(head)) return false;
  std::memcpy(&head, bytes.data(), sizeof(head));
  if (std::memcmp(head.e_ident, ELFMAG, SELFMAG) != 0 || head.e_ident[EI_CLASS] != ELFCLASS64) return false;
  const auto inside = [&](uint64_t offset, uint64_t size) { return offset <= bytes.size() && size <= bytes.size() - offset; };
  if (head.e_shnum > 0 && head.e_shentsize != sizeof(Elf64_Shdr)) return false;
  if (head.e_phnum > 0 && head.e_phentsize != sizeof(Elf64_Phdr)) return false;
  if (!inside(head.e_shoff, uint64_t{head.e_shnum} * sizeof(Elf64_Shdr)) ||
      !inside(head.e_phoff, uint64_t{head.e_phnum} * sizeof(Elf64_Phdr)))
    return false;
  for (uint64_t i = 0; i < head.e_shnum; ++i) {
    Elf64_Shdr section;
    std::memcpy(&section, bytes.data() + head.e_shoff + i * sizeof(section), sizeof(section));
    if (section.sh_type != SHT_NOBITS && !inside(section.sh_offset, section.sh_size)) return false;
  }
  for (uint64_t i = 0; i < head.e_phnum; ++i) {
    Elf64_Phdr segment;
    std::memcpy(&segment, bytes.data() + head.e_phoff + i * sizeof(segment), sizeof(segment));
    if (!inside(segment.p_offset, segment.p_filesz)) return false;
  }
  return true;
}

}  // namespace

std::string to_bytes(const cuda::CodeCache& code) {
  const auto cubins = code.entries();
  const uint64_t count = cubins.size();
  std::string out(padded(sizeof(count) + count * sizeof(Entry)), '\0');
  std::memcpy(out.data(), &count, sizeof(count));
  size_t at = sizeof(count);
  for (const auto& [key, cubin] : cubins) {
    CHECK(key.size() == kKeySize);
    Entry entry;
    std::memcpy(entry.key, key.data(), kKeySize);
    entry.offset = out.size();
    entry.size = cubin->size();
    std::memcpy(out.data() + at, &entry, sizeof(entry));
    at += sizeof(entry);
    out.append(cubin->data(), cubin->size());
    out.resize(padded(out.size()), '\0');
  }
  return out;
}

std::shared_ptr<cuda::CodeCache> code_from_bytes(std::span<const std::byte> bytes, const std::string& what) {
  const auto corrupt = [&](const std::string& reason) {
    fail(ErrorCode::Corrupt, "{}: the code section {}; build the engine again from its model", what, reason);
  };
  auto code = std::make_shared<cuda::CodeCache>();
  uint64_t count = 0;
  if (bytes.size() < sizeof(count)) corrupt("is too short");
  std::memcpy(&count, bytes.data(), sizeof(count));
  if (count > (bytes.size() - sizeof(count)) / sizeof(Entry)) corrupt(fmt::format("cannot hold {} kernels", count));
  for (uint64_t i = 0; i < count; ++i) {
    Entry entry;
    std::memcpy(&entry, bytes.data() + sizeof(count) + i * sizeof(entry), sizeof(entry));
    const std::string key(entry.key, kKeySize);
    if (!is_key(key)) corrupt(fmt::format("has a key that is no hash (entry {})", i));
    if (entry.offset > bytes.size() || entry.size > bytes.size() - entry.offset || entry.offset % kAlign != 0)
      corrupt(fmt::format("has an entry outside of it ({})", i));
    const auto cubin = bytes.subspan(entry.offset, entry.size);
    if (!is_elf_within(cubin)) corrupt(fmt::format("has an entry that is no GPU code ({})", i));
    const char* begin = reinterpret_cast<const char*>(cubin.data());
    code->insert(key, std::vector<char>(begin, begin + cubin.size()));
  }
  return code;
}

}  // namespace tokamak::engine
