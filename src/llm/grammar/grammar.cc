#include "llm/grammar/grammar.h"

#include "base/error.h"
#include "llm/grammar/ebnf.h"
#include "llm/grammar/regex.h"
#include "llm/grammar/schema_compiler.h"
#include "llm/tokenizer/utf8.h"

namespace tokamak::llm {

using namespace grammar;

namespace {

void check_length(std::string_view text, const GrammarOptions& options) {
  if (static_cast<int64_t>(text.size()) > options.max_text_bytes)
    fail(ErrorCode::ResourceExhausted, "the grammar has {} bytes, the limit is {}", text.size(), options.max_text_bytes);
}

std::shared_ptr<const Grammar> finish(AutomatonBuilder& builder, int32_t root) {
  return std::make_shared<const Grammar>(std::make_shared<const Automaton>(builder.finish(root)));
}

// The rule of one JSON value, made by a member of JsonText.
std::shared_ptr<const Grammar> json(const GrammarOptions& options, int32_t (JsonText::*rule)()) {
  AutomatonBuilder builder(options.max_states);
  JsonText text(builder, options);
  return finish(builder, (text.*rule)());
}

}  // namespace

Grammar::Grammar(std::shared_ptr<const Automaton> automaton) : automaton_(std::move(automaton)) {}
Grammar::~Grammar() = default;

std::shared_ptr<const Grammar> Grammar::from_json_schema(std::string_view schema, const GrammarOptions& options) {
  const Json document = parse_json(schema, "the JSON schema", options.max_text_bytes);
  AutomatonBuilder builder(options.max_states);
  JsonText text(builder, options);
  SchemaBudget budget;
  return finish(builder, SchemaCompiler(text, document, budget).compile(document, "#"));
}

std::shared_ptr<const Grammar> Grammar::json_object(const GrammarOptions& options) { return json(options, &JsonText::object); }
std::shared_ptr<const Grammar> Grammar::json_value(const GrammarOptions& options) { return json(options, &JsonText::value); }

std::shared_ptr<const Grammar> Grammar::from_regex(std::string_view pattern, const GrammarOptions& options) {
  check_length(pattern, options);
  RegexTree tree = parse_regex(pattern, "grammar");
  resolve_anchors(tree, false, "grammar");
  AutomatonBuilder builder(options.max_states);
  const int32_t root = builder.add_rule("regular expression");
  add_regex(builder, builder.rule(root).start, tree, tree.root, Spelling::Plain, builder.rule(root).end);
  return finish(builder, root);
}

std::shared_ptr<const Grammar> Grammar::from_choices(std::span<const std::string> choices, const GrammarOptions& options) {
  if (choices.empty()) fail(ErrorCode::InvalidArgument, "a list of choices should not be empty");
  for (const std::string& choice : choices) {
    check_length(choice, options);
    if (!tokenizer::is_valid_utf8(choice)) fail(ErrorCode::InvalidArgument, "a choice is not UTF-8");
  }
  AutomatonBuilder builder(options.max_states);
  const int32_t root = builder.add_rule("choice");
  builder.add_choices(builder.rule(root).start, {choices.begin(), choices.end()}, builder.rule(root).end);
  return finish(builder, root);
}

std::shared_ptr<const Grammar> Grammar::from_ebnf(std::string_view text, const GrammarOptions& options) {
  check_length(text, options);
  AutomatonBuilder builder(options.max_states);
  return finish(builder, add_ebnf(builder, text));
}

std::shared_ptr<const Grammar> Grammar::from_tools(std::string_view tools, const ToolCallOptions& calls, const GrammarOptions& options) {
  const Json list = parse_json(tools, "the list of tools", options.max_text_bytes);
  if (!list.is_array() || list.empty()) fail(ErrorCode::InvalidArgument, "tools should be a list of at least one tool");
  if (calls.min_calls < 1 || calls.max_calls < calls.min_calls)
    fail(ErrorCode::InvalidArgument, "the number of tool calls should be 1 <= min <= max, it is {} to {}", calls.min_calls,
         calls.max_calls);
  AutomatonBuilder builder(options.max_states);
  JsonText text(builder, options);
  SchemaBudget budget;
  const int32_t call = builder.add_rule("tool call");
  const int32_t open = text.add_token(builder.add_text(builder.rule(call).start, calls.begin + "{"), "\"name\"");
  const int32_t name = text.add_token(open, ":");
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string path = "tools/" + std::to_string(i);
    const Json* tool = &list[i];
    if (tool->is_object() && tool->contains("function")) tool = &(*tool)["function"];
    if (!tool->is_object() || !tool->contains("name") || !(*tool)["name"].is_string())
      fail(ErrorCode::InvalidArgument, "{} should be an object with a name", path);
    // References lead into the tool's own schema. Without one, any object will do.
    const Json schema = tool->contains("parameters") ? (*tool)["parameters"] : Json{{"type", "object"}};
    const int32_t arguments = SchemaCompiler(text, schema, budget).compile(schema, path + "/parameters");
    int32_t at = text.add_token(name, '"' + json_spelling((*tool)["name"].get_ref<const std::string&>()) + '"');
    at = text.add_token(text.add_token(text.add_token(at, ","), '"' + json_spelling(calls.arguments_key) + '"'), ":");
    const int32_t after = builder.add_node(call);
    builder.add_call(at, arguments, after);
    builder.add_text(text.add_space(after), "}" + calls.end, builder.rule(call).end);
  }
  const int32_t root = builder.add_rule("tool calls"), more = builder.add_rule("next tool call");
  builder.add_call(builder.add_text(builder.rule(more).start, calls.separator), call, builder.rule(more).end);
  const int32_t first = builder.add_node(root);
  builder.add_call(builder.rule(root).start, call, first);
  if (calls.max_calls == 1) builder.add_epsilon(first, builder.rule(root).end);
  else builder.add_repeat(first, more, calls.min_calls - 1, calls.max_calls - 1, builder.rule(root).end);
  return finish(builder, root);
}

bool Grammar::accepts(std::string_view text, bool is_prefix) const { return reads(*automaton_, text, is_prefix); }

}  // namespace tokamak::llm
