#include "server/queued_request.h"

#include <cstring>

#include "server/backend_library.h"
#include "server/backends/support.h"
#include "server/classification.h"
#include "server/log.h"

namespace tokamak::server {

namespace {

tkb_parameter to_abi(const std::string& name, const Parameter& value) {
  tkb_parameter p = {.name = name.c_str(), .kind = TKB_PARAMETER_INT, .integer = 0, .number = 0, .string = ""};
  if (const bool* b = std::get_if<bool>(&value)) {
    p.kind = TKB_PARAMETER_BOOL;
    p.integer = *b;
  } else if (const int64_t* i = std::get_if<int64_t>(&value)) {
    p.integer = *i;
  } else if (const uint64_t* u = std::get_if<uint64_t>(&value)) {
    p.integer = static_cast<int64_t>(*u);
  } else if (const double* d = std::get_if<double>(&value)) {
    p.kind = TKB_PARAMETER_DOUBLE;
    p.number = *d;
  } else {
    p.kind = TKB_PARAMETER_STRING;
    p.string = std::get<std::string>(value).c_str();
  }
  return p;
}

Parameter from_abi(const tkb_parameter& p) {
  switch (p.kind) {
    case TKB_PARAMETER_BOOL: return p.integer != 0;
    case TKB_PARAMETER_INT: return p.integer;
    case TKB_PARAMETER_DOUBLE: return p.number;
    case TKB_PARAMETER_STRING: return std::string(p.string ? p.string : "");
  }
  return int64_t{0};
}

Tensor to_tensor(const tkb_tensor& t) {
  const DType dtype = backends::from_abi(t.dtype);
  Shape shape(t.dims, t.dims + t.rank);
  const int64_t count = num_elements(shape);
  if (dtype == DType::String) {
    if (count > 0 && !t.strings) fail(ErrorCode::Internal, "output '{}' of the backend has no strings", t.name);
    Tensor result = Tensor::empty(dtype, std::move(shape));
    for (int64_t i = 0; i < count; ++i) result.strings()[i].assign(t.strings[i].data, t.strings[i].size);
    return result;
  }
  const int64_t bytes = bytes_of(dtype, count);
  if (static_cast<int64_t>(t.size) != bytes || (bytes > 0 && !t.data))
    fail(ErrorCode::Internal, "output '{}' of the backend has {} bytes, and its shape {} needs {}", t.name, t.size,
         tokamak::to_string(shape), bytes);
  if (t.release) return Tensor::view(dtype, std::move(shape), t.data, std::shared_ptr<const void>(t.data, [](const void*) {}));
  Tensor result = Tensor::empty(dtype, std::move(shape));
  if (bytes > 0) std::memcpy(result.raw(), t.data, bytes);
  return result;
}

// Keeps what the backend lends, whether or not the tensor is used.
std::shared_ptr<const void> owner_of(const tkb_tensor& t) {
  if (!t.release) return nullptr;
  return {t.data ? t.data : t.owner, [owner = t.owner, release = t.release](const void*) { release(owner); }};
}

}  // namespace

QueuedRequest::QueuedRequest(std::unique_ptr<InferRequest>& request, RequestScope& scope)
    : scope_(scope), checked_(check_request(scope.rules, *request)) {
  request_ = std::move(request);
  times_.queue_start = steady_now_ns();
  times_.request_start = request_->received_ns > 0 ? request_->received_ns : times_.queue_start;
  fill_abi();
}

void QueuedRequest::fill_abi() {
  const InferRequest& r = *request_;
  inputs_.resize(checked_.inputs.size());
  size_t num_strings = 0;
  for (size_t i = 0; i < inputs_.size(); ++i) {
    const NamedTensor& input = r.inputs[checked_.inputs[i]];
    const Shape& shape = checked_.shapes[i];
    inputs_[i] = {.name = input.name.c_str(),
                  .dtype = backends::to_abi(input.tensor.dtype()),
                  .rank = static_cast<int32_t>(shape.size()),
                  .dims = shape.data(),
                  .data = input.tensor.raw(),
                  .size = static_cast<size_t>(input.tensor.size_bytes())};
    num_strings += input.tensor.dtype() == DType::String;
  }
  strings_.reserve(num_strings);
  for (size_t i = 0; i < inputs_.size(); ++i) {
    const Tensor& tensor = r.inputs[checked_.inputs[i]].tensor;
    if (tensor.dtype() != DType::String) continue;
    std::vector<tkb_bytes>& views = strings_.emplace_back();
    views.reserve(tensor.count());
    for (const std::string& s : tensor.strings()) views.push_back({s.data(), s.size()});
    inputs_[i].strings = views.data();
  }
  for (int output : checked_.outputs) outputs_.push_back(scope_.rules.outputs[output].name.c_str());
  for (const auto& [name, value] : r.parameters) parameters_.push_back(to_abi(name, value));
  abi_ = {.handle = this,
          .id = r.id.c_str(),
          .correlation_id = r.sequence.number,
          .correlation_text = r.sequence.text.c_str(),
          .flags = r.sequence_start * uint32_t{TKB_SEQUENCE_START} | r.sequence_end * uint32_t{TKB_SEQUENCE_END},
          .priority = r.priority,
          .timeout_us = r.timeout_us,
          .rows = checked_.rows,
          .inputs = inputs_.data(),
          .num_inputs = inputs_.size(),
          .outputs = outputs_.data(),
          .num_outputs = outputs_.size(),
          .parameters = parameters_.data(),
          .num_parameters = parameters_.size(),
          .traceparent = r.traceparent.c_str()};
}

InferResponse QueuedRequest::empty_response() const {
  return {.model_name = scope_.model_name, .model_version = scope_.model_version, .id = request_->id};
}

InferResponse QueuedRequest::make_response(const tkb_response& response) {
  InferResponse out = empty_response();
  out.is_final = response.is_final != 0;
  std::vector<std::shared_ptr<const void>> owners(response.num_outputs);
  for (size_t i = 0; i < response.num_outputs; ++i) owners[i] = owner_of(response.outputs[i]);
  try {
    throw_if(response.error);
    for (size_t i = 0; i < response.num_parameters; ++i) out.parameters[response.parameters[i].name] = from_abi(response.parameters[i]);
    for (size_t i = 0; i < response.num_outputs; ++i) {
      const tkb_tensor& t = response.outputs[i];
      const int index = scope_.rules.find_output(t.name);
      if (std::find(checked_.outputs.begin(), checked_.outputs.end(), index) == checked_.outputs.end()) continue;
      const RequestRules::Output& rule = scope_.rules.outputs[index];
      Tensor tensor = to_tensor(t);
      if (tensor.dtype() != rule.dtype)
        fail(ErrorCode::Internal, "the model gives output '{}' as {}, and the config says {}", t.name, to_string(tensor.dtype()),
             to_string(rule.dtype));
      if (owners[i]) tensor = Tensor::view(tensor.dtype(), tensor.shape(), tensor.raw(), owners[i]);
      const bool has_rows = checked_.rows > 0;
      Shape shape = client_shape(rule, tensor.shape(), has_rows);
      if (shape != tensor.shape()) tensor = tensor.reshaped(std::move(shape));
      for (const RequestedOutput& asked : request_->outputs)
        if (asked.classification > 0 && asked.name == rule.name) {
          const auto labels = scope_.labels.find(rule.name);
          tensor =
              classify(tensor, asked.classification, has_rows, labels == scope_.labels.end() ? std::vector<std::string>() : labels->second);
        }
      out.outputs.push_back({.name = rule.name, .tensor = std::move(tensor)});
    }
    out.is_empty = scope_.is_decoupled && out.outputs.empty();
  } catch (const std::exception& e) {
    const Error* error = dynamic_cast<const Error*>(&e);
    out.outputs.clear();
    out.error_code = error ? error->code() : ErrorCode::Internal;
    out.error = e.what();
  }
  return out;
}

void QueuedRequest::count_response(const InferResponse& response, int64_t start_ns) {
  if (!scope_.statistics || !scope_.is_decoupled) return;
  const int64_t now = steady_now_ns();
  const ResponseOutcome outcome = response.error_code == ErrorCode::Cancelled ? ResponseOutcome::Cancel
                                  : response.error_code                       ? ResponseOutcome::Fail
                                  : response.is_empty                         ? ResponseOutcome::Empty
                                                                              : ResponseOutcome::Success;
  const int64_t since = last_response_ns_ > 0 ? last_response_ns_ : times_.compute_start;
  scope_.statistics->record_response(num_responses_, outcome, since, response.is_empty ? 0 : start_ns, now);
  if (num_responses_ == 0) scope_.statistics->record_first_response(now - times_.request_start);
  ++num_responses_;
  last_response_ns_ = now;
}

void QueuedRequest::respond(const tkb_response& response) {
  const int64_t start_ns = steady_now_ns();
  if (response.is_final) {
    const std::lock_guard lock(mutex_);
    if (has_final_) {
      log_error("model '{}': the backend answered a request again after its final response", scope_.model_name);
      return;
    }
    has_final_ = true;
  }
  InferResponse out = make_response(response);
  count_response(out, start_ns);
  if (!out.is_final) {
    request_->on_response(std::move(out));
    return;
  }
  if (!scope_.is_decoupled) {
    const std::lock_guard lock(mutex_);
    if (is_executing_) {
      kept_ = std::move(out);
      return;
    }
  }
  finish(std::move(out));
  {
    const std::lock_guard lock(mutex_);
    is_done_ = true;
    if (is_executing_) return;
  }
  end();
}

void QueuedRequest::finish(InferResponse response) {
  if (cancel_gate_) {
    const std::lock_guard lock(cancel_gate_->mutex);
    cancel_gate_->is_open = false;
  }
  request_->cancellation->on_cancel(nullptr);
  if (scope_.statistics) {
    const int64_t now = steady_now_ns();
    if (times_.compute_end == 0) times_.compute_end = now;
    if (times_.compute_input_end == 0) {
      times_.compute_input_end = times_.compute_start;
      times_.compute_output_start = times_.compute_end;
    }
    times_.request_end = now;
    if (response.error_code == ErrorCode::Cancelled) scope_.statistics->record_failure(FailureReason::Canceled, now - times_.request_start);
    else if (response.error_code) scope_.statistics->record_failure(FailureReason::Backend, now - times_.request_start);
    else scope_.statistics->record_success(rows(), times_);
    if (ComputeTimes* sum = request_->compute_times.get()) {
      sum->input_ns += times_.compute_input_end - times_.compute_start;
      sum->infer_ns += times_.compute_output_start - times_.compute_input_end;
      sum->output_ns += times_.compute_end - times_.compute_output_start;
    }
  }
  response.is_final = true;
  request_->on_response(std::move(response));
}

void QueuedRequest::end() {
  RequestScope& scope = scope_;
  delete this;
  // Notified under the lock: whoever waits may destroy the scope as soon as it sees 0.
  const std::lock_guard lock(scope.mutex);
  if (--scope.num_in_backend == 0) scope.idle.notify_all();
}

void QueuedRequest::on_cancel(void (*call)(void*), void* context) {
  cancel_gate_ = std::make_shared<CancelGate>();
  request_->cancellation->on_cancel([gate = cancel_gate_, call, context] {
    const std::lock_guard lock(gate->mutex);
    if (gate->is_open) call(context);
  });
}

void QueuedRequest::begin_execution(std::unique_ptr<QueuedRequest>&& request) {
  request->is_executing_ = true;
  ++request->scope_.num_in_backend;
  request.release();
}

void QueuedRequest::end_execution(const Error* error) {
  std::optional<InferResponse> last;
  {
    const std::lock_guard lock(mutex_);
    is_executing_ = false;
    if (has_final_ && !kept_ && !is_done_) return;  // another thread is handing it on, and then ends the request
    if (!has_final_) {
      if (!error) return;  // it comes later
      has_final_ = true;
      last = empty_response();
      last->error_code = error->code();
      last->error = error->what();
    } else if (kept_) {
      last = std::move(kept_);
    }
  }
  if (last) {
    times_.compute_end = steady_now_ns();
    finish(std::move(*last));
  }
  end();
}

void QueuedRequest::reject(std::unique_ptr<QueuedRequest> request, ErrorCode code, std::string message) {
  request->request_->cancellation->on_cancel(nullptr);
  if (ModelStatistics* statistics = request->scope_.statistics)
    statistics->record_failure(failure_reason(code), steady_now_ns() - request->times_.request_start);
  InferResponse response = request->empty_response();
  response.error_code = code;
  response.error = std::move(message);
  request->request_->on_response(std::move(response));
}

}  // namespace tokamak::server
