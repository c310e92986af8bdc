#include "import/hf/json.h"

#include <cmath>
#include <unordered_set>

#include "base/error.h"

namespace tokamak::hf {
namespace {

constexpr int kMaxDepth = 64;

std::string shown(const Json& value) {
  if (value.is_structured()) return value.is_array() ? "a list" : "an object";
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

}  // namespace

Json parse_json(std::string_view text, const std::string& what) {
  std::vector<std::unordered_set<std::string>> keys;
  const auto check = [&](int depth, Json::parse_event_t event, Json& value) {
    if (depth > kMaxDepth) fail(ErrorCode::Corrupt, "{}: nested deeper than {} levels", what, kMaxDepth);
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key && !keys.back().insert(value.get_ref<const std::string&>()).second)
      fail(ErrorCode::Corrupt, "{}: key {} appears twice in one object", what, shown(value));
    return true;
  };
  try {
    return Json::parse(text.begin(), text.end(), check);
  } catch (const Json::exception& e) {
    fail(ErrorCode::Corrupt, "{}: not valid JSON: {}", what, e.what());
  }
}

JsonObject::JsonObject(const Json& json, std::string path) : json_(json), path_(std::move(path)) {
  if (!json.is_object()) fail(ErrorCode::Corrupt, "{}: expected an object, found {}", path_, shown(json));
}

const Json* JsonObject::find(const std::string& key) const {
  const auto found = json_.find(key);
  return found == json_.end() || found->is_null() ? nullptr : &*found;
}

const Json& JsonObject::require(const std::string& key, const std::string& expected) const {
  const Json* value = find(key);
  if (value == nullptr) fail(ErrorCode::Corrupt, "{}: \"{}\" is missing; expected {}", path_, key, expected);
  return *value;
}

void JsonObject::wrong(const std::string& key, const std::string& expected) const {
  const Json* value = find(key);
  fail(ErrorCode::Corrupt, "{}: \"{}\" is {}; expected {}", path_, key, value ? shown(*value) : "missing", expected);
}

int64_t JsonObject::integer(const std::string& key, int64_t min, int64_t max) const {
  const std::string expected = fmt::format("an integer from {} to {}", min, max);
  const Json& value = require(key, expected);
  const bool fits = value.is_number_integer() && !(value.is_number_unsigned() && value.get<uint64_t>() > uint64_t{INT64_MAX});
  // Some exporters write 4096.0.
  const bool whole =
      value.is_number_float() && value.get<double>() == std::floor(value.get<double>()) && std::abs(value.get<double>()) < 1e15;
  if (!fits && !whole) wrong(key, expected);
  const int64_t number = fits ? value.get<int64_t>() : static_cast<int64_t>(value.get<double>());
  if (number < min || number > max) wrong(key, expected);
  return number;
}

int64_t JsonObject::integer(const std::string& key, int64_t min, int64_t max, int64_t otherwise) const {
  return has(key) ? integer(key, min, max) : otherwise;
}

double JsonObject::number(const std::string& key, double min, double max) const {
  const std::string expected = fmt::format("a number from {} to {}", min, max);
  const Json& value = require(key, expected);
  if (!value.is_number()) wrong(key, expected);
  const double number = value.get<double>();
  if (!(number >= min && number <= max)) wrong(key, expected);
  return number;
}

double JsonObject::number(const std::string& key, double min, double max, double otherwise) const {
  return has(key) ? number(key, min, max) : otherwise;
}

bool JsonObject::boolean(const std::string& key, bool otherwise) const {
  const Json* value = find(key);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean()) wrong(key, "true or false");
  return value->get<bool>();
}

std::string JsonObject::text(const std::string& key, const std::string& otherwise) const {
  const Json* value = find(key);
  if (value == nullptr) return otherwise;
  if (!value->is_string()) wrong(key, "a string");
  return value->get<std::string>();
}

std::vector<double> JsonObject::numbers(const std::string& key, double min, double max) const {
  const std::string expected = fmt::format("a list of numbers from {} to {}", min, max);
  const Json& value = require(key, expected);
  if (!value.is_array()) wrong(key, expected);
  std::vector<double> out;
  for (const Json& item : value) {
    if (!item.is_number() || !(item.get<double>() >= min && item.get<double>() <= max)) wrong(key, expected);
    out.push_back(item.get<double>());
  }
  return out;
}

std::vector<std::string> JsonObject::texts(const std::string& key) const {
  const Json& value = require(key, "a list of strings");
  if (!value.is_array()) wrong(key, "a list of strings");
  std::vector<std::string> out;
  for (const Json& item : value) {
    if (!item.is_string()) wrong(key, "a list of strings");
    out.push_back(item.get<std::string>());
  }
  return out;
}

std::optional<JsonObject> JsonObject::object(const std::string& key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_object()) wrong(key, "an object");
  return JsonObject(*value, path_ + ": " + key);
}

}  // namespace tokamak::hf
