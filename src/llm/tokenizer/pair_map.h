#pragma once
// The merges of a BPE model: a pair of token ids to its rank and the id it becomes. Open addressing, built once.

#include <cstdint>
#include <vector>

namespace tokamak::llm::tokenizer {

class PairMap {
 public:
  struct Merge {
    uint32_t rank = UINT32_MAX;  // UINT32_MAX: no merge
    int32_t id = -1;
  };

  explicit PairMap(size_t count) {
    size_t size = 16;
    while (size < count * 2) size *= 2;
    entries_.resize(size);
    shift_ = 64 - __builtin_ctzll(size);
  }

  void insert(int32_t a, int32_t b, Merge merge) {
    const uint64_t key = key_of(a, b);
    Entry& e = entries_[slot(key)];
    e = {key, merge};
  }

  Merge find(int32_t a, int32_t b) const { return entries_[slot(key_of(a, b))].merge; }

 private:
  struct Entry {
    uint64_t key = UINT64_MAX;  // no pair of ids >= 0
    Merge merge;
  };

  static uint64_t key_of(int32_t a, int32_t b) { return static_cast<uint64_t>(static_cast<uint32_t>(a)) << 32 | static_cast<uint32_t>(b); }

  // Where the key is, or the empty entry where it would be.
  size_t slot(uint64_t key) const {
    size_t at = (key * 0x9E3779B97F4A7C15u) >> shift_;
    while (entries_[at].key != key && entries_[at].key != UINT64_MAX) at = (at + 1) & (entries_.size() - 1);
    return at;
  }

  std::vector<Entry> entries_;
  int shift_ = 0;
};

}  // namespace tokamak::llm::tokenizer
