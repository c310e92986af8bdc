// Traces for an OpenTelemetry collector: OTLP over HTTP as JSON, ExportTraceServiceRequest of opentelemetry-proto 1. A request of KServe is
// three spans as Triton has them: InferRequest (the protocol), the model, its computation. A language model's answer is one, with the
// attributes that vLLM gives it.

#include <unistd.h>

#include <algorithm>
#include <climits>

#include "base/version.h"
#include "server/http/client.h"
#include "server/http/json_out.h"
#include "server/trace_record.h"

namespace tokamak::server {

namespace {

using http::append_string;

enum class SpanKind { Internal = 1, Server = 2 };  // of opentelemetry-proto

void append_attribute(std::string& out, std::string_view key, const TraceValue& value) {
  if (out.back() != '[') out += ',';
  append_string(out += R"({"key":)", key);
  if (const auto* text = std::get_if<std::string>(&value)) append_string(out += R"(,"value":{"stringValue":)", *text);
  else if (const auto* number = std::get_if<int64_t>(&value)) out += fmt::format(R"(,"value":{{"intValue":"{}")", *number);
  else http::append_number(out += R"(,"value":{"doubleValue":)", std::get<double>(value));
  out += "}}";
}

struct Span {
  std::string name;
  uint64_t id = 0, parent_id = 0;
  SpanKind kind = SpanKind::Internal;
  int64_t start_ns = 0, end_ns = 0;  // steady
  std::vector<TraceMark> events = {};
  bool has_identity = false;  // says which model and request it is
};

void append_span(std::string& out, const TraceRecord& r, const Span& span) {
  if (out.back() != '[') out += ',';
  out += fmt::format(R"({{"traceId":"{:016x}{:016x}","spanId":"{:016x}")", r.context.trace_id_high, r.context.trace_id_low, span.id);
  if (span.parent_id != 0) out += fmt::format(R"(,"parentSpanId":"{:016x}")", span.parent_id);
  append_string(out += R"(,"name":)", span.name);
  out += fmt::format(R"(,"kind":{},"startTimeUnixNano":"{}","endTimeUnixNano":"{}","attributes":[)", static_cast<int>(span.kind),
                     span.start_ns + r.unix_offset_ns, span.end_ns + r.unix_offset_ns);
  if (span.has_identity) {
    append_attribute(out, "triton.model_name", r.model_name);
    append_attribute(out, "triton.model_version", r.model_version);
    append_attribute(out, "triton.trace_id", static_cast<int64_t>(r.number));
    if (r.parent_number != 0) append_attribute(out, "triton.trace_parent_id", static_cast<int64_t>(r.parent_number));
    if (!r.request_id.empty()) append_attribute(out, "triton.request_id", r.request_id);
    for (const auto& [key, value] : r.values) append_attribute(out, key, value);
  }
  out += R"(],"events":[)";
  for (const TraceMark& event : span.events) {
    if (out.back() != '[') out += ',';
    out += fmt::format(R"({{"timeUnixNano":"{}","name":"{}"}})", event.ns + r.unix_offset_ns, event.name);
  }
  out += ']';
  if (!r.error.empty()) {
    append_string(out += R"(,"status":{"code":2,"message":)", r.error);
    out += '}';
  }
  out += '}';
}

void append_spans(std::string& out, const TraceRecord& r) {
  const std::vector<TraceMark> marks = r.sorted_marks();
  const int64_t first = marks.front().ns, last = marks.back().ns;
  if (r.kind == TraceKind::LanguageModel || r.kind == TraceKind::Embedding) {
    append_span(out, r,
                {.name = r.kind == TraceKind::Embedding ? "embeddings" : "llm_request",
                 .id = r.context.span_id,
                 .parent_id = r.parent_span_id,
                 .kind = SpanKind::Server,
                 .start_ns = first,
                 .end_ns = last,
                 .events = marks,
                 .has_identity = true});
    return;
  }
  Span protocol = {.name = "InferRequest",
                   .id = random_trace_number(),
                   .parent_id = r.parent_span_id,
                   .kind = SpanKind::Server,
                   .start_ns = first,
                   .end_ns = last};
  Span model = {.name = r.model_name,
                .id = r.context.span_id,
                .parent_id = r.kind == TraceKind::Member ? r.parent_span_id : protocol.id,
                .start_ns = r.at("REQUEST_START"),
                .end_ns = std::max(r.at("REQUEST_END"), r.at("REQUEST_START")),
                .has_identity = true};
  for (const TraceMark& mark : marks) (mark.is_of_protocol() ? protocol : model).events.push_back(mark);
  if (r.kind == TraceKind::Inference) append_span(out, r, protocol);
  append_span(out, r, model);
  if (r.at("COMPUTE_START") > 0 && r.at("COMPUTE_END") > 0)
    append_span(out, r,
                {.name = "compute",
                 .id = random_trace_number(),
                 .parent_id = model.id,
                 .start_ns = r.at("COMPUTE_START"),
                 .end_ns = r.at("COMPUTE_END")});
}

std::string host_name() {
  char name[HOST_NAME_MAX + 1] = "";
  gethostname(name, sizeof(name) - 1);
  return name;
}

class OtlpExporter : public TraceExporter {
 public:
  OtlpExporter(const std::string& url, const TraceAttributes& resource) : url_(http::parse_url(url)) {
    const auto has = [&](const char* key) {
      return std::ranges::find(resource, key, &TraceAttributes::value_type::first) != resource.end();
    };
    head_ = R"({"resourceSpans":[{"resource":{"attributes":[)";
    if (!has("service.name")) append_attribute(head_, "service.name", "tokamak");
    if (!has("service.version")) append_attribute(head_, "service.version", kVersion);
    if (!has("host.name")) append_attribute(head_, "host.name", host_name());
    if (!has("process.pid")) append_attribute(head_, "process.pid", int64_t{getpid()});
    for (const auto& [key, value] : resource) append_attribute(head_, key, value);
    head_ += fmt::format(R"(]}},"scopeSpans":[{{"scope":{{"name":"tokamak","version":"{}"}},"spans":[)", kVersion);
  }

  void write(std::span<const TraceRecord> records, std::chrono::milliseconds timeout) override {
    std::string body = head_;
    for (const TraceRecord& record : records) append_spans(body, record);
    body += "]}]}]}";
    const http::Answer answer = http::fetch(url_,
                                            {.method = "POST",
                                             .target = url_.path.empty() ? "/" : url_.path,
                                             .headers = {{"Content-Type", "application/json"}},
                                             .body = std::move(body)},
                                            timeout);
    if (answer.status / 100 == 2) return;
    // The statuses that OTLP says to try again after.
    const bool is_passing = answer.status == 429 || answer.status == 502 || answer.status == 503 || answer.status == 504;
    fail(is_passing ? ErrorCode::Unavailable : ErrorCode::Io, "the collector http://{}:{}{} answers {}: {}", url_.host, url_.port,
         url_.path, answer.status, answer.body.substr(0, 200));
  }

 private:
  const http::Url url_;
  std::string head_;  // of every message, up to the spans
};

}  // namespace

std::unique_ptr<TraceExporter> make_otlp_exporter(const std::string& url, const TraceAttributes& resource) {
  return std::make_unique<OtlpExporter>(url, resource);
}

}  // namespace tokamak::server
