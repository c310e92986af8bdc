#pragma once
// ORCA, the load report that gateways route by: a request with the header `endpoint-load-metrics-format: json` (or `text`) gets an answer
// with `endpoint-load-metrics`, as Triton gives it: how full the KV cache of the language model is, and how many tokens it holds.

#include <memory>
#include <string>
#include <string_view>

#include "server/http/http.h"

namespace tokamak::llm {
struct Statistics;
}
namespace tokamak::server {
class LlmModel;
}

namespace tokamak::server::http {

// The header's value. "" for another format than json and text.
std::string load_report(std::string_view format, const llm::Statistics& statistics);

// `responder`, whose answers then carry the report of when they begin; the same when `request` asks for none or `llm` is null.
std::shared_ptr<Responder> with_load_report(std::shared_ptr<Responder> responder, const Request& request, std::shared_ptr<LlmModel> llm);

}  // namespace tokamak::server::http
