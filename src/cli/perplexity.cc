// tokamak perplexity: how well a model predicts a text.

#include <fmt/format.h>

#include <cmath>

#include "backends/cpu/thread_pool.h"
#include "cli/command.h"
#include "cli/console.h"
#include "cli/language_model.h"
#include "cli/text_file.h"
#include "llm/logits.h"
#include "llm/step_model.h"

namespace tokamak::cli {

namespace {

constexpr const char* kExamples = R"(
The text is cut into windows of --window tokens; at each token of a window the one after it is predicted from those of the window so far (at
the last token, that is the first of the next window). Perplexity is e to the mean of -ln(probability). By default the whole file is one text, and a last, shorter window counts too. With --documents the file is
split at blank lines; each document begins with the model's BOS token and ends with its EOS token, and the windows are cut from all of them
in a row.

Examples:
  tokamak perplexity llama-3.2-1b --text book.txt
  tokamak perplexity llama.engine --text heldout.txt.gz --documents --window 1024 --max-windows 64 --json -
  tokamak perplexity llama-3.2-1b --int4 --text book.txt --max-windows 32
)";

constexpr int kStepTokens = 512;
constexpr int64_t kLogitsBytes = int64_t{64} << 20;  // of one step

std::vector<int32_t> tokens_of(const std::string& file, bool documents, const llm::Tokenizer& tokenizer, const llm::ModelConfig& config) {
  const std::string text = read_text_file(file);
  if (!documents) return tokenizer.encode(text);
  if (config.eos_token_ids.empty()) fail(ErrorCode::InvalidArgument, "--documents: the model has no EOS token to end a document with");
  std::vector<int32_t> all;
  for (const std::string& document : split_documents(text)) {
    const std::vector<int32_t> ids = tokenizer.encode(document);
    if (config.bos_token_id >= 0 && (ids.empty() || ids.front() != config.bos_token_id)) all.push_back(config.bos_token_id);
    all.insert(all.end(), ids.begin(), ids.end());
    all.push_back(config.eos_token_ids.front());
  }
  return all;
}

// Scores windows through the step model, one sequence at a time, in chunks whose logits fit a budget.
class Scorer {
 public:
  Scorer(const std::shared_ptr<const Engine>& engine, int window, int num_threads)
      : model_(llm::make_step_model(
            engine, {.max_num_seqs = 1, .max_num_batched_tokens = kStepTokens, .max_context_length = window, .num_threads = num_threads})),
        pool_(num_threads > 0 ? num_threads : available_threads()),
        nats_(kStepTokens) {
    const llm::ModelConfig& config = model_->config();
    const int64_t rows = kLogitsBytes / (int64_t{4} * config.vocab_size);
    chunk_ = static_cast<int>(std::clamp<int64_t>(rows / 16 * 16, 16, kStepTokens));
    num_blocks_ = (window + config.block_size - 1) / config.block_size;
    if (num_blocks_ > model_->num_blocks())
      fail(ErrorCode::ResourceExhausted, "a window of {} tokens needs {} blocks of the KV cache, which has {}", window, num_blocks_,
           model_->num_blocks());
  }

  // Sum of -ln(probability) of all of `tokens` but the first: a window, and behind it the token that it predicts last.
  double nats(std::span<const int32_t> tokens) {
    const size_t inputs = tokens.size() - 1;
    double sum = 0;
    for (size_t begin = 0; begin < inputs; begin += chunk_)
      sum += chunk(tokens, static_cast<int32_t>(begin), static_cast<int32_t>(std::min(begin + chunk_, inputs)));
    return sum;
  }

 private:
  double chunk(std::span<const int32_t> tokens, int32_t begin, int32_t end) {
    const int32_t block_size = model_->config().block_size;
    batch_.clear();
    for (int32_t i = begin; i < end; ++i) {
      batch_.token_ids.push_back(tokens[i]);
      batch_.positions.push_back(i);
      batch_.slot_mapping.push_back(i);  // block b of the sequence is block b of the cache
      batch_.logit_rows.push_back(i - begin);
    }
    batch_.num_seqs = 1;
    batch_.blocks_per_seq = (end + block_size - 1) / block_size;
    for (int32_t b = 0; b < batch_.blocks_per_seq; ++b) batch_.block_tables.push_back(b);
    batch_.seq_lens = {end};
    batch_.query_starts = {0, end - begin};
    model_->run(batch_);

    const auto rows = static_cast<int64_t>(batch_.logit_rows.size());
    const llm::LogitsFunctions& functions = llm::logits_functions();
    pool_.parallel_for(rows, 4, [&](int64_t first, int64_t last, int) {
      for (int64_t r = first; r < last; ++r) {
        const std::span<const float> logits = model_->logits(static_cast<int>(r));
        const float largest = *std::max_element(logits.begin(), logits.end());
        const double sum = functions.exp_sum(logits.data(), static_cast<int64_t>(logits.size()), largest);
        nats_[r] = std::log(sum) + largest - logits[tokens[begin + r + 1]];
      }
    });
    double sum = 0;
    for (int64_t r = 0; r < rows; ++r) sum += nats_[r];
    return sum;
  }

  std::unique_ptr<llm::StepModel> model_;
  ThreadPool pool_;
  llm::StepBatch batch_;
  std::vector<double> nats_;  // of one chunk
  int chunk_, num_blocks_;
};

}  // namespace

int run_perplexity(const Words& args) {
  CLI::App app("Measures how well a language model predicts a text.", "perplexity");
  app.footer(kExamples);
  std::string path, text, json_file;
  int window = 1024;
  int64_t max_windows = 0;
  bool documents = false;
  LanguageModelFlags flags;
  app.add_option("MODEL", path, "Hugging Face folder, GGUF file, or engine of one")->required();
  app.add_option("--text", text, "text file, plain or gzip")->required();
  app.add_option("--window", window, "tokens in a window")->capture_default_str()->check(CLI::Range(2, 1 << 20));
  app.add_option("--max-windows", max_windows, "no more windows than this (default: the whole text)")->check(CLI::PositiveNumber);
  app.add_flag("--documents", documents, "split the text at blank lines into documents, each with BOS and EOS");
  app.add_option("--json", json_file, "write the figures as JSON ('-': standard output)");
  flags.add_to(app);
  if (const auto status = parse(app, args)) return *status;

  const LanguageModel model = open_language_model(path, "", flags);
  const llm::ModelConfig config = llm::ModelConfig::from_metadata(model.engine->graph().metadata);
  if (window > config.context_length)
    fail(ErrorCode::OutOfRange, "--window {}: the model's context is {} tokens", window, config.context_length);
  const std::vector<int32_t> tokens = tokens_of(text, documents, *tokenizer_of(*model.engine), config);
  if (tokens.size() < 2) fail(ErrorCode::InvalidArgument, "'{}' has {} tokens: nothing to predict", text, tokens.size());
  for (const int32_t id : tokens)
    if (id < 0 || id >= config.vocab_size)
      fail(ErrorCode::Corrupt, "the tokenizer gives token {}, the model has {} of them", id, config.vocab_size);

  const auto start = std::chrono::steady_clock::now();
  Scorer scorer(model.engine, window, flags.build.threads);
  const auto size = static_cast<int64_t>(tokens.size());
  int64_t windows = (size - 1 + window - 1) / window;  // the last token predicts nothing
  if (max_windows > 0) windows = std::min(windows, max_windows);
  double nats = 0;
  int64_t predicted = 0;
  ProgressBar bar;
  for (int64_t w = 0; w < windows; ++w) {
    const auto part = std::span(tokens).subspan(w * window, std::min<int64_t>(window + 1, size - w * window));
    nats += scorer.nats(part);
    predicted += static_cast<int64_t>(part.size()) - 1;
    const double done = static_cast<double>(w + 1) / static_cast<double>(windows);
    const double elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    bar.update(fmt::format("perplexity so far {:.3f}", std::exp(nats / static_cast<double>(predicted))), done, elapsed / done - elapsed);
  }
  bar.clear();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const double mean = nats / static_cast<double>(predicted);
  if (!std::isfinite(mean)) fail(ErrorCode::Internal, "the model's outputs are not finite: {} nats per token", mean);

  FILE* out = text_stream(json_file);
  fmt::print(out, "perplexity {:.4f}  ({:.6f} nats per token, {} tokens in {} windows of {}; {}, {:.1f} s, {:.0f} tokens/s)\n",
             std::exp(mean), mean, predicted, windows, window, model.engine->info().precision, seconds,
             static_cast<double>(predicted) / seconds);
  if (!json_file.empty())
    write_json(json_file, {{"perplexity", std::exp(mean)},
                           {"nats_per_token", mean},
                           {"tokens", predicted},
                           {"windows", windows},
                           {"window", window},
                           {"model", path},
                           {"precision", model.engine->info().precision},
                           {"tokens_per_s", static_cast<double>(predicted) / seconds}});
  return 0;
}

}  // namespace tokamak::cli
