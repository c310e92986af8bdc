#pragma once
// The KServe v2 protocol over gRPC, with Triton's extensions, and grpc.health.v1. It only translates: models, requests and settings are the
// Server's. Nothing of gRPC is seen here.

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace tokamak::server {

class Server;

// Calls of some groups that only clients with a secret may make: metadata triton-grpc-protocol-<key>: <value>.
struct RestrictedGrpcCalls {
  // Of health, metadata, inference, shared-memory, model-config, model-repository, statistics, trace, logging; "infer" is inference too.
  std::vector<std::string> groups;
  std::string key, value;
};

struct GrpcTlsOptions {
  std::string certificate_file, key_file;  // PEM
  std::string client_ca_file;              // not empty: clients must present a certificate of it
};

// Milliseconds and counts as gRPC has them.
struct GrpcKeepAlive {
  int time_ms = 7'200'000, timeout_ms = 20'000;
  bool permit_without_calls = false;
  int max_pings_without_data = 2;
  int min_ping_interval_without_data_ms = 300'000;
  int max_ping_strikes = 2;
  int max_connection_age_ms = 0, max_connection_age_grace_ms = 0;  // 0: no limit
};

struct GrpcOptions {
  std::string address = "0.0.0.0";
  int port = 8001;  // 0: any free one
  bool reuse_port = false;
  std::unique_ptr<GrpcTlsOptions> tls;
  std::vector<RestrictedGrpcCalls> restricted = {};
  std::string response_compression = "none";  // "low", "medium", "high"; requests may be compressed in any case
  GrpcKeepAlive keep_alive = {};
  // A regular expression: metadata whose (lower-case) name it is found in becomes a string parameter of the request.
  std::string forward_header_pattern = {};
  // A stream is not read while this many of its requests are unanswered, or while its client leaves this many bytes untaken.
  size_t max_stream_requests = 1024;
  size_t max_stream_queued_bytes = size_t{64} << 20;
  // A stream whose client leaves more than this untaken is ended: decoupled models do not wait for their clients.
  size_t max_stream_unread_bytes = size_t{1} << 30;
};

class GrpcServer {
 public:
  // Throws InvalidArgument for options that cannot be, NotFound and Io for files that cannot be read. `server` must outlive this.
  GrpcServer(Server& server, GrpcOptions options);
  ~GrpcServer();  // stop(0)

  void start();      // throws Io when the port is taken or the certificates are not accepted
  int port() const;  // the one that is listened on
  // Refuses new calls, lets those in progress finish for that long, then cancels them. Streams end when what they have read is answered.
  // Returns when every call has ended. The Server is told to stop after this, not before.
  void stop(std::chrono::milliseconds timeout);
  int64_t num_calls() const;  // ModelInfer and ModelStreamInfer calls that have not ended

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tokamak::server
