#include "cli/bench_llm.h"

#include <fmt/format.h>

#include <chrono>
#include <latch>
#include <mutex>
#include <random>

#include "backends/cpu/cpu_features.h"
#include "backends/cpu/thread_pool.h"
#include "cli/bandwidth.h"
#include "cli/bench_saturated.h"
#include "cli/console.h"
#include "cli/profile_llm.h"
#include "cli/session.h"
#include "cli/stats.h"
#include "ir/op.h"
#include "llm/step_model.h"
#include "tokamak/llm.h"

namespace tokamak::cli {

namespace {

using Clock = std::chrono::steady_clock;

double ms(Clock::duration d) { return std::chrono::duration<double, std::milli>(d).count(); }

// One batch of requests that start together.
struct LlmRun {
  double ttft_ms = 0, ttft_max_ms = 0;  // from submit to the first token: mean and largest of the requests
  double tpot_ms = 0;                   // per token after the first, mean of the requests
  double prefill_tokens_per_s = 0;      // prompt tokens until every request has its first token
  double output_tokens_per_s = 0;       // of all requests, while every one of them is decoding
  double throughput_tokens_per_s = 0;   // output tokens over the whole run, the prompts' time included
  double step_ms = 0, gap_ms = 0;       // of a GPU, while all decode: a step, and the time before it without one; medians
  std::vector<double> itl_ms;           // gaps between two tokens of a request
};

// Of decoding steps with all requests, from the engine's thread while a run lasts.
struct DecodeSteps {
  std::vector<double> step_ms, gap_ms;
};

LlmRun figures(const std::vector<std::vector<Clock::time_point>>& times, Clock::time_point start, int prompt_tokens) {
  LlmRun run;
  const auto batch = static_cast<double>(times.size());
  Clock::time_point all_started = start, one_ended = Clock::time_point::max(), end = start;
  double tokens = 0;
  for (const auto& t : times) {
    const double ttft = ms(t.front() - start);
    run.ttft_ms += ttft / batch;
    run.ttft_max_ms = std::max(run.ttft_max_ms, ttft);
    if (t.size() > 1) run.tpot_ms += ms(t.back() - t.front()) / static_cast<double>(t.size() - 1) / batch;
    for (size_t i = 1; i < t.size(); ++i) run.itl_ms.push_back(ms(t[i] - t[i - 1]));
    all_started = std::max(all_started, t.front());
    one_ended = std::min(one_ended, t.back());
    end = std::max(end, t.back());
    tokens += static_cast<double>(t.size());
  }
  run.prefill_tokens_per_s = batch * prompt_tokens / ms(all_started - start) * 1e3;
  run.throughput_tokens_per_s = tokens / ms(end - start) * 1e3;
  double decoded = 0;
  for (const auto& t : times)
    for (const auto& at : t) decoded += at > all_started && at <= one_ended;
  // Without a moment in which all decode (few tokens, many prompts) the whole run is the best there is to say.
  run.output_tokens_per_s = decoded > 0 ? decoded / ms(one_ended - all_started) * 1e3 : run.throughput_tokens_per_s;
  return run;
}

LlmRun run_batch(llm::LlmEngine& engine, int batch, int prompt_tokens, int new_tokens, std::mt19937_64& random, DecodeSteps& steps) {
  steps = {};
  std::vector<std::vector<Clock::time_point>> times(batch);
  std::vector<llm::Request> requests(batch);
  std::latch done(batch);
  std::mutex mutex;
  std::string problem;
  for (int b = 0; b < batch; ++b) {
    times[b].reserve(new_tokens);
    llm::Request& r = requests[b];
    for (int i = 0; i < prompt_tokens; ++i)
      r.prompt_ids.push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(engine.config().vocab_size)));
    r.sampling.temperature = 0;
    r.sampling.ignore_eos = true;
    r.sampling.max_tokens = new_tokens;
    r.on_event = [&, b](const llm::Event& event) {
      times[b].insert(times[b].end(), event.token_ids.size(), Clock::now());
      if (!event.is_last) return;
      if (event.finish_reason != llm::FinishReason::Length) {
        const std::lock_guard lock(mutex);
        problem = event.error.empty() ? fmt::format("a request ended early: {}", llm::to_string(event.finish_reason)) : event.error;
      }
      done.count_down();
    };
  }
  const auto start = Clock::now();
  engine.submit(std::move(requests));
  done.wait();
  if (!problem.empty()) fail(ErrorCode::Internal, "{}", problem);
  LlmRun run = figures(times, start, prompt_tokens);
  run.step_ms = summarize(steps.step_ms).median;
  run.gap_ms = summarize(steps.gap_ms).median;
  return run;
}

// Bytes of constants that every step reads whole; an embedding table that is only gathered from is not among them.
int64_t bytes_read_each_step(const Engine& engine) {
  int64_t bytes = 0;
  ir::for_each_graph(const_cast<ir::Graph&>(engine.graph()), [&](ir::Graph& graph) {
    for (const auto& node : graph.nodes())
      for (size_t i = 0; i < node->inputs().size(); ++i) {
        const ir::Value* v = node->inputs()[i];
        if (v && v->is_constant() && !(node->is("gather") && i == 0)) bytes += v->constant.size_bytes();
      }
  });
  return bytes;
}

Json run_json(const LlmRun& run, int batch, const LlmBenchOptions& options) {
  const double percents[] = {50, 95, 99};
  const Summary itl = summarize(run.itl_ms, percents);
  return {{"batch", batch},
          {"prompt_tokens", options.prompt_tokens},
          {"new_tokens", options.new_tokens},
          {"ttft_ms", run.ttft_ms},
          {"ttft_max_ms", run.ttft_max_ms},
          {"tpot_ms", run.tpot_ms},
          {"itl_ms",
           {{"mean", itl.mean}, {"p50", itl.percentiles[0]}, {"p95", itl.percentiles[1]}, {"p99", itl.percentiles[2]}, {"max", itl.max}}},
          {"prefill_tokens_per_s", run.prefill_tokens_per_s},
          {"output_tokens_per_s", run.output_tokens_per_s},
          {"throughput_tokens_per_s", run.throughput_tokens_per_s}};
}

}  // namespace

Json memory_json(const llm::StepMemory& memory) {
  return {{"weights_bytes", memory.weights_bytes}, {"kv_cache_bytes", memory.kv_cache_bytes}, {"arena_bytes", memory.arena_bytes},
          {"other_bytes", memory.other_bytes},     {"planned_bytes", memory.planned_bytes()}, {"used_bytes", memory.used_bytes}};
}

namespace {

// Of each figure the median over the runs; the gaps of all.
LlmRun median_of(const std::vector<LlmRun>& runs) {
  const auto middle = [&](double LlmRun::*figure) {
    std::vector<double> values;
    for (const LlmRun& run : runs) values.push_back(run.*figure);
    return summarize(values).median;
  };
  LlmRun result{middle(&LlmRun::ttft_ms),
                middle(&LlmRun::ttft_max_ms),
                middle(&LlmRun::tpot_ms),
                middle(&LlmRun::prefill_tokens_per_s),
                middle(&LlmRun::output_tokens_per_s),
                middle(&LlmRun::throughput_tokens_per_s),
                middle(&LlmRun::step_ms),
                middle(&LlmRun::gap_ms),
                {}};
  for (const LlmRun& run : runs) result.itl_ms.insert(result.itl_ms.end(), run.itl_ms.begin(), run.itl_ms.end());
  return result;
}

}  // namespace

int run_llm_bench(const LanguageModel& model, const LlmBenchOptions& options) {
  if (options.requests > 0) return run_saturated_bench(model, options);
  const int threads = options.threads > 0 ? options.threads : available_threads();
  const int largest = *std::max_element(options.batches.begin(), options.batches.end());
  llm::StepModelOptions step;
  step.max_num_seqs = largest;
  step.max_num_batched_tokens = std::max(options.max_num_batched_tokens > 0 ? options.max_num_batched_tokens : 512, largest);
  step.max_context_length = options.prompt_tokens + options.new_tokens;
  step.num_threads = threads;
  llm::LlmOptions llm;
  llm.max_num_seqs = step.max_num_seqs;
  llm.max_num_batched_tokens = step.max_num_batched_tokens;
  llm.max_context_length = step.max_context_length;
  llm.prefix_cache = false;  // every prompt is computed
  llm.run_ahead = !options.synchronous;
  llm.num_threads = threads;
  auto step_model = llm::make_step_model(model.engine, step);
  if (step.max_context_length > step_model->config().context_length)
    fail(ErrorCode::OutOfRange, "{} prompt and {} new tokens: the model's context is {} tokens", options.prompt_tokens, options.new_tokens,
         step_model->config().context_length);
  // Written by the engine's thread until the last event of a run.
  DecodeSteps steps;
  int running_batch = 0;
  const bool on_gpu = model.engine->is_cuda();
  if (on_gpu)
    llm.on_step = [&](const llm::StepReport& report) {
      if (report.num_tokens != report.num_seqs || report.num_seqs != running_batch) return;
      steps.step_ms.push_back(report.step_ms);
      steps.gap_ms.push_back(report.gap_ms);
    };
  const llm::StepModel& running = *step_model;  // lives as long as `engine`
  llm::LlmEngine engine(std::move(step_model), llm);

  const EngineInfo& info = model.engine->info();
  FILE* out = text_stream(options.json_file);
  const int64_t step_bytes = bytes_read_each_step(*model.engine);
  const double bandwidth = options.bandwidth ? measure_read_bandwidth(threads) : 0;
  Json runs = Json::array();
  std::string table;
  ProgressBar bar;
  double done = 0;
  const double total = static_cast<double>(options.batches.size()) * (options.repeat + 1);
  for (const int batch : options.batches) {
    std::mt19937_64 random(options.seed);
    bar.update(fmt::format("batch {}, warm-up", batch), done++ / total);
    running_batch = batch;
    run_batch(engine, batch, options.prompt_tokens, std::min(options.new_tokens, 4), random, steps);
    std::vector<LlmRun> repeats;
    for (int r = 0; r < options.repeat; ++r) {
      bar.update(fmt::format("batch {}", batch), done++ / total);
      repeats.push_back(run_batch(engine, batch, options.prompt_tokens, options.new_tokens, random, steps));
    }
    const LlmRun run = median_of(repeats);
    const double percents[] = {99};
    table += fmt::format("{:6}{:11.1f}{:10.2f}{:13.2f}{:13.1f}{:13.2f}{:13.2f}", batch, run.ttft_ms, run.tpot_ms,
                         summarize(run.itl_ms, percents).percentiles[0], run.prefill_tokens_per_s, run.output_tokens_per_s,
                         run.throughput_tokens_per_s);
    runs.push_back(run_json(run, batch, options));
    if (on_gpu && run.step_ms > 0) {
      runs.back()["decode_step_ms"] = run.step_ms;
      runs.back()["decode_gap_ms"] = run.gap_ms;
      table += fmt::format("{:10.3f}{:8.4f}", run.step_ms, run.gap_ms);
    }
    if (bandwidth > 0) {
      const double share = static_cast<double>(step_bytes) / (run.tpot_ms * 1e-3) / bandwidth;
      runs.back()["bandwidth_share"] = share;
      table += fmt::format("{:12.0f} %", share * 100);
    }
    table += "\n";
  }
  bar.clear();

  fmt::print(out, "{}  on {}, {}, {} thread{}\n", model.name, running_on(*model.engine), info.precision, threads, threads == 1 ? "" : "s");
  fmt::print(out, "  engine      {} in {:.2f} s\n", to_string(model.source), model.open_s);
  fmt::print(out, "  memory      weights {}, of them read each step {}; KV cache {} ({} blocks), activations {}, process peak {}\n",
             format_bytes(model.engine->weights_bytes()), format_bytes(step_bytes), format_bytes(running.memory().kv_cache_bytes),
             running.num_blocks(), format_bytes(running.memory().arena_bytes), format_bytes(peak_memory_bytes()));
  const llm::StepMemory memory = running.memory();
  if (memory.used_bytes > 0)
    fmt::print(out, "              of the GPU {} planned, {} used\n", format_bytes(memory.planned_bytes()),
               format_bytes(memory.used_bytes));
  if (bandwidth > 0) fmt::print(out, "  bandwidth   {:.1f} GB/s of reading\n", bandwidth / 1e9);
  fmt::print(out, "  requests    {} prompt tokens, {} new tokens\n\n", options.prompt_tokens, options.new_tokens);
  fmt::print(out, "{:>6}{:>11}{:>10}{:>13}{:>13}{:>13}{:>13}{}{}\n{}", "batch", "TTFT ms", "TPOT ms", "ITL p99 ms", "prefill t/s",
             "decode t/s", "overall t/s", on_gpu ? "   step ms  gap ms" : "", bandwidth > 0 ? "  of bandwidth" : "", table);
  Json json = {{"model", model.name},
               {"device", running_on(*model.engine)},
               {"precision", info.precision},
               {"threads", threads},
               {"engine_from", to_string(model.source)},
               {"open_s", model.open_s},
               {"build_s", model.build_s},
               {"runs", std::move(runs)},
               {"weights_bytes", model.engine->weights_bytes()},
               {"step_weights_bytes", step_bytes},
               {"kv_cache_bytes", running.memory().kv_cache_bytes},
               {"peak_memory_bytes", peak_memory_bytes()}};
  if (memory.used_bytes > 0) json["device_memory"] = memory_json(memory);
  if (bandwidth > 0) json["read_bandwidth_bytes_per_s"] = bandwidth;
  if (options.profile_layers) {
    engine.shutdown(true);
    Json profile = Json::array();
    for (const int batch : options.batches) profile_llm(model.engine, step, batch, options.prompt_tokens, out, profile);
    json["profile"] = std::move(profile);
  }
  if (!options.json_file.empty()) write_json(options.json_file, json);
  return 0;
}

}  // namespace tokamak::cli
