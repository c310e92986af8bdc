#include "llm/grammar/schema.h"

#include <algorithm>
#include <array>
#include <optional>

#include "base/error.h"

namespace tokamak::llm::grammar {

namespace {

constexpr int kMaxNesting = 200;
constexpr int kMaxReferences = 64;  // one behind the other
constexpr size_t kMaxAlternatives = 1000;

}  // namespace

Json parse_json(std::string_view text, std::string_view what, int64_t max_bytes) {
  if (static_cast<int64_t>(text.size()) > max_bytes)
    fail(ErrorCode::ResourceExhausted, "{} has {} bytes, the limit is {}", what, text.size(), max_bytes);
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string && c == '\\') ++i;
    else if (c == '"') in_string = !in_string;
    else if (!in_string && (c == '[' || c == '{')) ++depth;
    else if (!in_string && (c == ']' || c == '}')) --depth;
    if (depth > kMaxNesting) fail(ErrorCode::ResourceExhausted, "{} is nested more than {} deep", what, kMaxNesting);
  }
  try {
    return Json::parse(text);
  } catch (const Json::exception& e) {
    fail(ErrorCode::InvalidArgument, "{} is not JSON: {}", what, e.what());
  }
}

bool is_annotation(std::string_view keyword) {
  static constexpr std::array<std::string_view, 20> kAnnotations = {
      "title",   "description",   "default", "examples",     "example",          "$schema",        "$id",
      "id",      "$comment",      "$defs",   "definitions",  "deprecated",       "readOnly",       "writeOnly",
      "$anchor", "discriminator", "xml",     "externalDocs", "contentMediaType", "contentEncoding"};
  return keyword.starts_with("x-") || std::find(kAnnotations.begin(), kAnnotations.end(), keyword) != kAnnotations.end();
}

void SchemaBudget::spend(size_t bytes) {
  if (bytes > left_)
    fail(ErrorCode::ResourceExhausted, "the JSON schema is too large once its references and combinations are written out");
  left_ -= bytes;
}

const Json& SchemaDocument::resolve(const Json& reference, const std::string& path) const {
  if (!reference.is_string()) fail(ErrorCode::InvalidArgument, "{}/$ref should be a string", path);
  const auto& text = reference.get_ref<const std::string&>();
  if (!text.starts_with('#') || (text.size() > 1 && text[1] != '/'))
    fail(ErrorCode::InvalidArgument, "{}/$ref: '{}' is not supported; references are '#/...' into the same schema", path, text);
  std::string pointer;
  for (size_t i = 1; i < text.size(); ++i) {
    const auto hex = [&](size_t at) {
      return at < text.size()
                 ? std::string_view("0123456789abcdef").find(static_cast<char>(std::tolower(static_cast<unsigned char>(text[at]))))
                 : std::string_view::npos;
    };
    if (text[i] == '%' && hex(i + 1) != std::string_view::npos && hex(i + 2) != std::string_view::npos) {
      pointer += static_cast<char>(hex(i + 1) * 16 + hex(i + 2));
      i += 2;
    } else {
      pointer += text[i];
    }
  }
  try {
    return root_.at(Json::json_pointer(pointer));
  } catch (const Json::exception&) {
    fail(ErrorCode::InvalidArgument, "{}/$ref: the schema has no '{}'", path, text);
  }
}

namespace {

// A value must validate against both.
Json both(const Json& a, const Json& b) {
  if (a == b || b == Json(true)) return a;
  if (a == Json(true)) return b;
  if (a == Json(false) || b == Json(false)) return false;
  return {{"allOf", Json::array({a, b})}};
}

Json types_of(const Json& type, const std::string& path) {
  static constexpr std::array<std::string_view, 7> kTypes = {"null", "boolean", "object", "array", "string", "number", "integer"};
  const Json list = type.is_array() ? type : Json::array({type});
  for (const Json& name : list) {
    if (!name.is_string() || std::find(kTypes.begin(), kTypes.end(), name.get_ref<const std::string&>()) == kTypes.end())
      fail(ErrorCode::InvalidArgument, "{}/type: {} is not a type (null, boolean, object, array, string, number, integer)", path,
           name.dump());
  }
  return list;
}

bool contains(const Json& list, const Json& value) { return std::find(list.begin(), list.end(), value) != list.end(); }

// The same in one spelling, whatever the draft.
Json normalized(Json schema, const std::string& path) {
  if (const auto type = schema.find("type"); type != schema.end()) *type = types_of(*type, path);
  if (const auto value = schema.find("const"); value != schema.end()) {
    const bool fits = !schema.contains("enum") || contains(schema["enum"], *value);
    Json only = fits ? Json::array({*value}) : Json::array();
    schema.erase("const");
    schema["enum"] = std::move(only);
  }
  // Draft 4: a flag beside the bound. Draft 6 and later: a bound of its own.
  for (const auto& [flag, bound] : {std::pair("exclusiveMinimum", "minimum"), std::pair("exclusiveMaximum", "maximum")}) {
    const auto it = schema.find(flag);
    if (it == schema.end() || !it->is_boolean()) continue;
    const bool is_exclusive = it->get<bool>();
    schema.erase(flag);
    if (!is_exclusive || !schema.contains(bound)) continue;
    Json value = schema[bound];
    schema.erase(bound);
    schema[flag] = std::move(value);
  }
  // Before 2020-12, a list of items was what prefixItems is now, and additionalItems what items is.
  if (const auto items = schema.find("items"); items != schema.end() && items->is_array()) {
    Json prefix = std::move(*items);
    schema.erase("items");
    if (const auto rest = schema.find("additionalItems"); rest != schema.end()) schema["items"] = Json(*rest);
    schema["prefixItems"] = std::move(prefix);
  }
  schema.erase("additionalItems");
  return schema;
}

const Json* find(const Json& schema, const std::string& key) {
  const auto it = schema.find(key);
  return it == schema.end() ? nullptr : &*it;
}

void merge_properties(Json& out, const Json& a, const Json& b, const std::string& path) {
  static const Json kNothing = Json::object();
  const Json *pa = find(a, "properties"), *pb = find(b, "properties");
  if (!pa) pa = &kNothing;
  if (!pb) pb = &kNothing;
  if (!pa->is_object() || !pb->is_object()) fail(ErrorCode::InvalidArgument, "{}/properties should be an object", path);
  const Json *rest_a = find(a, "additionalProperties"), *rest_b = find(b, "additionalProperties");
  if ((find(a, "patternProperties") && !pb->empty()) || (find(b, "patternProperties") && !pa->empty()))
    fail(ErrorCode::InvalidArgument, "{}/patternProperties is not supported together with the properties of another schema in allOf", path);
  Json merged = Json::object();
  auto& members = merged.get_ref<Json::object_t&>();  // a vector; operator[] would look at all of them each time
  for (const auto& [name, schema] : pa->items()) {
    const Json* other = find(*pb, name);
    if (!other) other = rest_b;
    members.emplace_back(name, other ? both(schema, *other) : schema);
  }
  for (const auto& [name, schema] : pb->items()) {
    if (!pa->contains(name)) members.emplace_back(name, rest_a ? both(schema, *rest_a) : schema);
  }
  if (!merged.empty()) out["properties"] = std::move(merged);
}

void merge_items(Json& out, const Json& a, const Json& b) {
  const Json *prefix_a = find(a, "prefixItems"), *prefix_b = find(b, "prefixItems");
  if (!prefix_a && !prefix_b) return;
  const auto item = [](const Json& schema, const Json* prefix, size_t i) {
    if (prefix && i < prefix->size()) return (*prefix)[i];
    const Json* items = find(schema, "items");
    return items ? *items : Json(true);
  };
  Json merged = Json::array();
  const size_t n = std::max(prefix_a ? prefix_a->size() : 0, prefix_b ? prefix_b->size() : 0);
  for (size_t i = 0; i < n; ++i) merged.push_back(both(item(a, prefix_a, i), item(b, prefix_b, i)));
  out["prefixItems"] = std::move(merged);
}

// Nothing when no value can validate against both.
std::optional<Json> merge(const Json& a, const Json& b, const std::string& path) {
  Json out = a;
  for (const auto& [key, value] : b.items()) {
    const auto it = out.find(key);
    if (it == out.end()) {
      out[key] = value;
    } else if (key == "type") {
      Json types = Json::array();
      for (const Json& type : *it) {
        if (contains(value, type) || (type == "integer" && contains(value, "number"))) types.push_back(type);
        else if (type == "number" && contains(value, "integer")) types.push_back("integer");
      }
      if (types.empty()) return std::nullopt;
      *it = std::move(types);
    } else if (key == "enum") {
      Json values = Json::array();
      for (const Json& v : *it) {
        if (contains(value, v)) values.push_back(v);
      }
      if (values.empty()) return std::nullopt;
      *it = std::move(values);
    } else if (key == "required") {
      if (it->is_array() && value.is_array()) {
        for (const Json& name : value) {
          if (!contains(*it, name)) it->push_back(name);
        }
      }
    } else if (key == "items" || key == "additionalProperties" || key == "propertyNames") {
      *it = both(*it, value);
    } else if (key == "minimum" || key == "exclusiveMinimum" || key == "minLength" || key == "minItems" || key == "minProperties") {
      if (value > *it) *it = value;
    } else if (key == "maximum" || key == "exclusiveMaximum" || key == "maxLength" || key == "maxItems" || key == "maxProperties") {
      if (value < *it) *it = value;
    } else if (key != "properties" && key != "prefixItems" && !is_annotation(key) && *it != value) {
      fail(ErrorCode::InvalidArgument, "{}: two different values of '{}' cannot be combined", path, key);
    }
  }
  merge_properties(out, a, b, path);
  merge_items(out, a, b);
  return out;
}

}  // namespace

std::vector<Json> SchemaDocument::conjunction(const std::vector<Json>& a, const std::vector<Json>& b, const std::string& path) {
  if (a.size() * b.size() > kMaxAlternatives)
    fail(ErrorCode::ResourceExhausted, "{}: anyOf and oneOf inside allOf make more than {} alternatives", path, kMaxAlternatives);
  std::vector<Json> out;
  for (const Json& x : a) {
    for (const Json& y : b) {
      if (x.empty() || y.empty()) {
        out.push_back(x.empty() ? y : x);
        continue;
      }
      budget_.spend(x.dump().size() + y.dump().size());
      if (auto merged = merge(x, y, path)) out.push_back(std::move(*merged));
    }
  }
  return out;
}

std::vector<Json> SchemaDocument::alternatives(const Json& schema, const std::string& path, int depth) {
  if (depth > kMaxReferences)
    fail(ErrorCode::InvalidArgument, "{}: references and combinations lead back to themselves, or are more than {} deep", path,
         kMaxReferences);
  if (schema.is_boolean()) return schema.get<bool>() ? std::vector<Json>{Json::object()} : std::vector<Json>{};
  if (!schema.is_object())
    fail(ErrorCode::InvalidArgument, "{}: a schema should be an object, true or false, this is {}", path, schema.type_name());
  budget_.spend(schema.dump().size());

  Json base = Json::object();
  for (const auto& [key, value] : schema.items()) {
    const bool is_combination = key == "$ref" || key == "allOf" || key == "anyOf" || key == "oneOf" || key == "nullable" ||
                                key == "unevaluatedProperties" || key == "unevaluatedItems";
    if (!is_combination && !is_annotation(key)) base[key] = value;
  }
  std::vector<Json> out = {normalized(std::move(base), path)};
  if (const Json* reference = find(schema, "$ref"))
    out = conjunction(out, alternatives(resolve(*reference, path), path + "/$ref", depth + 1), path);
  for (const char* key : {"allOf", "anyOf", "oneOf"}) {
    const Json* list = find(schema, key);
    if (!list) continue;
    if (!list->is_array() || list->empty()) fail(ErrorCode::InvalidArgument, "{}/{} should be a list of schemas", path, key);
    std::vector<Json> either;
    for (size_t i = 0; i < list->size(); ++i) {
      std::vector<Json> one = alternatives((*list)[i], path + "/" + key + "/" + std::to_string(i), depth + 1);
      if (key == std::string_view("allOf")) out = conjunction(out, one, path);
      else either.insert(either.end(), one.begin(), one.end());
    }
    if (key != std::string_view("allOf")) out = conjunction(out, either, path);
  }
  // What nothing else has looked at is what additionalProperties and items do not know, now that all is in one place.
  for (const auto& [from, to] : {std::pair("unevaluatedProperties", "additionalProperties"), std::pair("unevaluatedItems", "items")}) {
    const Json* rest = find(schema, from);
    if (!rest) continue;
    for (Json& alternative : out) {
      if (!alternative.contains(to)) alternative[to] = *rest;
    }
  }
  if (const Json* nullable = find(schema, "nullable"); nullable && *nullable == Json(true))
    out.push_back({{"type", Json::array({"null"})}});
  return out;
}

}  // namespace tokamak::llm::grammar
