#pragma once
// The inputs with which a sequence batcher tells a model where a sequence begins, goes on and ends: sequence_batching.control_input.

#include <string>
#include <vector>

#include "model_config.pb.h"
#include "server/request.h"

namespace tokamak::server {

// The type of the control's tensor.
inference::DataType control_type(const inference::ModelSequenceBatching::Control& control);
// Whether the sequence batcher makes this input, a control or a state; clients may not send it.
bool is_sequence_input(const inference::ModelConfig& config, const std::string& name);
std::string id_text(const SequenceId& id);

class SequenceControls {
 public:
  // Of a valid config.
  explicit SequenceControls(const inference::ModelConfig& config);
  // Throws InvalidArgument when the CORRID control's type does not hold `id`.
  void check(const SequenceId& id) const;
  // Adds every control of a request: [1], or [1, 1] when the model batches. Throws as check().
  void append(std::vector<NamedTensor>& inputs, const SequenceId& id, bool is_start, bool is_end) const;
  // Those of a row without a request: READY, START and END are false, CORRID is 0 or "".
  void append_padding(std::vector<NamedTensor>& inputs) const;

 private:
  using Kind = inference::ModelSequenceBatching::Control::Kind;
  struct Control {
    std::string name;
    Kind kind;
    DType dtype;
    Tensor values[2];  // false and true; not of CORRID
  };
  Tensor id_tensor(const Control& control, const SequenceId& id) const;

  std::string model_name_;
  Shape shape_;
  std::vector<Control> controls_;
};

}  // namespace tokamak::server
