#pragma once
// The handlers behind kserve_routes.h. They throw Error; routes make an answer of it.

#include <memory>
#include <optional>
#include <regex>
#include <string>

#include "server/http/http.h"
#include "server/server.h"

namespace tokamak::server::http {

struct KserveContext {
  server::Server& core;
  std::optional<std::regex> forwarded_headers;
};

// kserve_infer.cc. `version` is a path's, "" for none.
void infer(const KserveContext& context, const std::string& model, const std::string& version, const Request& request,
           const std::shared_ptr<Responder>& responder);
// Exactly one response as JSON; with `is_stream` each as a server-sent event as it comes. Keys of the body's object that are inputs of the
// model are its inputs, "id" is the request's, the others are parameters.
void generate(const KserveContext& context, const std::string& model, const std::string& version, bool is_stream, const Request& request,
              const std::shared_ptr<Responder>& responder);

// Metadata, kserve_metadata.cc.
std::string server_metadata(server::Server& core);
std::string model_metadata(server::Server& core, const std::string& model, const std::string& version);
std::string model_statistics(server::Server& core, const std::string& model, const std::string& version);  // model "": all

// Management, kserve_management.cc: the body's JSON in, the answer's out.
std::string repository_index(server::Server& core, const std::string& repository, std::string_view body);
void load_model(server::Server& core, const std::string& repository, const std::string& model, std::string_view body,
                const std::shared_ptr<Responder>& responder);
void unload_model(server::Server& core, const std::string& repository, const std::string& model, std::string_view body,
                  const std::shared_ptr<Responder>& responder);
std::string trace_settings(server::Server& core, const std::string& model, std::string_view body);  // body "": only asks
std::string log_settings(std::string_view body);
std::string shared_memory_status(server::Server& core, bool is_cuda, const std::string& region);
void register_shared_memory(server::Server& core, bool is_cuda, const std::string& region, std::string_view body);
void unregister_shared_memory(server::Server& core, bool is_cuda, const std::string& region);

}  // namespace tokamak::server::http
