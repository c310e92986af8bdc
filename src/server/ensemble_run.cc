#include "server/ensemble_run.h"

#include <algorithm>

#include "server/classification.h"

namespace tokamak::server {

namespace {

Shape member_dims(const Model& member, const std::string& input) {
  for (const TensorMetadata& metadata : member.inputs())
    if (metadata.name == input) return {metadata.shape.begin() + (member.config().max_batch_size() > 0), metadata.shape.end()};
  return {};  // the member has changed since; it refuses the request
}

// `shape` of a tensor that was made with `rows` (0: without a batch axis), for whoever wants `dims` with or without one. Only where one
// batches and the other does not is there anything to do: what does not batch may still have the axis among its dims.
Shape adapted(const Shape& shape, int64_t rows, const Shape& dims, bool batches) {
  if (batches == (rows > 0)) return shape;
  Shape result = shape;
  const bool fits = dims_fit(dims, shape);
  if (batches && fits) result.insert(result.begin(), 1);
  if (!batches && !fits && rows == 1) result.erase(result.begin());
  return result;
}

template <class T>
const T& wanted(const Parameter& value, const std::string& name) {
  if (const T* own = std::get_if<T>(&value)) return *own;
  fail(ErrorCode::InvalidArgument, "response parameter '{}' has the wrong type", name);
}

}  // namespace

EnsembleRun::EnsembleRun(std::shared_ptr<const EnsembleScope> scope, std::unique_ptr<InferRequest> request)
    : scope_(std::move(scope)), start_ns_(steady_now_ns()), request_(std::move(request)) {}

void EnsembleRun::start(std::shared_ptr<const EnsembleScope> scope, std::unique_ptr<InferRequest> request, const CheckedRequest& checked) {
  const std::shared_ptr<Cancellation> cancellation = request->cancellation;
  const std::shared_ptr<EnsembleRun> run(new EnsembleRun(std::move(scope), std::move(request)));
  cancellation->on_cancel([weak = std::weak_ptr(run)] {
    if (const auto self = weak.lock()) self->cancel();
  });
  {
    const std::lock_guard lock(run->mutex_);
    if (!run->is_over_) run->begin(checked);
  }
  run->act();
}

void EnsembleRun::begin(const CheckedRequest& checked) {
  try {
    rows_ = checked.rows;
    asked_ = checked.outputs;
    for (const int output : asked_) outputs_.push_back(scope_->plan.outputs[output]);
    choose_steps();
    tensors_.resize(scope_->plan.tensors.size());
    for (const int tensor : scope_->plan.inputs) put(tensor, {}, {});
    for (size_t i = 0; i < checked.inputs.size(); ++i) {
      const NamedTensor& input = request_->inputs[checked.inputs[i]];
      put(scope_->plan.find_tensor(input.name), {}, {.tensor = input.tensor.reshaped(checked.shapes[i]), .rows = rows_, .sequence = {}});
    }
    schedule(scope_->plan.inputs, {});
    settle();
  } catch (const Error& e) {
    fail_with(e.code(), e.what());
  }
}

// Those that the outputs asked for come from.
void EnsembleRun::choose_steps() {
  const EnsemblePlan& plan = scope_->plan;
  is_needed_.resize(plan.steps.size());
  num_uses_.resize(plan.tensors.size());
  members_.resize(plan.steps.size());
  std::vector<int> left = outputs_;
  while (!left.empty()) {
    const int step = plan.tensors[left.back()].writer;
    left.pop_back();
    if (step < 0 || is_needed_[step]) continue;
    is_needed_[step] = true;
    members_[step] = scope_->find_model(plan.steps[step].model_name, plan.steps[step].model_version);
    for (const auto& mapping : plan.steps[step].inputs) left.push_back(mapping.tensor);
  }
  for (const int output : outputs_) ++num_uses_[output];
  for (size_t t = 0; t < plan.tensors.size(); ++t)
    for (const int reader : plan.tensors[t].readers) num_uses_[t] += is_needed_[reader];
}

void EnsembleRun::put(int tensor, const Path& path, Value value) {
  value.num_uses = num_uses_[tensor];
  if (value.num_uses > 0) tensors_[tensor].insert_or_assign(path, std::move(value));
}

void EnsembleRun::drop_use(int tensor, const Path& path) {
  const auto value = tensors_[tensor].find(path);
  if (--value->second.num_uses == 0) tensors_[tensor].erase(value);
}

bool EnsembleRun::has_all(const std::vector<int>& tensors, const Path& path) const {
  return std::all_of(tensors.begin(), tensors.end(), [&](int tensor) { return tensors_[tensor].contains(path); });
}

// What can be done now that `tensors` have come at `path`.
void EnsembleRun::schedule(const std::vector<int>& tensors, const Path& path) {
  const EnsemblePlan& plan = scope_->plan;
  std::set<int> readers;
  bool has_output = false;
  for (const int tensor : tensors) {
    for (const int reader : plan.tensors[tensor].readers)
      if (is_needed_[reader]) readers.insert(reader);
    has_output |= std::count(outputs_.begin(), outputs_.end(), tensor) > 0;
  }
  for (const int step : readers) {
    std::vector<int> inputs;
    for (const auto& mapping : plan.steps[step].inputs) inputs.push_back(mapping.tensor);
    if (has_all(inputs, path)) open(step, path);
  }
  if (has_output && has_all(outputs_, path)) ready_.emplace(path, make_response(path));
}

void EnsembleRun::open(int index, const Path& path) {
  const EnsemblePlan::Step& step = scope_->plan.steps[index];
  const Model& member = *members_[index];
  const bool batches = member.config().max_batch_size() > 0;
  const uint64_t id = ++last_execution_;
  Execution execution = {.step = index, .path = path};
  execution.sequence = {request_->sequence, request_->sequence_start, request_->sequence_end};

  auto request = std::make_unique<InferRequest>();
  request->model_name = member.name();
  request->model_version = member.version();
  request->id = request_->id;
  request->parameters = request_->parameters;
  request->priority = request_->priority;
  request->timeout_us = request_->timeout_us;
  request->traceparent = request_->traceparent;
  request->compute_times = compute_times_;
  request->on_response = [run = shared_from_this(), id](InferResponse response) { run->on_response(id, std::move(response)); };

  std::set<int> tensors;
  bool is_sequence_set = false;
  for (const auto& [name, tensor] : step.inputs) {
    const Value& value = tensors_[tensor].at(path);
    tensors.insert(tensor);
    if (value.sequence && !std::exchange(is_sequence_set, true)) execution.sequence = *value.sequence;
    if (!value.tensor) continue;
    const Shape shape = adapted(value.tensor->shape(), value.rows, member_dims(member, name), batches);
    if (batches && execution.rows == 0 && !shape.empty()) execution.rows = shape[0];
    request->inputs.push_back({.name = name, .tensor = value.tensor->reshaped(shape)});
  }
  for (const int tensor : tensors) drop_use(tensor, path);
  for (const auto& [name, tensor] : step.outputs)
    if (num_uses_[tensor] > 0) request->outputs.push_back({.name = name});
  request->sequence = execution.sequence.id;
  request->sequence_start = execution.sequence.start;
  request->sequence_end = execution.sequence.end;

  execution.cancellation = request->cancellation;
  execution.request = std::move(request);
  Path next = path;
  if (member.is_decoupled()) next.push_back(0);
  execution.open = open_.insert(std::move(next));
  executions_.emplace(id, std::move(execution));
  launches_.push_back({.execution = id, .step = index});
}

void EnsembleRun::on_response(uint64_t id, InferResponse response) {
  int step = 0;
  {
    const std::lock_guard lock(mutex_);
    const auto found = executions_.find(id);
    CHECK(found != executions_.end());
    step = found->second.step;
    if (is_over_) {
      // Somebody else's error was the answer.
    } else if (response.error_code) {
      fail_with(*response.error_code, response.error);
    } else {
      try {
        consume(found->second, response);
      } catch (const Error& e) {
        fail_with(e.code(), e.what());
      }
    }
    if (response.is_final) {
      open_.erase(found->second.open);
      executions_.erase(found);
    }
    if (!is_over_) settle();
  }
  if (response.is_final && !scope_->limiters.empty()) scope_->limiters[step]->release();
  act();
}

void EnsembleRun::consume(Execution& execution, const InferResponse& response) {
  if (response.is_empty) return;
  Path path = execution.path;
  if (members_[execution.step]->is_decoupled()) {
    Path next = path;
    path.push_back(execution.num_responses);
    next.push_back(++execution.num_responses);
    open_.erase(execution.open);
    execution.open = open_.insert(std::move(next));
  }
  Sequence sequence = execution.sequence;
  bool is_new_sequence = false;
  for (const auto& [name, value] : response.parameters) {
    if (name != "sequence_id" && name != "sequence_start" && name != "sequence_end") continue;
    if (!std::exchange(is_new_sequence, true)) sequence.start = sequence.end = false;
    if (name == "sequence_start") sequence.start = wanted<bool>(value, name);
    else if (name == "sequence_end") sequence.end = wanted<bool>(value, name);
    else if (std::holds_alternative<std::string>(value)) sequence.id = {.text = std::get<std::string>(value)};
    else sequence.id = {.number = static_cast<uint64_t>(wanted<int64_t>(value, name)), .text = {}};
  }
  std::vector<int> tensors;
  for (const auto& [name, tensor] : scope_->plan.steps[execution.step].outputs) {
    Value value = {.tensor = {}, .rows = execution.rows, .sequence = sequence};
    for (const NamedTensor& output : response.outputs)
      if (output.name == name) value.tensor = output.tensor;
    put(tensor, path, std::move(value));
    tensors.push_back(tensor);
  }
  schedule(tensors, path);
}

InferResponse EnsembleRun::empty_response() const {
  return {.model_name = scope_->name, .model_version = scope_->version, .id = request_->id};
}

InferResponse EnsembleRun::make_response(const Path& path) {
  InferResponse response = empty_response();
  response.is_final = false;
  for (size_t i = 0; i < asked_.size(); ++i) {
    const Value value = tensors_[outputs_[i]].at(path);
    drop_use(outputs_[i], path);
    if (value.sequence && value.sequence->id) {
      const auto& [id, start, end] = *value.sequence;
      if (id.text.empty()) response.parameters["sequence_id"] = static_cast<int64_t>(id.number);
      else response.parameters["sequence_id"] = id.text;
      response.parameters["sequence_start"] = start;
      response.parameters["sequence_end"] = end;
    }
    if (!value.tensor) continue;
    const RequestRules::Output& rule = scope_->plan.rules.outputs[asked_[i]];
    if (value.tensor->dtype() != rule.dtype)
      fail(ErrorCode::Internal, "output '{}' is {}, and the config says {}", rule.name, to_string(value.tensor->dtype()),
           to_string(rule.dtype));
    const Shape shape = adapted(value.tensor->shape(), value.rows, rule.has_reshape ? rule.reshape : rule.dims, rows_ > 0);
    Tensor tensor = value.tensor->reshaped(client_shape(rule, shape, rows_ > 0));
    for (const RequestedOutput& output : request_->outputs)
      if (output.classification > 0 && output.name == rule.name)
        tensor = classify(tensor, output.classification, rows_ > 0, scope_->plan.output_labels[asked_[i]]);
    response.outputs.push_back({.name = rule.name, .tensor = std::move(tensor)});
  }
  return response;
}

// Hands on what is ready, and ends the request when no step is left.
void EnsembleRun::settle() {
  const bool is_decoupled = scope_->plan.is_decoupled;
  while (is_decoupled && !ready_.empty() && (open_.empty() || !(*open_.begin() < ready_.begin()->first))) {
    outbox_.push_back(std::move(ready_.begin()->second));
    ready_.erase(ready_.begin());
  }
  if (!executions_.empty()) return;
  if (is_decoupled) {
    if (outbox_.empty()) {
      outbox_.push_back(empty_response());
      outbox_.back().is_empty = true;
    }
  } else if (ready_.empty()) {
    fail_with(
        ErrorCode::InvalidArgument,
        request_prefix(request_->id) + "unexpected deadlock, at least one output is not set while no more ensemble steps can be made");
    return;
  } else if (ready_.size() > 1) {  // a member was loaded again and is decoupled now
    fail_with(ErrorCode::Internal, request_prefix(request_->id) + "several responses came from models that should give one");
    return;
  } else {
    outbox_.push_back(std::move(ready_.begin()->second));
  }
  outbox_.back().is_final = true;
  is_over_ = true;
}

void EnsembleRun::fail_with(ErrorCode code, const std::string& message) {
  is_over_ = true;
  InferResponse response = empty_response();
  response.error_code = code;
  response.error = fmt::format("in ensemble '{}', {}", scope_->name, message);
  outbox_.push_back(std::move(response));
  tensors_.clear();
  ready_.clear();
  for (auto execution = executions_.begin(); execution != executions_.end();) {
    if (execution->second.request) {
      open_.erase(execution->second.open);
      execution = executions_.erase(execution);
    } else {
      to_cancel_.push_back(execution->second.cancellation);
      ++execution;
    }
  }
}

void EnsembleRun::cancel() {
  {
    const std::lock_guard lock(mutex_);
    if (is_over_) return;
    fail_with(ErrorCode::Cancelled, request_prefix(request_->id) + "Request cancelled");
  }
  act();
}

void EnsembleRun::act() {
  std::unique_lock lock(mutex_);
  // A member that answers at once comes here again within launch(): the loop below goes on with what it brought.
  if (is_acting_) return;
  is_acting_ = true;
  while (!launches_.empty() || !to_cancel_.empty() || !outbox_.empty()) {
    if (!launches_.empty()) {
      const Launch next = launches_.front();
      launches_.pop_front();
      lock.unlock();
      launch(next);
    } else if (!to_cancel_.empty()) {
      const std::vector<std::shared_ptr<Cancellation>> cancellations = std::move(to_cancel_);
      to_cancel_.clear();
      lock.unlock();
      for (const auto& cancellation : cancellations) cancellation->cancel();
    } else {
      InferResponse next = std::move(outbox_.front());
      outbox_.pop_front();
      lock.unlock();
      send(std::move(next));
    }
    lock.lock();
  }
  is_acting_ = false;
}

void EnsembleRun::launch(Launch launch) {
  StepLimiter* limiter = scope_->limiters.empty() ? nullptr : scope_->limiters[launch.step].get();
  if (limiter && !launch.has_place && !limiter->acquire([run = shared_from_this(), launch] { return run->resume(launch); })) return;
  std::unique_ptr<InferRequest> request;
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = executions_.find(launch.execution); found != executions_.end()) request = std::move(found->second.request);
  }
  if (request) {
    request->received_ns = steady_now_ns();
    members_[launch.step]->infer(std::move(request));
  } else if (limiter) {  // the ensemble has failed meanwhile
    limiter->release();
  }
}

bool EnsembleRun::resume(Launch launch) {
  {
    const std::lock_guard lock(mutex_);
    if (!executions_.contains(launch.execution)) return false;
    launch.has_place = true;
    launches_.push_back(launch);
  }
  act();
  return true;
}

void EnsembleRun::send(InferResponse response) {
  InferRequest& request = *request_;  // nobody takes it away before the end of this function
  if (!std::exchange(has_sent_, true) && scope_->plan.is_decoupled)
    scope_->statistics->record_first_response(steady_now_ns() - (request.received_ns > 0 ? request.received_ns : start_ns_));
  const bool is_final = response.is_final;
  if (is_final) {
    request.cancellation->on_cancel(nullptr);
    count(response);
  }
  request.on_response(std::move(response));
  if (!is_final) return;
  std::unique_ptr<InferRequest> done;
  const std::lock_guard lock(mutex_);
  done = std::move(request_);
}

void EnsembleRun::count(const InferResponse& last) {
  const int64_t now = steady_now_ns();
  RequestTimes times = {.request_start = request_->received_ns > 0 ? request_->received_ns : start_ns_,
                        .queue_start = start_ns_,
                        .compute_start = start_ns_,
                        .request_end = now};
  if (last.error_code) {
    const bool is_cancelled = *last.error_code == ErrorCode::Cancelled;
    scope_->statistics->record_failure(is_cancelled ? FailureReason::Canceled : FailureReason::Other, now - times.request_start);
    return;
  }
  // The sums of the members, which may be more than the time that passed.
  const ExecutionTimes sum = {compute_times_->input_ns, compute_times_->infer_ns, compute_times_->output_ns};
  times.compute_input_end = times.compute_start + sum.compute_input_ns;
  times.compute_output_start = times.compute_input_end + sum.compute_infer_ns;
  times.compute_end = times.compute_output_start + sum.compute_output_ns;
  scope_->statistics->record_success(std::max<int64_t>(rows_, 1), times);
  scope_->statistics->record_execution(std::max<int64_t>(rows_, 1), sum);
  if (ComputeTimes* above = request_->compute_times.get()) {
    above->input_ns += sum.compute_input_ns;
    above->infer_ns += sum.compute_infer_ns;
    above->output_ns += sum.compute_output_ns;
  }
}

}  // namespace tokamak::server
