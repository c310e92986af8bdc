#pragma once
// The flags of `tokamak serve`, under the names that Triton's server has for them where it has some.

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "server/http/http.h"
#include "server/server.h"

namespace tokamak::cli {

// Calls that need a secret: --http-restricted-api and --grpc-restricted-protocol.
struct Restriction {
  std::vector<std::string> groups;
  std::string key, value;
};
// "<group>[,<group>]...:<key>=<value>". Throws InvalidArgument.
Restriction parse_restriction(const std::string& text);

// "[NAME=]PATH": the path itself says the name when none is given; its stem, or its folder where the file is just called "model".
std::pair<std::string, std::string> parse_named_model(const std::string& text);

struct ServeFlags {
  std::vector<std::string> models, repositories;
  std::string mode = "none", config_name;
  std::vector<std::string> load_models;
  double poll_s = 15;
  bool no_auto_complete = false, exit_on_error = true, strict_readiness = true, namespacing = false;
  int load_threads = 4, load_retries = 0;

  std::string address = "0.0.0.0", http_address, grpc_address, metrics_address;
  int http_port = 8000, grpc_port = 8001, metrics_port = 8002;
  bool allow_http = true, allow_grpc = true, allow_metrics = true, allow_client_shm = false;
  int http_threads = 0, max_connections = 20'000, header_timeout_s = 10, body_timeout_s = 60, idle_timeout_s = 120, exit_timeout_s = 30;
  std::string max_input = "64M", tls_certificate, tls_key, tls_client_ca, api_key_file;
  std::vector<std::string> api_keys, http_restricted, grpc_restricted;
  std::string http_forward_pattern, grpc_forward_pattern;

  std::vector<std::string> backend_directories, backend_config;
  std::string device, precision, kv_cache, rate_limit = "off";
  std::vector<std::string> rate_limit_resources;
  int max_num_seqs = 0, max_context = 0;
  std::vector<std::string> cache_config;
  std::string response_cache_size;

  bool allow_gpu_metrics = true, allow_cpu_metrics = true;
  std::vector<std::string> metrics_config, trace_config;
  double gpu_hour = 0;
  std::string log_file, log_format = "default";
  int log_verbose = 0;
  bool log_info = true, log_warning = true, log_error = true;

  void add_to(CLI::App& app);
  // All of these throw InvalidArgument for a value that cannot be, naming its flag.
  server::ServerOptions server_options() const;  // without loader and shared memory
  server::LogSettings log_settings() const;
  // Where to listen; `what` is "http" or "metrics".
  server::http::ServerOptions http_options(const std::string& what) const;
  std::vector<std::string> keys() const;
};

}  // namespace tokamak::cli
