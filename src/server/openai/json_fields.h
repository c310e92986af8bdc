#pragma once
// JSON from the wire: parsed within bounds, and read field by field with errors that name the field. A field that nobody asked for is an
// error too: what a request says is either done or refused.

#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tokamak::server::openai {

using Json = nlohmann::ordered_json;  // tools and schemas keep the order of their keys

inline constexpr int kMaxJsonDepth = 100;

// Throws ApiError 400: not JSON (with the place), not UTF-8, nested deeper than kMaxJsonDepth, or objects with so many keys that looking
// them up would take long.
Json parse_json(std::string_view text);

// The fields of one object; null counts as absent. `object` must outlive it.
class Fields {
 public:
  // Throws ApiError when `object` is not one. `path` goes before a field's name in errors ("" at the top).
  Fields(const Json& object, std::string path);

  // Each throws ApiError naming the field when it has another type or is outside the range.
  const Json* find(std::string_view name);
  std::optional<bool> boolean(std::string_view name);
  std::optional<int64_t> integer(std::string_view name, int64_t min, int64_t max);
  std::optional<double> number(std::string_view name, double min, double max);
  const std::string* string(std::string_view name);
  const Json* array(std::string_view name);
  const Json* object(std::string_view name);
  std::vector<int32_t> token_ids(std::string_view name);  // none when absent

  // Accepted and without effect.
  void ignore(std::initializer_list<std::string_view> names);
  // Throws ApiError when the field is there and is not false.
  void refuse(std::string_view name, std::string_view why);
  // Throws ApiError on a field that was not asked for.
  void finish() const;

  std::string path_of(std::string_view name) const;

 private:
  const Json* object_;
  std::string path_;
  std::vector<const std::string*> known_;
};

std::vector<int32_t> token_ids_of(const Json& array, const std::string& path);

}  // namespace tokamak::server::openai
