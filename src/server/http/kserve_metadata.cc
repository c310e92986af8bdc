#include "grpc_service.pb.h"
#include "server/http/json_out.h"
#include "server/http/kserve_calls.h"
#include "server/kserve.h"

namespace tokamak::server::http {

namespace {

void append_list(std::string& out, const std::vector<std::string>& texts) {
  out += '[';
  for (size_t i = 0; i < texts.size(); ++i) {
    if (i > 0) out += ',';
    append_string(out, texts[i]);
  }
  out += ']';
}

void append_tensors(std::string& out, const std::vector<TensorMetadata>& tensors) {
  out += '[';
  for (size_t i = 0; i < tensors.size(); ++i) {
    out += i > 0 ? ",{\"name\":" : "{\"name\":";
    append_string(out, tensors[i].name);
    out.append(",\"datatype\":\"").append(kserve::datatype_name(tensors[i].dtype)).append("\",\"shape\":");
    append_shape(out, tensors[i].shape);
    out += '}';
  }
  out += ']';
}

void append_key(std::string& out, const char* name) {
  if (out.back() != '{' && out.back() != '[') out += ',';
  out.append("\"").append(name).append("\":");
}

void append_field(std::string& out, const char* name, uint64_t value) {
  append_key(out, name);
  append_number(out, value);
}

void append_duration(std::string& out, const char* name, const inference::StatisticDuration& duration) {
  append_key(out, name);
  out += '{';
  append_field(out, "count", duration.count());
  append_field(out, "ns", duration.ns());
  out += '}';
}

void append_statistics(std::string& out, const inference::ModelStatistics& model) {
  out += "{\"name\":";
  append_string(out, model.name());
  append_key(out, "version");
  append_string(out, model.version());
  append_field(out, "last_inference", model.last_inference());
  append_field(out, "inference_count", model.inference_count());
  append_field(out, "execution_count", model.execution_count());
  const auto& all = model.inference_stats();
  append_key(out, "inference_stats");
  out += '{';
  append_duration(out, "success", all.success());
  append_duration(out, "fail", all.fail());
  append_duration(out, "queue", all.queue());
  append_duration(out, "compute_input", all.compute_input());
  append_duration(out, "compute_infer", all.compute_infer());
  append_duration(out, "compute_output", all.compute_output());
  append_duration(out, "cache_hit", all.cache_hit());
  append_duration(out, "cache_miss", all.cache_miss());
  out += '}';
  append_key(out, "response_stats");
  out += '{';
  for (const auto& [index, response] : model.response_stats()) {
    append_key(out, index.c_str());
    out += '{';
    append_duration(out, "compute_infer", response.compute_infer());
    append_duration(out, "compute_output", response.compute_output());
    append_duration(out, "success", response.success());
    append_duration(out, "fail", response.fail());
    append_duration(out, "empty_response", response.empty_response());
    append_duration(out, "cancel", response.cancel());
    out += '}';
  }
  out += '}';
  append_key(out, "batch_stats");
  out += '[';
  for (const auto& batch : model.batch_stats()) {
    out += out.back() == '[' ? "{" : ",{";
    append_field(out, "batch_size", batch.batch_size());
    append_duration(out, "compute_input", batch.compute_input());
    append_duration(out, "compute_infer", batch.compute_infer());
    append_duration(out, "compute_output", batch.compute_output());
    out += '}';
  }
  out += ']';
  append_key(out, "memory_usage");
  out += '[';
  for (const auto& usage : model.memory_usage()) {
    out += out.back() == '[' ? "{\"type\":" : ",{\"type\":";
    append_string(out, usage.type());
    append_key(out, "id");
    append_number(out, int64_t{usage.id()});
    append_field(out, "byte_size", usage.byte_size());
    out += '}';
  }
  out += "]}";
}

}  // namespace

std::string server_metadata(server::Server& core) {
  const ServerMetadata& metadata = core.metadata();
  std::string out = "{\"name\":";
  append_string(out, metadata.name);
  out += ",\"version\":";
  append_string(out, metadata.version);
  out += ",\"extensions\":";
  append_list(out, metadata.extensions);
  out += '}';
  return out;
}

std::string model_metadata(server::Server& core, const std::string& name, const std::string& version) {
  const auto model = core.find_model(name, server::Server::parse_version(version));
  std::vector<std::string> versions;
  for (const int64_t ready : core.repository().ready_versions(name)) versions.push_back(std::to_string(ready));
  std::string out = "{\"name\":";
  append_string(out, model->name());
  out += ",\"versions\":";
  append_list(out, versions);
  out += ",\"platform\":";
  append_string(out, model->platform());
  out += ",\"inputs\":";
  append_tensors(out, model->inputs());
  out += ",\"outputs\":";
  append_tensors(out, model->outputs());
  out += '}';
  return out;
}

std::string model_statistics(server::Server& core, const std::string& model, const std::string& version) {
  inference::ModelStatisticsResponse statistics;
  core.fill_statistics(model, server::Server::parse_version(version), statistics);
  std::string out = "{\"model_stats\":[";
  for (const auto& one : statistics.model_stats()) {
    if (out.back() != '[') out += ',';
    append_statistics(out, one);
  }
  out += "]}";
  return out;
}

}  // namespace tokamak::server::http
