#pragma once
// Numbers for distinct sequences of integers, in the order of their first appearance.

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "base/error.h"

namespace tokamak::llm::grammar {

class Interner {
 public:
  // The number of `sequence`; `is_new` tells whether it is one more.
  int32_t intern(std::span<const int32_t> sequence, bool* is_new = nullptr) {
    if (table_.empty() || size() * 2 >= static_cast<int32_t>(table_.size())) grow();
    const uint64_t hash = hash_of(sequence);
    size_t slot = hash & (table_.size() - 1);
    while (table_[slot] >= 0) {
      const std::span<const int32_t> other = at(table_[slot]);
      if (std::equal(other.begin(), other.end(), sequence.begin(), sequence.end())) {
        if (is_new) *is_new = false;
        return table_[slot];
      }
      slot = (slot + 1) & (table_.size() - 1);
    }
    if (is_new) *is_new = true;
    if (pool_.size() + sequence.size() > INT32_MAX) fail(ErrorCode::ResourceExhausted, "a grammar's states take more than 8 GiB");
    table_[slot] = size();
    pool_.insert(pool_.end(), sequence.begin(), sequence.end());
    ends_.push_back(static_cast<int32_t>(pool_.size()));
    return size() - 1;
  }

  // Valid until the next intern().
  std::span<const int32_t> at(int32_t id) const {
    const int32_t begin = id == 0 ? 0 : ends_[id - 1];
    return {pool_.data() + begin, static_cast<size_t>(ends_[id] - begin)};
  }

  int32_t size() const { return static_cast<int32_t>(ends_.size()); }
  size_t bytes() const { return (pool_.capacity() + ends_.capacity() + table_.capacity()) * sizeof(int32_t); }

 private:
  static uint64_t hash_of(std::span<const int32_t> sequence) {
    uint64_t hash = sequence.size();
    for (const int32_t value : sequence) {
      hash = (hash ^ static_cast<uint32_t>(value)) * 0x9E3779B97F4A7C15ull;
      hash ^= hash >> 32;
    }
    return hash;
  }

  void grow() {
    table_.assign(table_.empty() ? 64 : table_.size() * 2, -1);
    for (int32_t id = 0; id < size(); ++id) {
      size_t slot = hash_of(at(id)) & (table_.size() - 1);
      while (table_[slot] >= 0) slot = (slot + 1) & (table_.size() - 1);
      table_[slot] = id;
    }
  }

  std::vector<int32_t> pool_, ends_, table_;
};

}  // namespace tokamak::llm::grammar
