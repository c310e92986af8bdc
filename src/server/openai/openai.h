#pragma once
// OpenAI's API over the language models of the server, with the fields and endpoints that vLLM's clients know:
//
//   GET  /v1/models, /v1/models/{id}     POST /v1/completions, /v1/chat/completions, /v1/embeddings
//   POST /tokenize, /detokenize          GET  /health, /ping, /version
//
// A request is parsed and checked as a whole (an unknown field is an error), becomes llm::Requests, and their events become the answer.
// What a request asks for that cannot be done is refused by name. Every answer carries X-Request-Id, the client's own or a new one.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "server/http/http.h"
#include "server/model.h"
#include "server/request_observer.h"
#include "server/trace.h"

namespace tokamak::llm {
class Tokenizer;
}

namespace tokamak::server::openai {

// All functions may be called from several threads at once.
struct OpenAiOptions {
  std::function<std::vector<std::shared_ptr<Model>>()> list_models;           // those that are ready
  std::function<std::shared_ptr<Model>(const std::string& name)> find_model;  // throws NotFound, Unavailable; never null
  // For embeddings: the tokenizer.json of a model that is no language model, null when its folder has none. May be empty.
  std::function<std::shared_ptr<const llm::Tokenizer>(const Model&)> tokenizer_of;
  std::function<std::shared_ptr<const void>()> hold;  // Server::hold(), kept while an answer is made; may be empty
  std::function<bool()> is_healthy;                   // /health; empty: always
  std::vector<std::string> api_keys;                  // Bearer; empty: none is needed
  std::shared_ptr<RequestObserver> observer;          // may be null
  std::shared_ptr<Tracer> tracer;                     // null: nothing is traced
  int num_threads = 2;                                // for large bodies and grammars
};

// Before server.start().
void add_openai_routes(http::Server& server, OpenAiOptions options);

}  // namespace tokamak::server::openai
