#include "server/metrics.h"

#include <map>

#include "server/exposition.h"
#include "server/machine_metrics.h"
#include "server/repository.h"
#include "server/response_cache.h"
#include "server/statistics.h"

namespace tokamak::server {

namespace {

struct ModelTotals {
  Labels labels;
  ModelStatistics::Totals totals;
  int64_t pending;
};

struct Counter {
  const char *name, *help;
  uint64_t (*value)(const ModelStatistics::Totals&);
};

// Durations are told in microseconds.
constexpr Counter kCounts[] = {
    {"nv_inference_request_success", "Number of successful inference requests, all batch sizes",
     [](const ModelStatistics::Totals& t) { return t.success.count; }},
    {"nv_inference_count", "Number of inferences performed (does not include cached requests)",
     [](const ModelStatistics::Totals& t) { return t.inference_count; }},
    {"nv_inference_exec_count", "Number of model executions performed (does not include cached requests)",
     [](const ModelStatistics::Totals& t) { return t.execution_count; }},
};
constexpr Counter kDurations[] = {
    {"nv_inference_request_duration_us", "Cumulative inference request duration in microseconds (includes cached requests)",
     [](const ModelStatistics::Totals& t) { return (t.success.ns + t.cache_miss.ns) / 1000; }},
    {"nv_inference_queue_duration_us", "Cumulative inference queuing duration in microseconds (includes cached requests)",
     [](const ModelStatistics::Totals& t) { return t.queue.ns / 1000; }},
    {"nv_inference_compute_input_duration_us", "Cumulative compute input duration in microseconds (does not include cached requests)",
     [](const ModelStatistics::Totals& t) { return t.compute_input.ns / 1000; }},
    {"nv_inference_compute_infer_duration_us", "Cumulative compute inference duration in microseconds (does not include cached requests)",
     [](const ModelStatistics::Totals& t) { return t.compute_infer.ns / 1000; }},
    {"nv_inference_compute_output_duration_us",
     "Cumulative inference compute output duration in microseconds (does not include cached requests)",
     [](const ModelStatistics::Totals& t) { return t.compute_output.ns / 1000; }},
};
constexpr Counter kCache[] = {
    {"nv_cache_num_hits_per_model", "Number of cache hits per model", [](const ModelStatistics::Totals& t) { return t.cache_hit.count; }},
    {"nv_cache_hit_duration_per_model", "Total cache hit duration per model, in microseconds",
     [](const ModelStatistics::Totals& t) { return t.cache_hit.ns / 1000; }},
    {"nv_cache_num_misses_per_model", "Number of cache misses per model",
     [](const ModelStatistics::Totals& t) { return t.cache_miss.count; }},
    {"nv_cache_miss_duration_per_model", "Total cache miss (insert+lookup) duration per model, in microseconds",
     [](const ModelStatistics::Totals& t) { return t.cache_miss.ns / 1000; }},
};

struct Summary {
  const char *name, *help;
  Quantiles ModelStatistics::Distributions::*member;
};
constexpr Summary kSummaries[] = {
    {"nv_inference_request_summary_us", "Summary of inference request duration in microseconds (includes cached requests)",
     &ModelStatistics::Distributions::request_us},
    {"nv_inference_queue_summary_us", "Summary of inference queuing duration in microseconds (includes cached requests)",
     &ModelStatistics::Distributions::queue_us},
    {"nv_inference_compute_input_summary_us", "Summary of compute input duration in microseconds (does not include cached requests)",
     &ModelStatistics::Distributions::compute_input_us},
    {"nv_inference_compute_infer_summary_us", "Summary of compute inference duration in microseconds (does not include cached requests)",
     &ModelStatistics::Distributions::compute_infer_us},
    {"nv_inference_compute_output_summary_us", "Summary of compute output duration in microseconds (does not include cached requests)",
     &ModelStatistics::Distributions::compute_output_us},
    {"nv_cache_hit_summary_per_model", "Summary of cache hit durations per model, in microseconds",
     &ModelStatistics::Distributions::cache_hit_us},
    {"nv_cache_miss_summary_per_model", "Summary of cache miss durations per model, in microseconds",
     &ModelStatistics::Distributions::cache_miss_us},
};

using VersionKey = std::pair<std::string, int64_t>;

// The metric_tags of the loaded configs.
std::map<VersionKey, Labels> tags_of(const Repository& repository) {
  std::map<VersionKey, Labels> tags;
  for (const auto& model : repository.ready_models()) {
    const std::map<std::string, std::string> sorted(model->config().metric_tags().begin(), model->config().metric_tags().end());
    tags[{model->name(), model->version()}].assign(sorted.begin(), sorted.end());
  }
  return tags;
}

Labels labels_of(const ModelStatistics& statistics, const std::map<VersionKey, Labels>& tags) {
  Labels labels = {{"model", statistics.name()}, {"version", std::to_string(statistics.version())}};
  if (const auto it = tags.find({statistics.name(), statistics.version()}); it != tags.end())
    labels.insert(labels.end(), it->second.begin(), it->second.end());
  return labels;
}

template <class Counters>
void write_counters(Exposition& out, const Counters& counters, const std::vector<ModelTotals>& models) {
  for (const Counter& counter : counters) {
    out.family(counter.name, "counter", counter.help);
    for (const ModelTotals& model : models) out.sample(model.labels, counter.value(model.totals));
  }
}

// Of all models together, as Triton's local cache has them.
void write_cache(Exposition& out, const ResponseCache& cache) {
  const ResponseCache::Totals totals = cache.totals();
  const auto write = [&](const char* name, const char* help, double value) {
    out.family(name, "gauge", help);
    out.sample({}, value);
  };
  write("nv_cache_util", "Cache utilization [0.0 - 1.0]",
        static_cast<double>(totals.size_bytes) / static_cast<double>(cache.capacity_bytes()));
  write("nv_cache_num_entries", "Number of responses stored in response cache", static_cast<double>(totals.num_entries));
  write("nv_cache_num_lookups", "Number of cache lookups in response cache", static_cast<double>(totals.num_lookups));
  write("nv_cache_num_hits", "Number of cache hits in response cache", static_cast<double>(totals.num_hits));
  write("nv_cache_num_misses", "Number of cache misses in response cache", static_cast<double>(totals.num_lookups - totals.num_hits));
  write("nv_cache_num_evictions", "Number of cache evictions in response cache", static_cast<double>(totals.num_evictions));
  write("nv_cache_lookup_duration", "Total cache lookup duration (hit and miss), in microseconds",
        static_cast<double>(totals.lookup_ns / 1000));
  write("nv_cache_insertion_duration", "Total cache insertion duration, in microseconds", static_cast<double>(totals.insertion_ns / 1000));
}

}  // namespace

Metrics::Metrics(MetricsOptions options)
    : options_(std::move(options)),
      llm_(std::make_shared<LlmMetrics>(options_.price_per_hour)),
      machine_(std::make_unique<MachineMetrics>(options_.gpu, options_.cpu)) {}

Metrics::~Metrics() = default;

std::string Metrics::text(const Repository& repository, const ResponseCache* cache, bool summaries) const {
  Exposition out;
  write_models(out, repository);
  write_distributions(out, repository, options_.summaries || summaries);
  if (cache) write_cache(out, *cache);
  if (options_.llm) llm_->write(out, repository);
  machine_->write(out);
  return out.text();
}

void Metrics::write_models(Exposition& out, const Repository& repository) const {
  const auto tags = tags_of(repository);
  std::vector<ModelTotals> models;
  for (const auto& statistics : repository.statistics())
    models.push_back({labels_of(*statistics, tags), statistics->totals(), statistics->pending()});

  write_counters(out, kCounts, models);
  out.family("nv_inference_request_failure", "counter", "Number of failed inference requests, all batch sizes");
  for (const ModelTotals& model : models)
    for (int reason = 0; reason < kNumFailureReasons; ++reason) {
      Labels labels = model.labels;
      labels.emplace_back("reason", to_string(static_cast<FailureReason>(reason)));
      out.sample(labels, model.totals.failures[static_cast<size_t>(reason)]);
    }
  if (options_.counters) write_counters(out, kDurations, models);
  write_counters(out, kCache, models);
  out.family("nv_inference_pending_request_count", "gauge", "Instantaneous number of pending requests awaiting execution per-model.");
  for (const ModelTotals& model : models) out.sample(model.labels, static_cast<double>(model.pending));
  out.family("nv_model_load_duration_secs", "gauge", "Model load time in seconds");
  for (const ModelTotals& model : models) out.sample(model.labels, model.totals.load_s);
}

void Metrics::write_distributions(Exposition& out, const Repository& repository, bool summaries) const {
  const auto tags = tags_of(repository);
  const auto all = repository.statistics();
  if (options_.histograms) {
    out.family(kFirstResponseHistogram, "histogram", "Duration from request to first response in milliseconds");
    for (const auto& statistics : all)
      statistics->read_distributions([&](const auto& d) { out.sample(labels_of(*statistics, tags), d.first_response_ms); });
  }
  if (!summaries) return;
  const int64_t now = steady_now_ns();
  for (const Summary& summary : kSummaries) {
    out.family(summary.name, "summary", summary.help);
    for (const auto& statistics : all)
      statistics->read_distributions([&](const auto& d) {
        const Quantiles& observed = d.*summary.member;
        std::vector<std::pair<double, double>> values;
        for (const double q : options_.quantiles) values.emplace_back(q, observed.quantile(q, now));
        out.sample(labels_of(*statistics, tags), values, observed.sum(), observed.count());
      });
  }
}

}  // namespace tokamak::server
