#include "server/grpc/infer_codec.h"

#include <google/protobuf/io/coded_stream.h>
#include <grpcpp/impl/codegen/proto_utils.h>

#include <cstring>
#include <limits>
#include <utility>

#include "server/grpc/shared_memory_calls.h"

namespace tokamak::server {

namespace {

using Contents = inference::InferTensorContents;
using WireParameters = google::protobuf::Map<std::string, inference::InferParameter>;
using Message = std::shared_ptr<const inference::ModelInferRequest>;

Parameters to_parameters(const WireParameters& wire) {
  Parameters parameters;
  for (const auto& [name, value] : wire) {
    switch (value.parameter_choice_case()) {
      case inference::InferParameter::kBoolParam: parameters.emplace(name, value.bool_param()); break;
      case inference::InferParameter::kInt64Param: parameters.emplace(name, value.int64_param()); break;
      case inference::InferParameter::kStringParam: parameters.emplace(name, value.string_param()); break;
      case inference::InferParameter::kDoubleParam: parameters.emplace(name, value.double_param()); break;
      case inference::InferParameter::kUint64Param: parameters.emplace(name, value.uint64_param()); break;
      case inference::InferParameter::PARAMETER_CHOICE_NOT_SET:
        fail(ErrorCode::InvalidArgument, "parameter '{}' has no value of a known type", name);
    }
  }
  return parameters;
}

void set_parameter(inference::InferParameter& wire, const Parameter& value) {
  if (const auto* flag = std::get_if<bool>(&value)) wire.set_bool_param(*flag);
  if (const auto* number = std::get_if<int64_t>(&value)) wire.set_int64_param(*number);
  if (const auto* number = std::get_if<uint64_t>(&value)) wire.set_uint64_param(*number);
  if (const auto* number = std::get_if<double>(&value)) wire.set_double_param(*number);
  if (const auto* text = std::get_if<std::string>(&value)) wire.set_string_param(*text);
}

void to_wire(const Parameters& parameters, WireParameters& wire) {
  for (const auto& [name, value] : parameters) set_parameter(wire[name], value);
}

template <class T, class Field>
Tensor narrowed(std::string_view where, Shape shape, const Field& values) {
  Tensor tensor = Tensor::empty(DTypeOf<T>::value, std::move(shape));
  for (int i = 0; i < values.size(); ++i) {
    if (!std::in_range<T>(values.Get(i)))
      fail(ErrorCode::InvalidArgument, "{}: {} at element {} is not a {}", where, values.Get(i), i,
           kserve::datatype_name(DTypeOf<T>::value));
    tensor.data<T>()[i] = static_cast<T>(values.Get(i));
  }
  return tensor;
}

// The field of `contents` that belongs to `dtype`, as a tensor; `expected` elements by the shape.
Tensor read_contents(std::string_view where, DType dtype, Shape shape, const Contents& contents, const Message& owner) {
  const int64_t expected = kserve::checked_elements(where, shape);
  const auto check_count = [&](const auto& field, const char* name) {
    if (field.size() != expected)
      fail(ErrorCode::InvalidArgument, "{}: expected {} elements in {} by its shape {}, found {}", where, expected, name, to_string(shape),
           field.size());
  };
  const auto view = [&](const auto& field, const char* name) {
    check_count(field, name);
    const auto bytes = std::as_bytes(std::span(field.data(), static_cast<size_t>(field.size())));
    return kserve::read_wire(where, dtype, std::move(shape), bytes, owner);
  };
  switch (dtype) {
    case DType::Bool: return view(contents.bool_contents(), "bool_contents");
    case DType::I8: check_count(contents.int_contents(), "int_contents"); return narrowed<int8_t>(where, shape, contents.int_contents());
    case DType::I16: check_count(contents.int_contents(), "int_contents"); return narrowed<int16_t>(where, shape, contents.int_contents());
    case DType::I32: return view(contents.int_contents(), "int_contents");
    case DType::I64: return view(contents.int64_contents(), "int64_contents");
    case DType::U8:
      check_count(contents.uint_contents(), "uint_contents");
      return narrowed<uint8_t>(where, shape, contents.uint_contents());
    case DType::U16:
      check_count(contents.uint_contents(), "uint_contents");
      return narrowed<uint16_t>(where, shape, contents.uint_contents());
    case DType::U32: return view(contents.uint_contents(), "uint_contents");
    case DType::U64: return view(contents.uint64_contents(), "uint64_contents");
    case DType::F32: return view(contents.fp32_contents(), "fp32_contents");
    case DType::F64: return view(contents.fp64_contents(), "fp64_contents");
    case DType::String: {
      check_count(contents.bytes_contents(), "bytes_contents");
      Tensor tensor = Tensor::empty(DType::String, std::move(shape));
      tensor.strings().assign(contents.bytes_contents().begin(), contents.bytes_contents().end());
      return tensor;
    }
    default: fail(ErrorCode::InvalidArgument, "{}: {} has no typed contents, send raw_input_contents", where, kserve::datatype_name(dtype));
  }
}

std::span<const std::byte> as_bytes(const std::string& text) { return std::as_bytes(std::span(text.data(), text.size())); }

SharedBytes shared_bytes(Server& server, const kserve::SharedMemoryRange& range) {
  return management::shared_memory_of(server).view(range.region, range.offset, range.byte_size);
}

void decode_inputs(const Message& message, Server& server, InferRequest& request) {
  const bool is_raw = message->raw_input_contents_size() > 0;
  int next_raw = 0;
  for (const auto& input : message->inputs()) {
    const std::string where = fmt::format("input '{}' of model '{}'", input.name(), message->model_name());
    const auto dtype = kserve::parse_datatype(input.datatype());
    if (!dtype) fail(ErrorCode::InvalidArgument, "{}: '{}' is not a datatype", where, input.datatype());
    for (const NamedTensor& other : request.inputs)
      if (other.name == input.name()) fail(ErrorCode::InvalidArgument, "{} is given twice", where);
    NamedTensor& named = request.inputs.emplace_back(NamedTensor{.name = input.name(), .parameters = to_parameters(input.parameters())});
    Shape shape(input.shape().begin(), input.shape().end());
    if (const auto range = kserve::take_shared_memory(where, named.parameters)) {
      if (input.has_contents()) fail(ErrorCode::InvalidArgument, "{} is in shared memory and has contents too", where);
      SharedBytes shared = shared_bytes(server, *range);
      named.tensor = kserve::read_wire(where, *dtype, std::move(shape), shared.bytes, std::move(shared.owner));
    } else if (is_raw) {
      if (input.has_contents()) fail(ErrorCode::InvalidArgument, "{} has contents, the request has raw_input_contents too", where);
      if (next_raw == message->raw_input_contents_size())
        fail(ErrorCode::InvalidArgument, "{} has no raw_input_contents, there are {}", where, next_raw);
      named.tensor = kserve::read_wire(where, *dtype, std::move(shape), as_bytes(message->raw_input_contents(next_raw++)), message);
    } else {
      named.tensor = read_contents(where, *dtype, std::move(shape), input.contents(), message);
    }
  }
  if (next_raw != message->raw_input_contents_size())
    fail(ErrorCode::InvalidArgument, "expected {} raw_input_contents for the inputs of model '{}' that are not in shared memory, found {}",
         next_raw, message->model_name(), message->raw_input_contents_size());
}

void decode_outputs(const inference::ModelInferRequest& message, Server& server, InferRequest& request, OutputPlaces& places) {
  for (const auto& output : message.outputs()) {
    const std::string where = fmt::format("output '{}' of model '{}'", output.name(), message.model_name());
    for (const RequestedOutput& other : request.outputs)
      if (other.name == output.name()) fail(ErrorCode::InvalidArgument, "{} is requested twice", where);
    Parameters parameters = to_parameters(output.parameters());
    const int classification = kserve::take_classification(where, parameters);
    if (auto range = kserve::take_shared_memory(where, parameters)) {
      SharedBytes shared = shared_bytes(server, *range);
      places.emplace(output.name(), std::pair(std::move(*range), std::move(shared)));
    }
    request.outputs.push_back({output.name(), classification, std::move(parameters)});
  }
}

// The pieces of a message. Small ones gather in one slice; a large tensor is a slice of its own that keeps it alive.
class Pieces {
 public:
  static constexpr size_t kSmall = 16 << 10;

  void add(const void* data, size_t size) { gathered_.append(static_cast<const char*>(data), size); }

  void add_key(uint8_t key, uint64_t length) {
    uint8_t head[1 + 10] = {key};
    const uint8_t* end = google::protobuf::io::CodedOutputStream::WriteVarint64ToArray(length, head + 1);
    add(head, static_cast<size_t>(end - head));
  }

  void add_tensor(const Tensor& tensor, size_t size) {
    if (size == 0) return;
    if (tensor.dtype() == DType::String || size <= kSmall) {
      const size_t at = gathered_.size();
      gathered_.resize(at + size);
      kserve::write_wire(tensor, reinterpret_cast<std::byte*>(gathered_.data() + at));
      return;
    }
    flush();
    auto* kept = new Tensor(tensor);
    slices_.emplace_back(
        const_cast<void*>(tensor.raw()), size, [](void* t) { delete static_cast<Tensor*>(t); }, kept);
  }

  grpc::ByteBuffer finish() && {
    flush();
    return {slices_.data(), slices_.size()};
  }

 private:
  void flush() {
    if (gathered_.empty()) return;
    slices_.emplace_back(gathered_);
    gathered_.clear();
  }

  std::string gathered_;
  std::vector<grpc::Slice> slices_;
};

constexpr uint8_t field_key(int number) { return static_cast<uint8_t>(number << 3 | 2); }  // of a length-delimited field
constexpr uint8_t kRawOutputContents = field_key(inference::ModelInferResponse::kRawOutputContentsFieldNumber);
constexpr uint8_t kInferResponse = field_key(inference::ModelStreamInferResponse::kInferResponseFieldNumber);

size_t size_of_field(size_t length) { return 1 + google::protobuf::io::CodedOutputStream::VarintSize64(length) + length; }

// Writes `output` to shared memory and says so in its metadata.
void place_output(const NamedTensor& output, size_t size, const OutputPlaces::mapped_type& place,
                  inference::ModelInferResponse::InferOutputTensor& wire) {
  const auto& [range, shared] = place;
  if (size > shared.bytes.size())
    fail(ErrorCode::InvalidArgument, "output '{}' has {} bytes, its place in shared memory region '{}' has {}", output.name, size,
         range.region, shared.bytes.size());
  kserve::write_wire(output.tensor, shared.bytes.data());
  auto& parameters = *wire.mutable_parameters();
  parameters["shared_memory_region"].set_string_param(range.region);
  parameters["shared_memory_byte_size"].set_int64_param(static_cast<int64_t>(size));
  if (range.offset != 0) parameters["shared_memory_offset"].set_int64_param(static_cast<int64_t>(range.offset));
}

grpc::ByteBuffer encode(const InferResponse& response, const OutputPlaces& places, bool is_stream) {
  inference::ModelInferResponse head;  // all but raw_output_contents, which come last on the wire too
  head.set_model_name(response.model_name);
  head.set_model_version(std::to_string(response.model_version));
  head.set_id(response.id);
  to_wire(response.parameters, *head.mutable_parameters());
  if (is_stream) (*head.mutable_parameters())["triton_final_response"].set_bool_param(response.is_final);

  size_t total = 0;
  std::vector<size_t> sizes;
  for (const NamedTensor& output : response.outputs) {
    auto& wire = *head.add_outputs();
    wire.set_name(output.name);
    wire.set_datatype(kserve::datatype_name(output.tensor.dtype()));
    if (wire.datatype().empty())
      fail(ErrorCode::Internal, "output '{}' has dtype {}, which the protocol has no name for", output.name,
           to_string(output.tensor.dtype()));
    wire.mutable_shape()->Add(output.tensor.shape().begin(), output.tensor.shape().end());
    to_wire(output.parameters, *wire.mutable_parameters());
    size_t size = static_cast<size_t>(kserve::wire_size(output.tensor));
    if (const auto place = places.find(output.name); place != places.end()) {
      place_output(output, size, place->second, wire);
      size = 0;  // its entry stays, empty: entries are matched with outputs by position
    }
    sizes.push_back(size);
    total += size_of_field(size);
  }
  const size_t head_size = head.ByteSizeLong();
  total += head_size;
  if (total > std::numeric_limits<int32_t>::max() - 16)
    fail(ErrorCode::InvalidArgument, "the answer has {} bytes, a message of gRPC holds {}", total, std::numeric_limits<int32_t>::max());

  Pieces pieces;
  if (is_stream) pieces.add_key(kInferResponse, total);
  pieces.add(head.SerializeAsString().data(), head_size);
  for (size_t i = 0; i < sizes.size(); ++i) {
    pieces.add_key(kRawOutputContents, sizes[i]);
    pieces.add_tensor(response.outputs[i].tensor, sizes[i]);
  }
  return std::move(pieces).finish();
}

}  // namespace

std::shared_ptr<const inference::ModelInferRequest> parse_infer(grpc::ByteBuffer&& bytes) {
  auto message = std::make_shared<inference::ModelInferRequest>();
  const grpc::Status status = grpc::SerializationTraits<inference::ModelInferRequest>::Deserialize(&bytes, message.get());
  bytes.Clear();
  if (!status.ok()) fail(ErrorCode::InvalidArgument, "the message is not a ModelInferRequest: {}", status.error_message());
  return message;
}

DecodedInfer decode_infer(const Message& message, Server& server, bool is_stream) {
  DecodedInfer decoded;
  decoded.model = server.find_model(message->model_name(), Server::parse_version(message->model_version()));
  if (!is_stream && decoded.model->is_decoupled())
    fail(ErrorCode::Unsupported, "model '{}' is decoupled: one request may have any number of responses, call ModelStreamInfer",
         message->model_name());
  decoded.request = std::make_unique<InferRequest>();
  InferRequest& request = *decoded.request;
  request.model_name = message->model_name();
  request.model_version = decoded.model->version();
  request.id = message->id();
  kserve::take_parameters(request, to_parameters(message->parameters()), is_stream ? &decoded.enable_empty_final_response : nullptr);
  decode_inputs(message, server, request);
  decode_outputs(*message, server, request, decoded.places);
  return decoded;
}

grpc::ByteBuffer encode_response(const InferResponse& response, const OutputPlaces& places) { return encode(response, places, false); }

grpc::ByteBuffer encode_stream_response(const InferResponse& response, const OutputPlaces& places) {
  return encode(response, places, true);
}

grpc::ByteBuffer encode_stream_error(const std::string& model_name, const std::string& id, const std::string& message, bool is_final) {
  inference::ModelStreamInferResponse wire;
  wire.set_error_message(message);
  wire.mutable_infer_response()->set_model_name(model_name);
  wire.mutable_infer_response()->set_id(id);
  (*wire.mutable_infer_response()->mutable_parameters())["triton_final_response"].set_bool_param(is_final);
  const grpc::Slice slice(wire.SerializeAsString());
  return {&slice, 1};
}

}  // namespace tokamak::server
