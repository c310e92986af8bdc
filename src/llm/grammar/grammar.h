#pragma once
// What an answer may look like: a JSON schema, a regular expression, a list of choices or a grammar, compiled to an automaton over bytes,
// and the mask of tokens that keep an answer inside it.
//
//   auto vocabulary = TokenTrie::from_tokenizer(*tokenizer, eos_ids);           // once per tokenizer
//   auto grammar = Grammar::from_json_schema(R"({"type": "object", ...})");     // once per schema
//   request.mask = make_token_mask(grammar, vocabulary);                        // may be shared by requests; they share what is cached
//
// Goals: whatever the model does, the text is a prefix of a text of the grammar, and end-of-sequence is allowed exactly at its end; masks
// in microseconds when the state was seen before. Non-goals: constraints beyond context-free ones (uniqueItems, keys given twice).

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tokamak/llm.h"

namespace tokamak::llm {

class Tokenizer;
namespace grammar {
struct Automaton;
struct Vocabulary;
}  // namespace grammar

struct GrammarOptions {
  // Between two tokens of JSON: at most one space, or a line break and at most `max_indent` spaces or tabs. Bounded, so that a model cannot
  // emit blanks for ever. Without `whitespace`: none at all.
  bool whitespace = true;
  int max_indent = 40;
  // What a schema without additionalProperties means: true as JSON Schema says; OpenAI's strict mode wants them all false anyway.
  bool additional_properties = true;
  // Compiling throws ResourceExhausted above these.
  int max_states = 400'000;
  int64_t max_text_bytes = 1 << 20;
};

struct ToolCallOptions {
  std::string arguments_key = "arguments";  // "parameters" for Llama 3
  std::string begin, end;                   // literal text around each call: "<tool_call>\n", "\n</tool_call>"
  std::string separator = "\n";             // between calls, when there may be several
  int min_calls = 1, max_calls = 1;
};

// Compiled; immutable, may be used from many threads.
class Grammar {
 public:
  // JSON text that validates against the schema (draft 2020-12, and 2019-09, 7 and 4 where they agree). Throws InvalidArgument when the
  // text is not JSON or not a schema, when nothing can validate, or when it uses a keyword that cannot be enforced (the message names it
  // and its path; annotations are skipped); ResourceExhausted when it is too large. Enforced:
  //   type (a list too), enum, const, anyOf, oneOf (as anyOf), allOf (merged), $ref into the document, nullable, true and false
  //   properties (in the schema's order; optional ones may be left out), required, additionalProperties, and patternProperties,
  //   propertyNames, minProperties and maxProperties where no named property is in the way
  //   items, prefixItems, minItems, maxItems
  //   minLength, maxLength, pattern, format (date, time, date-time, duration, email, hostname, ipv4, ipv6, uuid, uri, ...)
  //   minimum, maximum, exclusiveMinimum, exclusiveMaximum (exact), multipleOf (integers, and powers of ten)
  // Of the many spellings of one value, these are in the language: integers without fraction or exponent; numbers of at most 40 digits
  // before and after the point and an exponent of two digits, none with bounds; names, enum, const and strings with a pattern or format
  // with only the escapes JSON needs.
  static std::shared_ptr<const Grammar> from_json_schema(std::string_view schema, const GrammarOptions& options = {});
  // Any JSON object.
  static std::shared_ptr<const Grammar> json_object(const GrammarOptions& options = {});
  // Any JSON value.
  static std::shared_ptr<const Grammar> json_value(const GrammarOptions& options = {});
  // The whole text matches (^ and $ at the ends change nothing). ECMA-262 without what is not regular (back references), look-around and
  // \b: those are InvalidArgument with their position.
  static std::shared_ptr<const Grammar> from_regex(std::string_view pattern, const GrammarOptions& options = {});
  // One of these texts. Throws InvalidArgument when there are none.
  static std::shared_ptr<const Grammar> from_choices(std::span<const std::string> choices, const GrammarOptions& options = {});
  // `name ::= expression` rules, `root` first to match: "literal" 'literal' [class] [^class] . ( ) | * + ? {m} {m,} {m,n} /regex/ and #
  // comments; the form of llama.cpp's GBNF. Throws InvalidArgument with line and column; a rule that can begin with itself is one.
  static std::shared_ptr<const Grammar> from_ebnf(std::string_view text, const GrammarOptions& options = {});
  // Calls of the given tools: `{"name": "...", "<arguments_key>": {...}}`. `tools`: a JSON array of OpenAI's tool objects, or of their
  // functions ({"name", "parameters": schema}). Throws as from_json_schema.
  static std::shared_ptr<const Grammar> from_tools(std::string_view tools, const ToolCallOptions& calls = {},
                                                   const GrammarOptions& options = {});

  explicit Grammar(std::shared_ptr<const grammar::Automaton> automaton);
  ~Grammar();

  // Whether `text` is in the language, or (`is_prefix`) begins a text of it. For tests and for checks of small texts.
  bool accepts(std::string_view text, bool is_prefix = false) const;

  const std::shared_ptr<const grammar::Automaton>& automaton() const { return automaton_; }

 private:
  std::shared_ptr<const grammar::Automaton> automaton_;
};

// The tokens of a vocabulary as bytes, in a trie. Special tokens are not in it. Immutable, may be shared by threads.
class TokenTrie {
 public:
  // Takes some 50 ms for 128k tokens. `eos_ids` end an answer. Throws InvalidArgument for ids out of range.
  static std::shared_ptr<const TokenTrie> from_tokenizer(const Tokenizer& tokenizer, std::vector<int32_t> eos_ids);
  // tokens[id] are the id's bytes; empty: never allowed.
  static std::shared_ptr<const TokenTrie> from_tokens(std::span<const std::string> tokens, std::vector<int32_t> eos_ids);
  ~TokenTrie();

  const grammar::Vocabulary& vocabulary() const { return *vocabulary_; }

 private:
  explicit TokenTrie(std::unique_ptr<const grammar::Vocabulary> vocabulary);
  std::unique_ptr<const grammar::Vocabulary> vocabulary_;
};

// The mask at the start of an answer. Clones share their caches and may be used from several threads. fill() allows an eos id exactly where
// a text of the grammar ends; accept() throws InvalidArgument for a token that was not allowed; both throw ResourceExhausted when a grammar
// is so ambiguous that a step takes more work than is reasonable.
std::shared_ptr<const TokenMask> make_token_mask(std::shared_ptr<const Grammar> grammar, std::shared_ptr<const TokenTrie> vocabulary);
// The same with a vocabulary of its own; for one-off use.
std::shared_ptr<const TokenMask> make_token_mask(std::shared_ptr<const Grammar> grammar, const Tokenizer& tokenizer,
                                                 std::vector<int32_t> eos_ids);

}  // namespace tokamak::llm
