#include "server/grpc/infer_calls.h"

#include "server/grpc/infer_codec.h"
#include "server/grpc/status.h"
#include "server/grpc/stream_infer.h"
#include "server/statistics.h"

namespace tokamak::server {

namespace {

class UnaryInfer final : public CallHandler, public std::enable_shared_from_this<UnaryInfer> {
 public:
  UnaryInfer(std::shared_ptr<InferCalls> calls, Call& call) : calls_(std::move(calls)), call_(call) {
    calls_->num_calls.fetch_add(1, std::memory_order_relaxed);
  }

  void on_start() override { call_.read(&message_); }

  void on_read(bool ok) override {
    if (!ok) return finish({grpc::StatusCode::INTERNAL, "the call ended before its message came"});
    const int64_t received_ns = steady_now_ns();
    const grpc::Status status = status_of([&] {
      // Moving the message out frees its slices as soon as it is parsed.
      DecodedInfer decoded = decode_infer(parse_infer(std::move(message_)), calls_->server, false);
      InferRequest& request = *decoded.request;
      apply_metadata(*calls_, call_.context(), request);
      request.received_ns = received_ns;
      request.cancellation = cancellation_;
      calls_->server.tracer().begin(request);
      if ((trace_ = request.trace)) {  // the wait for the message is not told from the wait for the call
        trace_->mark("GRPC_WAITREAD_START", received_ns);
        trace_->mark("GRPC_WAITREAD_END", received_ns);
      }
      request.on_response = [self = shared_from_this(), places = std::move(decoded.places)](InferResponse response) {
        self->respond(std::move(response), places);
      };
      // Waking the stand-in takes longer than what is shorter.
      constexpr int64_t kBriefNs = 30'000;
      if (calls_->num_inline.fetch_add(1, std::memory_order_relaxed) < calls_->max_inline)
        request.before_inline = [this](int64_t expected_ns) {
          if (expected_ns > kBriefNs) call_.stay_polled();
        };
      calls_->server.infer(std::move(decoded.request));
      calls_->num_inline.fetch_sub(1, std::memory_order_relaxed);
    });
    if (!status.ok()) finish(status);
  }

  void on_cancel() override {
    finish(grpc::Status::CANCELLED);
    cancellation_->cancel();
  }

  void on_done() override {
    if (trace_) trace_->mark("GRPC_SEND_END", steady_now_ns());
    calls_->num_calls.fetch_sub(1, std::memory_order_relaxed);
  }

 private:
  // One at a time. Only a model that is not decoupled gets here: its one response is final.
  void respond(InferResponse response, const OutputPlaces& places) {
    if (!response.is_final) return;
    if (response.error_code) return finish(to_grpc_status(*response.error_code, response.error));
    if (is_finished_.load(std::memory_order_acquire)) return;
    grpc::ByteBuffer bytes;
    const grpc::Status status = status_of([&] { bytes = encode_response(response, places); });
    if (!status.ok()) return finish(status);
    if (is_finished_.exchange(true, std::memory_order_acq_rel)) return;
    if (trace_) trace_->mark("GRPC_SEND_START", steady_now_ns());
    call_.finish(bytes);
  }

  void finish(const grpc::Status& status) {
    if (is_finished_.exchange(true, std::memory_order_acq_rel)) return;
    if (trace_) trace_->mark("GRPC_SEND_START", steady_now_ns());
    call_.finish(status);
  }

  const std::shared_ptr<InferCalls> calls_;
  Call& call_;  // there until finish()
  grpc::ByteBuffer message_;
  const std::shared_ptr<Cancellation> cancellation_ = std::make_shared<Cancellation>();
  std::atomic<bool> is_finished_ = false;
  std::shared_ptr<Trace> trace_;  // set before the request is with its model; null: not traced
};

}  // namespace

void apply_metadata(const InferCalls& calls, const grpc::ServerContextBase& context, InferRequest& request) {
  const auto& metadata = context.client_metadata();
  if (const auto it = metadata.find("traceparent"); it != metadata.end()) request.traceparent.assign(it->second.data(), it->second.size());
  if (!calls.forwarded_headers) return;
  for (const auto& [name, value] : metadata)
    if (std::regex_search(name.begin(), name.end(), *calls.forwarded_headers))
      request.parameters.insert_or_assign(std::string(name.data(), name.size()), std::string(value.data(), value.size()));
}

std::shared_ptr<CallHandler> make_infer(std::shared_ptr<InferCalls> calls, Call& call) {
  return std::make_shared<UnaryInfer>(std::move(calls), call);
}

}  // namespace tokamak::server
