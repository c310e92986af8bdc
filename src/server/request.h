#pragma once
// What a protocol hands to a model and gets back. Nothing here knows HTTP or gRPC; tensors refer to the bytes they came in, so that a
// request is not copied on its way.

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/tensor.h"

namespace tokamak::server {

class Trace;  // trace.h

// Of a request, a response or a tensor, as KServe v2 has them.
using Parameter = std::variant<bool, int64_t, uint64_t, double, std::string>;
using Parameters = std::map<std::string, Parameter, std::less<>>;

// DType::String for BYTES. Rows are the first axis where the model batches.
struct NamedTensor {
  std::string name;
  Tensor tensor;
  Parameters parameters = {};
};

struct RequestedOutput {
  std::string name;
  int classification = 0;  // > 0: the `classification` largest as "value:index[:label]" strings instead of the tensor
  Parameters parameters = {};
};

// Cancels one request from any thread. Shared by whoever may cancel (the protocol) and whoever looks (scheduler, backend).
class Cancellation {
 public:
  bool is_cancelled() const { return cancelled_.load(std::memory_order_acquire); }
  // Calls what on_cancel() registered, once, on this thread.
  void cancel();
  // `call` runs at cancel(), or now when that was already. A second one replaces the first; null removes it.
  void on_cancel(std::function<void()> call);

 private:
  std::atomic<bool> cancelled_ = false;
  std::mutex mutex_;
  std::function<void()> call_;
};

// Correlates the requests of a sequence. Zero and "" mean that the request belongs to none.
struct SequenceId {
  uint64_t number = 0;
  std::string text;  // used instead of the number when not empty
  explicit operator bool() const { return number != 0 || !text.empty(); }
  auto operator<=>(const SequenceId&) const = default;
};

struct InferResponse {
  std::string model_name;
  int64_t model_version = 0;
  std::string id;
  Parameters parameters = {};
  std::vector<NamedTensor> outputs = {};
  // Set: the response is an error and has no outputs. More responses of a decoupled model may follow unless it is final.
  std::optional<ErrorCode> error_code = {};
  std::string error = {};
  // No more responses of this request come. A decoupled model may send a final response without outputs (`is_empty`): only to say so.
  bool is_final = true;
  bool is_empty = false;
};

// What executing a request took, for an ensemble that adds up its members.
struct ComputeTimes {
  std::atomic<int64_t> input_ns = 0, infer_ns = 0, output_ns = 0;
};

struct InferRequest {
  std::string model_name;
  int64_t model_version = -1;  // -1: what the version policy prefers
  std::string id = {};
  std::vector<NamedTensor> inputs = {};
  std::vector<RequestedOutput> outputs = {};  // empty: all
  Parameters parameters = {};                 // what the protocol did not take out: custom ones, for the backend
  SequenceId sequence = {};
  bool sequence_start = false, sequence_end = false;
  uint64_t priority = 0;                   // 1 is the highest; 0: the model's default
  uint64_t timeout_us = 0;                 // 0: the model's default
  std::string traceparent = {};            // W3C trace context: the caller's, or of this request's own span when it is traced; "" when none
  std::shared_ptr<Trace> trace = nullptr;  // null: not traced
  int64_t received_ns = 0;                 // steady clock, when the protocol had the whole request; 0: now
  // Where the model adds what the request took, before the final response; null: nobody asks.
  std::shared_ptr<ComputeTimes> compute_times = {};
  std::shared_ptr<Cancellation> cancellation = std::make_shared<Cancellation>();
  // Not null: the model may execute the request on the thread that calls infer(), where that saves waking another and takes no more than a
  // millisecond or so. Called there before it does, with how long it took lately.
  std::function<void(int64_t expected_ns)> before_inline = {};
  // Called once for each response, from any thread, one at a time for one request, the last with is_final. Must not block and must not
  // throw.
  std::function<void(InferResponse)> on_response = {};
};

// Ends `request` with an error.
void respond_error(InferRequest& request, ErrorCode code, std::string message);

}  // namespace tokamak::server
