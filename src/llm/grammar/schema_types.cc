// What a schema says of each type of value.

#include <algorithm>

#include "base/error.h"
#include "llm/grammar/regex.h"
#include "llm/grammar/schema_compiler.h"
#include "llm/grammar/string_formats.h"

namespace tokamak::llm::grammar {

namespace {

constexpr int32_t kMaxCount = 1'000'000'000;

// A number of things: a whole number >= 0, also written 2.0.
std::optional<int32_t> count_of(const Json& schema, const char* key, const std::string& path) {
  const auto it = schema.find(key);
  if (it == schema.end()) return std::nullopt;
  const double value = it->is_number() ? it->get<double>() : -1;
  if (!(value >= 0) || value != static_cast<double>(static_cast<int64_t>(std::min(value, 1e18))))
    fail(ErrorCode::InvalidArgument, "{}/{} should be a whole number from 0 on, it is {}", path, key, it->dump());
  return static_cast<int32_t>(std::min<double>(value, kMaxCount));
}

struct Counts {
  int32_t min, max;
};

Counts counts_of(const Json& schema, const char* min_key, const char* max_key, const std::string& path) {
  return {count_of(schema, min_key, path).value_or(0), count_of(schema, max_key, path).value_or(Repeat::kUnbounded)};
}

int32_t less(int32_t max, int32_t n) { return max == Repeat::kUnbounded ? max : max - n; }

std::optional<Decimal> decimal_of(const Json& schema, const char* key, const std::string& path) {
  const auto it = schema.find(key);
  if (it == schema.end()) return std::nullopt;
  if (!it->is_number()) fail(ErrorCode::InvalidArgument, "{}/{} should be a number, it is {}", path, key, it->dump());
  const auto value = Decimal::parse(it->dump());
  if (value) return value;
  // More digits than a number here may have: a bound that is always kept, or one that never is.
  const bool is_lower = key == std::string_view("minimum") || key == std::string_view("exclusiveMinimum");
  const double number = it->get<double>();
  if (std::abs(number) > 1 && (number < 0) == is_lower) return std::nullopt;
  fail(ErrorCode::InvalidArgument, "{}/{}: {} has more than {} digits before or after the point", path, key, it->dump(), kMaxDigits);
}

Wide wide_of(const Decimal& value) {
  Wide out = 0;
  for (const char c : value.whole.substr(0, 38)) out = out * 10 + (c - '0');
  return value.is_negative ? -out : out;
}

}  // namespace

std::vector<SchemaCompiler::Member> SchemaCompiler::members_of(const Json& schema, const std::string& path, const Json& rest) const {
  std::vector<Member> members;
  std::unordered_map<std::string, size_t> index;
  if (const auto properties = schema.find("properties"); properties != schema.end()) {
    if (!properties->is_object()) fail(ErrorCode::InvalidArgument, "{}/properties should be an object", path);
    for (const auto& [name, member] : properties->items()) {
      if (index.try_emplace(name, members.size()).second) members.push_back({name, member, false});
    }
  }
  if (const auto required = schema.find("required"); required != schema.end()) {
    if (!required->is_array()) fail(ErrorCode::InvalidArgument, "{}/required should be a list of names", path);
    for (const Json& name : *required) {
      if (!name.is_string()) fail(ErrorCode::InvalidArgument, "{}/required should be a list of names, {} is none", path, name.dump());
      const auto [it, is_new] = index.try_emplace(name.get<std::string>(), members.size());
      if (is_new) members.push_back({it->first, rest, true});
      else members[it->second].is_required = true;
    }
  }
  return members;
}

int32_t SchemaCompiler::other_names(const Json& schema, const std::vector<Member>& members, const std::string& path) {
  if (const auto names = schema.find("propertyNames"); names != schema.end()) {
    if (!members.empty()) fail(ErrorCode::InvalidArgument, "{}/propertyNames is not supported together with properties or required", path);
    if (names->is_boolean()) return rule_of(names->get<bool>() ? Json{{"type", "string"}} : Json(false), path + "/propertyNames");
    return rule_of({{"allOf", Json::array({Json{{"type", "string"}}, *names})}}, path + "/propertyNames");
  }
  if (const auto patterns = schema.find("patternProperties"); patterns != schema.end()) {
    const Json name = {{"type", "string"}, {"pattern", patterns->begin().key()}};
    for (const Member& member : members) {
      if (accepts(name, path + "/patternProperties", '"' + json_spelling(member.name) + '"'))
        fail(ErrorCode::InvalidArgument, "{}/patternProperties: the pattern also matches the property '{}', which is not supported", path,
             member.name);
    }
    return rule_of(name, path + "/patternProperties");
  }
  if (members.empty()) return text_.string();
  std::vector<std::string> names;
  for (const Member& member : members) names.push_back(member.name);
  return text_.other_name(names);
}

void SchemaCompiler::add_object(int32_t from, const Json& schema, const std::string& path, int32_t to) {
  Json rest = text_.options().additional_properties;
  if (const auto it = schema.find("additionalProperties"); it != schema.end()) rest = *it;
  std::vector<Member> members = members_of(schema, path, rest);
  std::string rest_path = path + "/additionalProperties";
  if (const auto patterns = schema.find("patternProperties"); patterns != schema.end()) {
    if (schema.contains("propertyNames"))
      fail(ErrorCode::InvalidArgument, "{}/patternProperties is not supported together with propertyNames", path);
    if (!patterns->is_object() || patterns->size() != 1)
      fail(ErrorCode::InvalidArgument, "{}/patternProperties should have one pattern; more are not supported", path);
    rest = patterns->begin().value();
    rest_path = path + "/patternProperties/" + patterns->begin().key();
  }
  const auto num_members = static_cast<int32_t>(members.size());
  const auto num_required =
      static_cast<int32_t>(std::count_if(members.begin(), members.end(), [](const Member& m) { return m.is_required; }));
  auto [min, max] = counts_of(schema, "minProperties", "maxProperties", path);
  if (max < num_required) return;
  const bool has_rest = rest != Json(false);
  if (num_members > num_required && (min > num_required || (max != Repeat::kUnbounded && (has_rest || max < num_members))))
    fail(ErrorCode::InvalidArgument, "{}: minProperties and maxProperties are not supported together with optional properties", path);
  min = std::max(min - num_required, 0);
  max = !has_rest ? 0 : less(max, num_required);
  if (min > max) return;

  const int32_t rule = builder_.rule_of(from), close = builder_.add_node(rule);
  builder_.add_text(close, "}", to);
  const auto add_member_value = [&](int32_t at, const Json& value, const std::string& value_path, int32_t next) {
    const int32_t after = builder_.add_node(builder_.rule_of(at));
    builder_.add_call(text_.add_token(text_.add_space(at), ":"), rule_of(value, value_path), after);
    builder_.add_epsilon(text_.add_space(after), next);
  };
  // Where member i may come next, after `{` or after a comma; the last is where the names not in `properties` begin.
  int32_t choice = builder_.add_node(rule);
  const int32_t open = text_.add_token(from, "{");
  builder_.add_epsilon(open, choice);
  if (num_required == 0 && min == 0) builder_.add_epsilon(open, close);
  int32_t num_required_left = num_required;
  for (int32_t i = 0; i < num_members; ++i) {
    const Member& member = members[i];
    const int32_t next_choice = builder_.add_node(rule), after = builder_.add_node(rule);
    num_required_left -= member.is_required;
    add_member_value(builder_.add_text(choice, '"' + json_spelling(member.name) + '"'), member.schema, path + "/properties/" + member.name,
                     after);
    if (!member.is_required) builder_.add_epsilon(choice, next_choice);
    if (num_required_left == 0 && min == 0) builder_.add_epsilon(after, close);
    builder_.add_epsilon(text_.add_token(after, ","), next_choice);
    choice = next_choice;
  }
  if (max == 0) return;
  const int32_t name = other_names(schema, members, path);
  const auto add_other = [&](int32_t at, int32_t next) {
    const int32_t after = builder_.add_node(builder_.rule_of(at));
    builder_.add_call(at, name, after);
    add_member_value(after, rest, rest_path, next);
  };
  text_.add_list(choice, add_other, std::max(min, 1), max, close);
}

void SchemaCompiler::add_array(int32_t from, const Json& schema, const std::string& path, int32_t to) {
  const auto [min, max] = counts_of(schema, "minItems", "maxItems", path);
  const auto items = schema.find("items");
  const Json rest = items == schema.end() ? Json(true) : *items;
  const auto prefix = schema.find("prefixItems");
  if (prefix != schema.end() && !prefix->is_array()) fail(ErrorCode::InvalidArgument, "{}/prefixItems should be a list of schemas", path);
  const auto num_prefix = prefix == schema.end() ? 0 : static_cast<int32_t>(prefix->size());
  if (min > max) return;

  const int32_t close = builder_.add_node(builder_.rule_of(from));
  builder_.add_text(close, "]", to);
  const auto add_item = [&](const Json& item, const std::string& item_path, int32_t at, int32_t next) {
    const int32_t after = builder_.add_node(builder_.rule_of(at));
    builder_.add_call(at, rule_of(item, item_path), after);
    builder_.add_epsilon(text_.add_space(after), next);
  };
  const auto add_rest = [&](int32_t at, int32_t next) { add_item(rest, path + "/items", at, next); };
  int32_t at = text_.add_token(from, "[");
  for (int32_t i = 0; i < num_prefix; ++i) {
    if (i >= min) builder_.add_epsilon(at, close);
    if (i == max) return;
    const int32_t next = builder_.add_node(builder_.rule_of(from));
    add_item((*prefix)[i], path + "/prefixItems/" + std::to_string(i), i == 0 ? at : text_.add_token(at, ","), next);
    at = next;
  }
  if (rest == Json(false)) {
    if (num_prefix >= min) builder_.add_epsilon(at, close);
  } else if (num_prefix == 0) {
    text_.add_list(at, add_rest, min, max, close);
  } else {
    text_.add_more(at, add_rest, std::max(min - num_prefix, 0), less(max, num_prefix), close);
  }
}

void SchemaCompiler::add_string(int32_t from, const Json& schema, const std::string& path, int32_t to) {
  const auto [min, max] = counts_of(schema, "minLength", "maxLength", path);
  std::string pattern, where;
  bool searches = true;
  const auto text_at = [&](const char* key) {
    if (!schema[key].is_string()) fail(ErrorCode::InvalidArgument, "{}/{} should be a string", path, key);
    where = path + "/" + key;
    return schema[key].get<std::string>();
  };
  if (schema.contains("format")) {
    const std::string format = text_at("format");
    const auto known = format_pattern(format);
    if (!known) fail(ErrorCode::InvalidArgument, "{}: the format '{}' cannot be enforced (known: {})", where, format, known_formats());
    pattern = *known;
    searches = false;
  }
  if (schema.contains("pattern")) {
    if (!pattern.empty()) fail(ErrorCode::InvalidArgument, "{}: pattern and format together are not supported", path);
    pattern = text_at("pattern");
    searches = true;
  }
  if (pattern.empty()) {
    if (min == 0 && max == Repeat::kUnbounded) builder_.add_call(from, text_.string(), to);
    else if (min <= max) {
      const int32_t rule = builder_.add_rule(path);
      text_.add_string(builder_.rule(rule).start, min, max, builder_.rule(rule).end);
      builder_.add_call(from, rule, to);
    }
    return;
  }
  RegexTree tree = parse_regex(pattern, where);
  resolve_anchors(tree, searches, where);
  const int32_t inside = builder_.add_text(from, "\""), close = builder_.add_node(builder_.rule_of(from));
  builder_.add_text(close, "\"", to);
  if (min == 0 && max == Repeat::kUnbounded) add_regex(builder_, inside, tree, tree.root, Spelling::Json, close);
  else add_bounded_regex(builder_, inside, tree, Spelling::Json, min, max, close);
}

IntegerBounds SchemaCompiler::integer_bounds(const Json& schema, const std::string& path) const {
  IntegerBounds bounds;
  for (const char* key : {"minimum", "exclusiveMinimum"}) {
    const auto bound = decimal_of(schema, key, path);
    if (!bound) continue;
    Wide value = wide_of(*bound);
    if (!bound->fraction.empty() && !bound->is_negative) ++value;
    if (bound->fraction.empty() && key == std::string_view("exclusiveMinimum")) ++value;
    bounds.min = std::max(bounds.min.value_or(value), value);
  }
  for (const char* key : {"maximum", "exclusiveMaximum"}) {
    const auto bound = decimal_of(schema, key, path);
    if (!bound) continue;
    Wide value = wide_of(*bound);
    if (!bound->fraction.empty() && bound->is_negative) --value;
    if (bound->fraction.empty() && key == std::string_view("exclusiveMaximum")) --value;
    bounds.max = std::min(bounds.max.value_or(value), value);
  }
  return bounds;
}

void SchemaCompiler::add_multiples(int32_t from, const Json& schema, const std::string& path, int32_t to) {
  constexpr Wide kMaxListed = 10'000;
  constexpr int kMaxFactor = 1000, kDigits = 18;
  const auto factor = Decimal::parse(schema["multipleOf"].dump());
  const Wide k = factor ? wide_of(*factor) : 0;
  const IntegerBounds bounds = integer_bounds(schema, path);
  const auto is_short = [](Wide value) { return value < Wide{1'000'000'000'000'000'000} && -value < Wide{1'000'000'000'000'000'000}; };
  if (bounds.min && bounds.max && is_short(*bounds.min) && is_short(*bounds.max) && (*bounds.max - *bounds.min) / k <= kMaxListed) {
    std::vector<std::string> texts;
    Wide first = *bounds.min / k * k;
    if (first < *bounds.min) first += k;
    for (Wide value = first; value <= *bounds.max; value += k) texts.push_back(std::to_string(static_cast<int64_t>(value)));
    return builder_.add_choices(from, std::move(texts), to);
  }
  const bool is_natural = bounds.min && *bounds.min == 0;
  if (k > kMaxFactor || bounds.max || (bounds.min && !is_natural))
    fail(ErrorCode::InvalidArgument,
         "{}/multipleOf with these bounds is not supported: it takes two bounds with at most 10,000 multiples between them, or none "
         "(or a minimum of 0) and a factor of at most {}",
         path, kMaxFactor);
  builder_.add_text(from, "0", to);
  int32_t start = builder_.add_node(builder_.rule_of(from));
  builder_.add_epsilon(from, start);
  if (!is_natural) builder_.add_text(from, "-", start);
  // The remainder of the digits so far.
  std::vector<int32_t> at(static_cast<size_t>(k), -1);
  const auto add_digit = [&](int32_t node, int remainder, int digit, std::vector<int32_t>& next) {
    const auto r = static_cast<size_t>((remainder * 10 + digit) % static_cast<int>(k));
    if (next[r] < 0) next[r] = builder_.add_node(builder_.rule_of(from));
    builder_.add_bytes(node, static_cast<uint8_t>('0' + digit), static_cast<uint8_t>('0' + digit), next[r]);
  };
  for (int digit = 1; digit <= 9; ++digit) add_digit(start, 0, digit, at);
  for (int i = 0; i < kDigits; ++i) {
    if (at[0] >= 0) builder_.add_epsilon(at[0], to);
    if (i + 1 == kDigits) break;
    std::vector<int32_t> next(static_cast<size_t>(k), -1);
    for (int r = 0; r < static_cast<int>(k); ++r) {
      for (int digit = 0; at[r] >= 0 && digit <= 9; ++digit) add_digit(at[r], r, digit, next);
    }
    at = std::move(next);
  }
}

void SchemaCompiler::add_number(int32_t from, const Json& schema, bool is_integer, const std::string& path, int32_t to) {
  int max_fraction = kMaxDigits;
  if (const auto factor = decimal_of(schema, "multipleOf", path)) {
    if (factor->is_negative || factor->is_zero()) fail(ErrorCode::InvalidArgument, "{}/multipleOf should be greater than 0", path);
    const bool is_whole = factor->fraction.empty();
    const bool is_power =
        factor->whole.empty() && factor->fraction.find_first_not_of('0') == factor->fraction.size() - 1 && factor->fraction.back() == '1';
    if (is_whole && (factor->whole != "1")) {
      if (factor->whole.size() > 18) fail(ErrorCode::InvalidArgument, "{}/multipleOf above 10^18 is not supported", path);
      return add_multiples(from, schema, path, to);
    }
    if (is_whole) is_integer = true;
    else if (!is_power) fail(ErrorCode::InvalidArgument, "{}/multipleOf: of the fractions only 0.1, 0.01, ... can be enforced", path);
    else max_fraction = static_cast<int>(factor->fraction.size());
  }
  if (is_integer) {
    const IntegerBounds bounds = integer_bounds(schema, path);
    if (!bounds.min && !bounds.max) builder_.add_call(from, text_.integer(), to);
    else text_.add_integer(from, bounds, to);
    return;
  }
  NumberBounds bounds{decimal_of(schema, "minimum", path), decimal_of(schema, "maximum", path)};
  const auto tighten = [](std::optional<Decimal>& bound, bool& excludes, const std::optional<Decimal>& exclusive, int sign) {
    if (!exclusive || (bound && compare(*exclusive, *bound) * sign < 0)) return;
    bound = exclusive;
    excludes = true;
  };
  tighten(bounds.min, bounds.excludes_min, decimal_of(schema, "exclusiveMinimum", path), 1);
  tighten(bounds.max, bounds.excludes_max, decimal_of(schema, "exclusiveMaximum", path), -1);
  if (bounds.min || bounds.max || max_fraction < kMaxDigits) text_.add_number(from, bounds, to, max_fraction);
  else builder_.add_call(from, text_.number(), to);
}

}  // namespace tokamak::llm::grammar
