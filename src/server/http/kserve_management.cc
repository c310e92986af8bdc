#include "server/http/json_out.h"
#include "server/http/json_tensor.h"
#include "server/http/kserve_calls.h"
#include "server/http/kserve_request.h"
#include "server/http/kserve_response.h"
#include "server/log.h"

namespace tokamak::server::http {

namespace {

using simdjson::dom::element;

// Calls `take` with each field of the body's object; an empty body has none.
template <class F>
void for_each_field(std::string_view body, F&& take) {
  if (body.find_first_not_of(" \t\r\n") == std::string_view::npos) return;
  read_json(body, [&](const element& document) {
    simdjson::dom::object fields;
    if (document.get_object().get(fields)) fail(ErrorCode::InvalidArgument, "the request's body must be a JSON object");
    for (const auto field : fields) take(field.key, field.value);
  });
}

// The same for the fields of its "parameters".
template <class F>
void for_each_parameter(std::string_view body, F&& take) {
  for_each_field(body, [&](std::string_view key, const element& value) {
    if (key != "parameters") return;
    simdjson::dom::object parameters;
    if (value.get_object().get(parameters)) fail(ErrorCode::InvalidArgument, "'parameters' of the request must be an object");
    for (const auto field : parameters) take(field.key, field.value);
  });
}

bool bool_of(std::string_view what, const element& value) {
  bool flag = false;
  if (value.get_bool().get(flag)) fail(ErrorCode::InvalidArgument, "'{}' must be a boolean", what);
  return flag;
}

std::string text_of(std::string_view what, const element& value) {
  std::string_view text;
  if (value.get_string().get(text)) fail(ErrorCode::InvalidArgument, "'{}' must be a string", what);
  return std::string(text);
}

uint64_t number_of(std::string_view what, const element& value) {
  uint64_t number = 0;
  if (value.get_uint64().get(number)) fail(ErrorCode::InvalidArgument, "'{}' must be a whole number, 0 or more", what);
  return number;
}

std::string decode_base64(std::string_view what, std::string_view text) {
  std::string out;
  out.reserve(text.size() / 4 * 3);
  uint32_t bits = 0;
  int count = 0;
  while (text.ends_with('=')) text.remove_suffix(1);
  for (const char c : text) {
    int value = -1;
    if (c >= 'A' && c <= 'Z') value = c - 'A';
    else if (c >= 'a' && c <= 'z') value = c - 'a' + 26;
    else if (c >= '0' && c <= '9') value = c - '0' + 52;
    else if (c == '+') value = 62;
    else if (c == '/') value = 63;
    else if (c == '\r' || c == '\n') continue;
    if (value < 0) fail(ErrorCode::InvalidArgument, "'{}' must be a file's bytes in base64", what);
    bits = bits << 6 | static_cast<uint32_t>(value);
    if (++count == 4) {
      out += static_cast<char>(bits >> 16);
      out += static_cast<char>(bits >> 8);
      out += static_cast<char>(bits);
      bits = 0;
      count = 0;
    }
  }
  if (count == 1) fail(ErrorCode::InvalidArgument, "'{}': the base64 text ends early", what);
  if (count >= 2) out += static_cast<char>(bits >> (count == 2 ? 4 : 10));
  if (count == 3) out += static_cast<char>(bits >> 2);
  return out;
}

void check_no_repository(const std::string& repository) {
  if (!repository.empty())
    fail(ErrorCode::Unsupported, "repository '{}': models are loaded and unloaded by name alone, leave it out of the path", repository);
}

Repository::Done answer_done(const std::shared_ptr<Responder>& responder) {
  return [responder](const std::exception_ptr& thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
      responder->send(json_answer("{}"));
    } catch (const Error& e) {
      responder->send(error_answer(e.code(), e.what()));
    } catch (const std::exception& e) {
      responder->send(error_answer(ErrorCode::Internal, e.what()));
    }
  };
}

// One or several texts; numbers are taken as their digits.
std::vector<std::string> texts_of(std::string_view what, const element& value) {
  std::vector<std::string> texts;
  const auto add = [&](const element& one) {
    if (one.is_string()) texts.push_back(text_of(what, one));
    else if (one.is_int64() || one.is_uint64()) texts.push_back(simdjson::minify(one));
    else fail(ErrorCode::InvalidArgument, "trace setting '{}' must be a string, a number or an array of them", what);
  };
  simdjson::dom::array values;
  if (value.get_array().get(values)) add(value);
  else
    for (const element one : values) add(one);
  return texts;
}

}  // namespace

std::string repository_index(server::Server& core, const std::string& repository, std::string_view body) {
  bool ready_only = false;
  for_each_field(body, [&](std::string_view key, const element& value) {
    if (key == "ready") ready_only = bool_of(key, value);
  });
  std::string out = "[";
  for (const ModelIndex& row : core.repository().index(ready_only, repository)) {
    if (out.back() != '[') out += ',';
    out += "{\"name\":";
    append_string(out, row.name);
    for (const auto& [key, text] : {std::pair("version", &row.version), {"state", &row.state}, {"reason", &row.reason}}) {
      if (text->empty()) continue;
      out.append(",\"").append(key).append("\":");
      append_string(out, *text);
    }
    out += '}';
  }
  out += ']';
  return out;
}

void load_model(server::Server& core, const std::string& repository, const std::string& model, std::string_view body,
                const std::shared_ptr<Responder>& responder) {
  check_no_repository(repository);
  LoadOverride load;
  for_each_parameter(body, [&](std::string_view key, const element& value) {
    constexpr std::string_view kFile = "file:";
    if (key == "config") load.config_json = text_of(key, value);
    else if (key.starts_with(kFile)) load.files[std::string(key.substr(kFile.size()))] = decode_base64(key, text_of(key, value));
    else fail(ErrorCode::InvalidArgument, "load parameter '{}': expected 'config' or 'file:<version>/<file>'", key);
  });
  core.repository().load_async(model, std::move(load), answer_done(responder));
}

void unload_model(server::Server& core, const std::string& repository, const std::string& model, std::string_view body,
                  const std::shared_ptr<Responder>& responder) {
  check_no_repository(repository);
  bool unload_dependents = false;
  for_each_parameter(body, [&](std::string_view key, const element& value) {
    if (key != "unload_dependents") fail(ErrorCode::InvalidArgument, "unload parameter '{}': expected 'unload_dependents'", key);
    unload_dependents = bool_of(key, value);
  });
  core.repository().unload_async(model, unload_dependents, answer_done(responder));
}

std::string trace_settings(server::Server& core, const std::string& model, std::string_view body) {
  if (!model.empty()) core.find_model(model);
  TraceUpdate update;
  for_each_field(body, [&](std::string_view key, const element& value) {
    update[std::string(key)] = value.is_null() ? std::nullopt : std::optional(texts_of(key, value));
  });
  const TraceSettings settings = update.empty() ? core.tracer().control().settings(model) : core.tracer().control().update(model, update);
  std::string out = "{";
  for (const auto& [name, values] : settings) {
    if (out.back() != '{') out += ',';
    append_string(out, name);
    out += ':';
    if (name != "trace_level" && values.size() == 1) {
      append_string(out, values[0]);
      continue;
    }
    out += '[';
    for (const std::string& value : values) {
      if (out.back() != '[') out += ',';
      append_string(out, value);
    }
    out += ']';
  }
  out += '}';
  return out;
}

std::string log_settings(std::string_view body) {
  LogSettings settings = log().settings();
  bool is_changed = false;
  for_each_field(body, [&](std::string_view key, const element& value) {
    is_changed = true;
    if (key == "log_info") {
      settings.info = bool_of(key, value);
    } else if (key == "log_warning") {
      settings.warning = bool_of(key, value);
    } else if (key == "log_error") {
      settings.error = bool_of(key, value);
    } else if (key == "log_verbose_level") {
      const uint64_t level = number_of(key, value);
      if (level > 1'000'000) fail(ErrorCode::InvalidArgument, "'{}' is at most 1000000, found {}", key, level);
      settings.verbose_level = static_cast<int>(level);
    } else if (key == "log_format") {
      settings.format = text_of(key, value);
    } else if (key == "log_file") {
      fail(ErrorCode::Unsupported, "log file location can not be updated through network protocol");
    } else {
      fail(ErrorCode::InvalidArgument, "'{}' is not a log setting", key);
    }
  });
  if (is_changed) log().set(settings);
  std::string out = "{\"log_file\":";
  append_string(out, settings.file);
  out.append(",\"log_info\":").append(settings.info ? "true" : "false");
  out.append(",\"log_warning\":").append(settings.warning ? "true" : "false");
  out.append(",\"log_error\":").append(settings.error ? "true" : "false");
  out += ",\"log_verbose_level\":";
  append_number(out, int64_t{settings.verbose_level});
  out += ",\"log_format\":";
  append_string(out, settings.format);
  out += '}';
  return out;
}

std::string shared_memory_status(server::Server& core, bool is_cuda, const std::string& region) {
  SharedMemoryRegistry& registry = allowed(core.shared_memory());
  if (is_cuda) {
    if (!region.empty()) fail(ErrorCode::NotFound, "CUDA shared memory region '{}' is not registered", region);
    return "[]";
  }
  std::string out = "[";
  for (const SharedMemoryRegion& one : registry.regions(region)) {
    if (out.back() != '[') out += ',';
    out += "{\"name\":";
    append_string(out, one.name);
    out += ",\"key\":";
    append_string(out, one.key);
    out += ",\"offset\":";
    append_number(out, one.offset);
    out += ",\"byte_size\":";
    append_number(out, one.byte_size);
    out += '}';
  }
  out += ']';
  return out;
}

void register_shared_memory(server::Server& core, bool is_cuda, const std::string& region, std::string_view body) {
  SharedMemoryRegistry& registry = allowed(core.shared_memory());
  if (is_cuda) fail(ErrorCode::Unsupported, "CUDA shared memory region '{}': this server takes system shared memory only", region);
  SharedMemoryRegion wanted{.name = region};
  bool has_size = false;
  for_each_field(body, [&](std::string_view key, const element& value) {
    if (key == "key") wanted.key = text_of(key, value);
    else if (key == "offset") wanted.offset = number_of(key, value);
    else if (key == "byte_size") wanted.byte_size = number_of(key, value), has_size = true;
  });
  if (wanted.key.empty()) fail(ErrorCode::InvalidArgument, "shared memory region '{}': the request has no 'key'", region);
  if (!has_size) fail(ErrorCode::InvalidArgument, "shared memory region '{}': the request has no 'byte_size'", region);
  registry.add(wanted);
}

void unregister_shared_memory(server::Server& core, bool is_cuda, const std::string& region) {
  SharedMemoryRegistry& registry = allowed(core.shared_memory());
  if (is_cuda) {
    if (!region.empty()) fail(ErrorCode::NotFound, "CUDA shared memory region '{}' is not registered", region);
  } else if (region.empty()) {
    registry.remove_all();
  } else {
    registry.remove(region);
  }
}

}  // namespace tokamak::server::http
