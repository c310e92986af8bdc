#pragma once
// One ModelStreamInfer call.

#include <deque>
#include <list>
#include <memory>
#include <mutex>

#include "server/grpc/infer_calls.h"
#include "server/grpc/infer_codec.h"

namespace tokamak::server {

// What a call's metadata says about a request: traceparent, and the headers that are forwarded as parameters.
void apply_metadata(const InferCalls& calls, const grpc::ServerContextBase& context, InferRequest& request);

class StreamInfer final : public CallHandler, public std::enable_shared_from_this<StreamInfer> {
 public:
  StreamInfer(std::shared_ptr<InferCalls> calls, Call& call);

  // No more requests; ends with UNAVAILABLE when those read are answered.
  void drain();

  void on_start() override;
  void on_read(bool ok) override;
  void on_write(bool ok) override;
  void on_cancel() override;
  void on_done() override;

 private:
  struct Write {
    grpc::ByteBuffer bytes;
    std::shared_ptr<Trace> trace;  // of the request it answers; null: not traced
  };
  // A request whose final response has not come, or whose responses wait for those of an earlier one.
  struct Pending {
    std::string model_name, id;
    OutputPlaces places;
    std::shared_ptr<Cancellation> cancellation = std::make_shared<Cancellation>();
    bool is_ordered = true;  // its responses come behind those of the ordered ones before it
    bool sends_empty_final = false;
    bool is_final = false;
    std::deque<Write> held;
    std::shared_ptr<Trace> trace;
  };
  using Requests = std::list<std::shared_ptr<Pending>>;

  void read_one(grpc::ByteBuffer&& bytes);
  void respond(const std::shared_ptr<Pending>& pending, InferResponse response);
  void respond_locked(const std::shared_ptr<Pending>& pending, ErrorCode code, const std::string& message, bool is_final);
  void queue_locked(const std::shared_ptr<Pending>& pending, std::optional<grpc::ByteBuffer> bytes, bool is_final);
  void release_in_order_locked();
  void end_locked(grpc::Status status, bool drops_queued);
  void advance(std::unique_lock<std::mutex>& lock);

  const std::shared_ptr<InferCalls> calls_;
  Call& call_;  // there until finish()
  bool errors_are_statuses_ = false;
  grpc::ByteBuffer read_;
  Write written_;

  std::mutex mutex_;  // never held while a model is called
  Requests requests_;
  std::deque<Write> writes_;
  size_t queued_bytes_ = 0;  // of writes_, the one being written, and held responses
  bool is_reading_ = false;  // also while what was read is on its way to its model
  int64_t read_started_ns_ = 0;
  bool is_writing_ = false;
  bool reads_ended_ = false;  // half-closed by the client, or draining
  bool is_draining_ = false;
  std::optional<grpc::Status> end_;  // what the call ends with once writes_ is empty; later responses are dropped
  bool is_finished_ = false;
};

}  // namespace tokamak::server
