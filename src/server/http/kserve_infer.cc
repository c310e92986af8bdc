#include <mutex>

#include "model_config.pb.h"
#include "server/http/json_tensor.h"
#include "server/http/kserve_calls.h"
#include "server/http/kserve_request.h"
#include "server/http/kserve_response.h"
#include "server/http/load_report.h"
#include "server/http/trace_exchange.h"

namespace tokamak::server::http {

namespace {

using simdjson::dom::element;

std::shared_ptr<LlmModel> llm_of(const std::shared_ptr<Model>& model) {
  return model->llm() ? std::shared_ptr<LlmModel>(model, model->llm()) : nullptr;
}

// What the HTTP message says about any request.
void complete(const KserveContext& context, const Request& message, const std::shared_ptr<Responder>& responder, int64_t version,
              InferRequest& request) {
  request.model_version = version;
  request.received_ns = message.received_ns;
  request.traceparent = message.header("traceparent");
  if (context.forwarded_headers)
    for (const auto& [name, value] : message.headers)
      if (std::regex_match(name, *context.forwarded_headers)) request.parameters.insert_or_assign(name, value);
  responder->on_disconnect([cancellation = request.cancellation] { cancellation->cancel(); });
  context.core.tracer().begin(request);
  trace_exchange(request.trace, message, *responder);
}

// Shape of an input of `generate`: the config's, one row, its variable dimension as long as the values need it to be.
Shape generate_shape(std::string_view where, const Model& model, const TensorMetadata& input, int64_t count) {
  Shape shape = input.shape;
  if (model.config().max_batch_size() > 0 && !shape.empty()) shape[0] = 1;
  int64_t fixed = 1;
  int64_t* variable = nullptr;
  for (int64_t& dim : shape) {
    if (dim >= 0) {
      if (dim != 0 && fixed > INT64_MAX / dim) fail(ErrorCode::InvalidArgument, "{}: shape {} is too large", where, to_string(input.shape));
      fixed *= dim;
    } else if (variable) {
      fail(ErrorCode::InvalidArgument, "{}: shape {} has several variable dimensions, generate takes at most one", where,
           to_string(input.shape));
    } else {
      variable = &dim;
    }
  }
  if (variable && fixed > 0 && count % fixed == 0) *variable = count / fixed;
  else if (variable || count != fixed)
    fail(ErrorCode::InvalidArgument, "{}: {} values do not make a tensor of shape {}", where, count, to_string(input.shape));
  return shape;
}

std::unique_ptr<InferRequest> read_generate(const Model& model, const element& document) {
  simdjson::dom::object fields;
  if (document.get_object().get(fields)) fail(ErrorCode::InvalidArgument, "the generate request must be a JSON object");
  auto request = std::make_unique<InferRequest>();
  request->model_name = model.name();
  Parameters parameters;
  const auto add = [&](std::string_view key, const element& value) {
    const TensorMetadata* input = nullptr;
    for (const TensorMetadata& candidate : model.inputs())
      if (candidate.name == key) input = &candidate;
    if (input) {
      const std::string where = fmt::format("input '{}' of model '{}'", key, model.name());
      for (const NamedTensor& other : request->inputs)
        if (other.name == key) fail(ErrorCode::InvalidArgument, "{}: received duplicate input", where);
      Shape shape = generate_shape(where, model, *input, count_elements(value));
      request->inputs.push_back({std::string(key), read_elements(where, input->dtype, std::move(shape), value)});
    } else if (key == "id") {
      const Parameter id = read_parameter(key, value);
      const auto* text = std::get_if<std::string>(&id);
      if (!text) fail(ErrorCode::InvalidArgument, "the generate request's id must be a string");
      request->id = *text;
    } else {
      parameters.insert_or_assign(std::string(key), read_parameter(key, value));
    }
  };
  for (const auto field : fields) {
    // "parameters": {...} is the place of them in the generate extension; at the top they are taken too.
    if (field.key == "parameters" && field.value.is_object()) {
      for (const auto inner : simdjson::dom::object(field.value.get_object().value_unsafe())) add(inner.key, inner.value);
    } else {
      add(field.key, field.value);
    }
  }
  kserve::take_parameters(*request, std::move(parameters));
  return request;
}

// Collects the responses of `generate`; they come one at a time.
class OneResponse {
 public:
  explicit OneResponse(std::shared_ptr<Responder> responder) : responder_(std::move(responder)) {}

  void take(InferResponse response) {
    if (response.error_code && !error_code_) {
      error_code_ = response.error_code;
      error_ = response.error;
    } else if (!response.error_code && !response.is_empty && ++count_ == 1) {
      try {
        json_ = write_generated(response);
      } catch (const Error& e) {
        error_code_ = e.code();
        error_ = e.what();
      }
    }
    if (response.is_final) finish();
  }

 private:
  void finish() {
    if (error_code_) {
      responder_->send(error_answer(*error_code_, error_));
    } else if (count_ == 1) {
      responder_->send(json_answer(std::move(json_)));
    } else {
      responder_->send(error_answer(ErrorCode::Internal,
                                    fmt::format("generate expects model to produce exactly 1 response, use generate stream for model that "
                                                "generates various number of responses; there were {}",
                                                count_)));
    }
  }

  std::shared_ptr<Responder> responder_;
  int64_t count_ = 0;
  std::string json_, error_;
  std::optional<ErrorCode> error_code_;
};

// Server-sent events, each response as it comes. An error in front of the first is an answer of its own.
class EventStream {
 public:
  EventStream(std::shared_ptr<Responder> responder, std::shared_ptr<Cancellation> cancellation)
      : responder_(std::move(responder)), cancellation_(std::move(cancellation)) {}

  void take(InferResponse response) {
    if (response.error_code) {
      fail_with(*response.error_code, response.error);
    } else if (!response.is_empty) {
      try {
        event(write_generated(response));
      } catch (const Error& e) {
        fail_with(e.code(), e.what());
      }
    }
    if (!response.is_final || is_refused_) return;
    begin();
    responder_->end();
  }

 private:
  // A client that reads more slowly than the model writes is cut off rather than kept in memory.
  static constexpr size_t kMostQueued = size_t{64} << 20;

  void begin() {
    if (std::exchange(has_begun_, true)) return;
    responder_->begin(200, {{"Content-Type", "text/event-stream; charset=utf-8"}, {"Cache-Control", "no-cache"}});
  }

  void event(const std::string& json) {
    begin();
    responder_->write("data: " + json + "\n\n");
    if (responder_->queued_bytes() > kMostQueued) cancellation_->cancel();
  }

  void fail_with(ErrorCode code, const std::string& message) {
    if (is_refused_) return;
    if (has_begun_) return event(error_json(message));
    is_refused_ = true;
    responder_->send(error_answer(code, message));
  }

  std::shared_ptr<Responder> responder_;
  std::shared_ptr<Cancellation> cancellation_;
  bool has_begun_ = false, is_refused_ = false;
};

}  // namespace

void infer(const KserveContext& context, const std::string& model_name, const std::string& version_text, const Request& message,
           const std::shared_ptr<Responder>& client) {
  const int64_t version = server::Server::parse_version(version_text);
  const auto model = context.core.find_model(model_name, version);
  const auto responder = with_load_report(client, message, llm_of(model));
  if (model->is_decoupled())
    fail(ErrorCode::Unsupported, "HTTP end point doesn't support models with decoupled transaction policy; use generate_stream or gRPC");
  const std::optional<size_t> json_size = parse_json_size(message.header("Inference-Header-Content-Length"), message.body->size());
  DecodedInfer decoded = json_size == size_t{0} ? read_raw_infer(*model, message.body)
                                                : read_infer(model_name, message.body, json_size, context.core.shared_memory());
  complete(context, message, responder, version, *decoded.request);
  decoded.request->on_response = [responder, form = std::move(decoded.form)](InferResponse response) {
    if (response.error_code) return responder->send(error_answer(*response.error_code, response.error));
    if (response.is_empty && response.is_final)
      return responder->send(error_answer(ErrorCode::Internal, fmt::format("model '{}' gave no response", response.model_name)));
    try {
      responder->send(write_infer(response, form));
    } catch (const Error& e) {
      responder->send(error_answer(e.code(), e.what()));
    } catch (const std::exception& e) {
      responder->send(error_answer(ErrorCode::Internal, e.what()));
    }
  };
  context.core.infer(std::move(decoded.request));
}

void generate(const KserveContext& context, const std::string& model_name, const std::string& version_text, bool is_stream,
              const Request& message, const std::shared_ptr<Responder>& client) {
  const int64_t version = server::Server::parse_version(version_text);
  const auto model = context.core.find_model(model_name, version);
  const auto responder = with_load_report(client, message, llm_of(model));
  auto request = read_json(message.text(), [&](const element& document) { return read_generate(*model, document); });
  complete(context, message, responder, version, *request);
  if (is_stream) {
    // Where the model itself asks whether to stream, this endpoint has said so.
    for (const TensorMetadata& input : model->inputs()) {
      const bool is_given =
          std::any_of(request->inputs.begin(), request->inputs.end(), [&](const auto& x) { return x.name == input.name; });
      if (input.name != "stream" || input.dtype != DType::Bool || is_given) continue;
      Tensor yes = Tensor::empty(DType::Bool, generate_shape("input 'stream'", *model, input, 1));
      *yes.data<uint8_t>() = 1;
      request->inputs.push_back({"stream", std::move(yes)});
    }
    const auto stream = std::make_shared<EventStream>(responder, request->cancellation);
    request->on_response = [stream](InferResponse response) { stream->take(std::move(response)); };
  } else {
    const auto one = std::make_shared<OneResponse>(responder);
    request->on_response = [one](InferResponse response) { one->take(std::move(response)); };
  }
  context.core.infer(std::move(request));
}

}  // namespace tokamak::server::http
