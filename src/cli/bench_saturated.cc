#include "cli/bench_saturated.h"

#include <fmt/format.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <random>

#include "backends/cpu/thread_pool.h"
#include "cli/console.h"
#include "cli/profile_llm.h"
#include "cli/session.h"
#include "cli/stats.h"
#include "llm/step_model.h"
#include "tokamak/llm.h"

namespace tokamak::cli {

namespace {

using Clock = std::chrono::steady_clock;

double seconds(Clock::duration d) { return std::chrono::duration<double>(d).count(); }

// Steps of one kind.
struct StepGroup {
  std::vector<double> step_ms;
  double total_ms = 0, num_seqs = 0, num_tokens = 0, num_rows = 0;
  KindTimes kernels;  // of a typical one; zero when not profiled

  void add(const llm::StepReport& step) {
    step_ms.push_back(step.step_ms);
    total_ms += step.step_ms;
    num_seqs += step.num_seqs, num_tokens += step.num_tokens, num_rows += step.num_rows;
  }
  double count() const { return static_cast<double>(step_ms.size()); }
};

struct SaturatedRun {
  double wall_s = 0;
  int64_t output_tokens = 0;
  StepGroup decode, mixed;
  double gap_ms = 0;
  int64_t preemptions = 0;
  std::vector<double> ttft_ms;
};

class Load {
 public:
  Load(const LlmBenchOptions& options, int vocab_size) : options_(options), vocab_size_(vocab_size), random_(options.seed) {}

  SaturatedRun run(llm::LlmEngine& engine) {
    start_ = Clock::now();
    const int first = options_.concurrency > 0 ? std::min(options_.concurrency, options_.requests) : options_.requests;
    // Prompts are made before the clock starts.
    for (int i = 0; i < options_.requests; ++i) prompts_.push_back(make_prompt());
    run_ = {};
    start_ = Clock::now();
    for (int i = 0; i < first; ++i) submit(engine);
    std::unique_lock lock(mutex_);
    done_.wait(lock, [&] { return num_done_ == options_.requests; });
    if (!problem_.empty()) fail(ErrorCode::Internal, "{}", problem_);
    run_.wall_s = seconds(end_ - start_);
    run_.preemptions = engine.statistics().preemptions;
    return std::move(run_);
  }

  // From the engine's thread, as all events.
  void on_step(const llm::StepReport& step) {
    (step.num_tokens == step.num_seqs ? run_.decode : run_.mixed).add(step);
    if (!is_first_step_) run_.gap_ms += step.gap_ms;
    is_first_step_ = false;
  }

 private:
  std::vector<int32_t> make_prompt() {
    std::vector<int32_t> prompt(options_.prompt_tokens);
    for (int32_t& token : prompt) token = static_cast<int32_t>(random_() % static_cast<uint64_t>(vocab_size_));
    return prompt;
  }

  void submit(llm::LlmEngine& engine) {
    llm::Request r;
    r.prompt_ids = std::move(prompts_[num_submitted_++]);
    r.sampling.temperature = 0;
    r.sampling.ignore_eos = true;
    r.sampling.max_tokens = options_.new_tokens;
    r.on_event = [this, &engine](const llm::Event& event) {
      run_.output_tokens += std::ssize(event.token_ids);
      if (!event.is_last) return;
      run_.ttft_ms.push_back(event.usage.ttft_ms);
      if (options_.concurrency > 0 && num_submitted_ < options_.requests) submit(engine);
      const std::lock_guard lock(mutex_);
      if (event.finish_reason != llm::FinishReason::Length)
        problem_ = event.error.empty() ? fmt::format("a request ended early: {}", llm::to_string(event.finish_reason)) : event.error;
      end_ = Clock::now();
      if (++num_done_ == options_.requests) done_.notify_one();
    };
    engine.submit(std::move(r));
  }

  const LlmBenchOptions& options_;
  int vocab_size_;
  std::mt19937_64 random_;
  std::vector<std::vector<int32_t>> prompts_;
  int num_submitted_ = 0;  // by run(), then by the engine's thread
  SaturatedRun run_;
  bool is_first_step_ = true;
  Clock::time_point start_, end_;
  std::mutex mutex_;
  std::condition_variable done_;
  int num_done_ = 0;
  std::string problem_;
};

// Kernels' shares at a typical step of each kind.
void profile_groups(const LanguageModel& model, const llm::StepModelOptions& step, const LlmBenchOptions& options, SaturatedRun& run,
                    FILE* out, Json& json) {
  const auto step_model = llm::make_step_model(model.engine, step);
  const auto mean = [](double sum, const StepGroup& group) { return std::max(1, static_cast<int>(sum / group.count() + 0.5)); };
  const int past = options.prompt_tokens + options.new_tokens / 2;
  if (run.decode.count() > 0)
    run.decode.kernels =
        profile_step(*step_model, "decode", {.num_decoding = mean(run.decode.num_seqs, run.decode), .past = past}, out, json);
  if (run.mixed.count() == 0) return;
  const int tokens = mean(run.mixed.num_tokens, run.mixed), seqs = mean(run.mixed.num_seqs, run.mixed);
  StepMix mix{.past = past, .prompt_tokens = std::min(options.prompt_tokens, tokens)};
  mix.num_prompts = std::max(1, (tokens - seqs) / std::max(1, mix.prompt_tokens - 1));
  mix.num_decoding = std::max(0, std::min(seqs, tokens - mix.num_prompts * mix.prompt_tokens) - mix.num_prompts);
  run.mixed.kernels = profile_step(*step_model, "mixed", mix, out, json);
}

Json group_json(const StepGroup& group) {
  if (group.step_ms.empty()) return {{"steps", 0}};
  const double n = group.count();
  const Summary times = summarize(group.step_ms);
  Json json = {{"steps", n},
               {"mean_ms", times.mean},
               {"median_ms", times.median},
               {"max_ms", times.max},
               {"total_ms", group.total_ms},
               {"mean_sequences", group.num_seqs / n},
               {"mean_tokens", group.num_tokens / n}};
  return json;
}

void print_group(FILE* out, const char* name, const StepGroup& group) {
  if (group.step_ms.empty()) return;
  const Summary times = summarize(group.step_ms);
  fmt::print(out, "  {:<8}{:8.0f}{:12.0f}{:10.0f}{:11.2f}{:11.2f}{:11.2f}{:12.1f}\n", name, group.count(), group.num_seqs / group.count(),
             group.num_tokens / group.count(), times.mean, times.median, times.max, group.total_ms);
}

Json run_load(const LanguageModel& model, const LlmBenchOptions& options, FILE* out) {
  const bool on_gpu = model.engine->is_cuda();
  const int at_once = options.concurrency > 0 ? std::min(options.concurrency, options.requests) : options.requests;
  llm::StepModelOptions step;
  step.max_num_seqs = options.max_num_seqs > 0 ? options.max_num_seqs : std::min(at_once, on_gpu ? 1024 : 64);
  step.max_num_batched_tokens = options.max_num_batched_tokens > 0 ? options.max_num_batched_tokens : on_gpu ? 8192 : 512;
  step.max_num_batched_tokens = std::max(step.max_num_batched_tokens, step.max_num_seqs);
  step.max_context_length = options.prompt_tokens + options.new_tokens;
  step.num_threads = options.threads > 0 ? options.threads : available_threads();
  auto step_model = llm::make_step_model(model.engine, step);
  if (step.max_context_length > step_model->config().context_length)
    fail(ErrorCode::OutOfRange, "{} prompt and {} new tokens: the model's context is {} tokens", options.prompt_tokens, options.new_tokens,
         step_model->config().context_length);
  const auto warm_start = Clock::now();
  step_model->warm_up();
  const double warm_up_s = seconds(Clock::now() - warm_start);
  const llm::StepModel& running = *step_model;  // lives as long as the engine
  llm::StepMemory memory;
  const int num_blocks = step_model->num_blocks(), block_size = step_model->config().block_size;
  Load load(options, step_model->config().vocab_size);
  llm::LlmOptions llm;
  llm.max_num_seqs = step.max_num_seqs;
  llm.max_num_batched_tokens = step.max_num_batched_tokens;
  llm.max_context_length = step.max_context_length;
  llm.prefix_cache = false;  // every prompt is computed
  llm.run_ahead = !options.synchronous;
  llm.num_threads = step.num_threads;
  llm.on_step = [&](const llm::StepReport& report) { load.on_step(report); };
  SaturatedRun run;
  llm::Statistics statistics;
  {
    llm::LlmEngine engine(std::move(step_model), llm);
    run = load.run(engine);
    memory = running.memory();
    engine.shutdown(true);
    statistics = engine.statistics();
  }
  const double wall_ms = run.wall_s * 1e3, step_ms = run.decode.total_ms + run.mixed.total_ms;
  const double gaps_ms = on_gpu ? run.gap_ms : wall_ms - step_ms;
  const double input = static_cast<double>(options.requests) * options.prompt_tokens, output = static_cast<double>(run.output_tokens);
  const Summary ttft = summarize(run.ttft_ms);

  fmt::print(out, "\n  requests    {} of {} prompt tokens and {} new tokens, {} at once\n", options.requests, options.prompt_tokens,
             options.new_tokens, at_once);
  fmt::print(out, "  limits      {} sequences and {} tokens a step; KV cache of {} tokens ({}), activations {}; warm-up {:.2f} s\n",
             step.max_num_seqs, step.max_num_batched_tokens, int64_t{num_blocks} * block_size, format_bytes(memory.kv_cache_bytes),
             format_bytes(memory.arena_bytes), warm_up_s);
  if (memory.used_bytes > 0)
    fmt::print(out, "  memory      {} planned, {} used\n", format_bytes(memory.planned_bytes()), format_bytes(memory.used_bytes));
  fmt::print(out,
             "  throughput  {:.1f} output tokens/s, {:.1f} tokens/s in all, {:.3f} s; TTFT mean {:.1f} ms, largest {:.1f} ms; {} "
             "preemptions\n\n",
             output / run.wall_s, (input + output) / run.wall_s, run.wall_s, ttft.mean, ttft.max, run.preemptions);
  fmt::print(out, "  {:<8}{:>8}{:>12}{:>10}{:>11}{:>11}{:>11}{:>12}\n", "steps", "count", "sequences", "tokens", "mean ms", "median ms",
             "max ms", "total ms");
  print_group(out, "decode", run.decode);
  print_group(out, "mixed", run.mixed);
  fmt::print(out, "  between steps {:.1f} ms ({:.2f} %), of the whole run {:.1f} ms\n", gaps_ms, gaps_ms / wall_ms * 100, wall_ms);
  fmt::print(out, "  host        {:.3f} ms a step scheduling, {:.3f} with its tokens\n",
             statistics.schedule_s * 1e3 / static_cast<double>(statistics.num_steps),
             statistics.sample_s * 1e3 / static_cast<double>(statistics.num_steps));
  Json json = {{"requests", options.requests},
               {"concurrency", at_once},
               {"prompt_tokens", options.prompt_tokens},
               {"new_tokens", options.new_tokens},
               {"max_num_seqs", step.max_num_seqs},
               {"max_num_batched_tokens", step.max_num_batched_tokens},
               {"run_ahead", llm.run_ahead},
               {"output_tokens_per_s", output / run.wall_s},
               {"total_tokens_per_s", (input + output) / run.wall_s},
               {"wall_s", run.wall_s},
               {"warm_up_s", warm_up_s},
               {"ttft_ms", {{"mean", ttft.mean}, {"max", ttft.max}}},
               {"preemptions", run.preemptions},
               {"steps", {{"decode", group_json(run.decode)}, {"mixed", group_json(run.mixed)}}},
               {"gap_ms", gaps_ms},
               {"kv_cache_bytes", memory.kv_cache_bytes},
               {"kv_cache_tokens", int64_t{num_blocks} * block_size},
               {"arena_bytes", memory.arena_bytes}};
  if (memory.used_bytes > 0) json["device_memory"] = memory_json(memory);
  if (options.profile_layers) {
    Json profile = Json::array();
    profile_groups(model, step, options, run, out, profile);
    json["profile"] = std::move(profile);
    // The steps' time, divided as the kernels of a typical one divide it.
    KindTimes all;
    for (const StepGroup* group : {&run.decode, &run.mixed}) {
      if (!(group->kernels.total() > 0)) continue;
      const double scale = group->total_ms / group->kernels.total();
      all.products += group->kernels.products * scale;
      all.attention += group->kernels.attention * scale;
      all.other += group->kernels.other * scale;
    }
    fmt::print(out, "\n  {:<22}{:>10}{:>8}\n", "where the time went", "ms", "%");
    const std::pair<const char*, double> rows[] = {{"matrix products", all.products},
                                                   {"attention", all.attention},
                                                   {"other kernels", all.other},
                                                   {"between steps", gaps_ms},
                                                   {"before and after", wall_ms - all.total() - gaps_ms}};
    for (const auto& [name, ms] : rows) {
      fmt::print(out, "  {:<22}{:10.1f}{:8.1f}\n", name, ms, ms / wall_ms * 100);
      json["breakdown_ms"][name] = ms;
    }
  }
  return json;
}

}  // namespace

int run_saturated_bench(const LanguageModel& model, const LlmBenchOptions& options) {
  FILE* out = text_stream(options.json_file);
  fmt::print(out, "{}  on {}, {}; engine {} in {:.2f} s\n", model.name, running_on(*model.engine), model.engine->info().precision,
             to_string(model.source), model.open_s);
  Json runs = Json::array();
  auto loads = options.loads;
  if (loads.empty()) loads.emplace_back(options.prompt_tokens, options.new_tokens);
  for (const auto& [prompt_tokens, new_tokens] : loads) {
    LlmBenchOptions of_run = options;
    of_run.prompt_tokens = prompt_tokens, of_run.new_tokens = new_tokens;
    runs.push_back(run_load(model, of_run, out));
    std::fflush(out);
  }
  if (!options.json_file.empty())
    write_json(options.json_file, {{"model", model.name},
                                   {"device", running_on(*model.engine)},
                                   {"precision", model.engine->info().precision},
                                   {"weights_bytes", model.engine->weights_bytes()},
                                   {"open_s", model.open_s},
                                   {"runs", std::move(runs)}});
  return 0;
}

}  // namespace tokamak::cli
