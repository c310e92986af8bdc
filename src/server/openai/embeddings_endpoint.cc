// POST /v1/embeddings.

#include <algorithm>
#include <bit>

#include "server/openai/embedding.h"
#include "server/openai/json_text.h"
#include "server/openai/service.h"
#include "server/statistics.h"

namespace tokamak::server::openai {
namespace {

constexpr size_t kMaxInputs = 2048;

struct EmbeddingRequest {
  std::string model;
  std::vector<std::string> texts;          // or
  std::vector<std::vector<int32_t>> rows;  // ids
  bool base64 = false;
  int64_t dimensions = 0;  // 0: what the model has
};

void read_input(const Json& input, EmbeddingRequest& request) {
  const bool is_array = input.is_array() && !input.empty();
  if (input.is_string()) {
    request.texts = {input.get<std::string>()};
  } else if (is_array && input[0].is_number()) {
    request.rows = {token_ids_of(input, "input")};
  } else if (is_array && input.size() <= kMaxInputs) {
    for (size_t i = 0; i < input.size(); ++i) {
      if (input[i].type() != input[0].type() || !(input[i].is_string() || input[i].is_array()))
        bad_request("input", "'input' should hold strings alone or arrays of token ids alone");
      if (input[i].is_string()) request.texts.push_back(input[i].get<std::string>());
      else request.rows.push_back(token_ids_of(input[i], fmt::format("input[{}]", i)));
    }
  } else {
    bad_request("input", "'input' should be a string, an array of at most {} strings, or of token ids or arrays of those, and not empty",
                kMaxInputs);
  }
}

EmbeddingRequest read_embedding_request(const Json& body) {
  Fields fields(body, "");
  EmbeddingRequest request;
  const std::string* model = fields.string("model");
  if (!model || model->empty()) bad_request("model", "you must provide a model parameter");
  request.model = *model;
  const Json* input = fields.find("input");
  if (!input) bad_request("input", "you must provide an input");
  read_input(*input, request);
  if (const std::string* format = fields.string("encoding_format")) {
    if (*format != "float" && *format != "base64") bad_request("encoding_format", "'encoding_format' should be float or base64");
    request.base64 = *format == "base64";
  }
  request.dimensions = fields.integer("dimensions", 1, INT32_MAX).value_or(0);
  fields.ignore({"user"});
  fields.finish();
  return request;
}

// Little-endian, as the openai client reads it.
std::string base64_of(std::span<const float> values) {
  static constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  static_assert(std::endian::native == std::endian::little);
  const auto bytes = std::as_bytes(values);
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const size_t count = std::min<size_t>(3, bytes.size() - i);
    uint32_t group = 0;
    for (size_t k = 0; k < 3; ++k) group = group << 8 | (k < count ? std::to_integer<uint32_t>(bytes[i + k]) : 0);
    for (size_t k = 0; k < 4; ++k) out += k <= count ? kDigits[group >> (18 - 6 * k) & 63] : '=';
  }
  return out;
}

std::string embeddings_json(const EmbeddingModel::Vectors& vectors, const std::string& model, bool base64, int64_t num_tokens) {
  std::string out = R"({"object":"list","data":[)";
  for (size_t i = 0; i < vectors.size(); ++i) {
    if (i) out += ',';
    out += R"({"object":"embedding","index":)";
    append_integer(out, static_cast<int64_t>(i));
    out += R"(,"embedding":)";
    if (base64) {
      out += '"' + base64_of(vectors[i]) + '"';
    } else {
      out += '[';
      for (size_t k = 0; k < vectors[i].size(); ++k) {
        if (k) out += ',';
        append_logprob(out, vectors[i][k]);
      }
      out += ']';
    }
    out += '}';
  }
  out += R"(],"model":)";
  append_json_string(out, model);
  out += R"(,"usage":{"prompt_tokens":)";
  append_integer(out, num_tokens);
  out += R"(,"total_tokens":)";
  append_integer(out, num_tokens);
  return out += "}}";
}

int32_t pad_id_of(const llm::Tokenizer* tokenizer) {
  if (tokenizer)
    for (const char* name : {"[PAD]", "<pad>", "<|endoftext|>"})
      if (const auto id = tokenizer->token_to_id(name)) return *id;
  return 0;
}

}  // namespace

void Service::embeddings(const Exchange& exchange) {
  EmbeddingRequest request = read_embedding_request(parse_json(exchange.body()));
  const std::shared_ptr<Model> model = find_any(request.model);
  if (model->llm()) {
    std::vector<std::string> able;
    for (const auto& other : options_.list_models())
      if (!other->llm() && EmbeddingModel::why_not(*other).empty()) able.push_back(other->name());
    throw ApiError(400, "invalid_request_error",
                   fmt::format("'{}' is a language model, which gives tokens and no embeddings. {}", request.model,
                               able.empty() ? "No model of this server embeds text: load an encoder with an output per token."
                                            : fmt::format("These embed text: {}", fmt::join(able, ", "))),
                   "model", "model_not_supported");
  }
  const EmbeddingModel embedder(model);
  const auto tokenizer = options_.tokenizer_of ? options_.tokenizer_of(*model) : nullptr;
  if (!request.texts.empty() && !tokenizer)
    throw ApiError(400, "invalid_request_error",
                   fmt::format("the model '{}' has no tokenizer.json in its folder: give token ids as 'input'", request.model), "input");
  for (const std::string& text : request.texts) request.rows.push_back(tokenizer->encode(text));
  int64_t num_tokens = 0;
  for (size_t i = 0; i < request.rows.size(); ++i) {
    if (request.rows[i].empty()) bad_request("input", "input {} has no tokens", i);
    num_tokens += std::ssize(request.rows[i]);
  }
  auto cancellation = std::make_shared<Cancellation>();
  exchange.responder->on_disconnect([cancellation] { cancellation->cancel(); });
  const auto trace = begin_trace(TraceKind::Embedding, request.model, exchange);
  if (trace) trace->set("gen_ai.usage.prompt_tokens", num_tokens);
  const std::string traceparent = trace ? trace->traceparent() : std::string(exchange.request->header("traceparent"));
  const auto answer = [exchange, trace, hold = hold_server(), name = request.model, base64 = request.base64,
                       dimensions = request.dimensions, num_tokens](EmbeddingModel::Vectors vectors, const InferResponse* error) {
    if (trace) trace->end(steady_now_ns(), error ? error->error : "");
    if (error) {
      exchange.send_error(api_error(*error->error_code, error->error));
      return;
    }
    if (dimensions != 0 && dimensions != std::ssize(vectors.front())) {
      exchange.send_error(
          ApiError(400, "invalid_request_error",
                   fmt::format("'dimensions' is {}; this model gives {} and was not trained to be cut", dimensions, vectors.front().size()),
                   "dimensions"));
      return;
    }
    exchange.send_json(embeddings_json(vectors, name, base64, num_tokens));
  };
  embedder.embed(std::move(request.rows), pad_id_of(tokenizer.get()), traceparent, std::move(cancellation), answer);
}

}  // namespace tokamak::server::openai
