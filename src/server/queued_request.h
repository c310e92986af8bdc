#pragma once
// A checked request on its way through queue, backend and responses; and how it looks through the C ABI.

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "server/request.h"
#include "server/request_check.h"
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
  ModelStatistics* statistics = nullptr;  // null: nobody counts (warm-up)
  std::map<std::string, std::vector<std::string>> labels = {};
  Tracer* tracer = nullptr;                 // null: nothing is traced
  std::atomic<int64_t> num_in_backend = 0;  // executing, or waiting for responses of a backend that answers later
  std::mutex mutex = {};
  std::condition_variable idle = {};  // num_in_backend became 0
};

class QueuedRequest {
 public:
  // Throws InvalidArgument as check_request; `request` is then untouched.
  QueuedRequest(std::unique_ptr<InferRequest>& request, RequestScope& scope);

  const InferRequest& request() const { return *request_; }
  InferRequest& request() { return *request_; }
  int64_t rows() const { return std::max<int64_t>(checked_.rows, 1); }
  const std::vector<int64_t>& batch_key() const { return checked_.batch_key; }
  const tkb_request& abi() const { return abi_; }
  bool is_cancelled() const { return request_->cancellation->is_cancelled(); }
  RequestTimes& times() { return times_; }
  ModelStatistics* statistics() const { return scope_.statistics; }

  // Ends a request that no backend has.
  static void reject(std::unique_ptr<QueuedRequest> request, ErrorCode code, std::string message);

  // The calls of a backend while it has the request; QueuedRequest::of(abi) finds it.
  static QueuedRequest& of(const tkb_request& abi) { return *static_cast<QueuedRequest*>(abi.handle); }
  void respond(const tkb_response& response);
  void on_cancel(void (*call)(void*), void* context);

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

  void fill_abi();
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
  std::vector<tkb_parameter> parameters_;

  std::shared_ptr<CancelGate> cancel_gate_;
  std::mutex mutex_;
  bool is_executing_ = false;
  bool has_final_ = false;  // the backend gave it
  bool is_done_ = false;    // and it was handed on
  std::optional<InferResponse> kept_;
  int64_t num_responses_ = 0, last_response_ns_ = 0;
};

}  // namespace tokamak::server
