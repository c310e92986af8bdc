#include "server/sequence_state.h"

#include <algorithm>

#include "server/config.h"
#include "server/tensor_file.h"

namespace tokamak::server {

Tensor zero_tensor(DType dtype, Shape shape) {
  return dtype == DType::String ? Tensor::empty(dtype, std::move(shape)) : Tensor::zeros(dtype, std::move(shape));
}

namespace {

// One of `dims`, which has the batch axis when the model batches.
Tensor initial_tensor(const inference::ModelSequenceBatching::State& state, const StateRules::Rule& rule, const std::string& folder) {
  Shape shape = rule.dims;
  if (state.initial_state().empty()) {
    std::replace(shape.begin(), shape.end(), int64_t{-1}, int64_t{1});
    return zero_tensor(rule.dtype, std::move(shape));
  }
  const auto& initial = state.initial_state(0);
  std::copy(initial.dims().rbegin(), initial.dims().rend(), shape.rbegin());
  if (initial.zero_data()) return zero_tensor(rule.dtype, std::move(shape));
  if (initial.data_file().find("..") != std::string::npos)
    fail(ErrorCode::InvalidArgument, "the initial state '{}' is outside the model's folder", initial.data_file());
  return read_tensor_file(rule.dtype, std::move(shape), folder + "/initial_state/" + initial.data_file(), "initial state");
}

}  // namespace

StateRules::StateRules(const inference::ModelConfig& config, const std::string& model_folder) {
  for (const auto& state : config.sequence_batching().state()) {
    Rule& rule = rules_.emplace_back();
    rule.input = state.input_name();
    rule.output = state.output_name();
    rule.dtype = from_config_type(state.data_type()).value();
    if (config.max_batch_size() > 0) rule.dims.push_back(1);
    rule.dims.insert(rule.dims.end(), state.dims().begin(), state.dims().end());
    rule.is_variable = std::find(rule.dims.begin(), rule.dims.end(), -1) != rule.dims.end();
    rule.initial = initial_tensor(state, rule, model_folder);
  }
}

int StateRules::find_output(std::string_view name) const {
  for (size_t i = 0; i < rules_.size(); ++i)
    if (rules_[i].output == name) return static_cast<int>(i);
  return -1;
}

void StateRules::check(int index, const Tensor& value) const {
  const Rule& rule = rules_[index];
  bool fits = value.dtype() == rule.dtype && value.shape().size() == rule.dims.size();
  for (size_t i = 0; fits && i < rule.dims.size(); ++i) fits = rule.dims[i] < 0 || rule.dims[i] == value.shape()[i];
  if (!fits)
    fail(ErrorCode::Internal, "the model gives state '{}' as {} {}, and the config says {} {}", rule.output,
         tokamak::to_string(value.dtype()), tokamak::to_string(value.shape()), tokamak::to_string(rule.dtype),
         tokamak::to_string(rule.dims));
}

void SequenceState::reset() {
  values_.clear();
  for (const StateRules::Rule& rule : rules_.rules()) values_.push_back(rule.initial);
}

std::shared_ptr<SequenceState> SequenceState::zeros() const {
  auto state = std::make_shared<SequenceState>(rules_);
  for (size_t i = 0; i < values_.size(); ++i) state->values_[i] = zero_tensor(values_[i].dtype(), values_[i].shape());
  return state;
}

void SequenceState::append(std::vector<NamedTensor>& inputs) const {
  for (size_t i = 0; i < values_.size(); ++i) inputs.push_back({.name = rules_.rules()[i].input, .tensor = values_[i]});
}

void SequenceState::append_key(std::vector<int64_t>& key) const {
  for (size_t i = 0; i < values_.size(); ++i)
    if (rules_.rules()[i].is_variable) key.insert(key.end(), values_[i].shape().begin(), values_[i].shape().end());
}

}  // namespace tokamak::server
