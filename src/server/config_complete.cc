// What a config leaves open, said by the model.

#include <fmt/ranges.h>

#include <algorithm>

#include "base/error.h"
#include "server/config.h"
#include "server/sequence_controls.h"

namespace tokamak::server {

namespace {

template <class Ios>
std::string names_of(const Ios& ios) {
  std::vector<std::string> names;
  for (const auto& io : ios) names.push_back(io.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

const ModelDescription::Io* find(const std::vector<ModelDescription::Io>& ios, const std::string& name) {
  const auto it = std::find_if(ios.begin(), ios.end(), [&](const auto& io) { return io.name == name; });
  return it == ios.end() ? nullptr : &*it;
}

// The shape that the model sees: `reshape` where there is one.
template <class Io>
Shape model_dims(const Io& io) {
  if (io.has_reshape()) return {io.reshape().shape().begin(), io.reshape().shape().end()};
  return {io.dims().begin(), io.dims().end()};
}

// What a config says with the rank of its dims: as many as the model has means no batch axis.
enum class BatchHint { None, Batches, DoesNot };

template <class Ios>
void collect_hint(const Ios& ios, const std::vector<ModelDescription::Io>& model, BatchHint& hint) {
  for (const auto& io : ios) {
    const auto* known = find(model, io.name());
    if (!known || (io.dims().empty() && !io.has_reshape())) continue;
    const size_t rank = model_dims(io).size();
    if (rank == known->shape.size()) hint = BatchHint::DoesNot;
    if (rank + 1 == known->shape.size() && hint == BatchHint::None) hint = BatchHint::Batches;
  }
}

void decide_batching(inference::ModelConfig& config, const ModelDescription& model, int default_max_batch_size) {
  if (config.max_batch_size() > 0) {
    if (!model.can_batch)
      fail(ErrorCode::InvalidArgument,
           "autofill failed for model '{}': model does not support batching while non-zero max_batch_size is specified", config.name());
  } else if (config.max_batch_size() == 0 && model.can_batch) {
    BatchHint hint = BatchHint::None;
    collect_hint(config.input(), model.inputs, hint);
    collect_hint(config.output(), model.outputs, hint);
    if (hint != BatchHint::DoesNot) config.set_max_batch_size(std::max(default_max_batch_size, 0));
  }
  if (config.max_batch_size() > 1 && config.scheduling_choice_case() == inference::ModelConfig::SCHEDULING_CHOICE_NOT_SET)
    config.mutable_dynamic_batching();
  if (config.has_dynamic_batching() && config.dynamic_batching().preferred_batch_size().empty() && config.max_batch_size() > 0)
    config.mutable_dynamic_batching()->add_preferred_batch_size(config.max_batch_size());
}

template <class Io>
void fill_io(Io& io, const ModelDescription::Io& known, bool batches) {
  if (io.data_type() == inference::TYPE_INVALID) io.set_data_type(to_config_type(known.dtype));
  if (!io.dims().empty()) return;
  for (size_t i = batches ? 1 : 0; i < known.shape.size(); ++i) io.add_dims(known.shape[i]);
  if (io.dims().empty() && !io.has_reshape()) {  // the protocols have no scalars
    io.add_dims(1);
    io.mutable_reshape();
  }
}

template <class Ios>
void fill_ios(Ios& ios, const std::vector<ModelDescription::Io>& known, bool batches) {
  if (ios.empty()) {
    for (const auto& io : known) {
      ios.Add()->set_name(io.name);
    }
  }
  for (auto& io : ios)
    if (const auto* it = find(known, io.name())) fill_io(io, *it, batches);
}

template <class Io>
void check_io(const inference::ModelConfig& config, const char* what, const Io& io, const std::vector<ModelDescription::Io>& known) {
  const auto* it = find(known, io.name());
  if (!it)
    fail(ErrorCode::InvalidArgument, "unable to load model '{}', configuration has {} '{}', allowed {}s are: {}", config.name(), what,
         io.name(), what, names_of(known));
  if (io.data_type() != to_config_type(it->dtype))
    fail(ErrorCode::InvalidArgument, "unable to load model '{}', configuration expects datatype {} for {} '{}', model provides {}",
         config.name(), inference::DataType_Name(io.data_type()), what, io.name(), inference::DataType_Name(to_config_type(it->dtype)));
  Shape given = model_dims(io);
  if (config.max_batch_size() > 0) given.insert(given.begin(), -1);
  bool fits = given.size() == it->shape.size();
  for (size_t i = 0; fits && i < given.size(); ++i) fits = given[i] == -1 || it->shape[i] == -1 || given[i] == it->shape[i];
  if (!fits)
    fail(ErrorCode::InvalidArgument,
         "model '{}', tensor '{}': the model expects {} dimensions (shape {}) but the model configuration specifies {} dimensions (shape {}"
         "{})",
         config.name(), io.name(), it->shape.size(), to_string(it->shape), given.size(), to_string(given),
         config.max_batch_size() > 0 ? ", an initial batch dimension included because max_batch_size > 0" : "");
}

// The controls and states of sequence_batching in the form of inputs and outputs.
void add_sequence_tensors(const inference::ModelConfig& config, std::vector<inference::ModelInput>& inputs,
                          std::vector<inference::ModelOutput>& outputs) {
  for (const auto& control : config.sequence_batching().control_input()) {
    if (control.control().empty()) continue;  // validate_config() refuses it
    inference::ModelInput& input = inputs.emplace_back();
    input.set_name(control.name());
    input.set_data_type(control_type(control.control(0)));
    input.add_dims(1);
  }
  for (const auto& state : config.sequence_batching().state()) {
    inputs.emplace_back().set_name(state.input_name());
    outputs.emplace_back().set_name(state.output_name());
    inputs.back().set_data_type(state.data_type());
    outputs.back().set_data_type(state.data_type());
    *inputs.back().mutable_dims() = *outputs.back().mutable_dims() = state.dims();
  }
}

// What of the model clients see: all but these, unless the config lists a state's output.
ModelDescription without_sequence_tensors(const inference::ModelConfig& config, const ModelDescription& model) {
  ModelDescription own = model;
  std::vector<inference::ModelInput> inputs;
  std::vector<inference::ModelOutput> outputs;
  add_sequence_tensors(config, inputs, outputs);
  const auto has = [](const auto& ios, const std::string& name) {
    return std::any_of(ios.begin(), ios.end(), [&](const auto& io) { return io.name() == name; });
  };
  std::erase_if(own.inputs, [&](const auto& io) { return has(inputs, io.name); });
  std::erase_if(own.outputs, [&](const auto& io) { return has(outputs, io.name) && !has(config.output(), io.name); });
  return own;
}

}  // namespace

void complete_config(inference::ModelConfig& config, const ModelDescription& model, int default_max_batch_size) {
  decide_batching(config, model, default_max_batch_size);
  const bool batches = config.max_batch_size() > 0;
  const bool fills_inputs = config.input().empty();
  const ModelDescription own = without_sequence_tensors(config, model);
  fill_ios(*config.mutable_input(), own.inputs, batches);
  fill_ios(*config.mutable_output(), own.outputs, batches);
  if (fills_inputs)
    for (auto& io : *config.mutable_input())
      if (const auto* known = find(model.inputs, io.name()); known && known->is_optional) io.set_optional(true);
  check_against_model(config, model);
}

void check_against_model(const inference::ModelConfig& config, const ModelDescription& model) {
  const ModelDescription own = without_sequence_tensors(config, model);
  for (const auto& io : config.input()) check_io(config, "input", io, own.inputs);
  for (const auto& io : config.output()) check_io(config, "output", io, own.outputs);
  if (model.has_sequence_tensors) {
    std::vector<inference::ModelInput> inputs;
    std::vector<inference::ModelOutput> outputs;
    add_sequence_tensors(config, inputs, outputs);
    for (const auto& io : inputs) check_io(config, "input", io, model.inputs);
    for (const auto& io : outputs) check_io(config, "output", io, model.outputs);
  }
  for (const auto& io : own.inputs) {
    const bool given =
        std::any_of(config.input().begin(), config.input().end(), [&](const auto& input) { return input.name() == io.name; });
    if (!given && !io.is_optional)
      fail(ErrorCode::InvalidArgument, "unable to load model '{}', configuration expects {} inputs, model provides {}: '{}' is missing",
           config.name(), config.input_size(), own.inputs.size(), io.name);
  }
}

}  // namespace tokamak::server
