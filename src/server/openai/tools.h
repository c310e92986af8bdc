#pragma once
// Tools a chat may call: what a request offers, how a model family writes a call, and reading calls out of an answer as it comes.

#include <string>
#include <string_view>
#include <vector>

#include "server/openai/json_fields.h"
#include "server/openai/structured_output.h"

namespace tokamak::server::openai {

struct ToolChoice {
  enum class Mode { None, Auto, Required, Named };
  Mode mode = Mode::None;
  std::string name;  // of Named
};

struct ToolOffer {
  Json tools = Json::array();  // OpenAI's objects, checked
  ToolChoice choice;
  bool parallel_calls = true;

  bool is_active() const { return choice.mode != ToolChoice::Mode::None; }
  // An answer consists of calls and nothing else.
  bool is_forced() const { return choice.mode == ToolChoice::Mode::Required || choice.mode == ToolChoice::Mode::Named; }
};

// tools, tool_choice, parallel_tool_calls. Throws ApiError.
ToolOffer read_tools(Fields& fields);

// How a model writes calls.
enum class ToolFormat {
  Tagged,   // <tool_call>\n{"name": ..., "arguments": {...}}\n</tool_call>, each call in its own tags: Hermes, Qwen
  Llama,    // {"name": ..., "parameters": {...}}, the answer begins with it, perhaps behind <|python_tag|>; several divided by ";"
  Mistral,  // [TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]
};
// From what the chat template writes for earlier calls; Tagged when it says nothing.
ToolFormat tool_format_of(std::string_view chat_template);
// Calls of these tools and nothing else, as the parser of `format` reads them.
Constraint tool_constraint(const ToolOffer& offer, ToolFormat format);
// What a system message tells a model whose template does not show tools.
std::string describe_tools(const ToolOffer& offer);

}  // namespace tokamak::server::openai
