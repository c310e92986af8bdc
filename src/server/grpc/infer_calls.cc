#include "server/grpc/infer_calls.h"

#include "server/grpc/infer_codec.h"
#include "server/grpc/status.h"
#include "server/grpc/stream_infer.h"
#include "server/statistics.h"

namespace tokamak::server {

namespace {

class UnaryInfer final : public grpc::ServerUnaryReactor, public std::enable_shared_from_this<UnaryInfer> {
 public:
  UnaryInfer(std::shared_ptr<InferCalls> calls, grpc::ByteBuffer* response) : calls_(std::move(calls)), response_(response) {
    calls_->num_calls.fetch_add(1, std::memory_order_relaxed);
  }

  void start(grpc::CallbackServerContext* context, grpc::ByteBuffer&& bytes) {
    self_ = shared_from_this();  // until OnDone
    const int64_t received_ns = steady_now_ns();
    const grpc::Status status = status_of([&] {
      DecodedInfer decoded = decode_infer(parse_infer(std::move(bytes)), calls_->server, false);
      InferRequest& request = *decoded.request;
      apply_metadata(*calls_, *context, request);
      request.received_ns = received_ns;
      request.cancellation = cancellation_;
      calls_->server.tracer().begin(request);
      if ((trace_ = request.trace)) {  // gRPC hands a call over with its message read: the wait for it is not seen
        trace_->mark("GRPC_WAITREAD_START", received_ns);
        trace_->mark("GRPC_WAITREAD_END", received_ns);
      }
      request.on_response = [call = self_, places = std::move(decoded.places)](InferResponse response) {
        call->respond(std::move(response), places);
      };
      calls_->server.infer(std::move(decoded.request));
    });
    if (!status.ok()) finish(status);
  }

  void OnCancel() override {
    finish(grpc::Status::CANCELLED);
    cancellation_->cancel();
  }

  void OnDone() override {
    if (trace_) trace_->mark("GRPC_SEND_END", steady_now_ns());
    calls_->num_calls.fetch_sub(1, std::memory_order_relaxed);
    self_.reset();
  }

 private:
  // One at a time. Only a model that is not decoupled gets here: its one response is final.
  void respond(InferResponse response, const OutputPlaces& places) {
    if (!response.is_final) return;
    if (response.error_code) return finish(to_grpc_status(*response.error_code, response.error));
    if (is_finished_.load(std::memory_order_acquire)) return;
    grpc::ByteBuffer bytes;
    const grpc::Status status = status_of([&] { bytes = encode_response(response, places); });
    if (is_finished_.exchange(true, std::memory_order_acq_rel)) return;
    if (status.ok()) *response_ = std::move(bytes);
    end(status);
  }

  void finish(const grpc::Status& status) {
    if (!is_finished_.exchange(true, std::memory_order_acq_rel)) end(status);
  }

  void end(const grpc::Status& status) {
    if (trace_) trace_->mark("GRPC_SEND_START", steady_now_ns());
    Finish(status);
  }

  const std::shared_ptr<InferCalls> calls_;
  grpc::ByteBuffer* const response_;  // gRPC's; valid until Finish()
  const std::shared_ptr<Cancellation> cancellation_ = std::make_shared<Cancellation>();
  std::atomic<bool> is_finished_ = false;
  std::shared_ptr<Trace> trace_;  // set before the request is with its model; null: not traced
  std::shared_ptr<UnaryInfer> self_;
};

}  // namespace

void apply_metadata(const InferCalls& calls, const grpc::CallbackServerContext& context, InferRequest& request) {
  const auto& metadata = context.client_metadata();
  if (const auto it = metadata.find("traceparent"); it != metadata.end()) request.traceparent.assign(it->second.data(), it->second.size());
  if (!calls.forwarded_headers) return;
  for (const auto& [name, value] : metadata)
    if (std::regex_search(name.begin(), name.end(), *calls.forwarded_headers))
      request.parameters.insert_or_assign(std::string(name.data(), name.size()), std::string(value.data(), value.size()));
}

grpc::ServerUnaryReactor* start_infer(std::shared_ptr<InferCalls> calls, grpc::CallbackServerContext* context,
                                      const grpc::ByteBuffer* request, grpc::ByteBuffer* response) {
  const auto call = std::make_shared<UnaryInfer>(std::move(calls), response);
  // The message is nobody else's: moving it out frees its slices as soon as it is parsed.
  call->start(context, std::move(*const_cast<grpc::ByteBuffer*>(request)));
  return call.get();
}

}  // namespace tokamak::server
