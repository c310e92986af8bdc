#include "server/grpc/grpc_server.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <limits>
#include <thread>

#include "base/file.h"
#include "server/grpc/service.h"

namespace tokamak::server {

namespace {

grpc_compression_level compression_level(const std::string& name) {
  if (name == "none") return GRPC_COMPRESS_LEVEL_NONE;
  if (name == "low") return GRPC_COMPRESS_LEVEL_LOW;
  if (name == "medium") return GRPC_COMPRESS_LEVEL_MED;
  if (name == "high") return GRPC_COMPRESS_LEVEL_HIGH;
  fail(ErrorCode::InvalidArgument, "the compression of gRPC responses must be none, low, medium or high, found '{}'", name);
}

std::shared_ptr<grpc::ServerCredentials> credentials(const GrpcTlsOptions* tls) {
  if (!tls) return grpc::InsecureServerCredentials();
  const bool is_mutual = !tls->client_ca_file.empty();
  grpc::SslServerCredentialsOptions options(is_mutual ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                                                      : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
  options.pem_key_cert_pairs.push_back({read_file(tls->key_file), read_file(tls->certificate_file)});
  if (is_mutual) options.pem_root_certs = read_file(tls->client_ca_file);
  return grpc::SslServerCredentials(options);
}

std::optional<std::regex> header_pattern(const std::string& pattern) {
  if (pattern.empty()) return std::nullopt;
  try {
    return std::regex(pattern, std::regex::ECMAScript | std::regex::optimize);
  } catch (const std::regex_error& error) {
    fail(ErrorCode::InvalidArgument, "the pattern of forwarded headers '{}' is not a regular expression: {}", pattern, error.what());
  }
}

void set_keep_alive(grpc::ServerBuilder& builder, const GrpcKeepAlive& options) {
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, options.time_ms);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, options.timeout_ms);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, options.permit_without_calls ? 1 : 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, options.max_pings_without_data);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, options.min_ping_interval_without_data_ms);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, options.max_ping_strikes);
  if (options.max_connection_age_ms > 0) builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS, options.max_connection_age_ms);
  if (options.max_connection_age_grace_ms > 0)
    builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, options.max_connection_age_grace_ms);
}

}  // namespace

struct GrpcServer::Impl {
  Impl(Server& server, GrpcOptions given)
      : options(std::move(given)),
        compression(compression_level(options.response_compression)),
        restrictions(options.restricted),
        calls(new InferCalls{.server = server,
                             .forwarded_headers = header_pattern(options.forward_header_pattern),
                             .limits = {options.max_stream_requests, options.max_stream_queued_bytes, options.max_stream_unread_bytes}}),
        service(calls, restrictions) {}

  const GrpcOptions options;
  const grpc_compression_level compression;
  const Restrictions restrictions;
  const std::shared_ptr<InferCalls> calls;
  const Service service;
  CallQueue queue{[this](Call& call) { return service.start(call); }};
  std::unique_ptr<grpc::Server> listener;
  int port = 0;
};

GrpcServer::GrpcServer(Server& server, GrpcOptions options) : impl_(std::make_unique<Impl>(server, std::move(options))) {}

GrpcServer::~GrpcServer() { stop(std::chrono::milliseconds(0)); }

void GrpcServer::start() {
  const GrpcOptions& options = impl_->options;
  const bool is_ipv6 = options.address.find(':') != std::string::npos && options.address[0] != '[';
  const std::string where =
      is_ipv6 ? fmt::format("[{}]:{}", options.address, options.port) : fmt::format("{}:{}", options.address, options.port);
  grpc::ServerBuilder builder;
  builder.AddListeningPort(where, credentials(options.tls.get()), &impl_->port);
  impl_->queue.add_to(builder);
  builder.SetMaxReceiveMessageSize(std::numeric_limits<int32_t>::max());
  builder.SetMaxSendMessageSize(std::numeric_limits<int32_t>::max());
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, options.reuse_port ? 1 : 0);
  if (impl_->compression != GRPC_COMPRESS_LEVEL_NONE) builder.SetDefaultCompressionLevel(impl_->compression);
  set_keep_alive(builder, options.keep_alive);
  impl_->listener = builder.BuildAndStart();
  if (!impl_->listener || impl_->port == 0)
    fail(ErrorCode::Io, "gRPC cannot listen on {}: the port is taken{}", where,
         options.tls ? ", or the certificate and its key do not belong together" : "");
  const int num_threads = static_cast<int>(std::clamp(std::thread::hardware_concurrency() / 2, 1u, 16u));
  impl_->calls->max_inline = num_threads;
  impl_->queue.run(num_threads);
}

int GrpcServer::port() const { return impl_->port; }

void GrpcServer::stop(std::chrono::milliseconds timeout) {
  if (!impl_->listener) return;
  impl_->calls->drain();
  impl_->listener->Shutdown(std::chrono::system_clock::now() + timeout);
  impl_->listener->Wait();
  impl_->queue.stop();
  impl_->listener.reset();
}

int64_t GrpcServer::num_calls() const { return impl_->calls->num_calls.load(std::memory_order_relaxed); }

}  // namespace tokamak::server
