#include "server/grpc/stream_infer.h"

#include <utility>

#include "server/grpc/status.h"
#include "server/statistics.h"

namespace tokamak::server {

StreamInfer::StreamInfer(std::shared_ptr<InferCalls> calls, Call& call) : calls_(std::move(calls)), call_(call) {
  calls_->num_calls.fetch_add(1, std::memory_order_relaxed);
  const auto& metadata = call.context().client_metadata();
  const auto it = metadata.find("triton_grpc_error");
  errors_are_statuses_ = it != metadata.end() && it->second == "true";
}

void StreamInfer::on_start() {
  bool is_draining = false;
  {
    const std::lock_guard lock(calls_->mutex);
    calls_->streams.insert(this);
    is_draining = calls_->is_draining;
  }
  if (is_draining) return drain();
  std::unique_lock lock(mutex_);
  advance(lock);
}

void StreamInfer::drain() {
  std::unique_lock lock(mutex_);
  is_draining_ = reads_ended_ = true;
  advance(lock);
}

// The next read starts only when this one's request is with its model: so requests keep the order of the stream, and the end of the stream
// is not seen before the last of them.
void StreamInfer::on_read(bool ok) {
  std::unique_lock lock(mutex_);
  if (ok && !end_) {
    grpc::ByteBuffer bytes;
    bytes.Swap(&read_);
    lock.unlock();
    read_one(std::move(bytes));
    lock.lock();
  }
  if (!ok) reads_ended_ = true;
  is_reading_ = false;
  advance(lock);
}

void StreamInfer::read_one(grpc::ByteBuffer&& bytes) {
  const int64_t received_ns = steady_now_ns();
  const auto pending = std::make_shared<Pending>();
  std::unique_ptr<InferRequest> request;
  ErrorCode code = ErrorCode::Internal;
  std::string error;
  try {
    const auto message = parse_infer(std::move(bytes));
    pending->model_name = message->model_name();
    pending->id = message->id();
    DecodedInfer decoded = decode_infer(message, calls_->server, true);
    request = std::move(decoded.request);
    apply_metadata(*calls_, call_.context(), *request);
    request->received_ns = received_ns;
    request->cancellation = pending->cancellation;
    calls_->server.tracer().begin(*request);
    if ((pending->trace = request->trace)) {
      pending->trace->mark("GRPC_WAITREAD_START", read_started_ns_ > 0 ? read_started_ns_ : received_ns);
      pending->trace->mark("GRPC_WAITREAD_END", received_ns);
    }
    pending->places = std::move(decoded.places);
    pending->is_ordered = !decoded.model->is_decoupled();
    pending->sends_empty_final = decoded.enable_empty_final_response;
    request->on_response = [stream = shared_from_this(), pending](InferResponse response) {
      stream->respond(pending, std::move(response));
    };
  } catch (const Error& e) {
    code = e.code();
    error = e.what();
  } catch (const std::exception& e) {
    error = e.what();
  }
  {
    std::unique_lock lock(mutex_);
    if (end_) return;
    requests_.push_back(pending);
    if (!error.empty()) {
      respond_locked(pending, code, error, true);
      return advance(lock);
    }
  }
  calls_->server.infer(std::move(request));
}

void StreamInfer::respond(const std::shared_ptr<Pending>& pending, InferResponse response) {
  std::optional<grpc::ByteBuffer> bytes;
  const bool is_final = response.is_final;
  try {
    if (!response.error_code && (!response.is_empty || pending->sends_empty_final))
      bytes = encode_stream_response(response, pending->places);
  } catch (const Error& error) {
    response.error_code = error.code();
    response.error = error.what();
  } catch (const std::exception& error) {
    response.error_code = ErrorCode::ResourceExhausted;
    response.error = error.what();
  }
  std::unique_lock lock(mutex_);
  if (end_) return;
  if (response.error_code) respond_locked(pending, *response.error_code, response.error, is_final);
  else queue_locked(pending, std::move(bytes), is_final);
  if (queued_bytes_ > calls_->limits.max_unread_bytes)
    end_locked({grpc::StatusCode::RESOURCE_EXHAUSTED, fmt::format("the client has not read {} bytes of this stream", queued_bytes_)}, true);
  advance(lock);
}

void StreamInfer::respond_locked(const std::shared_ptr<Pending>& pending, ErrorCode code, const std::string& message, bool is_final) {
  if (errors_are_statuses_) end_locked(to_grpc_status(code, message), false);
  else queue_locked(pending, encode_stream_error(pending->model_name, pending->id, message, is_final), is_final);
}

void StreamInfer::queue_locked(const std::shared_ptr<Pending>& pending, std::optional<grpc::ByteBuffer> bytes, bool is_final) {
  pending->is_final = is_final;
  if (bytes) {
    queued_bytes_ += bytes->Length();
    (pending->is_ordered ? pending->held : writes_).push_back({std::move(*bytes), pending->trace});
  }
  if (pending->is_ordered) release_in_order_locked();
  else if (is_final) requests_.remove(pending);
}

void StreamInfer::release_in_order_locked() {
  for (auto it = requests_.begin(); it != requests_.end();) {
    Pending& pending = **it;
    if (!pending.is_ordered) {
      ++it;
      continue;
    }
    std::move(pending.held.begin(), pending.held.end(), std::back_inserter(writes_));
    pending.held.clear();
    if (!pending.is_final) return;
    it = requests_.erase(it);
  }
}

void StreamInfer::end_locked(grpc::Status status, bool drops_queued) {
  if (!end_) end_ = std::move(status);
  reads_ended_ = true;
  if (drops_queued) writes_.clear();
}

// Starts whatever can start now: a write, the next read, the end; cancels the requests of a stream that ended before them.
void StreamInfer::advance(std::unique_lock<std::mutex>& lock) {
  if (is_finished_) return;
  if (!end_ && reads_ended_ && requests_.empty())
    end_ = is_draining_ ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "the server is shutting down") : grpc::Status::OK;
  if (!is_writing_ && !writes_.empty()) {
    written_ = std::move(writes_.front());
    writes_.pop_front();
    is_writing_ = true;
    if (written_.trace) written_.trace->mark("GRPC_SEND_START", steady_now_ns());
    call_.write(written_.bytes);
  }
  if (end_ && !is_writing_) {
    is_finished_ = true;
    call_.finish(*end_);
  } else if (!reads_ended_ && !is_reading_ && requests_.size() < calls_->limits.max_requests &&
             queued_bytes_ < calls_->limits.max_queued_bytes) {
    is_reading_ = true;
    if (calls_->server.tracer().control().is_on()) read_started_ns_ = steady_now_ns();
    call_.read(&read_);
  }
  if (!end_ || requests_.empty()) return;
  const Requests cancelled = std::exchange(requests_, {});
  lock.unlock();
  for (const auto& pending : cancelled) pending->cancellation->cancel();
}

void StreamInfer::on_write(bool ok) {
  std::unique_lock lock(mutex_);
  is_writing_ = false;
  queued_bytes_ -= written_.bytes.Length();
  if (written_.trace) written_.trace->mark("GRPC_SEND_END", steady_now_ns());
  written_ = {};
  if (!ok) end_locked(grpc::Status::CANCELLED, true);
  advance(lock);
}

void StreamInfer::on_cancel() {
  std::unique_lock lock(mutex_);
  end_locked(grpc::Status::CANCELLED, true);
  advance(lock);
}

void StreamInfer::on_done() {
  {
    const std::lock_guard lock(calls_->mutex);
    calls_->streams.erase(this);
  }
  calls_->num_calls.fetch_sub(1, std::memory_order_relaxed);
}

void InferCalls::drain() {
  std::vector<std::shared_ptr<StreamInfer>> open;
  {
    const std::lock_guard lock(mutex);
    is_draining = true;
    for (StreamInfer* stream : streams) open.push_back(stream->shared_from_this());
  }
  for (const auto& stream : open) stream->drain();
}

std::shared_ptr<CallHandler> make_stream(std::shared_ptr<InferCalls> calls, Call& call) {
  return std::make_shared<StreamInfer>(std::move(calls), call);
}

}  // namespace tokamak::server
