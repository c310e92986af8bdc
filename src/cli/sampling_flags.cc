#include "cli/sampling_flags.h"

namespace tokamak::cli {

void SamplingFlags::add_to(CLI::App& app) {
  app.add_option("-n,--max-tokens", max_tokens, "most tokens of an answer (default: 256; in a chat what the context leaves)")
      ->check(CLI::PositiveNumber);
  app.add_option("--min-tokens", min_tokens, "do not end before this many")->check(CLI::NonNegativeNumber);
  app.add_option("--temperature", temperature, "0: always the likeliest token; 1: as the model learned; default: 0, in a chat see below")
      ->check(CLI::Range(0.0, 100.0));
  app.add_option("--top-k", top_k, "choose among the K likeliest tokens (0: all)")->check(CLI::NonNegativeNumber);
  app.add_option("--top-p", top_p, "choose among the likeliest tokens that together reach this probability")->check(CLI::Range(0.0, 1.0));
  app.add_option("--min-p", min_p, "and that have at least this share of the likeliest one's probability")->check(CLI::Range(0.0, 1.0));
  app.add_option("--repetition-penalty", repetition_penalty, "above 1: tokens seen before become less likely")->check(CLI::PositiveNumber);
  app.add_option("--presence-penalty", presence_penalty, "subtracted from tokens of the answer")->check(CLI::Range(-2.0, 2.0));
  app.add_option("--frequency-penalty", frequency_penalty, "subtracted once for each time a token is in the answer")
      ->check(CLI::Range(-2.0, 2.0));
  app.add_option("--seed", seed, "of random choices: the same seed gives the same answer");
  app.add_option("--stop", stop, "text that ends the answer and is not part of it (repeatable; \\n is a newline)");
  app.add_option("--stop-token-id", stop_token_ids, "token that ends the answer (repeatable)")->check(CLI::NonNegativeNumber);
  app.add_flag("--ignore-eos", ignore_eos, "go on after the model's end token, up to --max-tokens");
}

llm::SamplingParams SamplingFlags::params(llm::SamplingParams p) const {
  if (max_tokens > 0) p.max_tokens = max_tokens;
  p.min_tokens = min_tokens;
  p.temperature = temperature.value_or(p.temperature);
  p.top_k = top_k.value_or(p.top_k);
  p.top_p = top_p.value_or(p.top_p);
  p.min_p = min_p.value_or(p.min_p);
  p.repetition_penalty = repetition_penalty.value_or(p.repetition_penalty);
  p.presence_penalty = presence_penalty.value_or(p.presence_penalty);
  p.frequency_penalty = frequency_penalty.value_or(p.frequency_penalty);
  p.seed = seed;
  for (const std::string& text : stop) p.stop.push_back(unescape(text));
  p.stop_token_ids = stop_token_ids;
  p.ignore_eos = ignore_eos;
  return p;
}

llm::SamplingParams recommended_sampling(const std::string& text, llm::SamplingParams p) {
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object() || !json.contains("do_sample") || json["do_sample"] != true) return p;
  const auto number = [&](const char* key, auto& value, double low, double high) {
    const auto found = json.find(key);
    if (found == json.end() || found->is_null()) return;
    if (!found->is_number() || !(found->get<double>() >= low && found->get<double>() <= high))
      fail(ErrorCode::Corrupt, "generation_config.json: \"{}\" is {}, expected a number from {} to {}", key, found->dump(), low, high);
    value = static_cast<std::remove_reference_t<decltype(value)>>(found->get<double>());
  };
  p.temperature = 1;
  p.top_k = 50;  // what transformers takes when the file does not say
  p.top_p = 1;
  number("temperature", p.temperature, 0, 100);
  number("top_k", p.top_k, 0, 1e9);
  number("top_p", p.top_p, 1e-6, 1);
  number("min_p", p.min_p, 0, 1);
  number("repetition_penalty", p.repetition_penalty, 1e-3, 1e3);
  return p;
}

std::string unescape(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const char next = text[i] == '\\' && i + 1 < text.size() ? text[i + 1] : 0;
    if (next == 'n') out += '\n', ++i;
    else if (next == 't') out += '\t', ++i;
    else if (next == '\\') out += '\\', ++i;
    else out += text[i];
  }
  return out;
}

}  // namespace tokamak::cli
