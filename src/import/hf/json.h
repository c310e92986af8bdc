#pragma once
// JSON from strangers: bounded nesting, no duplicate keys, typed access whose errors say file, key, what was found and what was expected.

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tokamak::hf {

using Json = nlohmann::json;

// Throws Corrupt naming `what` when the text does not parse, nests deeper than 64 or repeats a key of an object.
Json parse_json(std::string_view text, const std::string& what);

// One object of a JSON file. A key whose value is null counts as absent. Refers to the json, which must outlive it.
class JsonObject {
 public:
  // `path` leads to the object for messages: "config.json", or "config.json: rope_scaling". Throws Corrupt unless `json` is an object.
  JsonObject(const Json& json, std::string path);

  const std::string& path() const { return path_; }
  const Json* find(const std::string& key) const;  // null when absent
  bool has(const std::string& key) const { return find(key) != nullptr; }
  bool is_null(const std::string& key) const { return json_.contains(key) && !has(key); }  // written, as null
  auto items() const { return json_.items(); }                                             // (key, value) pairs

  // All throw Corrupt when the value has another type or lies outside [min, max]; those without a default also when it is absent.
  int64_t integer(const std::string& key, int64_t min, int64_t max) const;
  int64_t integer(const std::string& key, int64_t min, int64_t max, int64_t otherwise) const;
  double number(const std::string& key, double min, double max) const;
  double number(const std::string& key, double min, double max, double otherwise) const;
  bool boolean(const std::string& key, bool otherwise) const;
  std::string text(const std::string& key, const std::string& otherwise) const;
  std::vector<double> numbers(const std::string& key, double min, double max) const;
  std::vector<std::string> texts(const std::string& key) const;
  std::optional<JsonObject> object(const std::string& key) const;

  [[noreturn]] void wrong(const std::string& key, const std::string& expected) const;

 private:
  const Json& require(const std::string& key, const std::string& expected) const;
  const Json& json_;
  std::string path_;
};

}  // namespace tokamak::hf
