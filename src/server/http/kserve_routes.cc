#include "server/http/kserve_routes.h"

#include <algorithm>

#include "server/config.h"
#include "server/http/kserve_calls.h"
#include "server/http/kserve_response.h"

namespace tokamak::server::http {

namespace {

constexpr const char* kGroups[] = {"health",           "metadata",   "inference", "shared-memory", "model-config",
                                   "model-repository", "statistics", "trace",     "logging"};

// Registers handlers with what all of them share: their group's restriction, errors as JSON, captures by place.
class Routes {
 public:
  using Call = std::function<void(std::shared_ptr<const Request>, const std::shared_ptr<Responder>&)>;
  // The answer's JSON; "" is an empty answer.
  using Question = std::function<std::string(const Request&)>;

  Routes(Server& http, const std::vector<RestrictedApi>& restricted) : http_(http) {
    for (const RestrictedApi& rule : restricted) {
      if (rule.header.empty()) fail(ErrorCode::InvalidArgument, "a restricted API needs the name of a header");
      for (const std::string& group : rule.groups) {
        if (std::find(std::begin(kGroups), std::end(kGroups), group) == std::end(kGroups))
          fail(ErrorCode::InvalidArgument, "restricted API '{}': expected one of {}", group, fmt::join(kGroups, ", "));
        if (!rules_.emplace(group, rule).second) fail(ErrorCode::InvalidArgument, "restricted API '{}' is given twice", group);
      }
    }
  }

  void add(const std::string& group, const char* method, const std::string& path, Call call) const {
    std::optional<RestrictedApi> rule;
    if (const auto it = rules_.find(group); it != rules_.end()) rule = it->second;
    http_.route(method, path, [rule, call = std::move(call)](std::shared_ptr<const Request> request, std::shared_ptr<Responder> responder) {
      if (rule && request->header(rule->header) != rule->value) {
        Response refusal = error_answer(ErrorCode::InvalidArgument,
                                        fmt::format("This API is restricted, expecting header '{}' with its value", rule->header));
        refusal.status = 403;
        return responder->send(std::move(refusal));
      }
      try {
        call(std::move(request), responder);
      } catch (const Error& e) {
        responder->send(error_answer(e.code(), e.what()));
      } catch (const std::exception& e) {
        responder->send(error_answer(ErrorCode::Internal, e.what()));
      }
    });
  }

  void ask(const std::string& group, const char* method, const std::string& path, Question question) const {
    add(group, method, path, [question = std::move(question)](const std::shared_ptr<const Request>& request, const auto& responder) {
      std::string json = question(*request);
      responder->send(json.empty() ? Response{} : json_answer(std::move(json)));
    });
  }

  // 200 for yes, 400 for no, as Triton answers.
  void check(const std::string& group, const std::string& path, std::function<bool(const Request&)> is_true) const {
    add(group, "GET", path, [is_true = std::move(is_true)](const std::shared_ptr<const Request>& request, const auto& responder) {
      responder->send({.status = is_true(*request) ? 200 : 400});
    });
  }

 private:
  Server& http_;
  std::map<std::string, RestrictedApi> rules_;
};

// Capture `i`, "" when the path has none.
std::string captured(const Request& request, size_t i) { return i < request.captures.size() ? request.captures[i] : std::string(); }

void add_health(const Routes& routes, server::Server& core) {
  routes.check("health", "/v2/health/live", [&core](const Request&) { return core.is_live(); });
  routes.check("health", "/v2/health/ready", [&core](const Request&) { return core.is_ready(); });
  for (const char* model : {"/v2/models/{}", "/v2/models/{}/versions/{}"})
    routes.check("health", std::string(model) + "/ready", [&core](const Request& request) {
      return core.is_model_ready(captured(request, 0), server::Server::parse_version(captured(request, 1)));
    });
}

void add_models(const Routes& routes, const std::shared_ptr<const KserveContext>& context) {
  server::Server& core = context->core;
  routes.ask("metadata", "GET", "/v2", [&core](const Request&) { return server_metadata(core); });
  routes.ask("statistics", "GET", "/v2/models/stats", [&core](const Request&) { return model_statistics(core, "", ""); });
  for (const std::string model : {"/v2/models/{}", "/v2/models/{}/versions/{}"}) {
    routes.ask("metadata", "GET", model,
               [&core](const Request& request) { return model_metadata(core, captured(request, 0), captured(request, 1)); });
    routes.ask("model-config", "GET", model + "/config", [&core](const Request& request) {
      return config_json(core.find_model(captured(request, 0), server::Server::parse_version(captured(request, 1)))->config());
    });
    routes.ask("statistics", "GET", model + "/stats",
               [&core](const Request& request) { return model_statistics(core, captured(request, 0), captured(request, 1)); });
    routes.add("inference", "POST", model + "/infer", [context](const auto& request, const auto& responder) {
      infer(*context, captured(*request, 0), captured(*request, 1), *request, responder);
    });
    for (const bool is_stream : {false, true})
      routes.add("inference", "POST", model + (is_stream ? "/generate_stream" : "/generate"),
                 [context, is_stream](const auto& request, const auto& responder) {
                   generate(*context, captured(*request, 0), captured(*request, 1), is_stream, *request, responder);
                 });
  }
}

void add_repository(const Routes& routes, server::Server& core) {
  for (const bool is_named : {false, true}) {
    const std::string base = is_named ? "/v2/repository/{}" : "/v2/repository";
    const size_t at = is_named ? 1 : 0;  // of the model among the captures
    const auto repository_of = [is_named](const Request& request) { return is_named ? captured(request, 0) : std::string(); };
    routes.ask("model-repository", "POST", base + "/index",
               [&core, repository_of](const Request& request) { return repository_index(core, repository_of(request), request.text()); });
    routes.add("model-repository", "POST", base + "/models/{}/load",
               [&core, repository_of, at](const auto& request, const auto& responder) {
                 load_model(core, repository_of(*request), captured(*request, at), request->text(), responder);
               });
    routes.add("model-repository", "POST", base + "/models/{}/unload",
               [&core, repository_of, at](const auto& request, const auto& responder) {
                 unload_model(core, repository_of(*request), captured(*request, at), request->text(), responder);
               });
  }
}

void add_settings(const Routes& routes, server::Server& core) {
  for (const char* method : {"GET", "POST"}) {
    const bool is_update = std::string_view(method) == "POST";
    for (const char* path : {"/v2/trace/setting", "/v2/models/{}/trace/setting"})
      routes.ask("trace", method, path, [&core, is_update](const Request& request) {
        return trace_settings(core, captured(request, 0), is_update ? request.text() : std::string_view());
      });
    routes.ask("logging", method, "/v2/logging",
               [is_update](const Request& request) { return log_settings(is_update ? request.text() : std::string_view()); });
  }
}

void add_shared_memory(const Routes& routes, server::Server& core) {
  for (const bool is_cuda : {false, true}) {
    const std::string base = is_cuda ? "/v2/cudasharedmemory" : "/v2/systemsharedmemory";
    for (const std::string region : {"", "/region/{}"}) {
      routes.ask("shared-memory", "GET", base + region + "/status",
                 [&core, is_cuda](const Request& request) { return shared_memory_status(core, is_cuda, captured(request, 0)); });
      routes.ask("shared-memory", "POST", base + region + "/unregister", [&core, is_cuda](const Request& request) {
        unregister_shared_memory(core, is_cuda, captured(request, 0));
        return std::string();
      });
    }
    routes.ask("shared-memory", "POST", base + "/region/{}/register", [&core, is_cuda](const Request& request) {
      register_shared_memory(core, is_cuda, captured(request, 0), request.text());
      return std::string();
    });
  }
}

std::optional<std::regex> compile(const std::string& pattern) {
  if (pattern.empty()) return std::nullopt;
  try {
    return std::regex(pattern, std::regex::ECMAScript | std::regex::icase | std::regex::optimize);
  } catch (const std::regex_error& e) {
    fail(ErrorCode::InvalidArgument, "the pattern of forwarded headers '{}' is not a regular expression: {}", pattern, e.what());
  }
}

}  // namespace

void add_kserve_routes(Server& http, server::Server& core, const KserveOptions& options) {
  const Routes routes(http, options.restricted);
  const auto context = std::make_shared<const KserveContext>(KserveContext{core, compile(options.forward_header_pattern)});
  add_health(routes, core);
  add_models(routes, context);
  add_repository(routes, core);
  add_settings(routes, core);
  add_shared_memory(routes, core);
}

}  // namespace tokamak::server::http
