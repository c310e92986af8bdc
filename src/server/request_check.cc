#include "server/request_check.h"

#include <algorithm>

#include "server/config.h"

namespace tokamak::server {

namespace {

std::string dims_text(const Shape& dims) { return fmt::format("[{}]", fmt::join(dims, ",")); }

std::string quoted_list(const std::vector<std::string_view>& names) {
  std::string text = "[";
  for (std::string_view name : names) text += fmt::format("{}'{}'", text.size() > 1 ? "," : "", name);
  return text + "]";
}

[[noreturn]] void wrong_count(const RequestRules& rules, const InferRequest& request) {
  std::vector<std::string_view> given, missing;
  for (const NamedTensor& input : request.inputs) given.push_back(input.name);
  std::sort(given.begin(), given.end());
  for (const RequestRules::Input& input : rules.inputs)
    if (!input.is_optional && std::find(given.begin(), given.end(), input.name) == given.end()) missing.push_back(input.name);
  const std::string expected = rules.num_required == rules.inputs.size()
                                   ? fmt::format("expected {} inputs", rules.inputs.size())
                                   : fmt::format("expected number of inputs between {} and {}", rules.num_required, rules.inputs.size());
  fail(ErrorCode::InvalidArgument,
       "{}{} but got {} inputs for model '{}'. Got input(s) {}, but missing required input(s) {}. Please provide all required input(s).",
       request_prefix(request.id), expected, request.inputs.size(), rules.model_name, quoted_list(given), quoted_list(missing));
}

// `dims`, with the free ones of the config's taken from `shape`, in order.
Shape apply_reshape(const Shape& dims, const Shape& reshape, std::span<const int64_t> shape) {
  Shape result;
  size_t at = 0;
  for (int64_t dim : reshape) {
    if (dim < 0) {
      while (at < dims.size() && dims[at] >= 0) ++at;
      if (at < dims.size()) dim = shape[at++];
    }
    result.push_back(dim);
  }
  return result;
}

void check_dims(const RequestRules& rules, const RequestRules::Input& rule, const InferRequest& request, const Shape& full,
                std::span<const int64_t> shape) {
  bool matches = shape.size() == rule.dims.size();
  for (size_t i = 0; matches && i < shape.size(); ++i) {
    if (shape[i] < 0)
      fail(ErrorCode::InvalidArgument, "{}All input dimensions should be specified for input '{}' for model '{}', got {}",
           request_prefix(request.id), rule.name, rules.model_name, dims_text(full));
    matches = rule.dims[i] < 0 || rule.dims[i] == shape[i];
  }
  if (matches) return;
  Shape expected = rule.dims;
  const char* note = "";
  if (rules.max_batch_size > 0) {
    expected.insert(expected.begin(), -1);
    note =
        "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended to each input shape. If "
        "you want to specify the full shape including the batch dim in your input dims config, try setting max_batch_size to zero. See the "
        "model configuration docs for more info on max_batch_size.";
  }
  fail(ErrorCode::InvalidArgument, "{}unexpected shape for input '{}' for model '{}'. Expected {}, got {}. {}", request_prefix(request.id),
       rule.name, rules.model_name, dims_text(expected), dims_text(full), note);
}

}  // namespace

RequestRules::RequestRules(const inference::ModelConfig& config) : model_name(config.name()), max_batch_size(config.max_batch_size()) {
  for (const auto& io : config.input()) {
    Input& input = inputs.emplace_back();
    input.name = io.name();
    input.dtype = from_config_type(io.data_type()).value_or(DType::F32);
    input.dims.assign(io.dims().begin(), io.dims().end());
    input.has_reshape = io.has_reshape();
    if (io.has_reshape()) input.reshape.assign(io.reshape().shape().begin(), io.reshape().shape().end());
    input.is_optional = io.optional();
    input.is_ragged = io.allow_ragged_batch();
    input.is_variable = std::any_of(input.dims.begin(), input.dims.end(), [](int64_t d) { return d < 0; });
    num_required += !io.optional();
    has_optional |= io.optional();
  }
  for (const auto& io : config.output()) {
    Output& output = outputs.emplace_back();
    output.name = io.name();
    output.dtype = from_config_type(io.data_type()).value_or(DType::F32);
    output.dims.assign(io.dims().begin(), io.dims().end());
    output.has_reshape = io.has_reshape();
    if (io.has_reshape()) output.reshape.assign(io.reshape().shape().begin(), io.reshape().shape().end());
  }
}

int RequestRules::find_input(std::string_view name) const {
  for (size_t i = 0; i < inputs.size(); ++i)
    if (inputs[i].name == name) return static_cast<int>(i);
  return -1;
}

int RequestRules::find_output(std::string_view name) const {
  for (size_t i = 0; i < outputs.size(); ++i)
    if (outputs[i].name == name) return static_cast<int>(i);
  return -1;
}

std::string request_prefix(const std::string& id) { return fmt::format("[request id: {}] ", id.empty() ? "<id_unknown>" : id); }

CheckedRequest check_request(const RequestRules& rules, const InferRequest& request) {
  CheckedRequest checked;
  const auto prefix = [&] { return request_prefix(request.id); };
  for (const RequestedOutput& asked : request.outputs) {
    const int index = rules.find_output(asked.name);
    if (index < 0)
      fail(ErrorCode::InvalidArgument, "{}unexpected inference output '{}' for model '{}'", prefix(), asked.name, rules.model_name);
    if (std::find(checked.outputs.begin(), checked.outputs.end(), index) != checked.outputs.end())
      fail(ErrorCode::InvalidArgument, "{}output '{}' already exists in request", prefix(), asked.name);
    checked.outputs.push_back(index);
  }
  if (request.outputs.empty())
    for (size_t i = 0; i < rules.outputs.size(); ++i) checked.outputs.push_back(static_cast<int>(i));

  if (request.inputs.size() > rules.inputs.size() || request.inputs.size() < rules.num_required) wrong_count(rules, request);
  std::vector<int> by_rule(rules.inputs.size(), -1);
  for (size_t i = 0; i < request.inputs.size(); ++i) {
    const NamedTensor& input = request.inputs[i];
    const int rule = rules.find_input(input.name);
    if (rule < 0)
      fail(ErrorCode::InvalidArgument, "{}unexpected inference input '{}' for model '{}'", prefix(), input.name, rules.model_name);
    if (by_rule[rule] >= 0) fail(ErrorCode::InvalidArgument, "{}input '{}' already exists in request", prefix(), input.name);
    by_rule[rule] = static_cast<int>(i);
  }

  int64_t rows = -1;
  for (size_t r = 0; r < rules.inputs.size(); ++r) {
    const RequestRules::Input& rule = rules.inputs[r];
    if (rules.has_optional) checked.batch_key.push_back(by_rule[r] >= 0);
    if (by_rule[r] < 0) {
      if (!rule.is_optional) wrong_count(rules, request);  // as many as there should be, but a required one left out
      continue;
    }
    const Tensor& tensor = request.inputs[by_rule[r]].tensor;
    const Shape& full = tensor.shape();
    std::span<const int64_t> shape = full;
    if (rules.max_batch_size > 0) {
      if (full.empty())
        fail(ErrorCode::InvalidArgument, "{}input '{}' has no shape but model requires batch dimension for '{}'", prefix(), rule.name,
             rules.model_name);
      if (rows >= 0 && full[0] != rows)
        fail(ErrorCode::InvalidArgument, "{}input '{}' batch size does not match other inputs for '{}'", prefix(), rule.name,
             rules.model_name);
      rows = full[0];
      shape = shape.subspan(1);
      if (rows > rules.max_batch_size)
        fail(ErrorCode::InvalidArgument, "{}inference request batch-size must be <= {} for '{}'", prefix(), rules.max_batch_size,
             rules.model_name);
      if (rows < 1)
        fail(ErrorCode::InvalidArgument, "{}inference request batch-size must be >= 1 for '{}', input '{}' has shape {}", prefix(),
             rules.model_name, rule.name, dims_text(full));
    }
    if (tensor.dtype() != rule.dtype)
      fail(ErrorCode::InvalidArgument, "{}inference input '{}' data-type is '{}', but model '{}' expects '{}'", prefix(), rule.name,
           datatype_name(tensor.dtype()), rules.model_name, datatype_name(rule.dtype));
    check_dims(rules, rule, request, full, shape);
    checked.inputs.push_back(by_rule[r]);
    Shape backend_shape = rule.has_reshape ? apply_reshape(rule.dims, rule.reshape, shape) : Shape(shape.begin(), shape.end());
    if (rule.is_variable && !rule.is_ragged) checked.batch_key.insert(checked.batch_key.end(), backend_shape.begin(), backend_shape.end());
    if (rules.max_batch_size > 0) backend_shape.insert(backend_shape.begin(), rows);
    if (num_elements(backend_shape) != tensor.count())
      fail(ErrorCode::InvalidArgument, "{}input '{}' for model '{}' cannot be reshaped from {} to {}", prefix(), rule.name,
           rules.model_name, dims_text(full), dims_text(backend_shape));
    checked.shapes.push_back(std::move(backend_shape));
  }
  checked.rows = rules.max_batch_size > 0 ? std::max<int64_t>(rows, 1) : 0;
  return checked;
}

Shape client_shape(const RequestRules::Output& output, const Shape& shape, bool has_rows) {
  if (!output.has_reshape) return shape;
  if (has_rows && shape.empty()) fail(ErrorCode::Internal, "output '{}' of the model has no batch axis", output.name);
  const std::span<const int64_t> own = std::span(shape).subspan(has_rows ? 1 : 0);
  Shape result = own.size() == output.reshape.size() ? apply_reshape(output.reshape, output.dims, own) : output.dims;
  if (has_rows) result.insert(result.begin(), shape[0]);
  if (std::any_of(result.begin(), result.end(), [](int64_t d) { return d < 0; }) || num_elements(result) != num_elements(shape))
    fail(ErrorCode::Internal, "output '{}' of shape {} cannot have the config's shape {}", output.name, dims_text(shape),
         dims_text(output.dims));
  return result;
}

}  // namespace tokamak::server
