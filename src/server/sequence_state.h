#pragma once
// Implicit state: outputs of one execution that are inputs of the next in the same sequence. sequence_batching.state.

#include <memory>
#include <string>
#include <vector>

#include "model_config.pb.h"
#include "server/request.h"

namespace tokamak::server {

Tensor zero_tensor(DType dtype, Shape shape);  // "" for strings

// What the config says; immutable, shared by the sequences of a model.
class StateRules {
 public:
  struct Rule {
    std::string input, output;
    DType dtype = DType::F32;
    Shape dims;                // with a first axis of 1 when the model batches; -1: any
    bool is_variable = false;  // some dim is -1
    Tensor initial;            // variable dims are 1 unless initial_state says otherwise
  };

  // Reads data files from `model_folder`/initial_state. Throws InvalidArgument for an initial state that does not fit its state, NotFound
  // for a file. Of a valid config.
  StateRules(const inference::ModelConfig& config, const std::string& model_folder);
  bool empty() const { return rules_.empty(); }
  const std::vector<Rule>& rules() const { return rules_; }
  // The index of the state with this output, -1 when there is none.
  int find_output(std::string_view name) const;
  // Throws Internal when an output of the model's is not what the config says of state `index`.
  void check(int index, const Tensor& value) const;

 private:
  std::vector<Rule> rules_;
};

// Of one sequence. Not thread-safe: whoever executes the sequence's request has it.
class SequenceState {
 public:
  explicit SequenceState(const StateRules& rules) : rules_(rules) { reset(); }
  const StateRules& rules() const { return rules_; }
  void reset();
  // The same shapes, all zeros.
  std::shared_ptr<SequenceState> zeros() const;
  void set(int index, Tensor value) { values_[index] = std::move(value); }
  // Adds one input for each state.
  void append(std::vector<NamedTensor>& inputs) const;
  // Adds what differs between requests that may not share a batch: shapes of variable states.
  void append_key(std::vector<int64_t>& key) const;

 private:
  const StateRules& rules_;
  std::vector<Tensor> values_;
};

}  // namespace tokamak::server
