#pragma once
// Traces of requests: when each was received, queued, computed and answered. What is recorded leaves on a thread of its own, to a file in
// Triton's form or to an OpenTelemetry collector; a full queue drops traces, it holds nobody up.
//
// A protocol asks Tracer::begin() for each request; whoever has the request marks times on InferRequest::trace. The request's `traceparent`
// is then that of its own span: a model that makes requests of its own (an ensemble) hands it on, and they become children.

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>

#include "server/trace_record.h"

namespace tokamak::server {

struct RequestTimes;
class Tracer;

struct TraceOptions {
  TraceSettings settings = {};
  std::string url = {};           // of the collector, in mode opentelemetry
  TraceAttributes resource = {};  // of this server; service.name is "tokamak" unless said here
  size_t max_queue_size = 2048;   // traces that wait to be written; more are dropped
  int schedule_delay_ms = 5000;   // a collector gets what there is this often, or when there is a full batch
  size_t max_batch_size = 512;
};

// Of one request. Thread-safe. It is over, and queued to be written, when the last reference goes.
class Trace {
 public:
  Trace(std::shared_ptr<Tracer> tracer, TraceRecord record);
  ~Trace();
  Trace(const Trace&) = delete;
  Trace& operator=(const Trace&) = delete;

  void mark(const char* name, int64_t ns);                                          // `name` must live for ever
  void set(const char* key, TraceValue value);                                      // likewise
  void executed(int64_t version, const RequestTimes& times);                        // by a backend: the times that are not 0
  // Copies of them; nothing unless the level has TENSORS.
  void add_tensors(const char* activity, const std::vector<NamedTensor>& tensors);
  // REQUEST_END; `error` is "" for success. Only the first call counts.
  void end(int64_t ns, const std::string& error);
  std::string traceparent() const;  // of its span

 private:
  // A decoupled model may answer for ever.
  static constexpr size_t kMaxMarks = 1024;
  const std::shared_ptr<Tracer> tracer_;
  std::mutex mutex_;
  TraceRecord record_;
  bool has_ended_ = false;
};

// Thread-safe.
class Tracer : public std::enable_shared_from_this<Tracer> {
 public:
  // Throws InvalidArgument for settings that cannot be, and Io when the trace file's folder cannot be written to.
  explicit Tracer(TraceOptions options);
  ~Tracer();  // close()

  TraceControl& control() { return control_; }
  // Null: this request is not traced. REQUEST_START is its received_ns. `traceparent` is the caller's.
  std::shared_ptr<Trace> begin(TraceKind kind, const std::string& model, int64_t received_ns, const std::string& request_id,
                               std::string_view traceparent);
  // The same for `request`, which then has the trace and its traceparent.
  void begin(InferRequest& request);
  // For a request that no protocol took: traced when its traceparent is that of a request which is. Called by the model it is for.
  void adopt(InferRequest& request);

  // Writes what is left, for at most some seconds; traces that end later are lost.
  void close();
  uint64_t num_dropped() const { return num_dropped_.load(std::memory_order_relaxed); }

 private:
  friend class Trace;
  // Of a trace that is not over.
  struct Open {
    TraceSample sample;
    TraceContext context;
    uint64_t number = 0;
  };

  std::shared_ptr<Trace> open(TraceRecord record);
  void finish(TraceRecord record);
  void run();
  std::optional<Error> write_locked(std::span<const TraceRecord> batch, std::unique_lock<std::mutex>& lock);
  void tell_drops(const std::string& why, bool is_last);

  const TraceOptions options_;
  TraceControl control_;
  std::unique_ptr<TraceExporter> exporter_;
  std::chrono::milliseconds delay_;
  std::atomic<uint64_t> last_number_ = 0, num_dropped_ = 0;

  std::mutex open_mutex_;
  std::unordered_map<uint64_t, Open> open_;  // by span id

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<TraceRecord> queue_;
  int64_t queued_bytes_ = 0;  // of tensors
  bool is_closed_ = false;
  std::thread thread_;
  int64_t told_ns_ = 0;  // when this thread last logged drops
  uint64_t num_told_ = 0;
};

}  // namespace tokamak::server
