#pragma once
// Reading fields of tokenizer.json with errors that say where: a value and the path to it.

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"

namespace tokamak::llm::tokenizer {

class JsonNode {
 public:
  JsonNode(const nlohmann::json& value, std::string path) : value_(&value), path_(std::move(path)) {}

  const nlohmann::json& value() const { return *value_; }
  const std::string& path() const { return path_; }

  [[noreturn]] void corrupt(std::string_view expected) const {
    fail(ErrorCode::Corrupt, "tokenizer.json: {} should be {}, it is {}", path_, expected, value_->type_name());
  }
  [[noreturn]] void unsupported(std::string_view what) const { fail(ErrorCode::Unsupported, "tokenizer.json: {}: {}", path_, what); }

  // The member `key`, unless it is missing or null.
  std::optional<JsonNode> find(const char* key) const {
    if (!value_->is_object()) corrupt("an object");
    const auto it = value_->find(key);
    if (it == value_->end() || it->is_null()) return std::nullopt;
    return JsonNode(*it, path_ + "." + key);
  }
  JsonNode at(const char* key) const {
    if (auto found = find(key)) return *found;
    fail(ErrorCode::Corrupt, "tokenizer.json: {} has no '{}'", path_, key);
  }

  const std::string& string() const {
    if (!value_->is_string()) corrupt("a string");
    return value_->get_ref<const std::string&>();
  }
  bool boolean() const {
    if (!value_->is_boolean()) corrupt("true or false");
    return value_->get<bool>();
  }
  double number() const {
    if (!value_->is_number()) corrupt("a number");
    return value_->get<double>();
  }
  int64_t integer(int64_t low, int64_t high) const {
    if (!value_->is_number_integer()) corrupt("an integer");
    const bool huge = value_->is_number_unsigned() && value_->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
    const int64_t n = huge ? INT64_MAX : value_->get<int64_t>();
    if (n < low || n > high) fail(ErrorCode::Corrupt, "tokenizer.json: {} should be in [{}, {}], it is {}", path_, low, high, n);
    return n;
  }
  std::vector<JsonNode> array() const {
    if (!value_->is_array()) corrupt("an array");
    std::vector<JsonNode> nodes;
    nodes.reserve(value_->size());
    for (const auto& item : *value_) nodes.emplace_back(item, path_ + "[" + std::to_string(nodes.size()) + "]");
    return nodes;
  }

  bool boolean_or(const char* key, bool fallback) const {
    const auto found = find(key);
    return found ? found->boolean() : fallback;
  }
  std::string string_or(const char* key, std::string fallback) const {
    const auto found = find(key);
    return found ? found->string() : std::move(fallback);
  }

 private:
  const nlohmann::json* value_;
  std::string path_;
};

inline constexpr int kMaxComponentDepth = 16;    // nested Sequences
inline constexpr int64_t kMaxTokenId = 1 << 24;  // vocabularies of today have 2^18 tokens

}  // namespace tokamak::llm::tokenizer
