#include "cli/serve_flags.h"

#include <algorithm>
#include <filesystem>
#include <sstream>
#include <thread>

#include "base/error.h"
#include "base/file.h"
#include "cli/args.h"
#include "server/rate_limiter.h"
#include "server/response_cache.h"

namespace tokamak::cli {

namespace fs = std::filesystem;

namespace {

// "KEY=VALUE"; throws with the flag's name.
std::pair<std::string, std::string> key_value(const std::string& text, const char* flag) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0) fail(ErrorCode::InvalidArgument, "{} '{}': expected <key>=<value>", flag, text);
  return {text.substr(0, equals), text.substr(equals + 1)};
}

bool to_bool(const std::string& text, const std::string& what) {
  if (text == "true" || text == "1") return true;
  if (text == "false" || text == "0") return false;
  fail(ErrorCode::InvalidArgument, "{} is true or false, not '{}'", what, text);
}

void add_metrics_setting(server::MetricsOptions& options, const std::string& text) {
  // Triton writes both "summary_latencies=true" and "model,key=value"; a prefix without meaning here is left out.
  const auto [key, value] = key_value(text, "--metrics-config");
  if (key == "counter_latencies") options.counters = to_bool(value, key);
  else if (key == "histogram_latencies") options.histograms = to_bool(value, key);
  else if (key == "summary_latencies") options.summaries = to_bool(value, key);
  else if (key == "summary_quantiles") {  // "0.5:0.05,0.9:0.01": a quantile and the error it may have, which here is 2 % of the value
    options.quantiles.clear();
    for (const std::string& item : split(value, ',')) {
      const double quantile = parse_number(item.substr(0, item.find(':')), "--metrics-config summary_quantiles");
      if (!(quantile >= 0 && quantile <= 1)) fail(ErrorCode::InvalidArgument, "a quantile is between 0 and 1, not '{}'", item);
      options.quantiles.push_back(quantile);
    }
  } else {
    fail(ErrorCode::InvalidArgument,
         "--metrics-config '{}': known are counter_latencies, histogram_latencies, summary_latencies and summary_quantiles", text);
  }
}

// "<name>:<count>[:<device>]"; without a device it counts on each.
void add_resource(std::map<std::string, int64_t>& resources, const std::string& text) {
  const auto parts = split(text, ':');
  if (parts.size() < 2 || parts.size() > 3 || parts[0].empty())
    fail(ErrorCode::InvalidArgument, "--rate-limit-resource '{}': expected <name>:<count>[:<device>]", text);
  resources[parts.size() == 3 ? parts[0] + "@" + parts[2] : parts[0]] = parse_int(parts[1], "--rate-limit-resource");
}

// --cache-config and the flag that Triton had before; null for none. Triton's words where it refuses.
std::shared_ptr<server::ResponseCache> make_response_cache(const std::vector<std::string>& configs, const std::string& size) {
  if (!size.empty() && !configs.empty())
    fail(ErrorCode::InvalidArgument,
         "Incompatible flags --response-cache-byte-size and --cache-config both provided. Please provide one or the other.");
  std::map<std::string, std::string> sizes;  // by the name of the cache
  if (!size.empty()) sizes["local"] = size;
  for (const std::string& text : configs) {
    const size_t comma = text.find(',');
    if (comma == 0 || comma == std::string::npos)
      fail(ErrorCode::InvalidArgument, "No cache specified. --cache-config option format is <cache name>,<setting>=<value>. Got {}", text);
    const auto [key, value] = key_value(text.substr(comma + 1), "--cache-config");
    std::string& own = sizes[text.substr(0, comma)];
    if (key == "size") own = value;
    else if (text.starts_with("local,"))
      fail(ErrorCode::InvalidArgument, "--cache-config '{}': the local cache has the setting size", text);
  }
  if (sizes.empty()) return nullptr;
  if (sizes.size() > 1)
    fail(ErrorCode::InvalidArgument, "found multiple cache configurations, but only a single cache is currently supported");
  if (!sizes.contains("local"))
    fail(ErrorCode::Unsupported, "--cache-config: there is no cache '{}' in this server; --cache-config local,size=BYTES",
         sizes.begin()->first);
  return std::make_shared<server::ResponseCache>(parse_size_bytes(sizes["local"]));
}

// "[<mode>,]<key>=<value>"; a mode's keys are its own, the others are of both.
void add_trace_setting(server::TraceOptions& options, const std::string& text) {
  constexpr const char* kFlag = "--trace-config";
  const size_t comma = text.find(',');
  const bool has_mode = comma < text.find('=');
  const std::string mode = has_mode ? text.substr(0, comma) : "";
  const auto [key, value] = key_value(has_mode ? text.substr(comma + 1) : text, kFlag);
  const auto number = [&, &value = value](int64_t least) {
    const int64_t found = parse_int(value, kFlag);
    if (found < least) fail(ErrorCode::InvalidArgument, "{} '{}': expected a number of at least {}", kFlag, text, least);
    return found;
  };
  if (mode == "opentelemetry" && key == "url") options.url = value;
  else if (mode == "opentelemetry" && key == "resource")
    options.resource.push_back(key_value(value, "--trace-config opentelemetry,resource"));
  else if (mode == "opentelemetry" && key == "bsp_max_queue_size") options.max_queue_size = static_cast<size_t>(number(1));
  else if (mode == "opentelemetry" && key == "bsp_schedule_delay") options.schedule_delay_ms = static_cast<int>(number(0));
  else if (mode == "opentelemetry" && key == "bsp_max_export_batch_size") options.max_batch_size = static_cast<size_t>(number(1));
  else if (mode == "triton" && key == "file") options.settings["trace_file"] = {value};
  else if (mode == "triton" && key == "log-frequency") options.settings["log_frequency"] = {value};
  else if (!has_mode && key == "level") options.settings["trace_level"].push_back(value);
  else if (!has_mode && (key == "rate" || key == "count" || key == "mode")) options.settings["trace_" + key] = {value};
  else
    fail(ErrorCode::InvalidArgument,
         "{} '{}': known are level, rate, count, mode, triton,file, triton,log-frequency, opentelemetry,url, opentelemetry,resource and "
         "opentelemetry,bsp_{{max_queue_size,schedule_delay,max_export_batch_size}}",
         kFlag, text);
}

void add_backend_setting(server::BackendSettings& settings, const std::string& text) {
  const size_t comma = text.find(',');
  const size_t equals = text.find('=');
  const bool has_backend = comma != std::string::npos && comma < equals;
  const auto [key, value] = key_value(has_backend ? text.substr(comma + 1) : text, "--backend-config");
  if (!has_backend && key == "default-max-batch-size")
    settings.default_max_batch_size = static_cast<int>(parse_int(value, "--backend-config default-max-batch-size"));
  else settings.config[has_backend ? text.substr(0, comma) : ""][key] = value;
}

}  // namespace

std::pair<std::string, std::string> parse_named_model(const std::string& text) {
  const size_t equals = text.find('=');
  if (equals != std::string::npos && text.find('/') > equals) return {text.substr(0, equals), text.substr(equals + 1)};
  fs::path path(text);
  if (!path.has_filename()) path = path.parent_path();  // "folder/"
  if (path.filename() == "." || path.filename() == "..") path = fs::absolute(path).lexically_normal();
  std::error_code ignored;
  std::string name = (fs::is_directory(path, ignored) ? path.filename() : path.stem()).string();
  if (name == "model") name = fs::absolute(path).lexically_normal().parent_path().filename().string();
  return {name, text};
}

Restriction parse_restriction(const std::string& text) {
  const size_t colon = text.find(':');
  if (colon == std::string::npos || colon == 0)
    fail(ErrorCode::InvalidArgument, "restriction '{}': expected <group>[,<group>]...:<key>=<value>", text);
  const auto [key, value] = key_value(text.substr(colon + 1), "restriction");
  return {.groups = split(text.substr(0, colon), ','), .key = key, .value = value};
}

void ServeFlags::add_to(CLI::App& app) {
  app.add_option("MODEL", models,
                 "models to serve beside those of the repositories: [NAME=]PATH of .onnx, .engine, .gguf, checkpoint folder");
  const auto option = [&](const char* group, const char* name, auto& value, const char* help) {
    return app.add_option(name, value, help)->group(group)->capture_default_str();
  };
  const auto list = [&](const char* group, const char* name, auto& value, const char* help) {
    return app.add_option(name, value, help)->group(group)->allow_extra_args(false);
  };
  const char* group = "Models";
  list(group, "--model-repository,--model-store", repositories, "folder of models in Triton's layout; may come several times");
  option(group, "--model-control-mode", mode, "none: load all at the start; explicit: as the API says; poll: follow the folders")
      ->check(CLI::IsMember({"none", "explicit", "poll"}));
  option(group, "--repository-poll-secs", poll_s, "seconds between two looks at the folders")->check(CLI::PositiveNumber);
  list(group, "--load-model", load_models, "loaded at the start in mode explicit; '*' alone: all");
  app.add_flag("--disable-auto-complete-config", no_auto_complete, "configs must be complete")->group(group);
  option(group, "--model-config-name", config_name, "configs/<name>.pbtxt is taken before config.pbtxt");
  option(group, "--model-load-thread-count", load_threads, "models loaded at once")->check(CLI::Range(1, 64));
  option(group, "--model-load-retry-count", load_retries, "further tries of a load that failed")->check(CLI::NonNegativeNumber);
  option(group, "--exit-on-error", exit_on_error, "end when a model fails to load at the start");
  option(group, "--strict-readiness", strict_readiness, "ready only when every model is");
  app.add_flag("--model-namespacing", namespacing, "not supported")->group("");
  list(group, "--backend-directory", backend_directories, "where backends (libtokamak_<name>.so) are looked for first");
  list(group, "--backend-config", backend_config, "[<backend>,]<key>=<value>; may come several times");
  option(group, "--device", device, "cpu or cuda, for models whose config leaves it open");
  option(group, "--precision", precision, "of models that are built at load: fp32, bf16, int8, int4, ...");
  option(group, "--rate-limit", rate_limit, "execution_count: instances wait for the resources of their rate limiter")
      ->check(CLI::IsMember({"off", "execution_count"}));
  list(group, "--rate-limit-resource", rate_limit_resources, "<name>:<count>[:<device>]; else as much as the neediest instance asks for");
  list(group, "--cache-config", cache_config, "local,size=BYTES: answers of models with response_cache are kept, at most so many bytes");
  app.add_option("--response-cache-byte-size", response_cache_size, "the same under the name it had before")->group("");
  option(group, "--max-num-seqs", max_num_seqs, "language models: sequences in one step")->check(CLI::PositiveNumber);
  option(group, "--max-model-len", max_context, "language models: most tokens of prompt and answer together")->check(CLI::PositiveNumber);
  option(group, "--kv-cache", kv_cache, "language models: memory for keys and values, e.g. 2G");

  group = "Protocols";
  option(group, "--address", address, "where to listen");
  option(group, "--http-address", http_address, "the same for HTTP alone");
  option(group, "--grpc-address", grpc_address, "the same for gRPC alone");
  option(group, "--metrics-address", metrics_address, "the same for metrics alone");
  option(group, "--http-port", http_port, "KServe v2, OpenAI, /metrics; 0: any free one")->check(CLI::Range(0, 65535));
  option(group, "--grpc-port", grpc_port, "KServe v2; 0: any free one")->check(CLI::Range(0, 65535));
  option(group, "--metrics-port", metrics_port, "/metrics; 0: any free one")->check(CLI::Range(0, 65535));
  option(group, "--allow-http", allow_http, "listen for HTTP");
  option(group, "--allow-grpc", allow_grpc, "listen for gRPC");
  option(group, "--allow-metrics", allow_metrics, "listen for metrics");
  option(group, "--allow-client-shm", allow_client_shm, "let clients name shared memory of this machine");
  option(group, "--tls-cert", tls_certificate, "certificate (PEM): both protocols speak TLS only");
  option(group, "--tls-key", tls_key, "its key (PEM)");
  option(group, "--tls-client-ca", tls_client_ca, "clients must present a certificate of this authority (PEM)");
  list(group, "--api-key", api_keys, "OpenAI's endpoints ask for it (Bearer); may come several times");
  option(group, "--api-key-file", api_key_file, "the same from a file, one a line");
  list(group, "--http-restricted-api", http_restricted, "<group>[,<group>]...:<key>=<value>: these calls need the header");
  list(group, "--grpc-restricted-protocol", grpc_restricted, "the same for gRPC: metadata triton-grpc-protocol-<key>");
  option(group, "--http-header-forward-pattern", http_forward_pattern, "headers that match become parameters of requests");
  option(group, "--grpc-header-forward-pattern", grpc_forward_pattern, "the same of gRPC's metadata");

  group = "Limits";
  option(group, "--http-max-input-size", max_input, "largest body, compressed or not");
  option(group, "--http-thread-count", http_threads, "threads for HTTP (0: as many as the machine has, up to 8)")
      ->check(CLI::Range(0, 256));
  option(group, "--max-connections", max_connections, "open HTTP connections")->check(CLI::PositiveNumber);
  option(group, "--header-timeout-secs", header_timeout_s, "to send the head of a request")->check(CLI::PositiveNumber);
  option(group, "--body-timeout-secs", body_timeout_s, "without progress in a body")->check(CLI::PositiveNumber);
  option(group, "--idle-timeout-secs", idle_timeout_s, "between two requests")->check(CLI::PositiveNumber);
  option(group, "--exit-timeout-secs", exit_timeout_s, "after SIGTERM, to finish what is in flight")->check(CLI::NonNegativeNumber);

  group = "Operations";
  option(group, "--allow-gpu-metrics", allow_gpu_metrics, "nv_gpu_*");
  option(group, "--allow-cpu-metrics", allow_cpu_metrics, "nv_cpu_*");
  list(group, "--metrics-config", metrics_config,
       "counter_latencies, histogram_latencies, summary_latencies=true|false, summary_quantiles=0.5,0.99");
  option(group, "--gpu-hour", gpu_hour, "price of this machine an hour, for tokamak:cost_per_million_tokens")
      ->check(CLI::NonNegativeNumber);
  list(group, "--trace-config", trace_config,
       "mode=triton|opentelemetry, level=TIMESTAMPS|TENSORS, rate=N (every Nth request, 1000), count=N; triton,file=F, "
       "triton,log-frequency=N; opentelemetry,url=http://HOST:4318/v1/traces, opentelemetry,resource=KEY=VALUE");
  option(group, "--log-file", log_file, "instead of standard error");
  option(group, "--log-format", log_format, "default, ISO8601 or JSON")->check(CLI::IsMember({"default", "ISO8601", "JSON"}));
  option(group, "--log-verbose", log_verbose, "0: not")->check(CLI::NonNegativeNumber);
  option(group, "--log-info", log_info, "");
  option(group, "--log-warning", log_warning, "");
  option(group, "--log-error", log_error, "");
}

server::ServerOptions ServeFlags::server_options() const {
  if (namespacing) fail(ErrorCode::Unsupported, "--model-namespacing: names are unique over all repositories in this server");
  if (repositories.empty() && models.empty()) fail(ErrorCode::InvalidArgument, "nothing to serve: give a --model-repository, or models");
  server::ServerOptions options;
  auto& repository = options.repository;
  repository.paths = repositories;
  repository.mode = mode == "explicit" ? server::ControlMode::Explicit
                    : mode == "poll"   ? server::ControlMode::Poll
                                       : server::ControlMode::None;
  repository.poll_interval_s = poll_s;
  repository.startup_models = load_models;
  if (!load_models.empty() && repository.mode != server::ControlMode::Explicit)
    fail(ErrorCode::InvalidArgument, "--load-model goes with --model-control-mode explicit");
  for (const std::string& model : models) repository.models.push_back(parse_named_model(model));
  repository.complete_configs = !no_auto_complete;
  repository.config_name = config_name;
  repository.load_threads = load_threads;
  repository.load_retries = load_retries;

  options.backends.directories = backend_directories;
  for (const std::string& setting : backend_config) add_backend_setting(options.backends, setting);
  options.backends.default_device = device;
  options.backends.precision = precision;
  if (rate_limit != "off") {
    std::map<std::string, int64_t> resources;
    for (const std::string& resource : rate_limit_resources) add_resource(resources, resource);
    options.backends.rate_limiter = std::make_shared<server::RateLimiter>(std::move(resources));
  }
  options.backends.response_cache = make_response_cache(cache_config, response_cache_size);
  auto& own = options.backends.config["tokamak"];
  if (!device.empty()) own.try_emplace("device", device);
  if (!precision.empty()) own.try_emplace("precision", precision);
  if (max_num_seqs > 0) own["max_num_seqs"] = std::to_string(max_num_seqs);
  if (max_context > 0) own["max_context_length"] = std::to_string(max_context);
  if (!kv_cache.empty()) own["kv_cache_bytes"] = std::to_string(parse_size_bytes(kv_cache));

  options.metrics.gpu = allow_gpu_metrics;
  options.metrics.cpu = allow_cpu_metrics;
  options.metrics.price_per_hour = gpu_hour;
  for (const std::string& setting : metrics_config) add_metrics_setting(options.metrics, setting);
  for (const std::string& setting : trace_config) add_trace_setting(options.trace, setting);
  options.strict_readiness = strict_readiness;
  return options;
}

server::LogSettings ServeFlags::log_settings() const {
  return {
      .file = log_file, .info = log_info, .warning = log_warning, .error = log_error, .verbose_level = log_verbose, .format = log_format};
}

server::http::ServerOptions ServeFlags::http_options(const std::string& what) const {
  server::http::ServerOptions options;
  const std::string& own = what == "http" ? http_address : metrics_address;
  options.address = own.empty() ? address : own;
  options.port = what == "http" ? http_port : metrics_port;
  options.threads = what != "http"     ? 1
                    : http_threads > 0 ? http_threads
                                       : std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, 8);
  options.max_body_bytes = what == "http" ? static_cast<size_t>(parse_size_bytes(max_input)) : 64 << 10;
  options.max_connections = max_connections;
  options.header_timeout_s = header_timeout_s;
  options.body_timeout_s = body_timeout_s;
  options.idle_timeout_s = idle_timeout_s;
  if (tls_certificate.empty() != tls_key.empty() || (tls_certificate.empty() && !tls_client_ca.empty()))
    fail(ErrorCode::InvalidArgument, "TLS needs both --tls-cert and --tls-key");
  if (what == "http" && !tls_certificate.empty())
    options.tls = {.certificate_file = tls_certificate, .key_file = tls_key, .client_ca_file = tls_client_ca};
  return options;
}

std::vector<std::string> ServeFlags::keys() const {
  std::vector<std::string> out = api_keys;
  if (!api_key_file.empty()) {
    std::istringstream text(read_file(api_key_file));
    for (std::string line; std::getline(text, line);) {
      line.erase(std::remove_if(line.begin(), line.end(), [](unsigned char c) { return std::isspace(c); }), line.end());
      if (!line.empty()) out.push_back(line);
    }
    if (out.size() == api_keys.size()) fail(ErrorCode::InvalidArgument, "--api-key-file '{}' holds no key", api_key_file);
  }
  return out;
}

}  // namespace tokamak::cli
