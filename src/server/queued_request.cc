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

// With what the backend lends; strings are the copy's own.
Tensor take_tensor(const tkb_tensor& t, const std::shared_ptr<const void>& owner) {
  const Tensor tensor = to_tensor(t);
  if (!owner || tensor.dtype() == DType::String) return tensor;
  return Tensor::view(tensor.dtype(), tensor.shape(), tensor.raw(), owner);
}

void leave(RequestScope& scope) {
  // Notified under the lock: whoever waits may destroy the scope as soon as it sees 0.
  const std::lock_guard lock(scope.mutex);
  if (--scope.num_in_backend == 0) scope.idle.notify_all();
}

void check_complete(const StateRules& rules, const std::vector<std::pair<int, Tensor>>& given) {
  for (size_t i = 0; i < rules.rules().size(); ++i)
    if (std::none_of(given.begin(), given.end(), [&](const auto& state) { return state.first == static_cast<int>(i); }))
      fail(ErrorCode::Internal, "the model gave no output '{}', which sequence_batching.state names", rules.rules()[i].output);
}

uint32_t sequence_flags(const InferRequest& r) {
  return r.sequence_start * uint32_t{TKB_SEQUENCE_START} | r.sequence_end * uint32_t{TKB_SEQUENCE_END};
}

}  // namespace

QueuedRequest::QueuedRequest(std::unique_ptr<InferRequest>& request, RequestScope& scope)
    : QueuedRequest(nullptr, scope, check_request(scope.rules, *request)) {
  request_ = std::move(request);
  times_.queue_start = steady_now_ns();
  times_.request_start = request_->received_ns > 0 ? request_->received_ns : times_.queue_start;
  if (scope_.tracer) scope_.tracer->adopt(*request_);
  fill_abi();
}

QueuedRequest::QueuedRequest(std::unique_ptr<InferRequest> request, RequestScope& scope, CheckedRequest checked)
    : scope_(scope), request_(std::move(request)), checked_(std::move(checked)), key_size_(checked_.batch_key.size()) {}

std::unique_ptr<QueuedRequest> QueuedRequest::padding(const QueuedRequest& like, std::vector<NamedTensor> inputs) {
  auto request = std::make_unique<InferRequest>();
  request->model_name = like.request_->model_name;
  request->inputs = std::move(inputs);
  request->on_response = [](const InferResponse&) {};
  request->cancellation->cancel();  // nobody waits for it: a backend may stop when it has nothing else
  std::unique_ptr<QueuedRequest> padding(new QueuedRequest(std::move(request), like.scope_, like.checked_));
  padding->is_padding_ = true;
  padding->fill_abi();
  return padding;
}

void QueuedRequest::fill_inputs() {
  const size_t num_own = checked_.inputs.size();
  const auto input_at = [&](size_t i) -> const NamedTensor& {
    return i < num_own ? request_->inputs[checked_.inputs[i]] : more_inputs_[i - num_own];
  };
  inputs_.assign(num_own + more_inputs_.size(), {});
  size_t num_strings = 0;
  for (size_t i = 0; i < inputs_.size(); ++i) {
    const NamedTensor& input = input_at(i);
    const Shape& shape = i < num_own ? checked_.shapes[i] : input.tensor.shape();
    inputs_[i] = {.name = input.name.c_str(),
                  .dtype = backends::to_abi(input.tensor.dtype()),
                  .rank = static_cast<int32_t>(shape.size()),
                  .dims = shape.data(),
                  .data = input.tensor.raw(),
                  .size = static_cast<size_t>(input.tensor.size_bytes())};
    num_strings += input.tensor.dtype() == DType::String;
  }
  strings_.clear();
  strings_.reserve(num_strings);
  for (size_t i = 0; i < inputs_.size(); ++i) {
    const Tensor& tensor = input_at(i).tensor;
    if (tensor.dtype() != DType::String) continue;
    std::vector<tkb_bytes>& views = strings_.emplace_back();
    views.reserve(tensor.count());
    for (const std::string& s : tensor.strings()) views.push_back({s.data(), s.size()});
    inputs_[i].strings = views.data();
  }
}

void QueuedRequest::fill_abi() {
  const InferRequest& r = *request_;
  fill_inputs();
  for (int output : checked_.outputs) outputs_.push_back(scope_.rules.outputs[output].name.c_str());
  for (const auto& [name, value] : r.parameters) parameters_.push_back(to_abi(name, value));
  abi_ = {.handle = this,
          .id = r.id.c_str(),
          .correlation_id = r.sequence.number,
          .correlation_text = r.sequence.text.c_str(),
          .flags = sequence_flags(r),
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

void QueuedRequest::prepare(std::vector<NamedTensor> inputs, std::shared_ptr<SequenceState> state) {
  const InferRequest& r = *request_;
  more_inputs_ = std::move(inputs);
  state_ = std::move(state);
  outputs_.resize(checked_.outputs.size());
  checked_.batch_key.resize(key_size_);
  if (state_) {
    state_->append(more_inputs_);
    state_->append_key(checked_.batch_key);
    for (const StateRules::Rule& rule : state_->rules().rules())
      if (std::none_of(outputs_.begin(), outputs_.end(), [&](const char* name) { return rule.output == name; }))
        outputs_.push_back(rule.output.c_str());
  }
  fill_inputs();
  abi_.inputs = inputs_.data();
  abi_.num_inputs = inputs_.size();
  abi_.outputs = outputs_.data();
  abi_.num_outputs = outputs_.size();
  abi_.correlation_id = r.sequence.number;
  abi_.correlation_text = r.sequence.text.c_str();
  abi_.flags = sequence_flags(r);
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
    if (is_padding_) return out;
    std::vector<std::pair<int, Tensor>> states;
    for (size_t i = 0; i < response.num_parameters; ++i) out.parameters[response.parameters[i].name] = from_abi(response.parameters[i]);
    for (size_t i = 0; i < response.num_outputs; ++i) {
      const tkb_tensor& t = response.outputs[i];
      const int index = scope_.rules.find_output(t.name);
      const int state = state_ ? state_->rules().find_output(t.name) : -1;
      const bool is_asked = std::find(checked_.outputs.begin(), checked_.outputs.end(), index) != checked_.outputs.end();
      if (!is_asked && state < 0) continue;
      Tensor tensor = take_tensor(t, owners[i]);
      if (state >= 0) {
        state_->rules().check(state, tensor);
        states.emplace_back(state, tensor);
      }
      if (!is_asked) continue;
      const RequestRules::Output& rule = scope_.rules.outputs[index];
      if (tensor.dtype() != rule.dtype)
        fail(ErrorCode::Internal, "the model gives output '{}' as {}, and the config says {}", t.name, to_string(tensor.dtype()),
             to_string(rule.dtype));
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
    if (state_ && out.is_final && !scope_.is_decoupled) check_complete(state_->rules(), states);
    for (auto& [index, tensor] : states) state_->set(index, std::move(tensor));
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
  if (!statistics() || !scope_.is_decoupled) return;
  const int64_t now = steady_now_ns();
  const ResponseOutcome outcome = response.error_code == ErrorCode::Cancelled ? ResponseOutcome::Cancel
                                  : response.error_code                       ? ResponseOutcome::Fail
                                  : response.is_empty                         ? ResponseOutcome::Empty
                                                                              : ResponseOutcome::Success;
  const int64_t since = last_response_ns_ > 0 ? last_response_ns_ : times_.compute_start;
  statistics()->record_response(num_responses_, outcome, since, response.is_empty ? 0 : start_ns, now);
  if (num_responses_ == 0) statistics()->record_first_response(now - times_.request_start);
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
  if (request_->trace) request_->trace->add_tensors("TENSOR_BACKEND_OUTPUT", out.outputs);
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
  close_cancel_gate();
  const int64_t now = steady_now_ns();
  if (times_.compute_end == 0) times_.compute_end = now;
  if (times_.compute_input_end == 0) {
    times_.compute_input_end = times_.compute_start;
    times_.compute_output_start = times_.compute_end;
  }
  times_.request_end = now;
  if (request_->trace) {
    request_->trace->executed(scope_.model_version, times_);
    request_->trace->end(now, response.error);
  }
  if (statistics()) {
    if (response.error_code == ErrorCode::Cancelled) statistics()->record_failure(FailureReason::Canceled, now - times_.request_start);
    else if (response.error_code) statistics()->record_failure(FailureReason::Backend, now - times_.request_start);
    else statistics()->record_success(rows(), times_);
    if (ComputeTimes* sum = request_->compute_times.get()) {
      sum->input_ns += times_.compute_input_end - times_.compute_start;
      sum->infer_ns += times_.compute_output_start - times_.compute_input_end;
      sum->output_ns += times_.compute_end - times_.compute_output_start;
    }
  }
  response.is_final = true;
  request_->on_response(std::move(response));
}

void QueuedRequest::close_cancel_gate() {
  if (cancel_gate_) {
    const std::lock_guard lock(cancel_gate_->mutex);
    cancel_gate_->is_open = false;
  }
  request_->cancellation->on_cancel(nullptr);
}

void QueuedRequest::reschedule(const tkb_tensor* states, size_t num_states) {
  std::vector<std::shared_ptr<const void>> owners(num_states);
  for (size_t i = 0; i < num_states; ++i) owners[i] = owner_of(states[i]);
  if (!scope_.is_iterative)
    fail(ErrorCode::Unsupported, "model '{}' has no sequence_batching {{ iterative_sequence: true }}: its requests are executed once",
         scope_.model_name);
  for (size_t i = 0; i < num_states && !is_padding_; ++i) {
    const int index = state_ ? state_->rules().find_output(states[i].name) : -1;
    if (index < 0) fail(ErrorCode::InvalidArgument, "state '{}' is not a valid state name.", states[i].name);
    Tensor tensor = take_tensor(states[i], owners[i]);
    state_->rules().check(index, tensor);
    state_->set(index, std::move(tensor));
  }
  const std::lock_guard lock(mutex_);
  if (!is_executing_ || has_final_)
    fail(ErrorCode::InvalidArgument, "a request can be rescheduled only within execute() and before its final response");
  if (is_padding_) has_final_ = is_done_ = true;
  else is_rescheduled_ = true;
}

// As it was before its execution, but for the flags: the sequence has begun, and its END was seen.
void QueuedRequest::continue_later() {
  close_cancel_gate();
  cancel_gate_.reset();
  request_->sequence_start = request_->sequence_end = false;
  is_continued_ = true;
  is_rescheduled_ = false;
  times_ = {.request_start = times_.request_start, .queue_start = steady_now_ns()};
  RequestScope& scope = scope_;
  const OnEnd call = std::move(on_end_);
  call(std::unique_ptr<QueuedRequest>(this));
  leave(scope);
}

void QueuedRequest::end() {
  RequestScope& scope = scope_;
  const OnEnd call = std::move(on_end_);
  delete this;
  if (call) call(nullptr);
  leave(scope);
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
  bool is_again = false;
  {
    const std::lock_guard lock(mutex_);
    is_executing_ = false;
    is_again = is_rescheduled_ && !has_final_ && !error;
    if (has_final_ && !kept_ && !is_done_) return;  // another thread is handing it on, and then ends the request
    if (!has_final_ && !is_again) {
      if (!error) return;  // it comes later
      has_final_ = true;
      last = empty_response();
      last->error_code = error->code();
      last->error = error->what();
    } else if (kept_) {
      last = std::move(kept_);
    }
  }
  if (is_again) {
    continue_later();
    return;
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
  if (Trace* trace = request->request_->trace.get()) {
    trace->executed(request->scope_.model_version, request->times_);
    trace->end(steady_now_ns(), message);
  }
  InferResponse response = request->empty_response();
  response.error_code = code;
  response.error = std::move(message);
  request->request_->on_response(std::move(response));
}

}  // namespace tokamak::server
