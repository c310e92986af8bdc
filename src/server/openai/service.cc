#include "server/openai/service.h"

#include <algorithm>
#include <random>

#include "base/version.h"
#include "server/http/load_report.h"
#include "server/http/trace_exchange.h"
#include "server/openai/json_text.h"

namespace tokamak::server::openai {
namespace {

// More than this is parsed and tokenized elsewhere than on a server thread: at some megabytes a second it takes milliseconds.
constexpr size_t kSmallBody = 32 << 10;
constexpr size_t kMaxIdBytes = 128;

std::string make_id() {
  thread_local std::mt19937_64 random{std::random_device{}()};
  return fmt::format("{:016x}{:016x}", random(), random());
}

// The client's own when it can stand in a header and in JSON as it is.
std::string request_id(const http::Request& request) {
  const std::string_view given = request.header("X-Request-Id");
  const auto is_plain = [](char c) { return c > ' ' && c < 0x7f && c != '"' && c != '\\'; };
  if (given.empty() || given.size() > kMaxIdBytes || !std::ranges::all_of(given, is_plain)) return make_id();
  return std::string(given);
}

void append_model(std::string& out, const Model& model, LlmModel* llm) {
  out += R"({"id":)";
  append_json_string(out, model.name());
  out += R"(,"object":"model","created":)";
  append_integer(out, llm ? llm->created() : 0);
  out += R"(,"owned_by":"tokamak","root":)";
  append_json_string(out, model.name());
  out += R"(,"parent":null)";
  if (llm) {
    out += R"(,"max_model_len":)";
    append_integer(out, llm->context_length());
  }
  out += '}';
}

}  // namespace

bool equal_in_constant_time(std::string_view a, std::string_view b) {
  size_t difference = a.size() ^ b.size();
  for (size_t i = 0; i < a.size(); ++i)
    difference |= static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b.empty() ? 0 : b[i % b.size()]);
  return difference == 0;
}

void Exchange::send(http::Response response) const {
  response.headers.emplace_back("X-Request-Id", id);
  responder->send(std::move(response));
}

void Exchange::send_json(std::string body) const { send({.headers = {{"Content-Type", "application/json"}}, .body = std::move(body)}); }

void Exchange::send_error(const ApiError& error) const { send(error_response(error)); }

Service::Service(OpenAiOptions options) : options_(std::move(options)), queue_(std::make_shared<WorkQueue>(options_.num_threads)) {
  CHECK(options_.list_models && options_.find_model && options_.num_threads > 0);
}

http::Handler Service::handler(Method method, bool is_guarded) {
  return [self = shared_from_this(), method, is_guarded](std::shared_ptr<const http::Request> request,
                                                         std::shared_ptr<http::Responder> responder) {
    const std::string id = request_id(*request);
    const Exchange exchange{std::move(request), std::move(responder), id};
    self->run(exchange, exchange.body().size() <= kSmallBody, [self, method, is_guarded, exchange] {
      if (is_guarded) self->check_key(*exchange.request);
      (self.get()->*method)(exchange);
    });
  };
}

void Service::run(const Exchange& exchange, bool is_small, std::function<void()> work) {
  auto guarded = [exchange, work = std::move(work)] {
    try {
      work();
    } catch (...) {
      exchange.send_error(api_error(std::current_exception()));
    }
  };
  if (is_small) guarded();
  else queue_->post(std::move(guarded));
}

void Service::check_key(const http::Request& request) const {
  if (options_.api_keys.empty()) return;
  std::string_view given = request.header("Authorization");
  constexpr std::string_view kScheme = "Bearer ";
  if (!given.starts_with(kScheme))
    throw ApiError(401, "invalid_request_error", "You didn't provide an API key: send it in the header 'Authorization: Bearer KEY'.", "",
                   "missing_api_key");
  given.remove_prefix(kScheme.size());
  bool is_known = false;
  for (const std::string& key : options_.api_keys) is_known |= equal_in_constant_time(given, key);
  if (!is_known) throw ApiError(401, "invalid_request_error", "Incorrect API key provided.", "", "invalid_api_key");
}

std::shared_ptr<const void> Service::hold_server() const {
  if (!options_.hold) return nullptr;
  auto hold = options_.hold();
  if (!hold) throw ApiError(503, "server_error", "the server is shutting down", "", "unavailable");
  return hold;
}

std::shared_ptr<Model> Service::find_any(const std::string& name) const {
  try {
    return options_.find_model(name);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::NotFound) throw;
    throw ApiError(404, "not_found_error", fmt::format("The model `{}` does not exist.", name.substr(0, 200)), "model", "model_not_found");
  }
}

std::shared_ptr<LlmModel> Service::find_llm(const std::string& name) const {
  std::shared_ptr<Model> model = find_any(name);
  LlmModel* llm = model->llm();
  if (!llm)
    throw ApiError(400, "invalid_request_error",
                   fmt::format("'{}' is not a language model: use /v2/models/{}/infer, or /v1/embeddings if it is an encoder", name, name),
                   "model", "model_not_supported");
  return {std::move(model), llm};
}

std::shared_ptr<LlmModel> Service::find_llm(const std::string* name) const {
  if (name) return find_llm(*name);
  std::shared_ptr<Model> only;
  for (auto& model : options_.list_models()) {
    if (!model->llm()) continue;
    if (only) bad_request("model", "there are several language models: name one in 'model'");
    only = std::move(model);
  }
  if (!only) throw ApiError(404, "not_found_error", "there is no language model", "model", "model_not_found");
  LlmModel* llm = only->llm();
  return {std::move(only), llm};
}

std::shared_ptr<Trace> Service::begin_trace(TraceKind kind, const std::string& model, const Exchange& exchange) const {
  if (!options_.tracer) return nullptr;
  auto trace = options_.tracer->begin(kind, model, exchange.request->received_ns, exchange.id, exchange.request->header("traceparent"));
  http::trace_exchange(trace, *exchange.request, *exchange.responder);
  return trace;
}

void Service::completions(const Exchange& exchange) {
  const auto request = std::make_shared<CompletionRequest>(read_completion_request(parse_json(exchange.body())));
  const auto model = find_llm(request->model);
  const auto hold = hold_server();
  run(exchange, !request->constraint, [this, self = shared_from_this(), exchange, request, model, hold] {
    GenerationJob job = make_job(std::move(*request), model, "cmpl-" + exchange.id);
    job.headers = {{"X-Request-Id", exchange.id}};
    job.received_ns = exchange.request->received_ns;
    job.trace = begin_trace(TraceKind::LanguageModel, model->name(), exchange);
    job.hold = hold;
    generate(std::move(job), http::with_load_report(exchange.responder, *exchange.request, model), queue_, options_.observer);
  });
}

void Service::chat_completions(const Exchange& exchange) {
  const auto request = std::make_shared<ChatRequest>(read_chat_request(parse_json(exchange.body())));
  const auto model = find_llm(request->model);
  const auto hold = hold_server();
  run(exchange, !request->constraint && !request->tools.is_forced(), [this, self = shared_from_this(), exchange, request, model, hold] {
    GenerationJob job = make_job(std::move(*request), model, "chatcmpl-" + exchange.id);
    job.headers = {{"X-Request-Id", exchange.id}};
    job.received_ns = exchange.request->received_ns;
    job.trace = begin_trace(TraceKind::LanguageModel, model->name(), exchange);
    job.hold = hold;
    generate(std::move(job), http::with_load_report(exchange.responder, *exchange.request, model), queue_, options_.observer);
  });
}

void Service::models(const Exchange& exchange) {
  std::string body = R"({"object":"list","data":[)";
  bool is_first = true;
  for (const auto& model : options_.list_models()) {
    if (!std::exchange(is_first, false)) body += ',';
    append_model(body, *model, model->llm());
  }
  exchange.send_json(body + "]}");
}

void Service::model(const Exchange& exchange) {
  // A name may have slashes, as Hugging Face's do.
  const std::string name = fmt::format("{}", fmt::join(exchange.request->captures, "/"));
  std::shared_ptr<Model> model = find_any(name);
  std::string body;
  append_model(body, *model, model->llm());
  exchange.send_json(std::move(body));
}

// vLLM's form: a prompt or a conversation.
void Service::tokenize(const Exchange& exchange) {
  const Json body = parse_json(exchange.body());
  Fields fields(body, "");
  const auto model = find_llm(fields.string("model"));
  std::vector<int32_t> ids;
  if (const std::string* prompt = fields.string("prompt")) {
    ids = model->tokenizer().encode(*prompt, fields.boolean("add_special_tokens").value_or(true));
  } else {
    if (!fields.find("messages")) bad_request("prompt", "you must provide a 'prompt' or 'messages'");
    ChatRequest chat;
    chat.messages = read_messages(fields);
    chat.tools = read_tools(fields);
    chat.add_generation_prompt = fields.boolean("add_generation_prompt").value_or(true);
    if (const Json* variables = fields.object("chat_template_kwargs")) chat.template_variables = *variables;
    ids = chat_prompt(chat, *model);
  }
  const bool with_texts = fields.boolean("return_token_strs").value_or(false);
  fields.finish();
  std::string out = R"({"count":)";
  append_integer(out, std::ssize(ids));
  out += R"(,"max_model_len":)";
  append_integer(out, model->context_length());
  out += R"(,"tokens":)";
  append_integers(out, ids);
  out += R"(,"token_strs":)";
  if (with_texts) {
    out += '[';
    for (size_t i = 0; i < ids.size(); ++i) {
      if (i) out += ',';
      append_json_string(out, model->tokenizer().token_text(ids[i]));
    }
    out += ']';
  } else {
    out += "null";
  }
  exchange.send_json(out + "}");
}

void Service::detokenize(const Exchange& exchange) {
  const Json body = parse_json(exchange.body());
  Fields fields(body, "");
  const auto model = find_llm(fields.string("model"));
  if (!fields.array("tokens")) bad_request("tokens", "you must provide 'tokens', an array of token ids");
  const std::vector<int32_t> ids = fields.token_ids("tokens");
  const bool skips = fields.boolean("skip_special_tokens").value_or(false);
  fields.finish();
  for (const int32_t id : ids)
    if (id >= model->tokenizer().vocab_size())
      bad_request("tokens", "'tokens' holds {}; the model has tokens 0 to {}", id, model->tokenizer().vocab_size() - 1);
  std::string out = R"({"prompt":)";
  append_json_string(out, model->tokenizer().decode(ids, skips));
  exchange.send_json(out + "}");
}

void Service::health(const Exchange& exchange) {
  const bool is_healthy = !options_.is_healthy || options_.is_healthy();
  exchange.send({.status = is_healthy ? 200 : 503});
}

void Service::version(const Exchange& exchange) { exchange.send_json(fmt::format(R"({{"version":"{}"}})", kVersion)); }

}  // namespace tokamak::server::openai
