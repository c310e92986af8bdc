#include "server/sequence_controls.h"

#include <algorithm>
#include <limits>

#include "server/config.h"

namespace tokamak::server {

namespace {

using Proto = inference::ModelSequenceBatching::Control;

template <class T, class Value>
Tensor filled(const Shape& shape, Value value) {
  Tensor tensor = Tensor::empty(DTypeOf<T>::value, shape);
  *tensor.data<T>() = static_cast<T>(value);
  return tensor;
}

Tensor flag(const Proto& control, int index, const Shape& shape) {
  if (control.int32_false_true_size() > 0) return filled<int32_t>(shape, control.int32_false_true(index));
  if (control.fp32_false_true_size() > 0) return filled<float>(shape, control.fp32_false_true(index));
  return filled<bool>(shape, control.bool_false_true(index));
}

}  // namespace

inference::DataType control_type(const Proto& control) {
  if (control.kind() == Proto::CONTROL_SEQUENCE_CORRID) return control.data_type();
  if (control.int32_false_true_size() > 0) return inference::TYPE_INT32;
  return control.fp32_false_true_size() > 0 ? inference::TYPE_FP32 : inference::TYPE_BOOL;
}

bool is_sequence_input(const inference::ModelConfig& config, const std::string& name) {
  const auto& batching = config.sequence_batching();
  return std::any_of(batching.control_input().begin(), batching.control_input().end(), [&](const auto& c) { return c.name() == name; }) ||
         std::any_of(batching.state().begin(), batching.state().end(), [&](const auto& s) { return s.input_name() == name; });
}

std::string id_text(const SequenceId& id) { return id.text.empty() ? std::to_string(id.number) : id.text; }

SequenceControls::SequenceControls(const inference::ModelConfig& config)
    : model_name_(config.name()), shape_(config.max_batch_size() > 0 ? Shape{1, 1} : Shape{1}) {
  for (const auto& input : config.sequence_batching().control_input()) {
    const Proto& proto = input.control(0);
    Control& control = controls_.emplace_back();
    control.name = input.name();
    control.kind = proto.kind();
    control.dtype = from_config_type(control_type(proto)).value();
    if (control.kind != Proto::CONTROL_SEQUENCE_CORRID)
      for (int i : {0, 1}) control.values[i] = flag(proto, i, shape_);
  }
}

Tensor SequenceControls::id_tensor(const Control& control, const SequenceId& id) const {
  if (control.dtype == DType::String) {
    Tensor tensor = Tensor::empty(DType::String, shape_);
    if (id) tensor.strings()[0] = id_text(id);
    return tensor;
  }
  const auto most = [&]() -> uint64_t {
    switch (control.dtype) {
      case DType::I32: return std::numeric_limits<int32_t>::max();
      case DType::U32: return std::numeric_limits<uint32_t>::max();
      case DType::I64: return std::numeric_limits<int64_t>::max();
      default: return std::numeric_limits<uint64_t>::max();
    }
  };
  if (!id.text.empty() || id.number > most())
    fail(ErrorCode::InvalidArgument, "the correlation ID '{}' cannot be given to model '{}': its control '{}' is {}", id_text(id),
         model_name_, control.name, datatype_name(control.dtype));
  switch (control.dtype) {
    case DType::I32: return filled<int32_t>(shape_, id.number);
    case DType::U32: return filled<uint32_t>(shape_, id.number);
    case DType::I64: return filled<int64_t>(shape_, id.number);
    default: return filled<uint64_t>(shape_, id.number);
  }
}

void SequenceControls::check(const SequenceId& id) const {
  for (const Control& control : controls_)
    if (control.kind == Proto::CONTROL_SEQUENCE_CORRID) id_tensor(control, id);
}

void SequenceControls::append(std::vector<NamedTensor>& inputs, const SequenceId& id, bool is_start, bool is_end) const {
  for (const Control& control : controls_) {
    NamedTensor& input = inputs.emplace_back();
    input.name = control.name;
    switch (control.kind) {
      case Proto::CONTROL_SEQUENCE_START: input.tensor = control.values[is_start]; break;
      case Proto::CONTROL_SEQUENCE_END: input.tensor = control.values[is_end]; break;
      case Proto::CONTROL_SEQUENCE_CORRID: input.tensor = id_tensor(control, id); break;
      default: input.tensor = control.values[1];  // READY
    }
  }
}

void SequenceControls::append_padding(std::vector<NamedTensor>& inputs) const {
  for (const Control& control : controls_)
    inputs.push_back(
        {.name = control.name, .tensor = control.kind == Proto::CONTROL_SEQUENCE_CORRID ? id_tensor(control, {}) : control.values[0]});
}

}  // namespace tokamak::server
