#pragma once
// Chat templates: the Jinja subset that public checkpoints use, with the settings of `transformers` (trim_blocks and lstrip_blocks on, loop
// controls, `generation` blocks; a sandbox: templates see their context and nothing else). template/ holds the parts.

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace tokamak::llm {

namespace jinja {
struct Template;
}  // namespace jinja

// Mappings keep the order of their keys: `tojson` prints tools as the request wrote them.
using TemplateContext = nlohmann::ordered_json;

struct ChatTemplateLimits {
  size_t max_output_bytes = 16u << 20;
  size_t max_steps = 5'000'000;  // statements, expressions and loop rounds evaluated in one render
  int max_depth = 200;           // nested expressions when parsing; nested calls and blocks when rendering
};

// Immutable after parse(); render() may be called from many threads at once.
class ChatTemplate {
 public:
  // Throws InvalidArgument with the line when the text is not a template or uses what this subset lacks.
  static ChatTemplate parse(std::string_view jinja, const ChatTemplateLimits& limits = {});

  // Throws InvalidArgument with the line: raise_exception() of the template (its message alone), an undefined value where one is needed,
  // wrong types; ResourceExhausted past a limit. `now_unix` is the time strftime_now() sees, in seconds; -1: the clock (local time, as
  // transformers).
  std::string render(const TemplateContext& context, int64_t now_unix = -1) const;

 private:
  std::shared_ptr<const jinja::Template> template_;
  ChatTemplateLimits limits_;
};

struct ChatMessage {
  std::string role;
  std::string content;
  // Further fields of the message (tool_calls, name, reasoning_content, ...), an object; a "content" here replaces the string (lists of
  // parts).
  TemplateContext extra = TemplateContext::object();
};

struct ChatOptions {
  bool add_generation_prompt = true;
  TemplateContext tools;      // array of JSON schemas, or null
  TemplateContext documents;  // array, or null
  TemplateContext
      variables;  // further variables of the template (enable_thinking, date_string, ...), an object or null; they win over the rest
};

// The template text of a checkpoint: chat_template.jinja when not empty, else `chat_template` of tokenizer_config.json (a string, or a list
// of {name, template}: "tool_use" when there are tools and such a template, else "default"). Empty when there is none. Throws Corrupt on
// other shapes.
std::string find_chat_template(std::string_view tokenizer_config_json, std::string_view chat_template_jinja = {}, bool has_tools = false);

// The variables a template sees: messages, tools, documents, add_generation_prompt, and the special tokens of tokenizer_config.json
// (bos_token, eos_token, ...; strings, or objects with `content`).
TemplateContext make_chat_context(const std::vector<ChatMessage>& messages, std::string_view tokenizer_config_json,
                                  const ChatOptions& options = {});

}  // namespace tokamak::llm
