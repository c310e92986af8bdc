#include "server/llm_metrics.h"

#include <functional>

#include "server/exposition.h"
#include "server/llm_model.h"
#include "server/repository.h"
#include "server/statistics.h"

namespace tokamak::server {

namespace {

// The buckets that vLLM's dashboards were made for.
const std::vector<double> kTtft = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80};
const std::vector<double> kInterToken = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5};
const std::vector<double> kRequest = {0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480};
const std::vector<double> kTokens = {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000};
const std::vector<double> kAnswers = {1, 2, 5, 10, 20};

Labels labels_of(const std::string& model) { return {{"model_name", model}, {"engine", "0"}}; }

struct Gauge {
  const char *name, *type, *help;
  std::function<double(const llm::Statistics&)> value;
};

const Gauge kEngineFamilies[] = {
    {"vllm:num_requests_running", "gauge", "Number of requests in model execution batches.",
     [](const llm::Statistics& s) { return s.num_running; }},
    {"vllm:num_requests_waiting", "gauge", "Number of requests waiting to be processed.",
     [](const llm::Statistics& s) { return s.num_waiting; }},
    {"vllm:kv_cache_usage_perc", "gauge", "KV-cache usage. 1 means 100 percent usage.",
     [](const llm::Statistics& s) { return s.blocks_total > 0 ? double(s.blocks_used) / s.blocks_total : 0; }},
    {"vllm:gpu_cache_usage_perc", "gauge", "KV-cache usage under its former name.",
     [](const llm::Statistics& s) { return s.blocks_total > 0 ? double(s.blocks_used) / s.blocks_total : 0; }},
    {"vllm:prompt_tokens_total", "counter", "Number of prefill tokens processed.",
     [](const llm::Statistics& s) { return double(s.prompt_tokens); }},
    {"vllm:generation_tokens_total", "counter", "Number of generation tokens processed.",
     [](const llm::Statistics& s) { return double(s.generated_tokens); }},
    {"vllm:num_preemptions_total", "counter", "Cumulative number of preemptions.",
     [](const llm::Statistics& s) { return double(s.preemptions); }},
    {"vllm:prefix_cache_queries_total", "counter", "Prefix cache queries, in tokens.",
     [](const llm::Statistics& s) { return double(s.prefix_query_tokens); }},
    {"vllm:prefix_cache_hits_total", "counter", "Prefix cache hits, in tokens.",
     [](const llm::Statistics& s) { return double(s.prefix_hit_tokens); }},
    {"vllm:spec_decode_num_draft_tokens_total", "counter", "Number of draft tokens.",
     [](const llm::Statistics& s) { return double(s.speculated_tokens); }},
    {"vllm:spec_decode_num_accepted_tokens_total", "counter", "Number of accepted draft tokens.",
     [](const llm::Statistics& s) { return double(s.accepted_tokens); }},
    {"tokamak:llm_steps_total", "counter", "Number of steps of the engine.", [](const llm::Statistics& s) { return double(s.num_steps); }},
    {"tokamak:llm_step_tokens_total", "counter", "Number of tokens computed in steps.",
     [](const llm::Statistics& s) { return double(s.step_tokens); }},
    {"tokamak:llm_kv_blocks_used", "gauge", "Blocks of the KV cache that a sequence uses.",
     [](const llm::Statistics& s) { return s.blocks_used; }},
    {"tokamak:llm_kv_blocks_total", "gauge", "Blocks of the KV cache.", [](const llm::Statistics& s) { return s.blocks_total; }},
};

}  // namespace

LlmMetrics::Latencies::Latencies()
    : ttft_s(kTtft),
      inter_token_s(kInterToken),
      e2e_s(kRequest),
      queue_s(kRequest),
      prefill_s(kRequest),
      decode_s(kRequest),
      inference_s(kRequest),
      prompt_tokens(kTokens),
      generation_tokens(kTokens),
      n(kAnswers),
      max_tokens(kTokens) {}

void LlmMetrics::on_first_token(const std::string& model, double seconds) {
  const std::lock_guard lock(mutex_);
  models_[model].ttft_s.observe(seconds);
}

void LlmMetrics::on_inter_token(const std::string& model, double seconds) {
  const std::lock_guard lock(mutex_);
  models_[model].inter_token_s.observe(seconds);
}

void LlmMetrics::on_finished(const std::string& model, const FinishedRequest& request) {
  const std::lock_guard lock(mutex_);
  Latencies& m = models_[model];
  ++m.finished[static_cast<size_t>(request.reason)];
  if (request.reason == llm::FinishReason::Abort || request.reason == llm::FinishReason::Error) return;
  m.e2e_s.observe(request.e2e_s);
  m.queue_s.observe(request.queue_s);
  m.prefill_s.observe(request.prefill_s);
  m.decode_s.observe(request.decode_s);
  m.inference_s.observe(request.prefill_s + request.decode_s);
  m.prompt_tokens.observe(static_cast<double>(request.prompt_tokens));
  m.generation_tokens.observe(static_cast<double>(request.completion_tokens));
  m.n.observe(request.num_answers);
  m.max_tokens.observe(request.max_tokens);
}

void LlmMetrics::write(Exposition& out, const Repository& repository) {
  std::vector<std::pair<std::string, llm::Statistics>> engines;
  for (const auto& model : repository.ready_models())
    if (auto* llm = model->llm()) engines.emplace_back(model->name(), llm->engine().statistics());
  const std::lock_guard lock(mutex_);
  if (engines.empty() && models_.empty()) return;
  for (const Gauge& family : kEngineFamilies) {
    out.family(family.name, family.type, family.help);
    for (const auto& [model, statistics] : engines) out.sample(labels_of(model), family.value(statistics));
  }

  // Its labels are the news, as vLLM has it; the Gateway API's endpoint picker reads them.
  out.family("vllm:cache_config_info", "gauge", "Information of the KV cache.");
  for (const auto& [model, statistics] : engines) {
    Labels labels = labels_of(model);
    labels.emplace_back("block_size", std::to_string(statistics.block_size));
    labels.emplace_back("num_gpu_blocks", std::to_string(statistics.blocks_total));
    out.sample(labels, 1.0);
  }

  out.family("vllm:request_success_total", "counter", "Count of successfully processed requests.");
  for (const auto& [model, m] : models_)
    for (const auto reason : {llm::FinishReason::Stop, llm::FinishReason::Length, llm::FinishReason::Abort, llm::FinishReason::Error}) {
      Labels labels = labels_of(model);
      labels.emplace_back("finished_reason", llm::to_string(reason));
      out.sample(labels, m.finished[static_cast<size_t>(reason)]);
    }
  const auto histogram = [&](const char* name, const char* help, Histogram Latencies::*member) {
    out.family(name, "histogram", help);
    for (const auto& [model, m] : models_) out.sample(labels_of(model), m.*member);
  };
  histogram("vllm:time_to_first_token_seconds", "Histogram of time to first token in seconds.", &Latencies::ttft_s);
  histogram("vllm:inter_token_latency_seconds", "Histogram of inter-token latency in seconds.", &Latencies::inter_token_s);
  histogram("vllm:time_per_output_token_seconds", "Inter-token latency under its former name.", &Latencies::inter_token_s);
  histogram("vllm:e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", &Latencies::e2e_s);
  histogram("vllm:request_queue_time_seconds", "Histogram of time spent in WAITING phase for request.", &Latencies::queue_s);
  histogram("vllm:request_prefill_time_seconds", "Histogram of time spent in PREFILL phase for request.", &Latencies::prefill_s);
  histogram("vllm:request_decode_time_seconds", "Histogram of time spent in DECODE phase for request.", &Latencies::decode_s);
  histogram("vllm:request_inference_time_seconds", "Histogram of time spent in RUNNING phase for request.", &Latencies::inference_s);
  histogram("vllm:request_prompt_tokens", "Number of prefill tokens processed.", &Latencies::prompt_tokens);
  histogram("vllm:request_generation_tokens", "Number of generation tokens processed.", &Latencies::generation_tokens);
  histogram("vllm:request_params_n", "Histogram of the n request parameter.", &Latencies::n);
  histogram("vllm:request_params_max_tokens", "Histogram of the max_tokens request parameter.", &Latencies::max_tokens);

  std::vector<std::pair<std::string, int64_t>> generated;
  for (const auto& [model, statistics] : engines) generated.emplace_back(model, statistics.generated_tokens);
  if (price_per_hour_ > 0) write_cost(out, generated);
}

void LlmMetrics::write_cost(Exposition& out, const std::vector<std::pair<std::string, int64_t>>& generated) {
  constexpr int64_t kWindowNs = 60'000'000'000;
  const int64_t now = steady_now_ns();
  out.family("tokamak:price_per_hour", "gauge", "What this machine costs an hour, as the command line says.");
  out.sample({}, price_per_hour_);
  out.family("tokamak:cost_per_million_tokens", "gauge",
             "Price of a million generated tokens at the rate since the scrape before, or of the last minute.");
  for (const auto& [model, tokens] : generated) {
    auto& marks = marks_[model];
    if (!marks.empty() && marks.back().tokens > tokens) marks.clear();  // the model was loaded again
    marks.push_back({now, tokens});
    while (marks.size() > 2 && marks[1].when_ns < now - kWindowNs) marks.erase(marks.begin());
    const double seconds = static_cast<double>(now - marks[0].when_ns) / 1e9;
    const auto made = static_cast<double>(tokens - marks[0].tokens);
    if (made > 0 && seconds > 0) out.sample(labels_of(model), price_per_hour_ / 3600 * seconds / made * 1e6);
  }
}

}  // namespace tokamak::server
