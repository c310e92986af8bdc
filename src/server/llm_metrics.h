#pragma once
// The vllm:* metrics: gauges and counters of the engines, histograms of what their requests took.

#include <array>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "server/histogram.h"
#include "server/request_observer.h"

namespace tokamak::llm {
struct Statistics;
}

namespace tokamak::server {

class Exposition;
class Repository;

// Thread-safe.
class LlmMetrics : public RequestObserver {
 public:
  // `price_per_hour` 0: no cost is told.
  explicit LlmMetrics(double price_per_hour = 0) : price_per_hour_(price_per_hour) {}

  void on_first_token(const std::string& model, double seconds) override;
  void on_inter_token(const std::string& model, double seconds) override;
  void on_finished(const std::string& model, const FinishedRequest& request) override;

  void write(Exposition& out, const Repository& repository);

 private:
  struct Latencies {
    Latencies();
    Histogram ttft_s, inter_token_s, e2e_s, queue_s, prefill_s, decode_s, inference_s;
    Histogram prompt_tokens, generation_tokens, n, max_tokens;
    std::array<uint64_t, 5> finished = {};  // by llm::FinishReason
  };
  // Generated tokens at a moment, for the cost of the last minute.
  struct TokenMark {
    int64_t when_ns = 0;
    int64_t tokens = 0;
  };

  void write_cost(Exposition& out, const std::vector<std::pair<std::string, int64_t>>& generated);

  const double price_per_hour_;
  std::mutex mutex_;
  std::map<std::string, Latencies> models_;  // once a model, for ever
  std::map<std::string, std::vector<TokenMark>> marks_;
};

}  // namespace tokamak::server
