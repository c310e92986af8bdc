// OpenAI's completions and chat completions as a load: random token ids of a given number, or given texts.

#include <fmt/format.h>
#include <simdjson.h>

#include <random>

#include "cli/command.h"
#include "cli/load_workload.h"

namespace tokamak::cli {

namespace {

namespace http = server::http;

std::string the_model(const LoadTarget& target) {
  const http::Answer answer =
      http::fetch(target.url, {.target = target.url.path + "/v1/models", .headers = {{"Authorization", "Bearer " + target.api_key}}},
                  std::chrono::seconds(30));
  if (answer.status != 200)
    fail(ErrorCode::Unavailable,
         "GET /v1/models was answered {}: {}; expected the models of an OpenAI server (--protocol kserve for tensors)", answer.status,
         message_of_body(answer.body));
  const Json json = Json::parse(answer.body, nullptr, false);
  std::vector<std::string> names;
  if (json.is_object() && json.contains("data") && json["data"].is_array())
    for (const Json& model : json["data"])
      if (model.is_object() && model.value("id", Json()).is_string()) names.push_back(model["id"]);
  if (target.model.empty()) {
    if (names.size() == 1) return names[0];
    fail(ErrorCode::NotFound, "the server has {} language models ({}): name one with --model", names.size(), fmt::join(names, ", "));
  }
  if (std::find(names.begin(), names.end(), target.model) == names.end())
    fail(ErrorCode::NotFound, "the server has no model '{}'; it has: {}", target.model, fmt::join(names, ", "));
  return target.model;
}

// Server-sent events, or one JSON object.
class TextReader : public AnswerReader {
 public:
  explicit TextReader(bool stream) : stream_(stream) {}

  void piece(int status, std::string_view bytes, int64_t now_ns, LoadRecord& record) override {
    if (status != 200 || !stream_) {
      if (record.first_ns == 0) record.first_ns = now_ns;
      if (body_.size() < (1u << 24)) body_ += bytes;
      return;
    }
    line_ += bytes;
    size_t begin = 0;
    for (size_t end; (end = line_.find('\n', begin)) != std::string::npos; begin = end + 1) {
      std::string_view line(line_.data() + begin, end - begin);
      if (line.ends_with('\r')) line.remove_suffix(1);
      if (line.starts_with("data:")) event(line.substr(line.starts_with("data: ") ? 6 : 5), now_ns, record);
    }
    line_.erase(0, begin);
  }

  void end(int status, LoadRecord& record) override {
    if (status != 200) {
      record.error = fmt::format("HTTP {}: {}", status, message_of_body(body_));
    } else if (!stream_) {
      const Json json = Json::parse(body_, nullptr, false);
      if (!json.is_object() || !json.contains("choices")) record.error = "the answer is no completion";
      usage(json, record);
    } else if (!failure_.empty()) {
      record.error = failure_;
    } else if (!done_) {
      record.error = "the stream ended without [DONE]";
    }
    if (record.error.empty() && record.output_tokens == 0) record.error = "no tokens";
  }

 private:
  void event(std::string_view data, int64_t now_ns, LoadRecord& record) {
    if (data == "[DONE]") {
      done_ = true;
      return;
    }
    // simdjson: there are tens of thousands a second, and the machine may be the server's too.
    simdjson::dom::element json;
    if (parser_.parse(data.data(), data.size()).get(json) != simdjson::SUCCESS || !json.is_object()) {
      failure_ = "an event is no JSON object";
      return;
    }
    if (json["error"].error() == simdjson::SUCCESS) {
      failure_ = fmt::format("in the stream: {}", message_of_body(data));
      return;
    }
    if (int64_t prompt = 0, output = 0; json["usage"]["completion_tokens"].get(output) == simdjson::SUCCESS) {
      if (json["usage"]["prompt_tokens"].get(prompt) == simdjson::SUCCESS) record.prompt_tokens = static_cast<int>(prompt);
      record.output_tokens = static_cast<int>(output);
    }
    const auto choice = json["choices"].at(0);
    const auto text = [](const simdjson::simdjson_result<simdjson::dom::element>& field) {
      std::string_view value;
      return field.get(value) == simdjson::SUCCESS ? value : std::string_view();
    };
    const auto delta = choice["delta"];
    const bool is_chat = delta.error() == simdjson::SUCCESS;
    if (!is_chat && choice["text"].error() != simdjson::SUCCESS) return;
    // The first event of a chat brings the role alone.
    if (is_chat && delta["role"].error() == simdjson::SUCCESS && text(delta["content"]).empty()) return;
    if (record.first_ns == 0) record.first_ns = now_ns;
    record.event_ns.push_back(now_ns);
  }
  static void usage(const Json& json, LoadRecord& record) {
    if (!json.is_object() || !json.contains("usage") || !json["usage"].is_object()) return;
    record.prompt_tokens = json["usage"].value("prompt_tokens", 0);
    record.output_tokens = json["usage"].value("completion_tokens", 0);
  }

  bool stream_, done_ = false;
  std::string line_, body_, failure_;
  simdjson::dom::parser parser_;
};

class OpenAiLoad : public Workload {
 public:
  OpenAiLoad(const LoadTarget& target, const TextLoad& load) : target_(target), load_(load), model_(the_model(target)) {
    if (!load.extra.empty()) {
      extra_ = Json::parse(load.extra, nullptr, false);
      if (!extra_.is_object()) fail(ErrorCode::InvalidArgument, "--extra '{}' is no JSON object", load.extra);
    }
  }
  std::string name() const override { return model_; }
  bool is_text() const override { return true; }
  std::unique_ptr<AnswerReader> reader() override { return std::make_unique<TextReader>(load_.stream); }

  http::ClientRequest request(int index) override {
    std::mt19937_64 random(target_.seed * 1'000'003 + index);
    Json body = {{"model", model_}, {"max_tokens", load_.max_tokens}, {"temperature", load_.temperature}, {"stream", load_.stream}};
    if (load_.stream) body["stream_options"] = {{"include_usage", true}};
    if (load_.ignore_eos) body["ignore_eos"] = true;
    if (load_.is_chat) {
      body["messages"] = {{{"role", "user"}, {"content", load_.prompts.empty() ? words(random) : text(index)}}};
    } else if (load_.prompts.empty()) {
      // Ids that every vocabulary has and no tokenizer makes special, so that the number of tokens is exact.
      Json ids = Json::array();
      for (int i = 0; i < load_.prompt_tokens; ++i) ids.push_back(10 + random() % 240);
      body["prompt"] = std::move(ids);
    } else {
      body["prompt"] = text(index);
    }
    body.update(extra_);
    http::ClientRequest request{.method = "POST",
                                .target = target_.url.path + (load_.is_chat ? "/v1/chat/completions" : "/v1/completions")};
    request.headers = {{"Content-Type", "application/json"}};
    if (!target_.api_key.empty()) request.headers.emplace_back("Authorization", "Bearer " + target_.api_key);
    request.body = body.dump();
    return request;
  }

 private:
  const std::string& text(int index) const { return load_.prompts[index % load_.prompts.size()]; }
  std::string words(std::mt19937_64& random) const {
    static constexpr const char* kWords[] = {"the", "of", "a",    "is", "in",  "to", "and", "it",
                                             "for", "on", "with", "as", "are", "by", "at",  "or"};
    std::string out;
    for (int i = 0; i < load_.prompt_tokens; ++i) out += fmt::format("{}{}", i > 0 ? " " : "", kWords[random() % std::size(kWords)]);
    return out;
  }

  LoadTarget target_;
  TextLoad load_;
  std::string model_;
  Json extra_ = Json::object();
};

}  // namespace

std::string message_of_body(std::string_view body) {
  const Json json = Json::parse(body, nullptr, false);
  if (json.is_object() && json.contains("error")) {
    const Json& error = json["error"];
    if (error.is_string()) return error;
    if (error.is_object() && error.value("message", Json()).is_string()) return error["message"];
  }
  return std::string(body.substr(0, 200));
}

std::unique_ptr<Workload> make_openai_load(const LoadTarget& target, const TextLoad& load) {
  return std::make_unique<OpenAiLoad>(target, load);
}

}  // namespace tokamak::cli
