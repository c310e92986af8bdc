#pragma once
// JSON Schemas to rules.

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "llm/grammar/json_text.h"
#include "llm/grammar/schema.h"

namespace tokamak::llm::grammar {

class SchemaCompiler {
 public:
  // `document` outlives it; references lead into it.
  SchemaCompiler(JsonText& text, const Json& document, SchemaBudget& budget)
      : text_(text), builder_(text.builder()), document_(document), resolver_(document, budget), budget_(budget) {}

  // A rule for the values that validate against `schema`. Throws as Grammar::from_json_schema does.
  int32_t compile(const Json& schema, const std::string& path);

 private:
  struct Member {
    std::string name;
    Json schema;
    bool is_required;
  };
  struct Task {
    int32_t rule;
    Json schema;
    std::string path;
  };

  // The rule of a schema, compiled sooner or later.
  int32_t rule_of(const Json& schema, const std::string& path);
  void fill(const Task& task);
  // One of the forms that SchemaDocument::alternatives makes.
  void add_alternative(int32_t from, const Json& schema, const std::string& path, int32_t to);
  void add_enum(int32_t from, const Json& schema, const std::string& path, int32_t to);
  void add_value(int32_t from, const Json& value, int32_t to);
  void add_object(int32_t from, const Json& schema, const std::string& path, int32_t to);
  void add_array(int32_t from, const Json& schema, const std::string& path, int32_t to);
  void add_string(int32_t from, const Json& schema, const std::string& path, int32_t to);
  void add_number(int32_t from, const Json& schema, bool is_integer, const std::string& path, int32_t to);
  void add_multiples(int32_t from, const Json& schema, const std::string& path, int32_t to);
  IntegerBounds integer_bounds(const Json& schema, const std::string& path) const;
  std::vector<Member> members_of(const Json& schema, const std::string& path, const Json& rest) const;
  // The rule for names of members that `properties` does not list.
  int32_t other_names(const Json& schema, const std::vector<Member>& members, const std::string& path);
  // Whether `text` is one of the texts of `schema`, for what is known when compiling.
  bool accepts(const Json& schema, const std::string& path, std::string_view text);

  JsonText& text_;
  AutomatonBuilder& builder_;
  const Json& document_;
  SchemaDocument resolver_;
  SchemaBudget& budget_;
  std::unordered_map<std::string, int32_t> rules_;  // by the schema's text
  std::deque<Task> tasks_;
};

// Whether the automaton reads `text`, to its end or (`is_prefix`) as the beginning of something longer.
bool reads(const Automaton& automaton, std::string_view text, bool is_prefix);

}  // namespace tokamak::llm::grammar
