#pragma once
// What /metrics tells, under Triton's names (nv_*) and, for language models, vLLM's (vllm:*). Everything is read when it is asked for: from
// the statistics of the models, the engines, the machine.

#include <memory>
#include <string>
#include <vector>

#include "server/llm_metrics.h"

namespace tokamak::server {

class Exposition;
class MachineMetrics;
class Repository;
class ResponseCache;

struct MetricsOptions {
  bool counters = true;     // nv_inference_*_duration_us and the like
  bool histograms = false;  // nv_inference_first_response_histogram_ms
  bool summaries = false;   // nv_inference_*_summary_us
  std::vector<double> quantiles = {0.5, 0.9, 0.95, 0.99, 0.999};
  bool gpu = true, cpu = true, llm = true;
  double price_per_hour = 0;  // of this machine, any currency: tokamak:cost_per_million_tokens; 0: not told
};

class Metrics {
 public:
  explicit Metrics(MetricsOptions options);
  ~Metrics();

  // Summaries come when the options say so or `summaries` does. `cache`: null when the server has none.
  std::string text(const Repository& repository, const ResponseCache* cache, bool summaries = false) const;
  // Where the front ends of language models tell their latencies.
  const std::shared_ptr<LlmMetrics>& llm() const { return llm_; }

 private:
  void write_models(Exposition& out, const Repository& repository) const;
  void write_distributions(Exposition& out, const Repository& repository, bool summaries) const;

  MetricsOptions options_;
  std::shared_ptr<LlmMetrics> llm_;
  std::unique_ptr<MachineMetrics> machine_;
};

}  // namespace tokamak::server
