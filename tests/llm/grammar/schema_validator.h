#pragma once
// Random JSON schemas, and a small validator for the keywords in them: the judge of what a mask lets through.

#include <nlohmann/json.hpp>
#include <random>
#include <regex>
#include <string>

namespace tokamak::llm {

using Json = nlohmann::ordered_json;

class SchemaMaker {
 public:
  explicit SchemaMaker(uint64_t seed) : random_(seed) {}

  Json document() {
    Json schema = make(3);
    schema["$defs"] = {{"leaf", make(0)}, {"node", make(1)}};
    return schema;
  }

 private:
  int below(int n) { return static_cast<int>(random_() % static_cast<uint64_t>(n)); }
  bool chance(int percent) { return below(100) < percent; }

  Json make(int depth) {
    switch (below(depth > 0 ? 14 : 9)) {
      case 0: return {{"type", "null"}};
      case 1: return {{"type", "boolean"}};
      case 2: return integer();
      case 3: return number();
      case 4: return string();
      case 5: return {{"enum", Json::array({"a", "b\"c", 1, 2.5, nullptr, Json::array({1, "x"})})}};
      case 6: return {{"const", below(2) ? Json("k\n\xC3\xA9") : Json({{"q", 1}})}};
      case 7: return {{"type", Json::array({"string", "null"})}, {"maxLength", below(4)}};
      case 8:
        return depth > 0 ? Json{{"$ref", chance(50) ? "#/$defs/leaf" : "#/$defs/node"}}
                         : Json{{"type", "integer"}, {"multipleOf", 1 + below(12)}};
      case 9:
      case 10: return object(depth);
      case 11: return array(depth);
      case 12: return {{chance(50) ? "anyOf" : "oneOf", Json::array({make(depth - 1), make(depth - 1)})}};
      default: {
        Json first = object(depth - 1), second = object(depth - 1);
        first.erase("additionalProperties");
        second.erase("additionalProperties");
        return {{"allOf", Json::array({first, second})}};
      }
    }
  }

  Json integer() {
    Json out = {{"type", "integer"}};
    const int low = below(3000) - 1500;
    if (chance(50)) out[chance(50) ? "minimum" : "exclusiveMinimum"] = low;
    if (chance(50)) out[chance(50) ? "maximum" : "exclusiveMaximum"] = low + 2 + below(2000);
    return out;
  }

  Json number() {
    Json out = {{"type", "number"}};
    const double low = (below(3000) - 1500) / 100.0;
    if (chance(50)) out[chance(50) ? "minimum" : "exclusiveMinimum"] = low;
    if (chance(50)) out[chance(50) ? "maximum" : "exclusiveMaximum"] = low + (1 + below(2000)) / 1000.0;
    return out;
  }

  Json string() {
    Json out = {{"type", "string"}};
    const int low = below(5);
    switch (below(4)) {
      case 0: out["minLength"] = low; break;
      case 1: out["maxLength"] = low + below(40); break;
      case 2: out["pattern"] = (const char*[]){"^[a-f]+$", "^(ab|c){1,3}\"?$", "^\\d{3}-\\d{2}$", "^x"}[below(4)]; break;
      default: break;
    }
    if (chance(30)) {
      if (!out.contains("minLength")) out["minLength"] = low;
      if (!out.contains("maxLength")) out["maxLength"] = low + 6 + below(10);
    }
    return out;
  }

  Json object(int depth) {
    Json out = {{"type", "object"}, {"properties", Json::object()}};
    Json required = Json::array();
    const int n = below(4);
    for (int i = 0; i < n; ++i) {
      const std::string name = (const char*[]){"a", "ab", "name", "x y", "\xC3\xA9\"", "a\n"}[below(6)];
      out["properties"][name] = make(depth - 1);
      if (chance(50)) required.push_back(name);
    }
    if (!required.empty()) out["required"] = required;
    if (chance(70)) out["additionalProperties"] = chance(60) ? Json(false) : make(0);
    return out;
  }

  Json array(int depth) {
    Json out = {{"type", "array"}, {"items", make(depth - 1)}};
    if (chance(30)) out["prefixItems"] = Json::array({make(depth - 1)});
    const int low = below(3);
    if (chance(40)) out["minItems"] = low;
    if (chance(60)) out["maxItems"] = low + below(3);
    return out;
  }

  std::mt19937_64 random_;
};

class SchemaValidator {
 public:
  explicit SchemaValidator(const Json& document) : document_(document) {}

  bool valid(const Json& schema, const Json& value) const {
    if (schema.is_boolean()) return schema.get<bool>();
    if (schema.contains("$ref") && !valid(document_.at(Json::json_pointer(schema["$ref"].get<std::string>().substr(1))), value))
      return false;
    if (schema.contains("allOf")) {
      for (const Json& s : schema["allOf"]) {
        if (!valid(s, value)) return false;
      }
    }
    for (const char* key : {"anyOf", "oneOf"}) {
      if (schema.contains(key) && !std::any_of(schema[key].begin(), schema[key].end(), [&](const Json& s) { return valid(s, value); }))
        return false;
    }
    if (schema.contains("const") && value != schema["const"]) return false;
    if (schema.contains("enum") && std::find(schema["enum"].begin(), schema["enum"].end(), value) == schema["enum"].end()) return false;
    if (schema.contains("type")) {
      const Json types = schema["type"].is_array() ? schema["type"] : Json::array({schema["type"]});
      if (std::none_of(types.begin(), types.end(), [&](const Json& t) { return is(value, t.get<std::string>()); })) return false;
    }
    if (value.is_object()) return valid_object(schema, value);
    if (value.is_array()) return valid_array(schema, value);
    if (value.is_string()) return valid_string(schema, value.get<std::string>());
    if (value.is_number_integer() && schema.contains("multipleOf") && value.get<int64_t>() % schema["multipleOf"].get<int64_t>() != 0)
      return false;
    return !value.is_number() || valid_number(schema, value.get<double>());
  }

 private:
  static bool is(const Json& value, const std::string& type) {
    if (type == "number") return value.is_number();
    if (type == "integer")
      return value.is_number_integer() || (value.is_number() && value.get<double>() == std::floor(value.get<double>()));
    return type == value.type_name();
  }

  bool valid_object(const Json& schema, const Json& value) const {
    for (const Json& name : schema.value("required", Json::array())) {
      if (!value.contains(name.get<std::string>())) return false;
    }
    const Json properties = schema.value("properties", Json::object()), rest = schema.value("additionalProperties", Json(true));
    for (const auto& [name, member] : value.items()) {
      if (!valid(properties.contains(name) ? properties[name] : rest, member)) return false;
    }
    return true;
  }

  bool valid_array(const Json& schema, const Json& value) const {
    if (value.size() < schema.value("minItems", size_t{0}) || value.size() > schema.value("maxItems", SIZE_MAX)) return false;
    const Json prefix = schema.value("prefixItems", Json::array()), rest = schema.value("items", Json(true));
    for (size_t i = 0; i < value.size(); ++i) {
      if (!valid(i < prefix.size() ? prefix[i] : rest, value[i])) return false;
    }
    return true;
  }

  static bool valid_string(const Json& schema, const std::string& text) {
    const auto length = static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
    if (length < schema.value("minLength", size_t{0}) || length > schema.value("maxLength", SIZE_MAX)) return false;
    return !schema.contains("pattern") || std::regex_search(text, std::regex(schema["pattern"].get<std::string>()));
  }

  static bool valid_number(const Json& schema, double x) {
    if (schema.contains("minimum") && x < schema["minimum"].get<double>()) return false;
    if (schema.contains("maximum") && x > schema["maximum"].get<double>()) return false;
    if (schema.contains("exclusiveMinimum") && x <= schema["exclusiveMinimum"].get<double>()) return false;
    return !schema.contains("exclusiveMaximum") || x < schema["exclusiveMaximum"].get<double>();
  }

  const Json& document_;
};

}  // namespace tokamak::llm
