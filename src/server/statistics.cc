#include "server/statistics.h"

#include <algorithm>
#include <chrono>

#include "grpc_service.pb.h"
#include "model_config.pb.h"
#include "server/log.h"

namespace tokamak::server {

namespace {

void set(inference::StatisticDuration* out, const ModelStatistics::Duration& duration) {
  out->set_count(duration.count);
  out->set_ns(duration.ns);
}

uint64_t unix_ms() {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch()).count());
}

// Those that Triton documents for its first-response histogram.
const std::vector<double> kDefaultFirstResponseBuckets = {100, 500, 2000, 5000};

double us(int64_t ns) { return static_cast<double>(std::max<int64_t>(ns, 0)) / 1e3; }

}  // namespace

const char* to_string(FailureReason reason) {
  constexpr const char* kNames[] = {"REJECTED", "CANCELED", "BACKEND", "OTHER"};
  return kNames[static_cast<int>(reason)];
}

FailureReason failure_reason(ErrorCode code) {
  switch (code) {
    case ErrorCode::Unavailable:
    case ErrorCode::ResourceExhausted: return FailureReason::Rejected;
    case ErrorCode::Cancelled: return FailureReason::Canceled;
    case ErrorCode::Internal: return FailureReason::Backend;
    default: return FailureReason::Other;
  }
}

int64_t steady_now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

ModelStatistics::Distributions::Distributions() : first_response_ms(kDefaultFirstResponseBuckets) {}

void ModelStatistics::record_success(int64_t batch_size, const RequestTimes& t) {
  const std::lock_guard lock(mutex_);
  const int64_t input_ns = t.compute_input_end - t.compute_start;
  const int64_t infer_ns = t.compute_output_start - t.compute_input_end;
  const int64_t output_ns = t.compute_end - t.compute_output_start;
  totals_.inference_count += static_cast<uint64_t>(std::max<int64_t>(batch_size, 0));
  totals_.last_inference_ms = unix_ms();
  totals_.success.add(t.request_end - t.request_start);
  totals_.queue.add(t.compute_start - t.queue_start);
  totals_.compute_input.add(input_ns);
  totals_.compute_infer.add(infer_ns);
  totals_.compute_output.add(output_ns);
  distributions_.request_us.observe(us(t.request_end - t.request_start), t.request_end);
  distributions_.queue_us.observe(us(t.compute_start - t.queue_start), t.request_end);
  distributions_.compute_input_us.observe(us(input_ns), t.request_end);
  distributions_.compute_infer_us.observe(us(infer_ns), t.request_end);
  distributions_.compute_output_us.observe(us(output_ns), t.request_end);
}

void ModelStatistics::record_failure(FailureReason reason, int64_t duration_ns) {
  const std::lock_guard lock(mutex_);
  totals_.fail.add(duration_ns);
  ++totals_.failures[static_cast<size_t>(reason)];
}

void ModelStatistics::record_execution(int64_t batch_size, const ExecutionTimes& times) {
  const std::lock_guard lock(mutex_);
  ++totals_.execution_count;
  totals_.last_inference_ms = unix_ms();
  BatchStatistics& batch = batches_[batch_size];
  batch.compute_input.add(times.compute_input_ns);
  batch.compute_infer.add(times.compute_infer_ns);
  batch.compute_output.add(times.compute_output_ns);
}

void ModelStatistics::record_cache_hit(int64_t lookup_ns, int64_t queue_ns, int64_t request_ns) {
  const int64_t now = steady_now_ns();
  const std::lock_guard lock(mutex_);
  totals_.last_inference_ms = unix_ms();
  totals_.success.add(request_ns);
  totals_.queue.add(queue_ns);
  totals_.cache_hit.add(lookup_ns);
  distributions_.request_us.observe(us(request_ns), now);
  distributions_.queue_us.observe(us(queue_ns), now);
  distributions_.cache_hit_us.observe(us(lookup_ns), now);
}

void ModelStatistics::record_cache_miss(int64_t duration_ns) {
  const int64_t now = steady_now_ns();
  const std::lock_guard lock(mutex_);
  totals_.cache_miss.add(duration_ns);
  distributions_.cache_miss_us.observe(us(duration_ns), now);
}

void ModelStatistics::record_response(int64_t index, ResponseOutcome outcome, int64_t start, int64_t output_start, int64_t end) {
  const std::lock_guard lock(mutex_);
  ResponseStatistics& response = responses_[std::clamp<int64_t>(index, 0, kMaxResponses - 1)];
  switch (outcome) {
    case ResponseOutcome::Success:
      response.compute_infer.add((output_start ? output_start : end) - start);
      response.compute_output.add(output_start ? end - output_start : 0);
      response.success.add(end - start);
      break;
    case ResponseOutcome::Fail:
      response.compute_infer.add((output_start ? output_start : end) - start);
      if (output_start) response.compute_output.add(end - output_start);
      response.fail.add(end - start);
      break;
    case ResponseOutcome::Empty: response.empty_response.add(end - start); break;
    case ResponseOutcome::Cancel: response.cancel.add(end - start); break;
  }
}

void ModelStatistics::record_first_response(int64_t duration_ns) {
  const std::lock_guard lock(mutex_);
  distributions_.first_response_ms.observe(static_cast<double>(duration_ns) / 1e6);
}

void ModelStatistics::record_load(double seconds) {
  const std::lock_guard lock(mutex_);
  totals_.load_s = seconds;
}

void ModelStatistics::configure(const inference::ModelConfig& config) {
  std::vector<double> bounds = kDefaultFirstResponseBuckets;
  for (const auto& control : config.model_metrics().metric_control()) {
    const auto& buckets = control.histogram_options().buckets();
    if (control.metric_identifier().family() == kFirstResponseHistogram) bounds.assign(buckets.begin(), buckets.end());
    else
      log_warning("model '{}': model_metrics names '{}', whose buckets are not set by models; expected {}", name_,
                  control.metric_identifier().family(), kFirstResponseHistogram);
  }
  const std::lock_guard lock(mutex_);
  if (bounds != distributions_.first_response_ms.bounds()) distributions_.first_response_ms = Histogram(std::move(bounds));
}

ModelStatistics::Totals ModelStatistics::totals() const {
  const std::lock_guard lock(mutex_);
  return totals_;
}

void ModelStatistics::fill(inference::ModelStatistics& out) const {
  const std::lock_guard lock(mutex_);
  out.set_name(name_);
  out.set_version(std::to_string(version_));
  out.set_last_inference(totals_.last_inference_ms);
  out.set_inference_count(totals_.inference_count);
  out.set_execution_count(totals_.execution_count);
  inference::InferStatistics& infer = *out.mutable_inference_stats();
  set(infer.mutable_success(), totals_.success);
  set(infer.mutable_fail(), totals_.fail);
  set(infer.mutable_queue(), totals_.queue);
  set(infer.mutable_compute_input(), totals_.compute_input);
  set(infer.mutable_compute_infer(), totals_.compute_infer);
  set(infer.mutable_compute_output(), totals_.compute_output);
  set(infer.mutable_cache_hit(), totals_.cache_hit);
  set(infer.mutable_cache_miss(), totals_.cache_miss);
  for (const auto& [size, times] : batches_) {
    inference::InferBatchStatistics& batch = *out.add_batch_stats();
    batch.set_batch_size(static_cast<uint64_t>(size));
    set(batch.mutable_compute_input(), times.compute_input);
    set(batch.mutable_compute_infer(), times.compute_infer);
    set(batch.mutable_compute_output(), times.compute_output);
  }
  for (const auto& [index, times] : responses_) {
    inference::InferResponseStatistics& response = (*out.mutable_response_stats())[std::to_string(index)];
    set(response.mutable_compute_infer(), times.compute_infer);
    set(response.mutable_compute_output(), times.compute_output);
    set(response.mutable_success(), times.success);
    set(response.mutable_fail(), times.fail);
    set(response.mutable_empty_response(), times.empty_response);
    set(response.mutable_cancel(), times.cancel);
  }
}

}  // namespace tokamak::server
