#pragma once
// KServe v2 and Triton's extensions to it, over HTTP: https://github.com/kserve/open-inference-protocol. Translates only: every question
// goes to server::Server.
//
//   GET  /v2, /v2/health/{live,ready}, /v2/models/{m}[/versions/{v}][/ready | /config | /stats], /v2/models/stats
//   POST /v2/models/{m}[/versions/{v}]/{infer,generate,generate_stream}
//   POST /v2/repository[/{repository}]/{index, models/{m}/load, models/{m}/unload}
//   GET, POST /v2/logging, /v2[/models/{m}]/trace/setting
//   GET  /v2/{system,cuda}sharedmemory[/region/{r}]/status; POST .../register, .../unregister

#include <string>
#include <vector>

#include "server/http/http.h"
#include "server/server.h"

namespace tokamak::server::http {

// Calls that need a header. `groups`: health, metadata, inference, shared-memory, model-config, model-repository, statistics, trace,
// logging.
struct RestrictedApi {
  std::vector<std::string> groups;
  std::string header, value;
};

struct KserveOptions {
  // Headers whose whole name matches this regular expression, in any case, become parameters of inference requests; "": none.
  std::string forward_header_pattern;
  std::vector<RestrictedApi> restricted;
};

// Before http.start(). `core` must outlive the requests of `http`. Throws InvalidArgument for options that cannot be.
void add_kserve_routes(Server& http, server::Server& core, const KserveOptions& options = {});

}  // namespace tokamak::server::http
