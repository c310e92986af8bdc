#pragma once
// W3C Trace Context: the header `traceparent`, as it comes from a caller and goes on to whom a request is handed. Source: the W3C
// recommendation "Trace Context", level 1.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tokamak::server {

struct TraceContext {
  uint64_t trace_id_high = 0, trace_id_low = 0;  // never both 0
  uint64_t span_id = 0;                          // of the caller's span; never 0
  bool is_sampled = false;
};

// Nothing for what is no valid traceparent: it counts as none, as the recommendation says.
std::optional<TraceContext> parse_traceparent(std::string_view text);
std::string to_traceparent(const TraceContext& context);

// Not 0; for span ids and the halves of trace ids.
uint64_t random_trace_number();

}  // namespace tokamak::server
