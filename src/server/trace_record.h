#pragma once
// What is known of a traced request when it is over, and where that is written.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "server/request.h"
#include "server/trace_context.h"
#include "server/trace_settings.h"

namespace tokamak::server {

enum class TraceKind {
  Inference,      // a request of KServe v2: what the protocol did, the model, its computation
  Member,         // of such a request's ensemble, or made by a model: no protocol
  LanguageModel,  // an answer of OpenAI's endpoints
  Embedding,      // of OpenAI's embeddings; the executions are members
};

// Names are Triton's: "REQUEST_START", "HTTP_SEND_END". Steady clock.
struct TraceMark {
  const char* name;
  int64_t ns;
  bool is_of_protocol() const {
    const std::string_view text = name;
    return text.starts_with("HTTP_") || text.starts_with("GRPC_");
  }
};

using TraceValue = std::variant<int64_t, double, std::string>;

struct TraceTensor {
  const char* activity;  // "TENSOR_QUEUE_INPUT", "TENSOR_BACKEND_OUTPUT"
  std::string name;
  Tensor tensor;
};

struct TraceRecord {
  TraceKind kind = TraceKind::Inference;
  TraceSample sample;
  uint64_t number = 0, parent_number = 0;  // Triton's ids: from 1 up; 0: no parent
  TraceContext context;                    // span_id: the span that members are children of
  uint64_t parent_span_id = 0;             // 0: none
  std::string model_name, request_id;
  int64_t model_version = -1;
  std::string error;
  int64_t unix_offset_ns = 0;  // Unix time of a mark = its ns + this
  std::vector<TraceMark> marks;
  std::vector<std::pair<const char*, TraceValue>> values;  // "gen_ai.usage.completion_tokens"
  std::vector<TraceTensor> tensors;

  // By time; what a protocol did comes first where times are equal: it has received a request in the moment that this one begins.
  std::vector<TraceMark> sorted_marks() const {
    std::vector<TraceMark> sorted = marks;
    std::ranges::stable_sort(sorted, {}, [](const TraceMark& m) { return std::pair(m.ns, !m.is_of_protocol()); });
    return sorted;
  }
  // The first mark of this name, 0 when there is none.
  int64_t at(std::string_view name) const {
    for (const TraceMark& mark : marks)
      if (name == mark.name) return mark.ns;
    return 0;
  }
};

class TraceExporter {
 public:
  virtual ~TraceExporter() = default;
  // Called on one thread. Throws Unavailable when nothing was written and another try may succeed; any other Error: what of these records
  // was not written is lost.
  virtual void write(std::span<const TraceRecord> records, std::chrono::milliseconds timeout) = 0;
};

// Triton's trace file (trace_file.cc): an array of objects. Traces of a scope with a log_frequency go to <file>.0, <file>.1, ... with that
// many each, others to <file>. Every file is complete JSON whenever write() has returned.
std::unique_ptr<TraceExporter> make_trace_file(std::string file);

// OTLP over HTTP, as JSON (trace_otlp.cc). `url` is all of it: "http://host:4318/v1/traces". Throws as http::parse_url.
using TraceAttributes = std::vector<std::pair<std::string, std::string>>;
std::unique_ptr<TraceExporter> make_otlp_exporter(const std::string& url, const TraceAttributes& resource);

}  // namespace tokamak::server
