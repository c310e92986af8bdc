// tokamak generate: one prompt, or an interactive chat.

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>

#include "cli/args.h"
#include "cli/chat.h"
#include "cli/command.h"
#include "cli/language_model.h"
#include "cli/sampling_flags.h"
#include "cli/stream_answer.h"

namespace tokamak::cli {

namespace {

constexpr const char* kExamples = R"(
With -p (or a prompt piped in) the model continues the text: greedily unless --temperature says otherwise, up to 256 tokens. --chat puts the
text through the model's chat template first. Without a prompt on a terminal it is a chat: several turns, answers as they come, with the
sampling that the model's generation_config.json recommends (else temperature 0.7, top-p 0.9). The answer goes to standard output, everything
else to standard error; Ctrl-C stops the answer (exit status 130). A folder or GGUF file is built once and kept; a changed file is built anew.

Examples:
  tokamak generate llama-3.2-1b -p "The ls command" --max-tokens 32
  tokamak generate llama-3.2-1b --int4 --chat -p "What is an inode?" --temperature 0.7 --top-p 0.9 --seed 7
  tokamak generate llama.engine                                            a chat
  cat question.txt | tokamak generate model-q8_0.gguf --chat --system "Answer in one sentence." --json answer.json
  tokamak generate llama-3.1-8b --draft llama-3.2-1b -p "Once upon a time"   a small model proposes, the large one decides
)";

std::string read_standard_input() {
  std::string text;
  char buffer[1 << 16];
  while (const size_t count = std::fread(buffer, 1, sizeof(buffer), stdin)) {
    text.append(buffer, count);
    if (text.size() > (64u << 20)) fail(ErrorCode::InvalidArgument, "the prompt on standard input is over 64 MiB");
  }
  return text;
}

struct GenerateOptions {
  std::string model, prompt, system, draft, kv_cache, json_file;
  bool chat = false, quiet = false, no_prefix_cache = false;
  int ngram = 0, draft_tokens = 4, context = 0;
  LanguageModelFlags flags;
  SamplingFlags sampling;
};

llm::LlmOptions engine_options(const GenerateOptions& o, const LanguageModel* draft) {
  llm::LlmOptions options;
  options.max_num_seqs = 1;
  options.max_context_length = o.context;
  options.prefix_cache = !o.no_prefix_cache;
  options.num_threads = o.flags.build.threads;
  if (!o.kv_cache.empty()) options.kv_cache_bytes = parse_size_bytes(o.kv_cache);
  if (draft) {
    options.speculative.method = llm::SpeculativeOptions::Method::Draft;
    options.speculative.draft = draft->engine;
    options.speculative.num_tokens = o.draft_tokens;
  } else if (o.ngram > 0) {
    options.speculative.method = llm::SpeculativeOptions::Method::NGram;
    options.speculative.num_tokens = o.ngram;
  }
  return options;
}

Json answer_json(const StreamedAnswer& answer, const std::vector<int32_t>& prompt_ids, const LanguageModel& model, double start_to_first_s,
                 const llm::Statistics& statistics) {
  Json json = {{"text", answer.text},
               {"token_ids", answer.token_ids},
               {"prompt_token_ids", prompt_ids},
               {"finish_reason", llm::to_string(answer.finish_reason)},
               {"ttft_ms", answer.usage.ttft_ms},
               {"output_tokens_per_s", answer.output_tokens_per_s},
               {"model", model.name},
               {"precision", model.engine->info().precision},
               {"engine_from", to_string(model.source)},
               {"open_s", model.open_s},
               {"start_to_first_token_s", start_to_first_s}};
  if (statistics.speculated_tokens > 0) {
    json["speculated_tokens"] = statistics.speculated_tokens;
    json["accepted_tokens"] = statistics.accepted_tokens;
  }
  return json;
}

}  // namespace

int run_generate(const Words& args) {
  const auto start = std::chrono::steady_clock::now();
  CLI::App app("Generates text with a language model: one prompt, or an interactive chat.", "generate");
  app.footer(kExamples);
  GenerateOptions o;
  app.add_option("MODEL", o.model, "Hugging Face folder, GGUF file, or engine of one")->required();
  auto* prompt_option = app.add_option("-p,--prompt", o.prompt, "text to continue ('-': standard input)");
  app.add_flag("--chat", o.chat, "the prompt is a user's message: apply the model's chat template");
  app.add_option("--system", o.system, "system message of the chat");
  o.sampling.add_to(app);
  auto* draft = app.add_option("--draft", o.draft, "smaller model with the same vocabulary that proposes tokens (the text stays the same)");
  app.add_option("--draft-tokens", o.draft_tokens, "tokens it proposes at a time")
      ->needs(draft)
      ->capture_default_str()
      ->check(CLI::Range(1, 16));
  app.add_option("--ngram", o.ngram, "propose N tokens by looking the last ones up in the text so far")
      ->excludes(draft)
      ->check(CLI::Range(1, 16));
  app.add_option("--context", o.context, "most tokens of prompt and answer together (default: the model's)")->check(CLI::PositiveNumber);
  app.add_option("--kv-cache", o.kv_cache, "memory for keys and values, e.g. 2G (default: one full context)");
  app.add_flag("--no-prefix-cache", o.no_prefix_cache, "in a chat, compute every turn from the start");
  app.add_flag("-q,--quiet", o.quiet, "no line about speed");
  app.add_option("--json", o.json_file, "write answer, ids and times as JSON ('-': standard output, and no text there)");
  o.flags.add_to(app);
  if (const auto status = parse(app, args)) return *status;

  const bool interactive = prompt_option->empty() && isatty(STDIN_FILENO);
  if (interactive && !o.json_file.empty()) {
    fmt::print(stderr, "error: tokamak generate: --json goes with a prompt (-p TEXT), not with an interactive chat\n");
    return 2;
  }
  if (!o.system.empty() && !o.chat && !interactive) {
    fmt::print(stderr, "error: tokamak generate: --system goes with --chat\n");
    return 2;
  }
  if (!interactive && (prompt_option->empty() || o.prompt == "-")) o.prompt = read_standard_input();

  const LanguageModel model = open_language_model(o.model, "", o.flags);
  LanguageModel draft_model;
  if (!o.draft.empty()) draft_model = open_language_model(o.draft, "", o.flags);
  llm::LlmEngine engine(model.engine, engine_options(o, o.draft.empty() ? nullptr : &draft_model));
  const auto tokenizer = engine.tokenizer();
  if (!tokenizer) fail(ErrorCode::Unsupported, "'{}' has no tokenizer: the checkpoint needs a tokenizer.json", o.model);

  if (interactive) {
    Conversation conversation(*model.engine, tokenizer, o.system);
    llm::SamplingParams defaults;
    defaults.max_tokens = 0;
    defaults.temperature = 0.7f;
    defaults.top_p = 0.9f;
    defaults = o.sampling.params(recommended_sampling(metadata(*model.engine, "generation_config.json"), defaults));
    run_chat(engine, conversation, {defaults, !o.quiet});
    return 0;
  }

  llm::Request request;
  if (o.chat) {
    Conversation conversation(*model.engine, tokenizer, o.system);
    conversation.add("user", o.prompt);
    request.prompt_ids = conversation.prompt_ids();
  } else {
    request.prompt_ids = tokenizer->encode(o.prompt);
  }
  if (request.prompt_ids.empty()) fail(ErrorCode::InvalidArgument, "the prompt is empty, and this model has no token to begin a text with");
  llm::SamplingParams defaults;
  defaults.max_tokens = 256;
  defaults.temperature = 0;
  request.sampling = o.sampling.params(defaults);
  const std::vector<int32_t> prompt_ids = request.prompt_ids;

  const InterruptCounter interrupts;
  const double submit_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  FILE* out = o.json_file == "-" ? nullptr : stdout;
  const StreamedAnswer answer = stream_answer(engine, std::move(request), out, interrupts);
  const double first_token_s = submit_s + answer.usage.ttft_ms / 1e3;
  if (out && !answer.text.ends_with('\n')) fmt::print(out, "\n");
  if (std::fflush(stdout) != 0) fail(ErrorCode::Io, "cannot write the answer to standard output");
  const llm::Statistics statistics = engine.statistics();
  if (!o.quiet) {
    fmt::print(stderr,
               "[{} tokens ({}), {:.1f} tokens/s; first token {:.2f} s after the start: model {:.2f} s ({}), prompt of {} tokens {:.1f} ms",
               answer.token_ids.size(), llm::to_string(answer.finish_reason), answer.output_tokens_per_s, first_token_s, model.open_s,
               to_string(model.source), prompt_ids.size(), answer.usage.ttft_ms);
    if (statistics.speculated_tokens > 0)
      fmt::print(stderr, "; {} of {} proposed tokens accepted", statistics.accepted_tokens, statistics.speculated_tokens);
    fmt::print(stderr, "]\n");
  }
  if (!o.json_file.empty()) write_json(o.json_file, answer_json(answer, prompt_ids, model, first_token_s, statistics));
  return answer.finish_reason == llm::FinishReason::Abort ? 130 : 0;
}

}  // namespace tokamak::cli
