#pragma once
// A checked request on its way through queue, backend and responses; and how it looks through the C ABI.

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "server/request.h"
#include "server/request_check.h"
#include "server/sequence_state.h"
#include "server/statistics.h"
#include "server/trace.h"
#include "tokamak/backend.h"

namespace tokamak::server {

// What the requests of one model share. Outlives them.
struct RequestScope {
  explicit RequestScope(RequestRules the_rules) : rules(std::move(the_rules)) {}

  RequestRules rules;
  std::string model_name;
  int64_t model_version = 0;
  bool is_decoupled = false;
  bool is_iterative = false;              // requests may be executed more than once
  ModelStatistics* statistics = nullptr;  // null: nobody counts (warm-up)
  std::map<std::string, std::vector<std::string>> labels = {};
  Tracer* tracer = nullptr;  // null: nothing is traced
  // What an execution takes: the longest of the last few, more or less. 0: nobody knows.
  std::atomic<int64_t> execution_ns = 0;
  std::atomic<int64_t> num_in_backend = 0;  // executing, or waiting for responses of a backend that answers later
  std::mutex mutex = {};
  std::condition_variable idle = {};  // num_in_backend became 0
};

class QueuedRequest {
 public:
  // Throws InvalidArgument as check_request; `request` is then untouched.
  QueuedRequest(std::unique_ptr<InferRequest>& request, RequestScope& scope);
  // A row of a batch that is nobody's: `inputs` (of the client, in the order of `like`) have the shapes of `like`. Not counted.
  static std::unique_ptr<QueuedRequest> padding(const QueuedRequest& like, std::vector<NamedTensor> inputs);

  const InferRequest& request() const { return *request_; }
  InferRequest& request() { return *request_; }
  int64_t rows() const { return std::max<int64_t>(checked_.rows, 1); }
  const std::vector<int64_t>& batch_key() const { return checked_.batch_key; }
  const tkb_request& abi() const { return abi_; }
  bool is_cancelled() const { return request_->cancellation->is_cancelled(); }
  RequestTimes& times() { return times_; }
  ModelStatistics* statistics() const { return is_padding_ ? nullptr : scope_.statistics; }  // may be null

  // What the backend gets and gives besides the client's: inputs, and the state (null: none), whose outputs are added to those asked for
  // and whose inputs come last. The id and the flags are read again. Before each execution, on the thread that has the request.
  void prepare(std::vector<NamedTensor> inputs, std::shared_ptr<SequenceState> state);
  // Called once, when the next execution is over: with null when the request is gone, else the backend wants it executed again.
  using OnEnd = std::function<void(std::unique_ptr<QueuedRequest> again)>;
  void set_on_end(OnEnd call) { on_end_ = std::move(call); }
  // Whether it was executed before.
  bool is_continued() const { return is_continued_; }

  // Ends a request that no backend has.
  static void reject(std::unique_ptr<QueuedRequest> request, ErrorCode code, std::string message);

  // The calls of a backend while it has the request; QueuedRequest::of(abi) finds it.
  static QueuedRequest& of(const tkb_request& abi) { return *static_cast<QueuedRequest*>(abi.handle); }
  void respond(const tkb_response& response);
  void on_cancel(void (*call)(void*), void* context);
  // Throws Unsupported unless the model is iterative, InvalidArgument after execute() or a final response.
  void reschedule(const tkb_tensor* states, size_t num_states);

  // execute() begins: from here to end_execution() a final response is kept, so that it is handed on when the execution has been counted.
  static void begin_execution(std::unique_ptr<QueuedRequest>&& request);
  // execute() returned; `error` (may be null) is for a request without a final response. The request deletes itself now, or with the
  // final response that comes later.
  void end_execution(const Error* error);

 private:
  // Keeps what a backend registered from being called when the request is over: Cancellation calls without holding its lock.
  struct CancelGate {
    std::mutex mutex;
    bool is_open = true;
  };

  QueuedRequest(std::unique_ptr<InferRequest> request, RequestScope& scope, CheckedRequest checked);

  void fill_abi();
  void fill_inputs();
  void continue_later();
  void close_cancel_gate();
  InferResponse empty_response() const;
  InferResponse make_response(const tkb_response& response);
  void count_response(const InferResponse& response, int64_t start_ns);
  void finish(InferResponse response);  // counts and hands on the last response
  void end();                           // deletes this

  RequestScope& scope_;
  std::unique_ptr<InferRequest> request_;
  CheckedRequest checked_;
  RequestTimes times_;

  tkb_request abi_ = {};
  std::vector<tkb_tensor> inputs_;
  std::vector<std::vector<tkb_bytes>> strings_;
  std::vector<const char*> outputs_;
  std::vector<NamedTensor> more_inputs_;
  std::shared_ptr<SequenceState> state_;
  const size_t key_size_;  // of the batch key without the state's part
  std::vector<tkb_parameter> parameters_;

  std::shared_ptr<CancelGate> cancel_gate_;
  std::mutex mutex_;
  OnEnd on_end_;
  bool is_padding_ = false, is_continued_ = false;
  bool is_executing_ = false;
  bool is_rescheduled_ = false;
  bool has_final_ = false;  // the backend gave it
  bool is_done_ = false;    // and it was handed on
  std::optional<InferResponse> kept_;
  int64_t num_responses_ = 0, last_response_ns_ = 0;
};

}  // namespace tokamak::server
