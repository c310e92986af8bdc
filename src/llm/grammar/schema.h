#pragma once
// JSON Schemas as documents: references, and what several schemas ask for together as one.

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace tokamak::llm::grammar {

using Json = nlohmann::ordered_json;  // keeps the order of properties

// Throws InvalidArgument when the text is not JSON, ResourceExhausted when it is too long or nested too deeply.
Json parse_json(std::string_view text, std::string_view what, int64_t max_bytes);

bool is_annotation(std::string_view keyword);

// Bounds the work on one schema: bytes of schemas written or copied.
class SchemaBudget {
 public:
  void spend(size_t bytes);

 private:
  size_t left_ = size_t{16} << 20;
};

class SchemaDocument {
 public:
  SchemaDocument(const Json& root, SchemaBudget& budget) : root_(root), budget_(budget) {}

  // `reference`: "#" or "#/a/b". Throws InvalidArgument when it points outside the document or at nothing.
  const Json& resolve(const Json& reference, const std::string& path) const;

  // Schemas without $ref, allOf, anyOf, oneOf, not, const and nullable, of which a value must validate against one. Types are lists; const
  // is an enum. Throws InvalidArgument for what cannot be brought into this form.
  std::vector<Json> alternatives(const Json& schema, const std::string& path, int depth = 0);

 private:
  std::vector<Json> conjunction(const std::vector<Json>& a, const std::vector<Json>& b, const std::string& path);

  const Json& root_;
  SchemaBudget& budget_;
};

}  // namespace tokamak::llm::grammar
