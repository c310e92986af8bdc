#pragma once
// An HTTP/1.1 server without a protocol above it: routes, bodies of a bounded size, whole or streamed answers, and word of clients that
// left. Boost.Asio and Beast are behind it, in two files.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"

namespace tokamak::server::http {

using Header = std::pair<std::string, std::string>;

struct Request {
  std::string method;  // "GET"
  std::string path;    // percent-decoded, without the query
  std::string query;   // as it came
  std::vector<Header> headers;
  std::shared_ptr<const std::vector<std::byte>> body;  // never null; Content-Encoding gzip and deflate are undone
  std::vector<std::string> captures;                   // what the route's {} matched, percent-decoded, in order
  std::string remote;                                  // "127.0.0.1:40312"
  int64_t begun_ns = 0;                                // steady clock, when it began to come
  int64_t received_ns = 0;                             // and when the body was complete

  // The first header of this name, any case; "" when there is none.
  std::string_view header(std::string_view name) const;
  std::string_view text() const { return {reinterpret_cast<const char*>(body->data()), body->size()}; }
};

struct Response {
  int status = 200;
  std::vector<Header> headers = {};  // Content-Length and Connection are the server's
  std::string body = {};
  // Sent behind `body`, without copying; each piece is kept alive by its owner.
  std::vector<std::pair<std::shared_ptr<const void>, std::span<const std::byte>>> pieces = {};
};

// Answers one request, from any thread. Dropping the last reference without an answer sends 500.
class Responder {
 public:
  virtual ~Responder() = default;
  // A whole answer. Only the first of send() and begin() counts.
  virtual void send(Response response) = 0;
  // Begins a streamed answer (chunked); write() queues a piece, end() completes it. A client that left makes them no-ops.
  virtual void begin(int status, std::vector<Header> headers) = 0;
  virtual void write(std::string piece) = 0;
  virtual void end() = 0;
  // Bytes that write() queued and the client has not taken yet: a writer that can wait should, above a megabyte.
  virtual size_t queued_bytes() const = 0;
  // `call` runs once, on a server thread, when the client goes away before the answer is complete; at once if it has.
  virtual void on_disconnect(std::function<void()> call) = 0;
  // `call` runs once, on a server thread, when the answer is over: written, or the client is gone. Its arguments are when send() or begin()
  // was called (0: never) and now, steady-clock nanoseconds. Before send() and begin().
  virtual void on_complete(std::function<void(int64_t answered_ns, int64_t now_ns)> call) = 0;
};

// Runs on a server thread: must not block. What it throws becomes a response through ServerOptions::on_error.
using Handler = std::function<void(std::shared_ptr<const Request>, std::shared_ptr<Responder>)>;

struct TlsOptions {
  std::string certificate_file, key_file;  // PEM
  std::string client_ca_file;              // not empty: clients must present a certificate of it
};

struct ServerOptions {
  std::string address = "0.0.0.0";
  int port = 8000;  // 0: any free one
  int threads = 1;
  size_t max_body_bytes = size_t{64} << 20;  // compressed and decompressed
  size_t max_header_bytes = 64 << 10;
  int max_connections = 20'000;
  int header_timeout_s = 10, body_timeout_s = 60, idle_timeout_s = 120;  // body: without progress
  std::optional<TlsOptions> tls;
  // The answer to a thrown error; the default is {"error": message} with the status of http_status().
  std::function<Response(ErrorCode, const std::string&)> on_error;
};

class Server {
 public:
  explicit Server(ServerOptions options);
  ~Server();  // stop(0)

  // `pattern` has {} for one path segment: "/v2/models/{}/versions/{}/infer". The first that matches wins; a path that matches with
  // another method is answered 405. Before start().
  void route(std::string method, std::string pattern, Handler handler);
  // Asked before every handler: a response refuses the request (keys, restricted endpoints).
  void set_filter(std::function<std::optional<Response>(const Request&)> filter);

  void start();              // throws Io when the port is taken
  int port() const;          // the one that is listened on
  void stop(int timeout_s);  // refuses new connections, lets answers in progress finish for that long, closes everything
  int num_connections() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// NOT_FOUND 404, Unavailable and ResourceExhausted 503, Unsupported 501, Internal 500, Cancelled 499, the rest 400.
int http_status(ErrorCode code);
const char* reason_of(int status);  // "Not Found"
std::string percent_decode(std::string_view text);

}  // namespace tokamak::server::http
