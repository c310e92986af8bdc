// What bodies mean, and how those that mean nothing are refused.

#include <gtest/gtest.h>

#include "server/openai/api_error.h"
#include "server/openai/chat_request.h"
#include "server/openai/completion_request.h"

namespace tokamak::server::openai {
namespace {

// The `param` of the refusal, or what else happened.
template <class F>
std::string refused(F&& read) {
  try {
    read();
  } catch (const ApiError& error) {
    EXPECT_EQ(error.status, 400) << error.what();
    EXPECT_NE(std::string(error.what()), "");
    return error.param.empty() ? error.what() : error.param;
  }
  return "(accepted)";
}

std::string completion(const std::string& fields) {
  return refused([&] { read_completion_request(parse_json(R"({"model": "m", "prompt": "x")" + fields + "}")); });
}
std::string chat(const std::string& fields) {
  return refused([&] { read_chat_request(parse_json(R"({"model": "m", "messages": [{"role": "user", "content": "x"}])" + fields + "}")); });
}

TEST(CompletionRequest, Defaults) {
  const auto r = read_completion_request(parse_json(R"({"model": "m", "prompt": "x"})"));
  EXPECT_EQ(r.model, "m");
  EXPECT_EQ(r.max_tokens, 16);
  EXPECT_EQ(r.sampling.n, 1);
  EXPECT_EQ(r.sampling.temperature, 1);
  EXPECT_EQ(r.sampling.top_p, 1);
  EXPECT_EQ(r.sampling.top_k, 0);
  EXPECT_EQ(r.logprobs, -1);
  EXPECT_FALSE(r.stream || r.echo || r.constraint || r.sampling.seed);
}

TEST(CompletionRequest, EveryField) {
  const auto r = read_completion_request(parse_json(R"({
    "model": "m", "prompt": [[1, 2], [3]], "max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "n": 2, "best_of": 3, "logprobs": 5,
    "stop": ["a", "b"], "presence_penalty": -2, "frequency_penalty": 1.5, "logit_bias": {"5": -100, "7": 3}, "seed": -1, "user": "u",
    "top_k": 40, "min_p": 0.1, "repetition_penalty": 1.1, "ignore_eos": true, "min_tokens": 2, "stop_token_ids": [9],
    "skip_special_tokens": false, "include_stop_str_in_output": true, "priority": -3, "return_token_ids": true, "suffix": null})"));
  ASSERT_EQ(r.prompts.size(), 2u);
  EXPECT_EQ(r.prompts[0].ids, (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(r.sampling.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(r.sampling.logit_bias.at(5), -100);
  EXPECT_EQ(r.sampling.seed, UINT64_MAX);
  EXPECT_EQ(r.sampling.top_k, 40);
  EXPECT_EQ(r.sampling.stop_token_ids, std::vector<int32_t>{9});
  EXPECT_EQ(r.priority, -3);
  EXPECT_EQ(r.best_of, 3);
  EXPECT_TRUE(r.return_token_ids && r.sampling.ignore_eos && r.sampling.include_stop_str_in_output && !r.sampling.skip_special_tokens);
}

TEST(CompletionRequest, Refusals) {
  EXPECT_EQ(refused([] { read_completion_request(parse_json(R"({"prompt": "x"})")); }), "model");
  EXPECT_EQ(refused([] { read_completion_request(parse_json(R"({"model": "m"})")); }), "prompt");
  EXPECT_EQ(refused([] { read_completion_request(parse_json(R"({"model": 3, "prompt": "x"})")); }), "model");
  for (const char* prompt : {"[]", "3", "{}", "[\"a\", 1]", "[1, \"a\"]", "[-1]", "[1.5]", "[99999999999]", "[[1], 2]"})
    EXPECT_EQ(refused([&] { read_completion_request(parse_json(R"({"model": "m", "prompt": )" + std::string(prompt) + "}")); }), "prompt")
        << prompt;
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"("temperature": 2.1)", "temperature"},
      {R"("temperature": -0.1)", "temperature"},
      {R"("temperature": "1")", "temperature"},
      {R"("top_p": 1.1)", "top_p"},
      {R"("n": 0)", "n"},
      {R"("n": 1.5)", "n"},
      {R"("n": 129)", "n"},
      {R"("n": 18446744073709551615)", "n"},
      {R"("presence_penalty": 2.1)", "presence_penalty"},
      {R"("frequency_penalty": -3)", "frequency_penalty"},
      {R"("max_tokens": 0)", "max_tokens"},
      {R"("max_tokens": -1)", "max_tokens"},
      {R"("max_tokens": 99999999999)", "max_tokens"},
      {R"("logprobs": 21)", "logprobs"},
      {R"("logprobs": true)", "logprobs"},
      {R"("best_of": 1, "n": 2)", "best_of"},
      {R"("best_of": 2, "stream": true)", "best_of"},
      {R"("stop": [""])", "stop"},
      {R"("stop": [1])", "stop"},
      {R"("stop": 1)", "stop"},
      {R"("logit_bias": {"a": 1})", "logit_bias"},
      {R"("logit_bias": {"1": 101})", "logit_bias"},
      {R"("logit_bias": [1])", "logit_bias"},
      {R"("logit_bias": {"99999999999": 1})", "logit_bias"},
      {R"("seed": 1.5)", "seed"},
      {R"("stream": "yes")", "stream"},
      {R"("stream_options": {"include_usage": true})", "stream_options"},
      {R"("stream": true, "stream_options": {"include": true})", "stream_options.include"},
      {R"("min_tokens": 17)", "min_tokens"},
      {R"("suffix": "x")", "suffix"},
      {R"("prompt_logprobs": 1)", "prompt_logprobs"},
      {R"("use_beam_search": true)", "use_beam_search"},
      {R"("frobnicate": 1)", "frobnicate"},
      {R"("messages": [])", "messages"},
      {R"("repetition_penalty": 0)", "repetition_penalty"},
      {R"("min_p": 2)", "min_p"},
      {R"("top_k": -2)", "top_k"},
  };
  for (const auto& [fields, param] : cases) EXPECT_EQ(completion(", " + fields), param) << fields;
  // Absent, null and false ask for nothing.
  EXPECT_EQ(completion(R"(, "frobnicate": null, "use_beam_search": false, "temperature": null, "top_k": -1, "top_p": 0, "n": 1.0)"),
            "(accepted)");
}

TEST(Constraints, Spellings) {
  const auto constraint = [](const std::string& fields) {
    return read_completion_request(parse_json(R"({"model": "m", "prompt": "x", )" + fields + "}")).constraint;
  };
  using Kind = Constraint::Kind;
  EXPECT_EQ(constraint(R"("response_format": {"type": "text"})").kind, Kind::None);
  EXPECT_EQ(constraint(R"("response_format": {"type": "json_object"})").kind, Kind::JsonObject);
  const auto schema =
      constraint(R"("response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": {"b": 1, "a": 2}}})");
  EXPECT_EQ(schema.kind, Kind::JsonSchema);
  EXPECT_EQ(schema.text, R"({"b":1,"a":2})");
  EXPECT_EQ(constraint(R"("guided_json": {"type": "integer"})").text, R"({"type":"integer"})");
  EXPECT_EQ(constraint(R"("guided_json": "{\"type\": \"integer\"}")").text, R"({"type": "integer"})");
  EXPECT_EQ(constraint(R"("guided_regex": "a+")").kind, Kind::Regex);
  EXPECT_EQ(constraint(R"("guided_choice": ["a", "b"])").choices, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(constraint(R"("guided_grammar": "root ::= \"a\"")").kind, Kind::Grammar);
  EXPECT_EQ(constraint(R"("structured_outputs": {"regex": "a+"})").kind, Kind::Regex);
  EXPECT_EQ(constraint(R"("structured_outputs": {"json_object": true})").kind, Kind::JsonObject);

  EXPECT_EQ(completion(R"(, "response_format": {"type": "xml"})"), "response_format.type");
  EXPECT_EQ(completion(R"(, "response_format": {"type": "json_schema"})"), "response_format.json_schema");
  EXPECT_EQ(completion(R"(, "response_format": {"type": "json_schema", "json_schema": {"name": "n"}})"),
            "response_format.json_schema.schema");
  EXPECT_EQ(completion(R"(, "guided_regex": "a", "guided_choice": ["b"])"), "guided_choice");
  EXPECT_EQ(completion(R"(, "structured_outputs": {"regx": "a"})"), "structured_outputs.regx");
  EXPECT_EQ(completion(R"(, "guided_choice": [])"), "guided_choice");
}

TEST(ChatRequest, Messages) {
  const auto r = read_chat_request(parse_json(R"({"model": "m", "max_tokens": 5, "max_completion_tokens": 9, "messages": [
    {"role": "developer", "content": "be brief"},
    {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "ann"},
    {"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}}]},
    {"role": "tool", "tool_call_id": "c1", "content": "7"}]})"));
  ASSERT_EQ(r.messages.size(), 4u);
  EXPECT_EQ(r.messages[0].role, "system");
  EXPECT_EQ(r.messages[1].content, "a\nb");
  EXPECT_EQ(r.messages[1].extra["name"], "ann");
  EXPECT_EQ(r.messages[2].extra["tool_calls"][0]["function"]["arguments"]["x"], 1);
  EXPECT_EQ(r.messages[3].extra["tool_call_id"], "c1");
  EXPECT_EQ(r.max_tokens, 9);  // the newer name wins
}

TEST(ChatRequest, Refusals) {
  const auto message = [](const std::string& json) {
    return refused([&] { read_chat_request(parse_json(R"({"model": "m", "messages": [)" + json + "]}")); });
  };
  EXPECT_EQ(message(""), "messages");
  EXPECT_EQ(message("3"), "messages[0]");
  EXPECT_EQ(message(R"({"content": "x"})"), "messages[0].role");
  EXPECT_EQ(message(R"({"role": "bot", "content": "x"})"), "messages[0].role");
  EXPECT_EQ(message(R"({"role": "user"})"), "messages[0].content");
  EXPECT_EQ(message(R"({"role": "user", "content": 3})"), "messages[0].content");
  EXPECT_EQ(message(R"({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]})"), "messages[0].content[0].type");
  EXPECT_EQ(message(R"({"role": "user", "content": "x", "mood": "good"})"), "messages[0].mood");
  const std::string tools = R"("tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}])";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"("top_logprobs": 2)", "top_logprobs"},
      {R"("logprobs": true, "top_logprobs": 21)", "top_logprobs"},
      {R"("logprobs": 2)", "logprobs"},
      {R"("max_tokens": 0)", "max_tokens"},
      {R"("best_of": 2)", "best_of"},
      {R"("echo": true)", "echo"},
      {R"("tool_choice": "auto")", "tool_choice"},
      {R"("tools": [], "tool_choice": "required")", "tool_choice"},
      {tools + R"(, "tool_choice": "sometimes")", "tool_choice"},
      {tools + R"(, "tool_choice": {"type": "function", "function": {"name": "g"}})", "tool_choice.function.name"},
      {R"("tools": [{"type": "web"}])", "tools[0].type"},
      {R"("tools": [{"type": "function", "function": {"name": "a b"}}])", "tools[0].function.name"},
      {R"("tools": [{"type": "function", "function": {"name": "f", "parameters": []}}])", "tools[0].function.parameters"},
      {tools + R"(, "tool_choice": "required", "response_format": {"type": "json_object"})", "response_format"},
      {R"("modalities": ["text", "audio"])", "modalities"},
      {R"("functions": [])", "functions"},
      {R"("audio": {})", "audio"},
  };
  for (const auto& [fields, param] : cases) EXPECT_EQ(chat(", " + fields), param) << fields;
  EXPECT_EQ(chat(", " + tools + R"(, "tool_choice": {"type": "function", "function": {"name": "f"}}, "parallel_tool_calls": false)"),
            "(accepted)");
}

TEST(ParseJson, Bounds) {
  EXPECT_NE(refused([] { parse_json("{"); }).find("not JSON"), std::string::npos);
  EXPECT_NE(refused([] { parse_json(""); }).find("not JSON"), std::string::npos);
  EXPECT_NE(refused([] { parse_json("{} x"); }).find("not JSON"), std::string::npos);
  EXPECT_NE(refused([] { parse_json("{\"a\": 1e999}"); }).find("not JSON"), std::string::npos);
  EXPECT_NE(refused([] { parse_json("\"\xff\""); }).find("not JSON"), std::string::npos);
  EXPECT_NE(refused([] { parse_json(std::string(1'000'000, '[')); }).find("nested"), std::string::npos);
  EXPECT_EQ(refused([] { parse_json("[\"" + std::string(1000, '[') + "\"]"); }), "(accepted)");
  EXPECT_EQ(refused([] { parse_json(R"(["\"[[", "\\"])"); }), "(accepted)");
  std::string many = "{";
  for (int i = 0; i < 20'000; ++i) many += "\"" + std::to_string(i) + "\":0,";
  many.back() = '}';
  EXPECT_NE(refused([&] { parse_json(many); }).find("too many keys"), std::string::npos);
}

TEST(AnswerLimit, NamesTheLimit) {
  EXPECT_EQ(answer_limit(10, std::nullopt, 100, "p"), 90);
  EXPECT_EQ(answer_limit(10, 90, 100, "p"), 90);
  EXPECT_EQ(refused([] { answer_limit(10, 91, 100, "p"); }), "p");
  EXPECT_EQ(refused([] { answer_limit(100, std::nullopt, 100, "p"); }), "p");
}

}  // namespace
}  // namespace tokamak::server::openai
