#include "server/openai/service.h"

namespace tokamak::server::openai {

void add_openai_routes(http::Server& server, OpenAiOptions options) {
  const auto service = std::make_shared<Service>(std::move(options));
  server.route("GET", "/v1/models", service->handler(&Service::models));
  server.route("GET", "/v1/models/{}", service->handler(&Service::model));
  server.route("GET", "/v1/models/{}/{}", service->handler(&Service::model));
  server.route("POST", "/v1/completions", service->handler(&Service::completions));
  server.route("POST", "/v1/chat/completions", service->handler(&Service::chat_completions));
  server.route("POST", "/v1/embeddings", service->handler(&Service::embeddings));
  server.route("POST", "/tokenize", service->handler(&Service::tokenize));
  server.route("POST", "/detokenize", service->handler(&Service::detokenize));
  server.route("GET", "/health", service->handler(&Service::health, false));
  server.route("GET", "/ping", service->handler(&Service::health, false));
  server.route("GET", "/version", service->handler(&Service::version, false));
}

}  // namespace tokamak::server::openai
