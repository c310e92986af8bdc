#pragma once
// Recent words and their ids: a direct-mapped table of fixed size. Natural text repeats its words, and encoding one costs
// tens of hash look-ups.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string_view>

namespace tokamak::llm::tokenizer {

class WordCache {
 public:
  // The ids of `word`; empty when they are not here (no word has none).
  std::span<const int32_t> find(std::string_view word) const {
    if (word.size() > kMaxBytes || !entries_) return {};
    const Entry& e = entries_[slot(word)];
    if (e.length != word.size() || std::memcmp(e.text, word.data(), word.size()) != 0) return {};
    return {e.ids, e.count};
  }

  void insert(std::string_view word, std::span<const int32_t> ids) {
    if (word.empty() || word.size() > kMaxBytes || ids.empty() || ids.size() > kMaxIds) return;
    if (!entries_) entries_ = std::make_unique<Entry[]>(kEntries);
    Entry& e = entries_[slot(word)];
    e.length = static_cast<uint8_t>(word.size());
    e.count = static_cast<uint8_t>(ids.size());
    std::memcpy(e.text, word.data(), word.size());
    std::memcpy(e.ids, ids.data(), ids.size() * sizeof(int32_t));
  }

 private:
  static constexpr size_t kMaxBytes = 30, kMaxIds = 8, kEntries = size_t{1} << 14;

  struct Entry {  // one cache line
    uint8_t length = 0, count = 0;
    char text[kMaxBytes];
    int32_t ids[kMaxIds];
  };
  static_assert(sizeof(Entry) == 64);

  static size_t slot(std::string_view word) {
    // Eight bytes at a time; the length separates what padding makes equal.
    uint64_t hash = word.size() * 0x9E3779B97F4A7C15u;
    for (size_t i = 0; i < word.size(); i += 8) {
      uint64_t part = 0;
      std::memcpy(&part, word.data() + i, std::min<size_t>(8, word.size() - i));
      hash = (hash ^ part) * 0xD6E8FEB86659FD93u;
      hash ^= hash >> 32;
    }
    return hash & (kEntries - 1);
  }

  std::unique_ptr<Entry[]> entries_;
};

}  // namespace tokamak::llm::tokenizer
