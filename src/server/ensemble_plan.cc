#include "server/ensemble_plan.h"

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "server/config.h"

namespace tokamak::server {

namespace {

std::string dims_text(const Shape& dims) { return fmt::format("[{}]", fmt::join(dims, ",")); }

// A tensor as one of the models that touch it declares it.
struct Declared {
  std::string model;
  inference::DataType type = inference::TYPE_INVALID;
  Shape dims, full_dims;  // without and with the batch axis
};

template <class Io>
Declared declare(const std::string& model, const Io& io, bool batches, bool uses_reshape) {
  Declared d = {.model = model, .type = io.data_type(), .dims = {io.dims().begin(), io.dims().end()}};
  if (uses_reshape && io.has_reshape()) d.dims.assign(io.reshape().shape().begin(), io.reshape().shape().end());
  d.full_dims = d.dims;
  if (batches) d.full_dims.insert(d.full_dims.begin(), -1);
  return d;
}

// Shapes go together with or without the batch axis: a member that does not batch may declare it among its dims.
void check_consistent(const std::string& where, const Declared& a, const Declared& b) {
  if (a.type != b.type)
    fail(ErrorCode::InvalidArgument, "{}inconsistent data type: {} is inferred from model {} while {} is inferred from model {}", where,
         inference::DataType_Name(a.type), a.model, inference::DataType_Name(b.type), b.model);
  if (!dims_fit(a.dims, b.dims) && !dims_fit(a.full_dims, b.full_dims))
    fail(ErrorCode::InvalidArgument, "{}inconsistent shape: {} is inferred from model {} while {} is inferred from model {}", where,
         dims_text(a.full_dims), a.model, dims_text(b.full_dims), b.model);
}

template <class Ios>
auto find_io(const Ios& ios, const std::string& name) {
  return std::find_if(ios.begin(), ios.end(), [&](const auto& io) { return io.name() == name; });
}

std::shared_ptr<Model> find_member(const std::string& ensemble, const EnsemblePlan::Step& step, const FindModel& find_model) {
  if (!find_model) fail(ErrorCode::InvalidArgument, "ensemble '{}' cannot look for other models", ensemble);
  try {
    return find_model(step.model_name, step.model_version);
  } catch (const Error& e) {
    if (step.model_version > 0)
      fail(ErrorCode::InvalidArgument, "ensemble '{}' depends on '{}' whose required version {} is not loaded.", ensemble, step.model_name,
           step.model_version);
    fail(ErrorCode::InvalidArgument, "ensemble '{}' depends on '{}' which has no loaded version. {}", ensemble, step.model_name, e.what());
  }
}

// What the members' configs say about the ensemble's tensors, compared as they come.
class Consistency {
 public:
  Consistency(const inference::ModelConfig& config, size_t num_tensors) : ensemble_(config.name()), declared_(num_tensors) {}

  void add(int tensor, const std::string& name, Declared more) {
    std::optional<Declared>& known = declared_[tensor];
    if (known) check_consistent(fmt::format("in ensemble {}, ensemble tensor {}: ", ensemble_, name), *known, more);
    else known = std::move(more);
  }

  void add_step(const EnsemblePlan& plan, const EnsemblePlan::Step& step, const inference::ModelConfig& member) {
    const bool batches = member.max_batch_size() > 0;
    for (const auto& [name, tensor] : step.inputs) {
      const std::string& own = plan.tensors[tensor].name;
      const auto input = find_io(member.input(), name);
      if (input == member.input().end())
        fail(ErrorCode::InvalidArgument, "in ensemble {}, ensemble tensor {} is mapping to non-existing input {} in model {}", ensemble_,
             own, name, step.model_name);
      add(tensor, own, declare(step.model_name, *input, batches, false));
    }
    for (const auto& input : member.input())
      if (!input.optional() && std::none_of(step.inputs.begin(), step.inputs.end(), [&](const auto& m) { return m.name == input.name(); }))
        fail(ErrorCode::InvalidArgument, "in ensemble {}, input {} in model {} is not mapped to any ensemble tensors", ensemble_,
             input.name(), step.model_name);
    for (const auto& [name, tensor] : step.outputs) {
      const std::string& own = plan.tensors[tensor].name;
      const auto output = find_io(member.output(), name);
      if (output == member.output().end())
        fail(ErrorCode::InvalidArgument, "in ensemble {}, ensemble tensor {} is mapped from non-existing output {} in model {}", ensemble_,
             own, name, step.model_name);
      add(tensor, own, declare(step.model_name, *output, batches, false));
    }
  }

 private:
  const std::string& ensemble_;
  std::vector<std::optional<Declared>> declared_;
};

// Tensors that come once for each response of the same decoupled member have one number; 0: once a request. A step has responses to pair
// only where its inputs agree. True when there is another number than 0.
bool check_decoupled(const EnsemblePlan& plan, const std::string& name, const std::vector<bool>& is_decoupled) {
  std::vector<int> origin(plan.tensors.size(), -1);
  for (const int input : plan.inputs) origin[input] = 0;
  int num_origins = 0;
  const auto common = [&](const std::string& model, auto tensors) {
    for (const int tensor : tensors)
      if (origin[tensor] != origin[tensors.front()])
        fail(ErrorCode::InvalidArgument, "in ensemble {}, step of model '{}' receives inputs originated from different decoupled models",
             name, model);
    return origin[tensors.front()];
  };
  std::vector<bool> is_done(plan.steps.size(), false);
  for (bool grew = true; grew;) {
    grew = false;
    for (size_t s = 0; s < plan.steps.size(); ++s) {
      std::vector<int> inputs;
      for (const auto& mapping : plan.steps[s].inputs) inputs.push_back(mapping.tensor);
      const bool is_ready = std::all_of(inputs.begin(), inputs.end(), [&](int t) { return origin[t] >= 0; });
      if (is_done[s] || !is_ready) continue;
      int own = common(plan.steps[s].model_name, inputs);
      if (is_decoupled[s]) own = ++num_origins;
      for (const auto& mapping : plan.steps[s].outputs) origin[mapping.tensor] = own;
      is_done[s] = grew = true;
    }
  }
  if (!plan.outputs.empty()) common(name, plan.outputs);
  return num_origins > 0;
}

}  // namespace

bool dims_fit(const Shape& dims, const Shape& shape) {
  return std::equal(dims.begin(), dims.end(), shape.begin(), shape.end(),
                    [](int64_t a, int64_t b) { return a == b || a == -1 || b == -1; });
}

int EnsemblePlan::find_tensor(const std::string& name) const {
  const auto found = std::find_if(tensors.begin(), tensors.end(), [&](const TensorUse& t) { return t.name == name; });
  return found == tensors.end() ? -1 : static_cast<int>(found - tensors.begin());
}

int EnsemblePlan::tensor_of(const std::string& name) {
  if (const int known = find_tensor(name); known >= 0) return known;
  tensors.push_back({.name = name, .readers = {}});
  return static_cast<int>(tensors.size()) - 1;
}

EnsemblePlan::EnsemblePlan(const inference::ModelConfig& config, const std::map<std::string, std::vector<std::string>>& labels,
                           const FindModel& find_model)
    : rules(config) {
  for (const auto& io : config.input()) inputs.push_back(tensor_of(io.name()));
  for (const auto& io : config.output()) outputs.push_back(tensor_of(io.name()));
  for (const auto& from : config.ensemble_scheduling().step()) {
    const int index = static_cast<int>(steps.size());
    Step step = {.model_name = from.model_name(), .model_version = from.model_version() > 0 ? from.model_version() : -1};
    // A map of the config has no order of its own.
    for (const auto& [name, tensor] : std::map<std::string, std::string>(from.input_map().begin(), from.input_map().end())) {
      step.inputs.push_back({name, tensor_of(tensor)});
      std::vector<int>& readers = tensors[step.inputs.back().tensor].readers;
      if (readers.empty() || readers.back() != index) readers.push_back(index);
    }
    for (const auto& [name, tensor] : std::map<std::string, std::string>(from.output_map().begin(), from.output_map().end())) {
      step.outputs.push_back({name, tensor_of(tensor)});
      tensors[step.outputs.back().tensor].writer = index;
    }
    steps.push_back(std::move(step));
  }

  const bool batches = config.max_batch_size() > 0;
  Consistency consistency(config, tensors.size());
  for (const auto& io : config.input()) consistency.add(find_tensor(io.name()), io.name(), declare(config.name(), io, batches, true));
  for (const auto& io : config.output()) consistency.add(find_tensor(io.name()), io.name(), declare(config.name(), io, batches, true));
  std::vector<bool> is_step_decoupled;
  std::vector<std::shared_ptr<Model>> members;
  for (const Step& step : steps) {
    members.push_back(find_member(config.name(), step, find_model));
    const inference::ModelConfig& member = members.back()->config();
    if (member.max_batch_size() != 0 && member.max_batch_size() < config.max_batch_size())
      fail(ErrorCode::InvalidArgument,
           "ensemble {} allows maximum batch size {}, but it contains model {} which only allows maximum batch size to be {}",
           config.name(), config.max_batch_size(), step.model_name, member.max_batch_size());
    consistency.add_step(*this, step, member);
    is_step_decoupled.push_back(members.back()->is_decoupled());
  }
  is_decoupled = check_decoupled(*this, config.name(), is_step_decoupled);

  for (const int output : outputs) {
    const TensorUse& tensor = tensors[output];
    std::vector<std::string>& own = output_labels.emplace_back();
    if (const auto found = labels.find(tensor.name); found != labels.end()) own = found->second;
    else if (tensor.writer >= 0)
      for (const auto& mapping : steps[tensor.writer].outputs)
        for (const TensorMetadata& metadata : members[tensor.writer]->outputs())
          if (mapping.tensor == output && metadata.name == mapping.name) own = metadata.labels;
  }
}

}  // namespace tokamak::server
