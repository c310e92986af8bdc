#include "server/http/trace_exchange.h"

namespace tokamak::server::http {

void trace_exchange(const std::shared_ptr<Trace>& trace, const Request& request, Responder& responder) {
  if (!trace) return;
  trace->mark("HTTP_RECV_START", request.begun_ns);
  trace->mark("HTTP_RECV_END", request.received_ns);
  responder.on_complete([trace](int64_t answered_ns, int64_t now_ns) {
    if (answered_ns == 0) return;  // the client left first
    trace->mark("HTTP_SEND_START", answered_ns);
    trace->mark("HTTP_SEND_END", now_ns);
  });
}

}  // namespace tokamak::server::http
