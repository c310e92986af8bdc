#include "server/openai/json_fields.h"

#include <algorithm>
#include <cmath>

#include "server/openai/api_error.h"

namespace tokamak::server::openai {
namespace {

// Looking for a key compares with those before it, so an object of n keys costs n * n / 2 comparisons to build.
constexpr uint64_t kMaxKeyComparisons = 50'000'000;

void check_shape(std::string_view text) {
  std::vector<uint64_t> keys;  // of each open object or array
  uint64_t comparisons = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    switch (text[i]) {
      case '"':
        for (++i; i < text.size() && text[i] != '"'; ++i)
          if (text[i] == '\\') ++i;
        break;
      case '{':
      case '[':
        if (keys.size() == static_cast<size_t>(kMaxJsonDepth)) bad_request("", "the JSON body is nested more than {} deep", kMaxJsonDepth);
        keys.push_back(0);
        break;
      case '}':
      case ']':
        if (!keys.empty()) keys.pop_back();
        break;
      case ':':
        if (keys.empty()) break;
        if ((comparisons += keys.back()++) > kMaxKeyComparisons) bad_request("", "the JSON body has objects with too many keys");
        break;
      default: break;
    }
  }
}

[[noreturn]] void wrong_type(const std::string& path, std::string_view expected, const Json& found) {
  bad_request(path, "'{}' should be {}, it is {}", path, expected, found.type_name());
}

}  // namespace

Json parse_json(std::string_view text) {
  check_shape(text);
  try {
    return Json::parse(text);
  } catch (const Json::exception& e) {
    std::string reason = e.what();  // "[json.exception.parse_error.101] parse error at line 1, column 2: ..."
    if (const auto end = reason.find("] "); end != std::string::npos) reason.erase(0, end + 2);
    bad_request("", "the body is not JSON: {}", reason);
  }
}

Fields::Fields(const Json& object, std::string path) : object_(&object), path_(std::move(path)) {
  if (object.is_object()) return;
  if (path_.empty()) bad_request("", "the body should be a JSON object, it is {}", object.type_name());
  wrong_type(path_, "an object", object);
}

std::string Fields::path_of(std::string_view name) const { return path_.empty() ? std::string(name) : path_ + "." + std::string(name); }

const Json* Fields::find(std::string_view name) {
  for (const auto& member : object_->get_ref<const Json::object_t&>()) {
    if (member.first != name) continue;
    known_.push_back(&member.first);
    return member.second.is_null() ? nullptr : &member.second;
  }
  return nullptr;
}

std::optional<bool> Fields::boolean(std::string_view name) {
  const Json* found = find(name);
  if (!found) return std::nullopt;
  if (!found->is_boolean()) wrong_type(path_of(name), "true or false", *found);
  return found->get<bool>();
}

std::optional<int64_t> Fields::integer(std::string_view name, int64_t min, int64_t max) {
  const Json* found = find(name);
  if (!found) return std::nullopt;
  const std::string path = path_of(name);
  int64_t value;
  if (found->is_number_unsigned()) {
    const auto wide = found->get<uint64_t>();
    if (wide > static_cast<uint64_t>(INT64_MAX)) bad_request(path, "'{}' is {}; it should be {} to {}", path, wide, min, max);
    value = static_cast<int64_t>(wide);
  } else if (found->is_number_integer()) {
    value = found->get<int64_t>();
  } else if (found->is_number_float() && std::abs(found->get<double>()) < 9e15 &&
             std::nearbyint(found->get<double>()) == found->get<double>()) {
    value = static_cast<int64_t>(found->get<double>());  // 16.0
  } else {
    wrong_type(path, "an integer", *found);
  }
  if (value < min || value > max) bad_request(path, "'{}' is {}; it should be {} to {}", path, value, min, max);
  return value;
}

std::optional<double> Fields::number(std::string_view name, double min, double max) {
  const Json* found = find(name);
  if (!found) return std::nullopt;
  const std::string path = path_of(name);
  if (!found->is_number()) wrong_type(path, "a number", *found);
  const auto value = found->get<double>();
  if (!(value >= min && value <= max)) bad_request(path, "'{}' is {}; it should be {} to {}", path, value, min, max);
  return value;
}

const std::string* Fields::string(std::string_view name) {
  const Json* found = find(name);
  if (found && !found->is_string()) wrong_type(path_of(name), "a string", *found);
  return found ? &found->get_ref<const std::string&>() : nullptr;
}

const Json* Fields::array(std::string_view name) {
  const Json* found = find(name);
  if (found && !found->is_array()) wrong_type(path_of(name), "an array", *found);
  return found;
}

const Json* Fields::object(std::string_view name) {
  const Json* found = find(name);
  if (found && !found->is_object()) wrong_type(path_of(name), "an object", *found);
  return found;
}

std::vector<int32_t> Fields::token_ids(std::string_view name) {
  const Json* found = array(name);
  return found ? token_ids_of(*found, path_of(name)) : std::vector<int32_t>();
}

void Fields::ignore(std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names) find(name);
}

void Fields::refuse(std::string_view name, std::string_view why) {
  const Json* found = find(name);
  if (!found || (found->is_boolean() && !found->get<bool>())) return;
  const std::string path = path_of(name);
  throw ApiError(400, "invalid_request_error", fmt::format("'{}' is not supported: {}", path, why), path, "unsupported_parameter");
}

void Fields::finish() const {
  for (const auto& [name, value] : object_->get_ref<const Json::object_t&>()) {
    if (value.is_null() || std::ranges::find(known_, &name) != known_.end()) continue;
    const std::string path = path_of(name.substr(0, 100));
    throw ApiError(400, "invalid_request_error", "Unrecognized request argument supplied: " + path, path, "unknown_parameter");
  }
}

std::vector<int32_t> token_ids_of(const Json& array, const std::string& path) {
  std::vector<int32_t> ids;
  ids.reserve(array.size());
  for (const Json& item : array) {
    if (!item.is_number_integer() || item.get<int64_t>() < 0 || item.get<int64_t>() > INT32_MAX)
      bad_request(path, "'{}[{}]' should be a token id, it is {}", path, ids.size(), item.is_number() ? item.dump() : item.type_name());
    ids.push_back(static_cast<int32_t>(item.get<int64_t>()));
  }
  return ids;
}

}  // namespace tokamak::server::openai
