#include "server/openai/completion_request.h"

#include <algorithm>
#include <chrono>

#include "server/openai/api_error.h"
#include "server/openai/completion_choice.h"

namespace tokamak::server::openai {
namespace {

constexpr size_t kMaxPrompts = 2048;
constexpr int kMaxLogprobs = 20;

std::vector<CompletionRequest::Prompt> read_prompts(const Json& prompt) {
  using Prompt = CompletionRequest::Prompt;
  const auto text = [](const Json& value) { return Prompt{value.get<std::string>(), {}, true}; };
  if (prompt.is_string()) return {text(prompt)};
  if (!prompt.is_array() || prompt.empty())
    bad_request("prompt", "'prompt' should be a string, an array of strings, an array of token ids or an array of those, and not empty");
  if (prompt[0].is_number()) return {Prompt{{}, token_ids_of(prompt, "prompt"), false}};
  if (prompt.size() > kMaxPrompts) bad_request("prompt", "'prompt' has {} prompts, at most {} are taken", prompt.size(), kMaxPrompts);
  std::vector<Prompt> prompts;
  for (size_t i = 0; i < prompt.size(); ++i) {
    if (prompt[i].is_string()) prompts.push_back(text(prompt[i]));
    else if (prompt[i].is_array()) prompts.push_back({{}, token_ids_of(prompt[i], fmt::format("prompt[{}]", i)), false});
    else bad_request("prompt", "'prompt[{}]' should be a string or an array of token ids, it is {}", i, prompt[i].type_name());
  }
  return prompts;
}

int64_t unix_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

CompletionRequest read_completion_request(const Json& body) {
  Fields fields(body, "");
  CompletionRequest request{{read_generation_fields(fields)}};
  const Json* prompt = fields.find("prompt");
  if (!prompt) bad_request("prompt", "you must provide a prompt");
  request.prompts = read_prompts(*prompt);
  request.max_tokens = fields.integer("max_tokens", 0, INT32_MAX).value_or(16);
  request.echo = fields.boolean("echo").value_or(false);
  request.logprobs = static_cast<int>(fields.integer("logprobs", 0, kMaxLogprobs).value_or(-1));
  request.add_special_tokens = fields.boolean("add_special_tokens").value_or(true);
  const int n = request.sampling.n;
  request.best_of = static_cast<int>(fields.integer("best_of", 1, 128).value_or(0));
  if (request.best_of != 0 && request.best_of < n)
    bad_request("best_of", "'best_of' is {}, it should be at least n ({})", request.best_of, n);
  if (request.best_of > n && request.stream) bad_request("best_of", "'best_of' above n cannot be streamed: the best are known at the end");
  if (request.max_tokens == 0 && !request.echo)
    bad_request("max_tokens", "'max_tokens' is 0; it should be at least 1 unless 'echo' is true");
  if (request.max_tokens > 0 && request.sampling.min_tokens > request.max_tokens)
    bad_request("min_tokens", "'min_tokens' is {}; it should be at most max_tokens ({})", request.sampling.min_tokens, request.max_tokens);
  if (const std::string* suffix = fields.string("suffix"); suffix && !suffix->empty())
    throw ApiError(400, "invalid_request_error", "'suffix' is not supported: the model continues a text, it does not fill one in", "suffix",
                   "unsupported_parameter");
  fields.finish();
  return request;
}

GenerationJob begin_job(const GenerationFields& request, std::shared_ptr<LlmModel> model, const std::string& id, std::string_view object,
                        std::string_view chunk_object) {
  using Usage = ChunkFrame::Usage;
  const Usage usage = request.continuous_usage_stats ? Usage::Running : request.include_usage ? Usage::Null : Usage::None;
  GenerationJob job;
  job.frame = std::make_shared<ChunkFrame>(id, request.stream ? chunk_object : object, unix_seconds(), request.model, usage);
  job.stream = request.stream;
  job.include_usage = request.include_usage;
  job.model = std::move(model);
  return job;
}

GenerationJob make_job(CompletionRequest request, std::shared_ptr<LlmModel> model, const std::string& id) {
  const auto mask = make_mask(*model, request.constraint);
  GenerationJob job = begin_job(request, model, id, "text_completion", "text_completion");
  const int n = request.sampling.n;
  const bool chooses = request.best_of > n;
  request.sampling.n = std::max(n, request.best_of);
  request.sampling.logprobs = chooses ? std::max(request.logprobs, 0) : request.logprobs;
  job.num_kept = chooses ? n : 0;
  const bool scores_prompt = request.echo && request.logprobs >= 0;
  if (scores_prompt) request.sampling.prompt_logprobs = request.logprobs;
  job.computes_nothing = request.max_tokens == 0 && !scores_prompt;
  for (CompletionRequest::Prompt& prompt : request.prompts) {
    if (prompt.is_text) prompt.ids = model->tokenizer().encode(prompt.text, request.add_special_tokens);
    else if (request.echo) prompt.text = model->tokenizer().decode(prompt.ids);
    llm::Request one{.sampling = request.sampling, .priority = request.priority, .mask = mask};
    one.sampling.max_tokens = answer_limit(prompt.ids.size(), request.max_tokens, model->context_length(), "prompt");
    const auto prompt_ids = request.return_token_ids || scores_prompt ? std::make_shared<const std::vector<int32_t>>(prompt.ids) : nullptr;
    for (int i = 0; i < request.sampling.n; ++i) {
      ChoiceOptions options{.index = static_cast<int>(job.choices.size()),
                            .prompt_tokens = static_cast<int>(prompt.ids.size()),
                            .num_top_logprobs = request.logprobs,
                            .stop_token_ids = request.sampling.stop_token_ids,
                            .prompt_ids = request.return_token_ids ? prompt_ids : nullptr,
                            .scored_prompt = scores_prompt ? prompt_ids : nullptr};
      job.choices.push_back(
          std::make_unique<CompletionChoice>(job.frame, *model, std::move(options), request.echo ? prompt.text : std::string()));
    }
    one.prompt_ids = std::move(prompt.ids);
    job.requests.push_back(std::move(one));
  }
  return job;
}

}  // namespace tokamak::server::openai
