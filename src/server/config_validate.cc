// What contradicts itself in a config, in the words that Triton's users know.

#include <google/protobuf/descriptor.h>

#include <algorithm>
#include <set>

#include "base/error.h"
#include "server/config.h"

namespace tokamak::server {

namespace {

// Elements, and per stretch between variable dims: a reshape keeps each.
std::vector<int64_t> stretches(const google::protobuf::RepeatedField<int64_t>& dims) {
  std::vector<int64_t> counts = {1};
  for (const int64_t dim : dims) {
    if (dim == -1) counts.push_back(1);
    else if (__builtin_mul_overflow(counts.back(), dim, &counts.back()))
      fail(ErrorCode::InvalidArgument, "the number of elements overflows");
  }
  return counts;
}

template <class Io>
void check_reshape(const std::string& where, const Io& io) {
  for (const int64_t dim : io.reshape().shape())
    if (dim < 1 && dim != -1)
      fail(ErrorCode::InvalidArgument, "{}reshape dimensions must be integer >= 1, or -1 to indicate a variable-size dimension", where);
  const auto from = stretches(io.dims()), to = stretches(io.reshape().shape());
  if (from.size() != to.size() && from.size() > 1 && to.size() > 1)
    fail(ErrorCode::InvalidArgument, "{}has different number of variable-size dimensions for dims and reshape", where);
  if (from != to) fail(ErrorCode::InvalidArgument, "{}has different size for dims and reshape", where);
}

template <class Io>
void check_io(const char* kind, const Io& io) {
  if (io.name().empty()) fail(ErrorCode::InvalidArgument, "model {} must specify 'name'", kind);
  const std::string where = fmt::format("model {} '{}' ", kind, io.name());
  if (io.data_type() == inference::TYPE_INVALID) fail(ErrorCode::InvalidArgument, "{}must specify 'data_type'", where);
  if (io.dims().empty()) fail(ErrorCode::InvalidArgument, "{}must specify 'dims'", where);
  for (const int64_t dim : io.dims())
    if (dim < 1 && dim != -1)
      fail(ErrorCode::InvalidArgument, "{}dimension must be integer >= 1, or -1 to indicate a variable-size dimension", where);
  if (io.has_reshape()) check_reshape(where, io);
  if (io.is_shape_tensor()) fail(ErrorCode::InvalidArgument, "shape tensors are only supported for TensorRT platform");
  if (io.is_non_linear_format_io()) fail(ErrorCode::InvalidArgument, "Non-linear IO format is only supported for the TensorRT platform");
}

void check_ios(const inference::ModelConfig& config) {
  std::set<std::string> names;
  for (const auto& io : config.input()) {
    check_io("input", io);
    if ((io.format() == inference::ModelInput::FORMAT_NHWC || io.format() == inference::ModelInput::FORMAT_NCHW) && io.dims_size() != 3)
      fail(ErrorCode::InvalidArgument, "model input NHWC/NCHW require 3 dims");
    if (!names.insert(io.name()).second) fail(ErrorCode::InvalidArgument, "model input '{}' is given twice", io.name());
  }
  names.clear();
  for (const auto& io : config.output()) {
    check_io("output", io);
    if (!names.insert(io.name()).second) fail(ErrorCode::InvalidArgument, "model output '{}' is given twice", io.name());
  }
}

template <class Sizes>
void check_preferred(const char* what, const Sizes& sizes, const inference::ModelConfig& config) {
  for (const int32_t size : sizes) {
    if (size <= 0) fail(ErrorCode::InvalidArgument, "{} must be positive for {}", what, config.name());
    if (size > config.max_batch_size()) fail(ErrorCode::InvalidArgument, "{} must be <= max batch size for {}", what, config.name());
  }
}

void check_dynamic_batching(const inference::ModelConfig& config) {
  const auto& batching = config.dynamic_batching();
  const uint64_t levels = batching.priority_levels();
  check_preferred("dynamic batching preferred size", batching.preferred_batch_size(), config);
  if (levels != 0) {
    if (batching.default_priority_level() == 0 || batching.default_priority_level() > levels)
      fail(ErrorCode::InvalidArgument, "default priority level must be in range [1, {}] for {}", levels, config.name());
    for (const auto& [level, policy] : batching.priority_queue_policy())
      if (level == 0 || level > levels)
        fail(ErrorCode::InvalidArgument, "priority queue policy must have priority level in range [1, {}] for {}", levels, config.name());
  }
  if (!batching.preserve_ordering()) return;
  if (levels > 1)
    fail(ErrorCode::InvalidArgument, "Only one priority level is allowed when 'preserve_ordering' is true for {}", config.name());
  const auto delays = [](const inference::ModelQueuePolicy& policy) {
    return policy.default_timeout_microseconds() != 0 && policy.timeout_action() == inference::ModelQueuePolicy::DELAY;
  };
  const auto& policies = batching.priority_queue_policy();
  if (delays(batching.default_queue_policy()) ||
      std::any_of(policies.begin(), policies.end(), [&](const auto& entry) { return delays(entry.second); }))
    fail(ErrorCode::InvalidArgument, "Queue policy can not have DELAY as timeout action when 'preserve_ordering' is true for {}",
         config.name());
}

void check_control(const inference::ModelConfig& config, const std::string& input,
                   const inference::ModelSequenceBatching::Control& control) {
  const std::string kind = inference::ModelSequenceBatching::Control::Kind_Name(control.kind());
  const int given = (control.int32_false_true_size() > 0) + (control.fp32_false_true_size() > 0) + (control.bool_false_true_size() > 0);
  if (control.kind() == inference::ModelSequenceBatching::Control::CONTROL_SEQUENCE_CORRID) {
    if (given > 0)
      fail(ErrorCode::InvalidArgument,
           "sequence batching must not specify either 'int32_false_true', 'fp32_false_true' or 'bool_false_true' for {} for {}", kind,
           config.name());
    switch (control.data_type()) {
      case inference::TYPE_UINT64:
      case inference::TYPE_INT64:
      case inference::TYPE_UINT32:
      case inference::TYPE_INT32:
      case inference::TYPE_STRING: return;
      default:
        fail(ErrorCode::InvalidArgument,
             "unexpected data type for control {} for {}. Allowed data types are TYPE_UINT64, TYPE_INT64, TYPE_UINT32, TYPE_INT32 and "
             "TYPE_STRING",
             kind, config.name());
    }
  }
  if (given == 0)
    fail(ErrorCode::InvalidArgument,
         "sequence batching must specify either 'int32_false_true', 'fp32_false_true' or 'bool_false_true' for {} for {}", kind,
         config.name());
  if (given > 1)
    fail(ErrorCode::InvalidArgument,
         "sequence batching specifies more than one from 'int32_false_true', 'fp32_false_true' and 'bool_false_true' for {} for {}", kind,
         config.name());
  if (control.int32_false_true_size() + control.fp32_false_true_size() + control.bool_false_true_size() != 2)
    fail(ErrorCode::InvalidArgument, "sequence batching control '{}' must have exactly 2 entries for {} for {}", input, kind,
         config.name());
}

void check_initial_state(const inference::ModelSequenceBatching::State& state) {
  const std::string& name = state.input_name();
  if (state.initial_state_size() > 1)
    fail(ErrorCode::InvalidArgument,
         "initial_state field for state input '{}' must contain exactly one or zero element. Found '{}' elements.", name,
         state.initial_state_size());
  if (state.initial_state().empty()) return;
  const auto& initial = state.initial_state(0);
  if (initial.data_type() != state.data_type())
    fail(ErrorCode::InvalidArgument, "The data type used for 'initial_state' field of state '{}' does not match the state data type.",
         name);
  if (initial.name().empty())
    fail(ErrorCode::InvalidArgument, "Field 'name' must be set when using initial_state for state input '{}'.", name);
  if (initial.dims_size() != state.dims_size())
    fail(ErrorCode::InvalidArgument,
         "Number of dimensions in 'initial_state' doesn't match the size of 'state' dimensions for state input '{}'. {} != {}", name,
         initial.dims_size(), state.dims_size());
  for (int i = 0; i < state.dims_size(); ++i) {
    if (initial.dims(i) < 0)
      fail(ErrorCode::InvalidArgument, "'initial_state' field for state input name '{}' contains variable dimensions.", name);
    if (state.dims(i) >= 0 && state.dims(i) != initial.dims(i))
      fail(ErrorCode::InvalidArgument, "'initial_state' dim for input name '{}' doesn't match 'state' dim description. {} != {}", name,
           initial.dims(i), state.dims(i));
  }
  if (initial.state_data_case() == inference::ModelSequenceBatching::InitialState::STATE_DATA_NOT_SET)
    fail(ErrorCode::InvalidArgument, "initial_state setting expects state '{}' to have state_data set", name);
}

// `inputs`: the names of the controls.
void check_states(const inference::ModelConfig& config, std::set<std::string> inputs) {
  for (const auto& io : config.input())
    if (!inputs.insert(io.name()).second)
      fail(ErrorCode::InvalidArgument, "input '{}' of {} is also one that sequence batching makes: clients must not send it", io.name(),
           config.name());
  std::set<std::string> outputs;
  for (const auto& state : config.sequence_batching().state()) {
    if (state.input_name().empty() || state.output_name().empty())
      fail(ErrorCode::InvalidArgument, "sequence batching state must have 'input_name' and 'output_name' for {}", config.name());
    if (!inputs.insert(state.input_name()).second)
      fail(ErrorCode::InvalidArgument, "State input name '{}' specified more than once.", state.input_name());
    if (!outputs.insert(state.output_name()).second)
      fail(ErrorCode::InvalidArgument, "State output name '{}' specified more than once.", state.output_name());
    if (!from_config_type(state.data_type()))
      fail(ErrorCode::InvalidArgument, "sequence batching state '{}' must specify 'data_type' for {}", state.input_name(), config.name());
    for (const int64_t dim : state.dims())
      if (dim < 1 && dim != -1)
        fail(ErrorCode::InvalidArgument,
             "sequence batching state '{}' dimension must be integer >= 1, or -1 to indicate a variable-size dimension",
             state.input_name());
    check_initial_state(state);
  }
}

void check_sequence_batching(const inference::ModelConfig& config) {
  const auto& batching = config.sequence_batching();
  if (config.response_cache().enable())
    fail(ErrorCode::InvalidArgument,
         "Response Cache does not currently support model {} with sequence batching scheduler. Please disable the response cache.",
         config.name());
  std::set<std::string> inputs;
  std::set<int> kinds;
  for (const auto& input : batching.control_input()) {
    if (input.name().empty()) fail(ErrorCode::InvalidArgument, "sequence batching control tensor must have a name for {}", config.name());
    if (!inputs.insert(input.name()).second || input.control_size() > 1)
      fail(ErrorCode::InvalidArgument, "sequence batching control tensor '{}' is specified for multiple control kinds for {}", input.name(),
           config.name());
    if (input.control().empty())
      fail(ErrorCode::InvalidArgument, "sequence batching control tensor '{}' must specify a 'control' for {}", input.name(),
           config.name());
    for (const auto& control : input.control()) {
      if (!kinds.insert(control.kind()).second)
        fail(ErrorCode::InvalidArgument, "sequence batching specifies multiple {} tensors for {}",
             inference::ModelSequenceBatching::Control::Kind_Name(control.kind()), config.name());
      check_control(config, input.name(), control);
    }
  }
  check_states(config, inputs);
  if (batching.has_oldest()) check_preferred("sequence batching preferred batch size", batching.oldest().preferred_batch_size(), config);
  if (batching.has_direct() && (batching.direct().minimum_slot_utilization() < 0 || batching.direct().minimum_slot_utilization() > 1))
    fail(ErrorCode::InvalidArgument, "sequence batching minimum slot utilization must be in range (0.0, 1.0] for {}", config.name());
}

void check_ensemble(const inference::ModelConfig& config) {
  const std::string& name = config.name();
  if (config.platform() != "ensemble")
    fail(ErrorCode::InvalidArgument, "ensemble scheduling cannot be set for model '{}' whose platform is not ensemble", name);
  if (!config.backend().empty())
    fail(ErrorCode::InvalidArgument, "Ensemble model '{}' must have platform type 'ensemble' and empty backend type", name);
  if (!config.instance_group().empty()) fail(ErrorCode::InvalidArgument, "instance group should not be specified for ensemble '{}'", name);
  if (config.has_optimization()) fail(ErrorCode::InvalidArgument, "optimization should not be specified for ensemble '{}'", name);
  if (!config.model_warmup().empty()) fail(ErrorCode::InvalidArgument, "model_warmup can not be specified for ensemble '{}'", name);
  const auto& steps = config.ensemble_scheduling().step();
  if (steps.empty()) fail(ErrorCode::InvalidArgument, "must specify 'step' for ensemble '{}'", name);

  // tensor: read by a step or an output; written by a step or an input
  std::set<std::string> written, read;
  for (const auto& io : config.input()) written.insert(io.name());
  for (int i = 0; i < steps.size(); ++i) {
    const auto& step = steps[i];
    if (step.model_name().empty()) fail(ErrorCode::InvalidArgument, "must specify 'model_name' in step {} of ensemble '{}'", i, name);
    if (step.input_map().empty()) fail(ErrorCode::InvalidArgument, "must specify 'input_map' in step {} of ensemble '{}'", i, name);
    if (step.output_map().empty()) fail(ErrorCode::InvalidArgument, "must specify 'output_map' in step {} of ensemble '{}'", i, name);
    for (const auto& [output, tensor] : step.output_map())
      if (!written.insert(tensor).second)
        fail(ErrorCode::InvalidArgument, "ensemble tensor '{}' can appear in an output map only once for ensemble '{}' step {}", tensor,
             name, i);
    for (const auto& [input, tensor] : step.input_map()) read.insert(tensor);
  }
  for (const auto& io : config.input())
    if (!read.contains(io.name())) fail(ErrorCode::InvalidArgument, "ensemble input '{}' for ensemble {} is not used", io.name(), name);
  std::set<std::string> ready;  // reachable from the inputs
  for (const auto& io : config.input()) ready.insert(io.name());
  for (bool grew = true; grew;) {
    grew = false;
    for (const auto& step : steps) {
      const auto& inputs = step.input_map();
      if (!std::all_of(inputs.begin(), inputs.end(), [&](const auto& entry) { return ready.contains(entry.second); })) continue;
      for (const auto& [output, tensor] : step.output_map()) grew |= ready.insert(tensor).second;
    }
  }
  for (const auto& io : config.output()) {
    read.insert(io.name());
    if (!ready.contains(io.name())) fail(ErrorCode::InvalidArgument, "output '{}' for ensemble '{}' is not written", io.name(), name);
  }
  for (const std::string& tensor : written)
    if (!read.contains(tensor)) fail(ErrorCode::InvalidArgument, "ensemble tensor '{}' is unused in ensemble '{}'", tensor, name);
}

void check_instances(const inference::ModelConfig& config) {
  for (const auto& group : config.instance_group()) {
    const std::string where = fmt::format("instance group {} of model {} ", group.name(), config.name());
    if (group.count() < 0) fail(ErrorCode::InvalidArgument, "{}has count {}", where, group.count());
    if (!group.gpus().empty() && group.kind() == inference::ModelInstanceGroup::KIND_MODEL)
      fail(ErrorCode::InvalidArgument, "{}has kind KIND_MODEL but specifies one or more GPUs", where);
    if (!group.gpus().empty() && group.kind() == inference::ModelInstanceGroup::KIND_CPU)
      fail(ErrorCode::InvalidArgument, "{}has kind KIND_CPU but specifies one or more GPUs", where);
  }
}

void check_metrics(const inference::ModelConfig& config) {
  for (const auto& control : config.model_metrics().metric_control()) {
    if (!control.has_metric_identifier()) fail(ErrorCode::InvalidArgument, "metric control must specify 'metric_identifier'");
    if (control.metric_identifier().family().empty()) fail(ErrorCode::InvalidArgument, "metric identifier must specify non-empty 'family'");
    if (!control.has_histogram_options()) fail(ErrorCode::InvalidArgument, "metric control must specify 'histogram_options'");
    const auto& buckets = control.histogram_options().buckets();
    if (buckets.empty()) fail(ErrorCode::InvalidArgument, "histogram options must specify non-empty 'buckets'");
    if (std::adjacent_find(buckets.begin(), buckets.end(), std::greater_equal<>()) != buckets.end())
      fail(ErrorCode::InvalidArgument, "histogram 'buckets' must ascend");
  }
}

// Fields (as paths) that are read somewhere in this server; what is below a listed message counts as read. `optimization` is the
// onnxruntime backend's.
const std::set<std::string> kUsed = {"name",
                                     "platform",
                                     "backend",
                                     "version_policy",
                                     "max_batch_size",
                                     "input",
                                     "output",
                                     "instance_group",
                                     "default_model_filename",
                                     "metric_tags",
                                     "dynamic_batching",
                                     "sequence_batching",
                                     "ensemble_scheduling",
                                     "parameters",
                                     "model_warmup",
                                     "model_metrics",
                                     "model_transaction_policy",
                                     "optimization",
                                     "response_cache"};
const std::set<std::string> kUnused = {
    "instance_group.profile", "instance_group.secondary_devices", "instance_group.host_policy", "instance_group.passive",
    "ensemble_scheduling.step.model_namespace",
    // Hints for memory; states are exchanged either way.
    "sequence_batching.state.use_same_buffer_for_input_output", "sequence_batching.state.use_growable_memory", "optimization.priority",
    "optimization.cuda", "optimization.execution_accelerators.cpu_execution_accelerator", "optimization.input_pinned_memory",
    "optimization.output_pinned_memory", "optimization.gather_kernel_buffer_threshold", "optimization.eager_batching"};

void collect_unused(const google::protobuf::Message& message, const std::string& prefix, std::set<std::string>& out) {
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  message.GetReflection()->ListFields(message, &fields);
  for (const auto* field : fields) {
    const std::string path = prefix.empty() ? field->name() : prefix + "." + field->name();
    if ((prefix.empty() && !kUsed.contains(path)) || kUnused.contains(path)) {
      out.insert(path);
    } else if (field->cpp_type() == google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE) {
      const auto& reflection = *message.GetReflection();
      if (!field->is_repeated()) collect_unused(reflection.GetMessage(message, field), path, out);
      else
        for (int i = 0; i < reflection.FieldSize(message, field); ++i)
          collect_unused(reflection.GetRepeatedMessage(message, field, i), path, out);
    }
  }
}

}  // namespace

std::vector<std::string> unused_fields(const inference::ModelConfig& config) {
  std::set<std::string> out;
  collect_unused(config, "", out);
  const bool is_onnxruntime = config.backend() == "onnxruntime" || config.platform().starts_with("onnxruntime");
  if (config.has_optimization() && !is_onnxruntime) {
    std::erase_if(out, [](const std::string& path) { return path.starts_with("optimization."); });
    out.insert("optimization");
  }
  return {out.begin(), out.end()};
}

void validate_config(const inference::ModelConfig& config) {
  if (config.name().empty()) fail(ErrorCode::InvalidArgument, "model configuration must specify 'name'");
  if (config.platform().empty() && config.backend().empty())
    fail(ErrorCode::InvalidArgument, "must specify 'platform' or 'backend' for '{}'", config.name());
  if (config.max_batch_size() < 0) fail(ErrorCode::InvalidArgument, "'max_batch_size' must be non-negative value for {}", config.name());
  check_ios(config);
  if (config.has_dynamic_batching()) check_dynamic_batching(config);
  if (config.has_sequence_batching()) check_sequence_batching(config);
  if (config.has_ensemble_scheduling()) check_ensemble(config);
  if (config.platform() == "ensemble" && !config.has_ensemble_scheduling())
    fail(ErrorCode::InvalidArgument, "ensemble scheduling must be set for ensemble {} whose platform is ensemble", config.name());
  if (config.model_transaction_policy().decoupled() && config.response_cache().enable())
    fail(ErrorCode::InvalidArgument,
         "Response Cache does not currently support model {} with 'decoupled' transaction policy. Please disable the response cache.",
         config.name());
  check_instances(config);
  check_metrics(config);
}

}  // namespace tokamak::server
