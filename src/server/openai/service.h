#pragma once
// The endpoints as functions of a request and a responder, so that tests need no sockets.

#include "server/llm_model.h"
#include "server/openai/api_error.h"
#include "server/openai/chat_request.h"
#include "server/openai/completion_request.h"
#include "server/openai/openai.h"

namespace tokamak::server::openai {

// One request under way.
struct Exchange {
  std::shared_ptr<const http::Request> request;
  std::shared_ptr<http::Responder> responder;
  std::string id;  // X-Request-Id

  std::string_view body() const { return request->text(); }
  void send(http::Response response) const;  // with the id
  void send_json(std::string body) const;
  void send_error(const ApiError& error) const;
};

class Service : public std::enable_shared_from_this<Service> {
 public:
  explicit Service(OpenAiOptions options);

  // A handler for http::Server: checks the key when `is_guarded`, turns what is thrown into an answer.
  using Method = void (Service::*)(const Exchange&);
  http::Handler handler(Method method, bool is_guarded = true);

  void completions(const Exchange& exchange);
  void chat_completions(const Exchange& exchange);
  void embeddings(const Exchange& exchange);
  void models(const Exchange& exchange);
  void model(const Exchange& exchange);
  void tokenize(const Exchange& exchange);
  void detokenize(const Exchange& exchange);
  void health(const Exchange& exchange);
  void version(const Exchange& exchange);

 private:
  // Runs `work` here when it is small, else on a thread of the queue; what it throws becomes the answer.
  void run(const Exchange& exchange, bool is_small, std::function<void()> work);
  std::shared_ptr<const void> hold_server() const;                 // throws ApiError 503 when it stops
  std::shared_ptr<Model> find_any(const std::string& name) const;  // throws ApiError 404
  std::shared_ptr<LlmModel> find_llm(const std::string& name) const;
  // The model a request without a name means: the only language model.
  std::shared_ptr<LlmModel> find_llm(const std::string* name) const;
  void check_key(const http::Request& request) const;
  // Null: not traced.
  std::shared_ptr<Trace> begin_trace(TraceKind kind, const std::string& model, const Exchange& exchange) const;

  const OpenAiOptions options_;
  const std::shared_ptr<WorkQueue> queue_;
};

// The same time whatever the difference; for secrets.
bool equal_in_constant_time(std::string_view a, std::string_view b);

}  // namespace tokamak::server::openai
