#include "server/trace.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "server/log.h"
#include "server/statistics.h"

namespace tokamak::server {

namespace {

constexpr int64_t kMaxQueuedBytes = int64_t{256} << 20;
constexpr int kMaxTries = 5;
constexpr std::chrono::milliseconds kFileDelay{100}, kTimeout{10'000}, kClosingTimeout{2'000};

int64_t bytes_of(const TraceRecord& record) {
  int64_t bytes = 0;
  for (const TraceTensor& t : record.tensors) bytes += t.tensor.size_bytes();
  return bytes;
}

// The steady clock is the one whose differences mean something; a collector wants Unix time.
int64_t unix_offset_ns() {
  const auto unix_now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(unix_now).count() - steady_now_ns();
}

void check_folder(const std::string& file) {
  const std::string folder = std::filesystem::absolute(file).parent_path().string();
  if (access(folder.c_str(), W_OK) != 0) fail(ErrorCode::Io, "trace file '{}': the folder '{}' cannot be written to", file, folder);
}

}  // namespace

Trace::Trace(std::shared_ptr<Tracer> tracer, TraceRecord record) : tracer_(std::move(tracer)), record_(std::move(record)) {}

Trace::~Trace() { tracer_->finish(std::move(record_)); }

void Trace::mark(const char* name, int64_t ns) {
  const std::lock_guard lock(mutex_);
  if (record_.marks.size() < kMaxMarks) record_.marks.push_back({name, ns});
}

void Trace::set(const char* key, TraceValue value) {
  const std::lock_guard lock(mutex_);
  record_.values.emplace_back(key, std::move(value));
}

void Trace::executed(int64_t version, const RequestTimes& times) {
  const std::lock_guard lock(mutex_);
  record_.model_version = version;
  const TraceMark marks[] = {{"QUEUE_START", times.queue_start},
                             {"COMPUTE_START", times.compute_start},
                             {"COMPUTE_INPUT_END", times.compute_input_end},
                             {"COMPUTE_OUTPUT_START", times.compute_output_start},
                             {"COMPUTE_END", times.compute_end}};
  for (const TraceMark& mark : marks)
    if (mark.ns > 0) record_.marks.push_back(mark);
}

void Trace::add_tensors(const char* activity, const std::vector<NamedTensor>& tensors) {
  const std::lock_guard lock(mutex_);
  if (!record_.sample.has_tensors) return;
  for (const NamedTensor& t : tensors)
    if (record_.tensors.size() < kMaxMarks) record_.tensors.push_back({activity, t.name, t.tensor.clone()});
}

void Trace::end(int64_t ns, const std::string& error) {
  const std::lock_guard lock(mutex_);
  if (std::exchange(has_ended_, true)) return;
  record_.marks.push_back({"REQUEST_END", ns});
  record_.error = error;
}

std::string Trace::traceparent() const { return to_traceparent(record_.context); }

Tracer::Tracer(TraceOptions options) : options_(std::move(options)), control_(options_.settings) {
  const TraceSettings settings = control_.settings("");
  const std::string& file = settings.at("trace_file")[0];
  if (settings.at("trace_mode")[0] == "opentelemetry") {
    if (options_.url.empty())
      fail(ErrorCode::InvalidArgument, "trace_mode is opentelemetry: expected --trace-config opentelemetry,url=http://HOST:4318/v1/traces");
    exporter_ = make_otlp_exporter(options_.url, options_.resource);
    delay_ = std::chrono::milliseconds(options_.schedule_delay_ms);
  } else if (!file.empty()) {
    check_folder(file);
    exporter_ = make_trace_file(file);
    delay_ = kFileDelay;
  }
  if (exporter_) thread_ = std::thread([this] { run(); });
}

Tracer::~Tracer() { close(); }

void Tracer::close() {
  {
    const std::lock_guard lock(mutex_);
    is_closed_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

std::shared_ptr<Trace> Tracer::begin(TraceKind kind, const std::string& model, int64_t received_ns, const std::string& request_id,
                                     std::string_view traceparent) {
  if (!control_.is_on()) return nullptr;
  const auto caller = parse_traceparent(traceparent);
  const auto sample = control_.sample(model, caller ? std::optional(caller->is_sampled) : std::nullopt);
  if (!sample) return nullptr;
  TraceRecord record;
  record.kind = kind;
  record.sample = *sample;
  record.model_name = model;
  record.request_id = request_id;
  record.context = caller ? *caller : TraceContext{random_trace_number(), random_trace_number()};
  record.parent_span_id = caller ? caller->span_id : 0;
  record.marks.push_back({"REQUEST_START", received_ns});
  return open(std::move(record));
}

void Tracer::begin(InferRequest& request) {
  request.trace = begin(TraceKind::Inference, request.model_name, request.received_ns, request.id, request.traceparent);
  if (!request.trace) return;
  request.traceparent = request.trace->traceparent();
  request.trace->add_tensors("TENSOR_QUEUE_INPUT", request.inputs);
}

void Tracer::adopt(InferRequest& request) {
  if (request.trace || request.traceparent.empty() || !control_.is_on()) return;
  const auto parent = parse_traceparent(request.traceparent);
  if (!parent) return;
  TraceRecord record;
  record.kind = TraceKind::Member;
  record.model_name = request.model_name;
  record.request_id = request.id;
  {
    const std::lock_guard lock(open_mutex_);
    const auto found = open_.find(parent->span_id);
    if (found == open_.end()) return;
    record.sample = found->second.sample;
    record.context = found->second.context;
    record.parent_number = found->second.number;
  }
  record.parent_span_id = parent->span_id;
  record.marks.push_back({"REQUEST_START", request.received_ns > 0 ? request.received_ns : steady_now_ns()});
  request.trace = open(std::move(record));
  request.traceparent = request.trace->traceparent();
  request.trace->add_tensors("TENSOR_QUEUE_INPUT", request.inputs);
}

std::shared_ptr<Trace> Tracer::open(TraceRecord record) {
  record.number = ++last_number_;
  record.context.span_id = random_trace_number();
  record.context.is_sampled = true;
  record.unix_offset_ns = unix_offset_ns();
  {
    const std::lock_guard lock(open_mutex_);
    open_[record.context.span_id] = {record.sample, record.context, record.number};
  }
  return std::make_shared<Trace>(shared_from_this(), std::move(record));
}

void Tracer::finish(TraceRecord record) {
  {
    const std::lock_guard lock(open_mutex_);
    open_.erase(record.context.span_id);
  }
  const int64_t bytes = bytes_of(record);
  {
    const std::lock_guard lock(mutex_);
    if (is_closed_ || queue_.size() >= options_.max_queue_size || queued_bytes_ + bytes > kMaxQueuedBytes) {
      num_dropped_.fetch_add(1, std::memory_order_relaxed);
      return;
    }
    queued_bytes_ += bytes;
    queue_.push_back(std::move(record));
    if (queue_.size() > 1 && queue_.size() < options_.max_batch_size) return;  // the thread knows
  }
  changed_.notify_one();
}

void Tracer::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return is_closed_ || !queue_.empty(); });
    changed_.wait_for(lock, delay_, [this] { return is_closed_ || queue_.size() >= options_.max_batch_size; });
    if (queue_.empty()) break;
    std::vector<TraceRecord> batch;
    for (size_t i = std::min(queue_.size(), options_.max_batch_size); i > 0; --i) {
      queued_bytes_ -= bytes_of(queue_.front());
      batch.push_back(std::move(queue_.front()));
      queue_.pop_front();
    }
    const std::optional<Error> error = write_locked(batch, lock);
    if (error) num_dropped_.fetch_add(batch.size(), std::memory_order_relaxed);
    if (error && is_closed_) {  // whoever does not answer now would hold up the end once for each batch
      num_dropped_.fetch_add(queue_.size(), std::memory_order_relaxed);
      queue_.clear();
    }
    tell_drops(error ? error->what() : "they came faster than they could be written", is_closed_);
  }
}

// The lock is held but for the writing itself. Returns why the batch is lost.
std::optional<Error> Tracer::write_locked(std::span<const TraceRecord> batch, std::unique_lock<std::mutex>& lock) {
  std::chrono::milliseconds pause(1000);
  for (int tries = 1;; ++tries, pause *= 2) {
    const bool is_closing = is_closed_;
    lock.unlock();
    std::optional<Error> error;
    try {
      exporter_->write(batch, is_closing ? kClosingTimeout : kTimeout);
    } catch (const Error& e) {
      error = e;
    }
    lock.lock();
    if (!error || error->code() != ErrorCode::Unavailable || is_closing || tries == kMaxTries) return error;
    if (tries == 1) log_warning("traces wait: {}", error->what());
    changed_.wait_for(lock, pause, [this] { return is_closed_; });
  }
}

// Logs, now and then, how many were lost, those of finish() included.
void Tracer::tell_drops(const std::string& why, bool is_last) {
  constexpr int64_t kQuietNs = 10'000'000'000;
  const uint64_t total = num_dropped();
  const int64_t now = steady_now_ns();
  if (total == num_told_ || (!is_last && told_ns_ > 0 && now - told_ns_ < kQuietNs)) return;
  log_warning("{} traces were dropped: {}", total - num_told_, why);
  told_ns_ = now;
  num_told_ = total;
}

}  // namespace tokamak::server
