#pragma once
// What the config of an ensemble says, checked against the models it is made of: tensors, and the steps that read and write them.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "model_config.pb.h"
#include "server/model.h"
#include "server/request_check.h"

namespace tokamak::server {

// Throws as Server::find_model.
using FindModel = std::function<std::shared_ptr<Model>(const std::string& name, int64_t version)>;

struct EnsemblePlan {
  // An input or output of a member, and the ensemble's tensor it is: an index into `tensors`.
  struct Mapping {
    std::string name;
    int tensor = 0;
  };
  struct Step {
    std::string model_name;
    int64_t model_version = -1;  // -1: the newest
    std::vector<Mapping> inputs, outputs;
  };
  struct TensorUse {
    std::string name;
    int writer = -1;           // step; -1: an input of the ensemble
    std::vector<int> readers;  // steps, each once
  };

  RequestRules rules;  // of the ensemble's own requests
  std::vector<TensorUse> tensors;
  std::vector<Step> steps;
  std::vector<int> inputs, outputs;  // of the ensemble: tensors, in the order of the rules
  std::vector<std::vector<std::string>> output_labels;
  bool is_decoupled = false;  // some member is

  // Throws InvalidArgument with Triton's message: a member that is not there, tensors that it does not have, types, shapes or batch sizes
  // that do not go together, a step that would need tensors of two decoupled members. `labels`: those of the ensemble's own outputs; an
  // output without any has its member's.
  EnsemblePlan(const inference::ModelConfig& config, const std::map<std::string, std::vector<std::string>>& labels,
               const FindModel& find_model);

  int find_tensor(const std::string& name) const;  // -1: there is none

 private:
  int tensor_of(const std::string& name);  // added when it is new
};

// Whether `shape` is one that `dims` allow; -1 on either side allows all.
bool dims_fit(const Shape& dims, const Shape& shape);

}  // namespace tokamak::server
