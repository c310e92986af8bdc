#pragma once
// What HTTP adds to the trace of a request.

#include <memory>

#include "server/http/http.h"
#include "server/trace.h"

namespace tokamak::server::http {

// Marks when `request` came and, later, when its answer went; keeps the trace until then. Does nothing when `trace` is null.
void trace_exchange(const std::shared_ptr<Trace>& trace, const Request& request, Responder& responder);

}  // namespace tokamak::server::http
