#pragma once
// What one version of a model has done, with the meaning of Triton's statistics extension. Thread-safe; outlives reloads of the model, so
// that its counts never go back.

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "base/error.h"
#include "server/histogram.h"

namespace inference {
class ModelConfig;      // generated from proto/model_config.proto
class ModelStatistics;  // generated from proto/grpc_service.proto
}  // namespace inference

namespace tokamak::server {

enum class FailureReason { Rejected, Canceled, Backend, Other };
inline constexpr int kNumFailureReasons = 4;
const char* to_string(FailureReason reason);  // "REJECTED", ...

inline constexpr const char* kFirstResponseHistogram = "nv_inference_first_response_histogram_ms";

// Steady-clock nanoseconds of one request that was executed.
struct RequestTimes {
  int64_t request_start = 0;         // the protocol had it whole
  int64_t queue_start = 0;           // the scheduler got it
  int64_t compute_start = 0;         // its batch left the queue
  int64_t compute_input_end = 0;     // the inputs are gathered
  int64_t compute_output_start = 0;  // the outputs are there
  int64_t compute_end = 0;           // and handed out
  int64_t request_end = 0;
};

// Of one execution of one batch.
struct ExecutionTimes {
  int64_t compute_input_ns = 0, compute_infer_ns = 0, compute_output_ns = 0;
};

// Of response number `index` of a request to a decoupled model.
enum class ResponseOutcome { Success, Fail, Empty, Cancel };

class ModelStatistics {
 public:
  ModelStatistics(std::string name, int64_t version) : name_(std::move(name)), version_(version) {}

  const std::string& name() const { return name_; }
  int64_t version() const { return version_; }

  // A request of `batch_size` rows (1 when the model does not batch) that a model executed.
  void record_success(int64_t batch_size, const RequestTimes& times);
  void record_failure(FailureReason reason, int64_t duration_ns);
  void record_execution(int64_t batch_size, const ExecutionTimes& times);
  // A request answered from the response cache; `lookup_ns` includes the copy of the answer.
  void record_cache_hit(int64_t lookup_ns, int64_t queue_ns, int64_t request_ns);
  // Beside record_success of the same request: lookup and insertion.
  void record_cache_miss(int64_t duration_ns);
  // `output_start` 0: the response has no outputs. Indices above kMaxResponses count as the last one.
  void record_response(int64_t index, ResponseOutcome outcome, int64_t start, int64_t output_start, int64_t end);
  static constexpr int64_t kMaxResponses = 1024;
  void record_first_response(int64_t duration_ns);
  // Requests that are accepted and not yet executing.
  void add_pending(int64_t n) { pending_.fetch_add(n, std::memory_order_relaxed); }
  int64_t pending() const { return pending_.load(std::memory_order_relaxed); }
  void record_load(double seconds);
  // Histograms get the buckets that model_metrics of the config gives them; what was observed in other buckets is forgotten.
  void configure(const inference::ModelConfig& config);

  void fill(inference::ModelStatistics& out) const;

  struct Duration {
    uint64_t count = 0, ns = 0;
    void add(int64_t more) {
      ++count;
      ns += static_cast<uint64_t>(more > 0 ? more : 0);
    }
  };
  struct Totals {
    Duration success, fail, queue, compute_input, compute_infer, compute_output, cache_hit, cache_miss;
    std::array<uint64_t, kNumFailureReasons> failures = {};
    uint64_t inference_count = 0, execution_count = 0, last_inference_ms = 0;
    double load_s = 0;  // of the last load
  };
  Totals totals() const;
  // Milliseconds until the first response; microseconds of the parts of a request.
  struct Distributions {
    Distributions();
    Histogram first_response_ms;
    Quantiles request_us, queue_us, compute_input_us, compute_infer_us, compute_output_us, cache_hit_us, cache_miss_us;
  };
  // Calls `read` under the lock.
  template <class F>
  void read_distributions(F&& read) const {
    const std::lock_guard lock(mutex_);
    read(distributions_);
  }

 private:
  struct BatchStatistics {
    Duration compute_input, compute_infer, compute_output;
  };
  struct ResponseStatistics {
    Duration compute_infer, compute_output, success, fail, empty_response, cancel;
  };

  const std::string name_;
  const int64_t version_;
  mutable std::mutex mutex_;
  Totals totals_;
  std::map<int64_t, BatchStatistics> batches_;
  std::map<int64_t, ResponseStatistics> responses_;
  Distributions distributions_;
  std::atomic<int64_t> pending_ = 0;
};

// The reason that fits an error when nothing more is known.
FailureReason failure_reason(ErrorCode code);

int64_t steady_now_ns();

}  // namespace tokamak::server
