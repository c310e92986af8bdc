#include "server/http/kserve_request.h"

#include <charconv>

#include "model_config.pb.h"
#include "server/http/json_tensor.h"

namespace tokamak::server::http {

namespace {

using simdjson::dom::element;
using simdjson::dom::object;

class InferReader {
 public:
  InferReader(const std::string& model, const Body& body, size_t json_size, SharedMemoryRegistry* shared_memory)
      : model_(model), body_(body), shared_memory_(shared_memory), rest_(std::span(*body).subspan(json_size)) {
    decoded_.request = std::make_unique<InferRequest>();
    decoded_.request->model_name = model;
  }

  DecodedInfer read(const element& document) && {
    object fields;
    if (document.get_object().get(fields)) fail(ErrorCode::InvalidArgument, "the inference request must be a JSON object");
    InferRequest& request = *decoded_.request;
    bool has_inputs = false;
    for (const auto field : fields) {
      if (field.key == "id") {
        request.id = text_of("the inference request's id", field.value);
      } else if (field.key == "parameters") {
        Parameters parameters = read_parameters("the inference request", field.value);
        decoded_.form.is_binary = take_flag("the inference request", parameters, "binary_data_output").value_or(false);
        kserve::take_parameters(request, std::move(parameters));
      } else if (field.key == "inputs") {
        has_inputs = true;
        for (const element input : list("inputs", field.value)) read_input(input);
      } else if (field.key == "outputs") {
        for (const element output : list("outputs", field.value)) read_output(output);
      }
    }
    if (!has_inputs) fail(ErrorCode::InvalidArgument, "Unable to parse 'inputs': attempt to access non-existing object member 'inputs'");
    if (!rest_.empty())
      fail(ErrorCode::InvalidArgument, "unexpected additional input data for model '{}': {} bytes follow its binary inputs", model_,
           rest_.size());
    return std::move(decoded_);
  }

 private:
  static simdjson::dom::array list(std::string_view name, const element& value) {
    simdjson::dom::array values;
    if (value.get_array().get(values)) fail(ErrorCode::InvalidArgument, "'{}' of the inference request must be an array", name);
    return values;
  }

  static std::string text_of(std::string_view what, const element& value) {
    std::string_view text;
    if (value.get_string().get(text)) fail(ErrorCode::InvalidArgument, "{} must be a string", what);
    return std::string(text);
  }

  static std::optional<bool> take_flag(std::string_view where, Parameters& parameters, std::string_view name) {
    const auto it = parameters.find(name);
    if (it == parameters.end()) return std::nullopt;
    const auto* flag = std::get_if<bool>(&it->second);
    if (!flag) fail(ErrorCode::InvalidArgument, "{}: parameter '{}' must be a boolean", where, name);
    const bool value = *flag;
    parameters.erase(it);
    return value;
  }

  // binary_data_size of an input.
  static std::optional<uint64_t> take_size(std::string_view where, Parameters& parameters) {
    const auto it = parameters.find("binary_data_size");
    if (it == parameters.end()) return std::nullopt;
    std::optional<uint64_t> size;
    if (const auto* number = std::get_if<int64_t>(&it->second); number && *number >= 0) size = static_cast<uint64_t>(*number);
    if (const auto* number = std::get_if<uint64_t>(&it->second)) size = *number;
    if (!size) fail(ErrorCode::InvalidArgument, "{}: parameter 'binary_data_size' must be a number of bytes, 0 or more", where);
    parameters.erase(it);
    return size;
  }

  Shape read_shape(std::string_view where, const element& value) const {
    simdjson::dom::array dims;
    if (value.get_array().get(dims)) fail(ErrorCode::InvalidArgument, "{}: shape must be an array of integers", where);
    Shape shape;
    for (const element dim : dims) {
      int64_t number = 0;
      if (dim.get_int64().get(number)) fail(ErrorCode::InvalidArgument, "{}: shape must be an array of integers", where);
      if (number < 0) fail(ErrorCode::InvalidArgument, "{}: shape has the negative dimension {}", where, number);
      shape.push_back(number);
    }
    if (shape.size() > kMaxRank)
      fail(ErrorCode::InvalidArgument, "{}: shape has {} dimensions, at most {} are taken", where, shape.size(), kMaxRank);
    return shape;
  }

  void read_input(const element& value) {
    object fields;
    if (value.get_object().get(fields)) fail(ErrorCode::InvalidArgument, "an input of the inference request must be an object");
    InferRequest& request = *decoded_.request;
    std::optional<std::string> name;
    std::optional<element> datatype, shape_value, parameters_value, data;
    for (const auto field : fields) {
      if (field.key == "name") name = text_of("an input's name", field.value);
      else if (field.key == "datatype") datatype = field.value;
      else if (field.key == "shape") shape_value = field.value;
      else if (field.key == "parameters") parameters_value = field.value;
      else if (field.key == "data") data = field.value;
    }
    if (!name) fail(ErrorCode::InvalidArgument, "input {} of model '{}' has no name", request.inputs.size(), model_);
    const std::string where = fmt::format("input '{}' of model '{}'", *name, model_);
    for (const NamedTensor& other : request.inputs)
      if (other.name == *name) fail(ErrorCode::InvalidArgument, "{} is given twice", where);
    if (!datatype) fail(ErrorCode::InvalidArgument, "{} has no datatype", where);
    if (!shape_value) fail(ErrorCode::InvalidArgument, "{} has no shape", where);
    const std::string datatype_text = text_of(where + ": datatype", *datatype);
    const auto dtype = kserve::parse_datatype(datatype_text);
    if (!dtype) fail(ErrorCode::InvalidArgument, "{}: '{}' is not a datatype", where, datatype_text);
    Shape shape = read_shape(where, *shape_value);
    NamedTensor named{.name = std::move(*name)};
    if (parameters_value) named.parameters = read_parameters(where, *parameters_value);

    const std::optional<uint64_t> size = take_size(where, named.parameters);
    if (auto range = kserve::take_shared_memory(where, named.parameters)) {
      if (size || data)
        fail(ErrorCode::InvalidArgument, "{} is in shared memory and has {} too", where, data ? "data" : "binary_data_size");
      SharedBytes shared = allowed(shared_memory_).view(range->region, range->offset, range->byte_size);
      named.tensor = kserve::read_wire(where, *dtype, std::move(shape), shared.bytes, std::move(shared.owner));
    } else if (size) {
      if (data) fail(ErrorCode::InvalidArgument, "{} has data and binary_data_size, it must have one of them", where);
      if (*size > rest_.size())
        fail(ErrorCode::InvalidArgument, "{}: binary_data_size is {}, {} bytes of the body are left for it", where, *size, rest_.size());
      named.tensor = kserve::read_wire(where, *dtype, std::move(shape), rest_.first(*size), body_);
      rest_ = rest_.subspan(*size);
    } else if (data) {
      named.tensor = read_elements(where, *dtype, std::move(shape), *data);
    } else {
      fail(ErrorCode::InvalidArgument, "{} has no data: expected data, binary_data_size or shared memory", where);
    }
    request.inputs.push_back(std::move(named));
  }

  void read_output(const element& value) {
    object fields;
    if (value.get_object().get(fields)) fail(ErrorCode::InvalidArgument, "an output of the inference request must be an object");
    InferRequest& request = *decoded_.request;
    std::optional<std::string> name;
    std::optional<element> parameters_value;
    for (const auto field : fields) {
      if (field.key == "name") name = text_of("an output's name", field.value);
      else if (field.key == "parameters") parameters_value = field.value;
    }
    if (!name) fail(ErrorCode::InvalidArgument, "output {} of model '{}' has no name", request.outputs.size(), model_);
    const std::string where = fmt::format("output '{}' of model '{}'", *name, model_);
    for (const RequestedOutput& other : request.outputs)
      if (other.name == *name) fail(ErrorCode::InvalidArgument, "{} is requested twice", where);
    RequestedOutput output{.name = std::move(*name)};
    if (parameters_value) output.parameters = read_parameters(where, *parameters_value);
    output.classification = kserve::take_classification(where, output.parameters);
    const std::optional<bool> is_binary = take_flag(where, output.parameters, "binary_data");
    if (is_binary) decoded_.form.binary[output.name] = *is_binary;
    if (auto range = kserve::take_shared_memory(where, output.parameters)) {
      if (is_binary.value_or(false)) fail(ErrorCode::InvalidArgument, "{} is asked for in shared memory and as binary data", where);
      SharedBytes shared = allowed(shared_memory_).view(range->region, range->offset, range->byte_size);
      decoded_.form.places.emplace(output.name, OutputForm::Place{std::move(*range), std::move(shared)});
    }
    request.outputs.push_back(std::move(output));
  }

  static constexpr size_t kMaxRank = 64;
  const std::string& model_;
  const Body& body_;
  SharedMemoryRegistry* shared_memory_;
  std::span<const std::byte> rest_;  // of the body, behind the JSON and the inputs read so far
  DecodedInfer decoded_;
};

}  // namespace

SharedMemoryRegistry& allowed(SharedMemoryRegistry* shared_memory) {
  if (!shared_memory)
    fail(ErrorCode::Unsupported, "clients may not use shared memory: the server was started without --allow-client-shm=true");
  return *shared_memory;
}

std::optional<size_t> parse_json_size(std::string_view header, size_t body_size) {
  if (header.empty()) return std::nullopt;
  size_t size = 0;
  const auto [end, error] = std::from_chars(header.data(), header.data() + header.size(), size);
  if (error != std::errc() || end != header.data() + header.size())
    fail(ErrorCode::InvalidArgument, "Inference-Header-Content-Length must be a number of bytes, found '{}'", header);
  if (size > body_size)
    fail(ErrorCode::InvalidArgument, "Inference-Header-Content-Length is {}, the whole body has {} bytes", size, body_size);
  return size;
}

DecodedInfer read_infer(const std::string& model, const Body& body, std::optional<size_t> json_size, SharedMemoryRegistry* shared_memory) {
  const size_t size = json_size.value_or(body->size());
  const std::string_view text(reinterpret_cast<const char*>(body->data()), size);
  return read_json(text, [&](const element& document) { return InferReader(model, body, size, shared_memory).read(document); });
}

DecodedInfer read_raw_infer(const Model& model, const Body& body) {
  if (model.inputs().size() != 1)
    fail(ErrorCode::InvalidArgument, "a raw request needs a model with one input, model '{}' has {}", model.name(), model.inputs().size());
  const TensorMetadata& input = model.inputs()[0];
  const std::string where = fmt::format("input '{}' of model '{}'", input.name, model.name());
  Shape shape = input.shape;
  const bool is_batched = model.config().max_batch_size() > 0;
  if (is_batched && !shape.empty()) shape[0] = 1;

  DecodedInfer decoded{std::make_unique<InferRequest>(), {.is_binary = true}};
  decoded.request->model_name = model.name();
  NamedTensor named{.name = input.name};
  if (input.dtype == DType::String) {
    for (int64_t& dim : shape)
      if (dim == -1) dim = 1;
    if (num_elements(shape) != 1)
      fail(ErrorCode::InvalidArgument, "{}: a raw request with BYTES needs the shape [1], found {}", where, to_string(input.shape));
    named.tensor = Tensor::empty(DType::String, std::move(shape));
    named.tensor.strings()[0].assign(reinterpret_cast<const char*>(body->data()), body->size());
  } else {
    int64_t* variable = nullptr;
    auto row = static_cast<uint64_t>(bits_of(input.dtype) / 8);
    for (int64_t& dim : shape) {
      if (dim >= 0) {
        if (dim != 0 && row > (uint64_t{1} << 62) / static_cast<uint64_t>(dim))
          fail(ErrorCode::InvalidArgument, "{}: shape {} has more elements than can be counted", where, to_string(input.shape));
        row *= static_cast<uint64_t>(dim);
      } else if (variable) {
        fail(ErrorCode::InvalidArgument, "{}: a raw request needs a shape of at most one variable dimension, found {}", where,
             to_string(input.shape));
      } else {
        variable = &dim;
      }
    }
    if (variable) {
      if (row == 0 || body->size() % row != 0)
        fail(ErrorCode::InvalidArgument, "{}: {} bytes of a raw request are no multiple of {}, what shape {} takes for each step", where,
             body->size(), row, to_string(input.shape));
      *variable = static_cast<int64_t>(body->size() / row);
    }
    named.tensor = kserve::read_wire(where, input.dtype, std::move(shape), *body, body);
  }
  decoded.request->inputs.push_back(std::move(named));
  return decoded;
}

}  // namespace tokamak::server::http
