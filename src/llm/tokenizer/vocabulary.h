#pragma once
// The tokens of a model: id to text and back.

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "llm/tokenizer/json_node.h"

namespace tokamak::llm::tokenizer {

class Vocabulary {
 public:
  Vocabulary() = default;
  // An object from token to id. Throws Corrupt.
  explicit Vocabulary(const JsonNode& json);
  Vocabulary(Vocabulary&&) = default;
  Vocabulary& operator=(Vocabulary&&) = default;
  Vocabulary(const Vocabulary&) = delete;  // ids_ points into storage_

  void add(std::string token, int32_t id);
  std::optional<int32_t> find(std::string_view token) const;
  // Empty for an id without a token.
  std::string_view text(int32_t id) const {
    return id >= 0 && static_cast<size_t>(id) < texts_.size() ? texts_[static_cast<size_t>(id)] : "";
  }
  bool has(int32_t id) const {
    return id >= 0 && static_cast<size_t>(id) < texts_.size() && texts_[static_cast<size_t>(id)].data() != nullptr;
  }
  int32_t end() const { return static_cast<int32_t>(texts_.size()); }  // largest id + 1
  size_t size() const { return ids_.size(); }

  // Calls f(token, id) for each token.
  template <class F>
  void for_each(const F& f) const {
    for (const auto& [token, id] : ids_) f(token, id);
  }

 private:
  bool in_range(int32_t id) const { return id >= 0 && static_cast<size_t>(id) < texts_.size(); }

  std::deque<std::string> storage_;
  std::unordered_map<std::string_view, int32_t> ids_;
  std::vector<std::string_view> texts_;
};

}  // namespace tokamak::llm::tokenizer
