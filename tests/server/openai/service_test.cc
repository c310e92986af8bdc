// The endpoints over a fake language model: streamed and whole answers, options, errors, cancellation.

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <set>
#include <thread>

#include "base/file.h"
#include "llm/tokenizer/utf8.h"
#include "tests/server/openai/fake_models.h"

namespace tokamak::server::openai {
namespace {

using nlohmann::json;

class OpenAiService : public testing::Test {
 protected:
  std::shared_ptr<FakeLlm> llm = std::make_shared<FakeLlm>("words");
  FakeServer server{{llm}};

  static json completion(const json& more = json::object()) {
    json body = {{"model", "words"}, {"prompt", "The quick brown fox"}, {"max_tokens", 24}, {"temperature", 0}};
    body.update(more);
    return body;
  }
  static json chat(const json& more = json::object()) {
    json body = {
        {"model", "words"}, {"messages", {{{"role", "user"}, {"content", "Hello there"}}}}, {"max_tokens", 24}, {"temperature", 0}};
    body.update(more);
    return body;
  }
  void wait_until_idle() {
    for (int i = 0; i < 1000 && llm->llm()->engine().statistics().blocks_used > 0; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    EXPECT_EQ(llm->llm()->engine().statistics().blocks_used, 0);
  }
};

std::string streamed_text(FakeResponder& responder, int index = 0) {
  std::string text;
  for (const json& event : responder.events()) {
    if (!event.contains("choices")) continue;
    for (const json& choice : event["choices"]) {
      if (choice["index"] != index) continue;
      if (choice.contains("text")) text += choice["text"].get<std::string>();
      else text += choice["delta"].value("content", "");
    }
  }
  return text;
}

TEST_F(OpenAiService, CompletionStreamedEqualsWhole) {
  for (const json& more : {json::object(), json{{"n", 3}, {"temperature", 1}, {"seed", 7}}, json{{"echo", true}},
                           json{{"stop", {" the", "e"}}}, json{{"prompt", {"one", "two"}}}, json{{"prompt", {{5, 6, 7}, {8, 9}}}, {"n", 2}},
                           json{{"logprobs", 2}}, json{{"logprobs", 2}, {"echo", true}, {"n", 2}}, json{{"return_token_ids", true}}}) {
    SCOPED_TRACE(more.dump());
    const auto whole = server.complete(completion(more));
    ASSERT_EQ(whole->status(), 200) << whole->body();
    const json answer = whole->json();
    EXPECT_EQ(answer["object"], "text_completion");
    EXPECT_EQ(answer["model"], "words");
    json streaming = more;
    streaming["stream"] = true;
    const auto streamed = server.complete(completion(streaming));
    EXPECT_EQ(streamed->header("Content-Type"), "text/event-stream; charset=utf-8");
    ASSERT_EQ(streamed->events().back(), "[DONE]");
    const size_t prompts = more.contains("prompt") ? more["prompt"].size() : 1;
    ASSERT_EQ(answer["choices"].size(), prompts * more.value("n", 1));
    for (const json& choice : answer["choices"]) {
      EXPECT_EQ(streamed_text(*streamed, choice["index"]), choice["text"]);
      EXPECT_TRUE(choice["finish_reason"] == "length" || choice["finish_reason"] == "stop") << choice;
    }
    EXPECT_EQ(whole->num_extra_answers + streamed->num_extra_answers, 0);
  }
}

TEST_F(OpenAiService, StreamedPiecesAddUp) {
  const json options = {{"stream", true}, {"logprobs", 1}, {"return_token_ids", true}, {"stream_options", {{"include_usage", true}}}};
  const json whole = server.complete(completion({{"logprobs", 1}, {"return_token_ids", true}}))->json();
  std::vector<int> ids;
  std::vector<std::string> tokens;
  std::vector<int> offsets;
  json usage;
  int finishes = 0, chunks = 0;
  const auto responder = server.complete(completion(options));
  for (const json& event : responder->events()) {
    if (event.is_string()) continue;
    ASSERT_TRUE(event.contains("usage"));
    if (event["choices"].empty()) {
      usage = event["usage"];
      continue;
    }
    EXPECT_TRUE(event["usage"].is_null());
    const json& choice = event["choices"][0];
    EXPECT_EQ(choice.contains("prompt_token_ids"), chunks++ == 0);
    for (const json& id : choice["token_ids"]) ids.push_back(id);
    for (const json& token : choice["logprobs"]["tokens"]) tokens.push_back(token);
    for (const json& offset : choice["logprobs"]["text_offset"]) offsets.push_back(offset);
    finishes += !choice["finish_reason"].is_null();
  }
  const json& choice = whole["choices"][0];
  EXPECT_EQ(finishes, 1);
  EXPECT_EQ(json(ids), choice["token_ids"]);
  EXPECT_EQ(json(tokens), choice["logprobs"]["tokens"]);
  EXPECT_EQ(json(offsets), choice["logprobs"]["text_offset"]);
  EXPECT_EQ(ids.size(), 24u);
  EXPECT_EQ(usage["completion_tokens"], 24);
  EXPECT_EQ(usage["total_tokens"], usage["prompt_tokens"].get<int>() + 24);
  EXPECT_EQ(whole["usage"]["prompt_tokens"], choice["prompt_token_ids"].size());
}

TEST_F(OpenAiService, LogprobsOfCompletions) {
  const json choice = server.complete(completion({{"logprobs", 3}, {"max_tokens", 5}}))->json()["choices"][0];
  const json& logprobs = choice["logprobs"];
  ASSERT_EQ(logprobs["tokens"].size(), 5u);
  ASSERT_EQ(logprobs["top_logprobs"].size(), 5u);
  int offset = 0;
  for (int i = 0; i < 5; ++i) {
    const std::string token = logprobs["tokens"][i];
    // Greedy: the chosen token is the likeliest.
    float best = -100;
    for (const auto& [text, value] : logprobs["top_logprobs"][i].items()) best = std::max(best, value.get<float>());
    EXPECT_FLOAT_EQ(logprobs["token_logprobs"][i], best);
    EXPECT_TRUE(logprobs["top_logprobs"][i].contains(token));
    EXPECT_EQ(logprobs["text_offset"][i], offset);
    offset += static_cast<int>(std::ranges::count_if(token, [](char c) { return (c & 0xC0) != 0x80; }));
  }
}

TEST_F(OpenAiService, BestOfKeepsTheLikeliest) {
  const json sampled = {{"temperature", 1}, {"seed", 3}, {"max_tokens", 6}, {"logprobs", 0}};
  json all = sampled, best = sampled;
  all["n"] = 4;
  best["best_of"] = 4;
  const json four = server.complete(completion(all))->json(), one = server.complete(completion(best))->json();
  const auto sum = [](const json& choice) {
    float total = 0;
    for (const json& value : choice["logprobs"]["token_logprobs"]) total += value.get<float>();
    return total;
  };
  ASSERT_EQ(one["choices"].size(), 1u);
  for (const json& choice : four["choices"]) EXPECT_GE(sum(one["choices"][0]), sum(choice) - 1e-5f);
  EXPECT_EQ(one["usage"]["completion_tokens"], 24);
}

TEST_F(OpenAiService, EchoOfThePromptAlone) {
  const json answer = server.complete(completion({{"echo", true}, {"max_tokens", 0}, {"prompt", {"one", "two"}}}))->json();
  EXPECT_EQ(answer["choices"][0]["text"], "one");
  EXPECT_EQ(answer["choices"][1]["text"], "two");
  EXPECT_EQ(answer["choices"][1]["finish_reason"], "length");
  EXPECT_EQ(answer["usage"]["completion_tokens"], 0);
  EXPECT_GT(answer["usage"]["prompt_tokens"], 0);
}

TEST_F(OpenAiService, StopReasons) {
  const json plain = server.complete(completion({{"return_token_ids", true}}))->json()["choices"][0];
  const int third = plain["token_ids"][2];
  const json by_id = server.complete(completion({{"stop_token_ids", {third}}}))->json()["choices"][0];
  EXPECT_EQ(by_id["finish_reason"], "stop");
  EXPECT_EQ(by_id["stop_reason"], third);
  const std::string text = plain["text"];
  const std::string stop = text.substr(text.size() / 2, 3);
  const json by_text = server.complete(completion({{"stop", stop}}))->json()["choices"][0];
  EXPECT_EQ(by_text["stop_reason"], stop);
  EXPECT_EQ(by_text["text"], text.substr(0, text.find(stop)));
  const json with_stop = server.complete(completion({{"stop", stop}, {"include_stop_str_in_output", true}}))->json()["choices"][0];
  EXPECT_EQ(with_stop["text"], text.substr(0, text.find(stop)) + stop);
  EXPECT_TRUE(plain["stop_reason"].is_null());
}

TEST_F(OpenAiService, ChatStreamedEqualsWhole) {
  for (const json& more :
       {json::object(), json{{"n", 2}, {"temperature", 0.8}, {"seed", 5}}, json{{"logprobs", true}, {"top_logprobs", 2}}}) {
    SCOPED_TRACE(more.dump());
    const json whole = server.chat(chat(more))->json();
    EXPECT_EQ(whole["object"], "chat.completion");
    json streaming = more;
    streaming["stream"] = true;
    const auto streamed = server.chat(chat(streaming));
    for (const json& choice : whole["choices"]) {
      EXPECT_EQ(choice["message"]["role"], "assistant");
      EXPECT_EQ(streamed_text(*streamed, choice["index"]), choice["message"]["content"]);
      json logprobs = json::array();
      bool has_role = false;
      for (const json& event : streamed->events()) {
        if (event.is_string()) continue;
        EXPECT_EQ(event["object"], "chat.completion.chunk");
        EXPECT_FALSE(event.contains("usage"));
        const json& part = event["choices"][0];
        if (part["index"] != choice["index"]) continue;
        has_role |= part["delta"].contains("role");
        if (!part["logprobs"].is_null())
          for (const json& item : part["logprobs"]["content"]) logprobs.push_back(item);
      }
      EXPECT_TRUE(has_role);
      if (more.contains("logprobs")) {
        EXPECT_EQ(logprobs, choice["logprobs"]["content"]);
      }
    }
  }
}

TEST_F(OpenAiService, ChatLogprobsHaveBytes) {
  const json choice = server.chat(chat({{"logprobs", true}, {"top_logprobs", 2}, {"max_tokens", 8}}))->json()["choices"][0];
  std::string bytes;
  for (const json& item : choice["logprobs"]["content"]) {
    EXPECT_EQ(item["top_logprobs"].size(), 2u);
    for (const json& byte : item["bytes"]) bytes += static_cast<char>(byte.get<int>());
  }
  // Bytes that never became characters are shown as U+FFFD in the text.
  EXPECT_EQ(llm::tokenizer::to_valid_utf8(bytes), choice["message"]["content"]);
}

TEST_F(OpenAiService, ToolsReachATemplateThatHasNone) {
  const json tools = {{{"type", "function"}, {"function", {{"name", "look_up"}, {"parameters", {{"type", "object"}}}}}}};
  const json with = server.chat(chat({{"tools", tools}}))->json(),
             none = server.chat(chat({{"tools", tools}, {"tool_choice", "none"}}))->json();
  EXPECT_GT(with["usage"]["prompt_tokens"].get<int>(), none["usage"]["prompt_tokens"].get<int>() + 20);
  EXPECT_EQ(none["usage"]["prompt_tokens"], server.chat(chat())->json()["usage"]["prompt_tokens"]);
}

TEST_F(OpenAiService, ForcedCallsAreCalls) {
  const json parameters = {{"type", "object"},
                           {"properties", {{"n", {{"type", "integer"}, {"minimum", 0}, {"maximum", 99}}}}},
                           {"required", {"n"}},
                           {"additionalProperties", false}};
  const json tools = {{{"type", "function"}, {"function", {{"name", "first"}, {"parameters", parameters}}}},
                      {{"type", "function"}, {"function", {{"name", "second"}, {"parameters", parameters}}}}};
  for (const json& choice_of_tool : {json("required"), json{{"type", "function"}, {"function", {{"name", "second"}}}}}) {
    SCOPED_TRACE(choice_of_tool.dump());
    json more = {{"tools", tools}, {"tool_choice", choice_of_tool}, {"temperature", 1}, {"seed", 11}, {"max_tokens", 150}};
    const auto answered = server.chat(chat(more));
    ASSERT_EQ(answered->status(), 200) << answered->body();
    const json choice = answered->json()["choices"][0];
    const json& message = choice["message"];
    ASSERT_TRUE(message.contains("tool_calls")) << message;
    EXPECT_TRUE(message["content"].is_null());
    EXPECT_EQ(choice["finish_reason"], choice_of_tool.is_string() ? "tool_calls" : "stop");
    for (const json& call : message["tool_calls"]) {
      const json arguments = json::parse(call["function"]["arguments"].get<std::string>());
      EXPECT_TRUE(arguments["n"].is_number_integer());
      if (!choice_of_tool.is_string()) {
        EXPECT_EQ(call["function"]["name"], "second");
      }
    }
    more["stream"] = true;
    json calls = json::array();
    const auto streamed = server.chat(chat(more));
    for (const json& event : streamed->events()) {
      if (event.is_string()) continue;
      const json& delta = event["choices"][0]["delta"];
      if (!delta.contains("tool_calls")) continue;
      for (const json& part : delta["tool_calls"]) {
        if (part.contains("id")) calls.push_back({{"name", part["function"]["name"]}, {"arguments", ""}});
        calls.back()["arguments"] = calls.back()["arguments"].get<std::string>() + part["function"]["arguments"].get<std::string>();
      }
    }
    ASSERT_EQ(calls.size(), message["tool_calls"].size());
    for (size_t i = 0; i < calls.size(); ++i) EXPECT_EQ(calls[i], message["tool_calls"][i]["function"]);
  }
}

TEST_F(OpenAiService, ConstrainedAnswers) {
  const json schema = {{"type", "object"},
                       {"properties", {{"a", {{"enum", {1, 2}}}}, {"b", {{"type", "boolean"}}}}},
                       {"required", {"a", "b"}},
                       {"additionalProperties", false}};
  const auto text = [&](const json& more) {
    json all = {{"temperature", 1}, {"max_tokens", 200}};
    all.update(more);
    const auto answered = server.chat(chat(all));
    EXPECT_EQ(answered->status(), 200) << answered->body();
    return answered->json()["choices"][0]["message"]["content"].get<std::string>();
  };
  for (int i = 0; i < 5; ++i) {
    const json parsed =
        json::parse(text({{"response_format", {{"type", "json_schema"}, {"json_schema", {{"name", "x"}, {"schema", schema}}}}}}));
    EXPECT_TRUE(parsed["a"].is_number_integer() && parsed["b"].is_boolean() && parsed.size() == 2) << parsed;
    const std::string choice = text({{"guided_choice", {"yes", "no"}}});
    EXPECT_TRUE(choice == "yes" || choice == "no") << choice;
    EXPECT_EQ(text({{"structured_outputs", {{"regex", "ab{3}"}}}}), "abbb");
  }
  const auto refused = server.chat(chat({{"guided_regex", "("}}));
  EXPECT_EQ(refused->status(), 400);
  EXPECT_EQ(refused->json()["error"]["param"], "guided_regex");
}

TEST_F(OpenAiService, ErrorsHaveOpenAisForm) {
  const auto check = [](FakeResponder& responder, int status, const json& type, const json& param, const json& code) {
    EXPECT_EQ(responder.status(), status) << responder.body();
    const json error = responder.json()["error"];
    EXPECT_FALSE(error["message"].get<std::string>().empty());
    EXPECT_EQ(error["type"], type);
    EXPECT_EQ(error["param"], param);
    EXPECT_EQ(error["code"], code);
    EXPECT_FALSE(responder.header("X-Request-Id").empty());
  };
  check(*server.complete(completion({{"model", "other"}})), 404, "not_found_error", "model", "model_not_found");
  check(*server.complete(completion({{"temperature", 3}})), 400, "invalid_request_error", "temperature", nullptr);
  check(*server.complete(completion({{"frobnicate", 3}})), 400, "invalid_request_error", "frobnicate", "unknown_parameter");
  check(*server.complete(completion({{"max_tokens", 1000}})), 400, "invalid_request_error", "prompt", "context_length_exceeded");
  check(*server.complete(completion({{"prompt", {4097}}})), 400, "invalid_request_error", nullptr, nullptr);
  check(*server.chat(chat({{"max_completion_tokens", 1000}})), 400, "invalid_request_error", "max_completion_tokens",
        "context_length_exceeded");
  const auto not_text = server.start(&Service::completions, "{\"model\": \"\xff\"}");
  ASSERT_TRUE(not_text->wait());
  check(*not_text, 400, "invalid_request_error", nullptr, nullptr);
  const auto broken = server.start(&Service::completions, "{");
  ASSERT_TRUE(broken->wait());
  check(*broken, 400, "invalid_request_error", nullptr, nullptr);
  wait_until_idle();
}

TEST_F(OpenAiService, RequestIdIsEchoedOrMade) {
  const auto id_for = [&](const std::string& given) {
    const auto responder = server.start(&Service::completions, completion().dump(), {{"X-Request-Id", given}});
    EXPECT_TRUE(responder->wait());
    return std::make_pair(responder->header("X-Request-Id"), responder->json()["id"].get<std::string>());
  };
  EXPECT_EQ(id_for("abc-1"), std::make_pair(std::string("abc-1"), std::string("cmpl-abc-1")));
  EXPECT_EQ(id_for("").first.size(), 32u);
  EXPECT_EQ(id_for("a b\"").first.size(), 32u);
  EXPECT_EQ(id_for(std::string(200, 'x')).first.size(), 32u);
}

TEST_F(OpenAiService, KeysAreAsked) {
  OpenAiOptions options;
  options.api_keys = {"secret-1", "secret-22"};
  const FakeServer guarded({llm}, options);
  const auto status = [&](std::vector<http::Header> headers, bool is_guarded = true) {
    const auto responder = guarded.start(&Service::version, "", std::move(headers), {}, is_guarded);
    EXPECT_TRUE(responder->wait());
    return responder->status();
  };
  EXPECT_EQ(status({}), 401);
  EXPECT_EQ(status({{"Authorization", "secret-1"}}), 401);
  EXPECT_EQ(status({{"Authorization", "Bearer secret"}}), 401);
  EXPECT_EQ(status({{"Authorization", "Bearer "}}), 401);
  EXPECT_EQ(status({{"Authorization", "Bearer secret-1"}}), 200);
  EXPECT_EQ(status({{"authorization", "Bearer secret-22"}}), 200);
  EXPECT_EQ(status({}, false), 200);
}

TEST(EqualInConstantTime, Compares) {
  EXPECT_TRUE(equal_in_constant_time("", ""));
  EXPECT_TRUE(equal_in_constant_time("abc", "abc"));
  EXPECT_FALSE(equal_in_constant_time("abc", "abd"));
  EXPECT_FALSE(equal_in_constant_time("abcabc", "abc"));
  EXPECT_FALSE(equal_in_constant_time("abc", "abcabc"));
  EXPECT_FALSE(equal_in_constant_time("abc", ""));
  EXPECT_FALSE(equal_in_constant_time("", "abc"));
}

TEST_F(OpenAiService, ModelsAndText) {
  const auto get = [&](FakeServer::Method method, std::vector<std::string> captures = {}) {
    const auto responder = server.start(method, "", {}, std::move(captures));
    EXPECT_TRUE(responder->wait());
    return responder;
  };
  const json models = get(&Service::models)->json();
  ASSERT_EQ(models["data"].size(), 1u);
  EXPECT_EQ(models["data"][0]["id"], "words");
  EXPECT_EQ(models["data"][0]["max_model_len"], 512);
  EXPECT_EQ(get(&Service::model, {"words"})->json(), models["data"][0]);
  EXPECT_EQ(get(&Service::model, {"org", "words"})->status(), 404);
  EXPECT_EQ(get(&Service::health)->status(), 200);

  const std::string text = "Grüße, 世界";
  const json tokens = server.ask(&Service::tokenize, {{"model", "words"}, {"prompt", text}, {"add_special_tokens", false}})->json();
  EXPECT_EQ(tokens["count"], tokens["tokens"].size());
  EXPECT_EQ(server.ask(&Service::detokenize, {{"tokens", tokens["tokens"]}})->json()["prompt"], text);
  const json chat_tokens = server.ask(&Service::tokenize, {{"messages", {{{"role", "user"}, {"content", "Hello there"}}}}})->json();
  EXPECT_EQ(chat_tokens["count"], server.chat(chat())->json()["usage"]["prompt_tokens"]);
  EXPECT_EQ(server.ask(&Service::detokenize, {{"tokens", {99999}}})->status(), 400);
}

TEST_F(OpenAiService, AClientThatLeavesFreesItsBlocksWithinAStep) {
  llm->gate->allow(3);
  const auto responder = server.start(&Service::completions, completion({{"stream", true}, {"max_tokens", 400}, {"n", 2}}).dump());
  ASSERT_TRUE(responder->wait_for_pieces(2));
  EXPECT_GT(llm->llm()->engine().statistics().blocks_used, 0);
  while (llm->gate->num_steps < 3) std::this_thread::yield();
  responder->leave();
  llm->gate->allow(1);  // the one that may have begun
  wait_until_idle();
  EXPECT_LE(llm->gate->num_steps, 4);
  EXPECT_EQ(llm->llm()->engine().statistics().requests_cancelled, 1);
  llm->gate->allow(-1);
}

TEST_F(OpenAiService, AClientThatDoesNotReadIsCancelled) {
  llm->gate->allow(2);
  const auto responder = server.start(&Service::completions, completion({{"stream", true}, {"max_tokens", 400}}).dump());
  ASSERT_TRUE(responder->wait_for_pieces(1));
  responder->queued = kMaxQueuedBytes + 1;
  llm->gate->allow(-1);
  ASSERT_TRUE(responder->wait());
  EXPECT_TRUE(responder->events().back().contains("error"));
  wait_until_idle();
}

TEST_F(OpenAiService, AnErrorInMidStreamIsAnEvent) {
  llm::FakeModelOptions options;
  // The third token of the answer is one after which logits are NaN.
  const json plain = server.complete(completion({{"return_token_ids", true}}))->json()["choices"][0];
  options.nan_token = plain["token_ids"][2];
  const FakeServer failing({std::make_shared<FakeLlm>("words", "", options)});
  const auto streamed = failing.complete(completion({{"stream", true}}));
  EXPECT_EQ(streamed->status(), 200);
  EXPECT_TRUE(streamed->events().back().contains("error"));
  EXPECT_FALSE(streamed_text(*streamed).empty());
  const auto whole = failing.complete(completion());
  EXPECT_GE(whole->status(), 400);
  EXPECT_TRUE(whole->json().contains("error"));
  EXPECT_EQ(whole->num_extra_answers + streamed->num_extra_answers, 0);
}

TEST_F(OpenAiService, ShutdownEndsAnswersWithAnError) {
  llm->gate->allow(2);
  const auto responder = server.start(&Service::completions, completion({{"stream", true}, {"max_tokens", 400}}).dump());
  ASSERT_TRUE(responder->wait_for_pieces(1));
  std::thread stopper([&] { llm->llm()->engine().shutdown(false); });
  llm->gate->allow(-1);
  stopper.join();
  ASSERT_TRUE(responder->wait());
  EXPECT_TRUE(responder->events().back().contains("error") || responder->events().back() == "[DONE]");
}

TEST(OpenAiModelLifetime, TheLastUserMayBeAnAnswer) {
  auto llm = std::make_shared<FakeLlm>("words");
  llm->gate->allow(2);
  GatedModel* gate = llm->gate;
  std::weak_ptr<FakeLlm> watched = llm;
  auto models = std::make_shared<std::vector<std::shared_ptr<Model>>>();
  models->push_back(std::move(llm));
  OpenAiOptions options;
  options.list_models = [models] { return *models; };
  options.find_model = [models](const std::string&) { return models->at(0); };
  const auto service = std::make_shared<Service>(std::move(options));
  const FakeServer unused({});
  auto request = std::make_shared<http::Request>();
  const std::string body = R"({"model": "words", "prompt": "a b c", "max_tokens": 20})";
  const auto* bytes = reinterpret_cast<const std::byte*>(body.data());
  request->body = std::make_shared<std::vector<std::byte>>(bytes, bytes + body.size());
  const auto responder = std::make_shared<FakeResponder>();
  service->handler (&Service::completions)(request, responder);
  models->clear();  // unloaded
  EXPECT_FALSE(watched.expired());
  gate->allow(-1);
  ASSERT_TRUE(responder->wait());
  EXPECT_EQ(responder->status(), 200);
  for (int i = 0; i < 1000 && !watched.expired(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_TRUE(watched.expired());
}

class Recorder final : public RequestObserver {
 public:
  void on_first_token(const std::string&, double seconds) override { first += seconds > 0; }
  void on_inter_token(const std::string&, double) override { ++gaps; }
  void on_finished(const std::string& model, const FinishedRequest& request) override {
    EXPECT_EQ(model, "words");
    last = request;
    ++finished;
  }
  std::atomic<int> first = 0, gaps = 0, finished = 0;
  FinishedRequest last;
};

TEST_F(OpenAiService, ObserversSeeEveryRequest) {
  OpenAiOptions options;
  const auto recorder = std::make_shared<Recorder>();
  options.observer = recorder;
  const FakeServer observed({llm}, options);
  observed.complete(completion({{"n", 2}}));
  EXPECT_EQ(recorder->first, 2);
  EXPECT_EQ(recorder->gaps, 46);
  EXPECT_EQ(recorder->finished, 1);
  EXPECT_EQ(recorder->last.completion_tokens, 48);
  EXPECT_EQ(recorder->last.num_answers, 2);
  EXPECT_EQ(recorder->last.reason, llm::FinishReason::Length);
  EXPECT_GE(recorder->last.e2e_s, recorder->last.decode_s);
}

TEST_F(OpenAiService, ManyAtOnce) {
  std::vector<std::shared_ptr<FakeResponder>> responders;
  for (int i = 0; i < 64; ++i) {
    json body = completion({{"prompt", "number " + std::to_string(i % 8)}, {"stream", i % 2 == 0}});
    responders.push_back(server.start(&Service::completions, body.dump()));
  }
  std::vector<std::string> texts;
  for (auto& responder : responders) {
    ASSERT_TRUE(responder->wait());
    const size_t i = texts.size();
    texts.push_back(i % 2 == 0 ? streamed_text(*responder) : responder->json()["choices"][0]["text"].get<std::string>());
    if (i >= 8) {
      EXPECT_EQ(texts[i], texts[i - 8]);
    }
  }
  wait_until_idle();
}

TEST(OpenAiEmbeddings, MeanOfTheTokensAtLengthOne) {
  const auto encoder = std::make_shared<FakeEncoder>("encoder");
  OpenAiOptions options;
  options.tokenizer_of = [](const Model&) { return llm::Tokenizer::from_json(read_example("tokenizer.json")); };
  const FakeServer server({encoder, std::make_shared<FakeLlm>("words")}, options);
  const auto responder = server.ask(&Service::embeddings, {{"model", "encoder"}, {"input", {{3, 5}, {2, 4, 6, 8}, {7}}}});
  ASSERT_EQ(responder->status(), 200) << responder->body();
  const json answer = responder->json();
  EXPECT_EQ(answer["usage"]["prompt_tokens"], 7);
  ASSERT_EQ(answer["data"].size(), 3u);
  const std::vector<std::array<double, 3>> means = {{4, 0.5, 1}, {5, 1.5, 1}, {7, 0, 1}};
  for (size_t i = 0; i < means.size(); ++i) {
    const double length = std::sqrt(means[i][0] * means[i][0] + means[i][1] * means[i][1] + 1);
    for (size_t k = 0; k < 3; ++k) EXPECT_NEAR(answer["data"][i]["embedding"][k].get<double>(), means[i][k] / length, 1e-6);
  }
  EXPECT_EQ(encoder->batches, (std::vector<Shape>{{2, 4}, {1, 1}}));  // no more rows than the model takes, padded to the longest

  const json packed =
      server.ask(&Service::embeddings, {{"model", "encoder"}, {"input", "some text"}, {"encoding_format", "base64"}})->json();
  EXPECT_EQ(packed["data"][0]["embedding"].get<std::string>().size(), 16u);  // 12 bytes
  EXPECT_EQ(server.ask(&Service::embeddings, {{"model", "encoder"}, {"input", "x"}, {"dimensions", 2}})->json()["error"]["param"],
            "dimensions");

  const auto refused = server.ask(&Service::embeddings, {{"model", "words"}, {"input", "x"}});
  EXPECT_EQ(refused->status(), 400);
  EXPECT_NE(refused->json()["error"]["message"].get<std::string>().find("These embed text: encoder"), std::string::npos);
  for (const json& input : {json::array(), json(3), json{""}, json{"a", {1}}, json{{-1}}})
    EXPECT_EQ(server.ask(&Service::embeddings, {{"model", "encoder"}, {"input", input}})->status(), input == json{""} ? 200 : 400) << input;
}

TEST_F(OpenAiService, ATraceTellsTokensAndTimes) {
  const std::string file = testing::TempDir() + "/tokamak_openai_trace.json";
  auto tracer =
      std::make_shared<Tracer>(TraceOptions{.settings = {{"trace_file", {file}}, {"trace_level", {"TIMESTAMPS"}}, {"trace_rate", {"1"}}}});
  const FakeServer traced{{llm, std::make_shared<FakeEncoder>("encoder")}, {.tracer = tracer}};
  EXPECT_EQ(traced.complete(completion({{"n", 2}}))->status(), 200);
  EXPECT_EQ(traced.chat(chat({{"stream", true}}))->status(), 200);
  EXPECT_EQ(traced.ask(&Service::embeddings, {{"model", "encoder"}, {"input", {1, 2, 3}}})->status(), 200);
  wait_until_idle();
  tracer->close();
  const json traces = json::parse(read_file(file));
  ASSERT_EQ(traces.size(), 6u) << traces;
  std::map<int, json> heads, times;
  for (const json& trace : traces) (trace.contains("model_name") ? heads : times)[trace["id"]] = trace;
  EXPECT_EQ(heads[1]["model_name"], "words");
  EXPECT_EQ(heads[1]["gen_ai.usage.completion_tokens"], 48);
  EXPECT_EQ(heads[1]["gen_ai.usage.num_sequences"], 2);
  EXPECT_GT(heads[2]["gen_ai.usage.prompt_tokens"], 0);
  EXPECT_GT(heads[2]["gen_ai.latency.time_to_first_token"], 0.0);
  EXPECT_EQ(heads[2]["gen_ai.response.finish_reason"], "length");
  EXPECT_EQ(heads[3]["model_name"], "encoder");
  std::set<std::string> names;
  for (const json& stamp : times[2]["timestamps"]) names.insert(stamp["name"]);
  EXPECT_EQ(names, (std::set<std::string>{"HTTP_RECV_START", "HTTP_RECV_END", "REQUEST_START", "QUEUE_START", "COMPUTE_START",
                                          "FIRST_TOKEN", "COMPUTE_END", "REQUEST_END", "HTTP_SEND_START", "HTTP_SEND_END"}));
  std::filesystem::remove(file);
}

}  // namespace
}  // namespace tokamak::server::openai
