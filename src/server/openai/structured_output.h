#pragma once
// Answers that must have a form: what a request asks for in its several spellings, and the mask over tokens that enforces it.

#include <memory>
#include <string>
#include <vector>

#include "llm/grammar/grammar.h"
#include "server/llm_model.h"
#include "server/openai/json_fields.h"

namespace tokamak::server::openai {

struct Constraint {
  enum class Kind { None, JsonObject, JsonSchema, Regex, Choice, Grammar, Tools };
  Kind kind = Kind::None;
  std::string text;                  // the schema, the expression, the grammar or the array of tools
  std::vector<std::string> choices;  // of Choice
  llm::ToolCallOptions calls;        // of Tools
  std::string param;                 // the field that asked for it, for errors

  explicit operator bool() const { return kind != Kind::None; }
};

// response_format (OpenAI), structured_outputs (vLLM) and guided_json, guided_regex, guided_choice, guided_grammar (vLLM before that). At
// most one of them; throws ApiError otherwise.
Constraint read_constraint(Fields& fields);

// Of the model, which keeps the latest ones compiled. Null for Kind::None. Throws ApiError naming the field when it cannot be compiled.
std::shared_ptr<const llm::TokenMask> make_mask(LlmModel& model, const Constraint& constraint);

}  // namespace tokamak::server::openai
