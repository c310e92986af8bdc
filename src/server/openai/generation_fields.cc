#include "server/openai/generation_fields.h"

#include <algorithm>
#include <charconv>

#include "server/openai/api_error.h"

namespace tokamak::server::openai {
namespace {

constexpr size_t kMaxStops = 64, kMaxStopBytes = 4096;

std::vector<std::string> read_stop(Fields& fields) {
  const Json* found = fields.find("stop");
  std::vector<std::string> stops;
  if (!found) return stops;
  const auto add = [&](const Json& text) {
    if (!text.is_string()) bad_request("stop", "'stop' should be a string or an array of strings, it holds {}", text.type_name());
    stops.push_back(text.get<std::string>());
    if (stops.back().empty() || stops.back().size() > kMaxStopBytes)
      bad_request("stop", "a string of 'stop' has {} bytes; it should have 1 to {}", stops.back().size(), kMaxStopBytes);
  };
  if (found->is_array()) {
    if (found->size() > kMaxStops) bad_request("stop", "'stop' has {} strings, at most {} are looked for", found->size(), kMaxStops);
    for (const Json& text : *found) add(text);
  } else {
    add(*found);
  }
  return stops;
}

std::unordered_map<int32_t, float> read_logit_bias(Fields& fields) {
  std::unordered_map<int32_t, float> biases;
  const Json* found = fields.object("logit_bias");
  if (!found) return biases;
  for (const auto& [key, value] : found->items()) {
    int32_t token = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), token);
    if (error != std::errc() || end != key.data() + key.size() || token < 0)
      bad_request("logit_bias", "the keys of 'logit_bias' should be token ids, one is '{}'", key.substr(0, 50));
    if (!value.is_number() || !(value.get<double>() >= -100 && value.get<double>() <= 100))
      bad_request("logit_bias", "'logit_bias.{}' should be a number from -100 to 100", token);
    biases[token] = value.get<float>();
  }
  return biases;
}

void read_stream(Fields& fields, GenerationFields& out) {
  out.stream = fields.boolean("stream").value_or(false);
  const Json* found = fields.object("stream_options");
  if (!found) return;
  if (!out.stream) bad_request("stream_options", "'stream_options' is only allowed when 'stream' is true");
  Fields options(*found, "stream_options");
  out.include_usage = options.boolean("include_usage").value_or(false);
  out.continuous_usage_stats = options.boolean("continuous_usage_stats").value_or(false);
  options.ignore({"include_obfuscation"});
  options.finish();
}

}  // namespace

GenerationFields read_generation_fields(Fields& fields) {
  GenerationFields out;
  const std::string* model = fields.string("model");
  if (!model || model->empty()) bad_request("model", "you must provide a model parameter");
  out.model = *model;

  llm::SamplingParams& s = out.sampling;
  const auto number = [&](const char* name, double min, double max, float& value) {
    if (const auto found = fields.number(name, min, max)) value = static_cast<float>(*found);
  };
  number("temperature", 0, 2, s.temperature);
  number("top_p", 0, 1, s.top_p);
  s.top_p = std::max(s.top_p, 1e-6f);  // 0: the likeliest token alone
  number("min_p", 0, 1, s.min_p);
  number("repetition_penalty", 1e-3, 1e3, s.repetition_penalty);
  number("presence_penalty", -2, 2, s.presence_penalty);
  number("frequency_penalty", -2, 2, s.frequency_penalty);
  s.top_k = static_cast<int>(std::max<int64_t>(0, fields.integer("top_k", -1, INT32_MAX).value_or(0)));
  s.logit_bias = read_logit_bias(fields);
  if (const auto seed = fields.integer("seed", INT64_MIN, INT64_MAX)) s.seed = static_cast<uint64_t>(*seed);
  s.n = static_cast<int>(fields.integer("n", 1, 128).value_or(1));
  s.min_tokens = static_cast<int>(fields.integer("min_tokens", 0, INT32_MAX).value_or(0));
  s.ignore_eos = fields.boolean("ignore_eos").value_or(false);
  s.stop = read_stop(fields);
  s.stop_token_ids = fields.token_ids("stop_token_ids");
  s.include_stop_str_in_output = fields.boolean("include_stop_str_in_output").value_or(false);
  s.skip_special_tokens = fields.boolean("skip_special_tokens").value_or(true);

  read_stream(fields, out);
  out.return_token_ids = fields.boolean("return_token_ids").value_or(false);
  out.priority = static_cast<int>(fields.integer("priority", -1'000'000, 1'000'000).value_or(0));
  out.constraint = read_constraint(fields);

  // For bookkeeping at OpenAI; an answer does not depend on them.
  fields.ignore({"user", "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"});
  fields.refuse("prompt_logprobs", "use /v1/completions with echo and logprobs");
  fields.refuse("use_beam_search", "answers are sampled; use n with temperature");
  fields.refuse("cache_salt", "the prefix cache is shared by all requests to a model");
  return out;
}

int answer_limit(size_t prompt_size, std::optional<int64_t> requested, int context_length, std::string_view param) {
  const int64_t left = context_length - static_cast<int64_t>(prompt_size);
  if (left < 1 || requested.value_or(1) > left)
    throw ApiError(
        400, "invalid_request_error",
        fmt::format("This model's maximum context length is {} tokens. However, you requested {} tokens ({} in the prompt, {} in "
                    "the completion). Please reduce the length of the prompt or of the completion.",
                    context_length, static_cast<int64_t>(prompt_size) + requested.value_or(1), prompt_size, requested.value_or(1)),
        std::string(param), "context_length_exceeded");
  return static_cast<int>(requested.value_or(left));
}

}  // namespace tokamak::server::openai
