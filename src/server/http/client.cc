#include "server/http/client.h"

#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <charconv>
#include <unordered_set>

namespace tokamak::server::http {

namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
using asio::ip::tcp;
using boost::system::error_code;

constexpr auto kWait = asio::as_tuple(asio::use_awaitable);

// With the executor known, nothing is type-erased.
using Socket = asio::basic_stream_socket<tcp, asio::io_context::executor_type>;

// Its deadline is looked at now and then (Client::Impl::watch): moving it costs nothing, where a timer of its own would be set anew for
// every piece of a stream.
struct Connection {
  explicit Connection(asio::io_context& context) : socket(context) {}
  Socket socket;
  std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max();
  bool is_late = false;
};

std::string text_of(const error_code& code, const Connection& connection) { return connection.is_late ? "timeout" : code.message(); }

}  // namespace

Url parse_url(const std::string& text) {
  const auto bad = [&](const char* what) {
    fail(ErrorCode::InvalidArgument, "'{}' is no address of a server: {}; expected http://host[:port][/path]", text, what);
  };
  if (text.starts_with("https://")) fail(ErrorCode::Unsupported, "'{}': this client has no TLS; expected http://host[:port][/path]", text);
  const size_t scheme = text.find("://");
  if (scheme != std::string::npos && !text.starts_with("http://")) bad("its scheme is not http");
  const std::string rest = scheme == std::string::npos ? text : text.substr(scheme + 3);
  Url url;
  const size_t slash = rest.find('/');
  std::string authority = rest.substr(0, slash);
  if (slash != std::string::npos) url.path = rest.substr(slash);
  while (url.path.ends_with('/')) url.path.pop_back();
  const size_t colon = authority.rfind(':');
  if (colon != std::string::npos && authority.find(']', colon) == std::string::npos) {
    const char* end = authority.data() + authority.size();
    const auto [stop, code] = std::from_chars(authority.data() + colon + 1, end, url.port);
    if (code != std::errc() || stop != end || url.port < 1 || url.port > 65535) bad("its port is not a number from 1 to 65535");
    authority.resize(colon);
  }
  if (authority.starts_with('[') && authority.ends_with(']')) authority = authority.substr(1, authority.size() - 2);
  if (authority.empty()) bad("it has no host");
  url.host = authority;
  return url;
}

struct Client::Impl {
  Impl(const Url& server, std::chrono::milliseconds limit) : url(server), timeout(limit) {}
  ~Impl() { is_ending = true; }

  // While requests are under way, closes connections that have made no progress for too long.
  asio::awaitable<void> watch() {
    using std::chrono::milliseconds;
    while (!busy.empty()) {
      look.expires_after(std::clamp(timeout / 8, milliseconds(5), milliseconds(500)));
      co_await look.async_wait(kWait);
      const auto now = std::chrono::steady_clock::now();
      for (Connection* connection : busy) {
        if (now < connection->deadline) continue;
        connection->is_late = true;
        error_code ignored;
        connection->socket.close(ignored);
      }
    }
    is_watched = false;
  }
  void begin(Connection& connection) {
    connection.deadline = std::chrono::steady_clock::now() + timeout;
    busy.insert(&connection);
    if (!std::exchange(is_watched, true)) asio::co_spawn(context, watch(), asio::detached);
  }
  void end(Connection& connection) {
    if (is_ending) return;
    busy.erase(&connection);
    if (busy.empty()) look.cancel();
  }

  // The error, or "".
  asio::awaitable<std::string> connect(Connection& connection) {
    if (endpoints.empty()) {
      tcp::resolver resolver(context);
      auto [code, found] = co_await resolver.async_resolve(url.host, std::to_string(url.port), kWait);
      if (code) co_return "resolve: " + code.message();
      for (const auto& entry : found) endpoints.push_back(entry.endpoint());
    }
    auto [code, endpoint] = co_await asio::async_connect(connection.socket, endpoints, kWait);
    if (code) co_return "connect: " + text_of(code, connection);
    connection.socket.set_option(tcp::no_delay(true));
    co_return "";
  }

  static asio::awaitable<error_code> ask(Socket& socket, const Url& url, const ClientRequest& request) {
    beast::http::request<beast::http::span_body<const char>> message;
    message.method_string(request.method);
    message.target(request.target);
    message.version(11);
    message.set(beast::http::field::host, url.host + ":" + std::to_string(url.port));
    for (const auto& [name, value] : request.headers) message.set(name, value);
    message.body() = beast::span<const char>(request.body.data(), request.body.size());
    message.content_length(request.body.size());
    auto [code, size] = co_await beast::http::async_write(socket, message, kWait);
    co_return code;
  }

  asio::awaitable<void> exchange(ClientRequest request, ClientCallbacks callbacks) {
    ClientResult result;
    while (!co_await attempt(request, callbacks, result)) {
    }
    if (callbacks.on_end) callbacks.on_end(std::move(result));
  }

  // False: a kept connection was closed just as it was used again; nothing was answered.
  asio::awaitable<bool> attempt(const ClientRequest& request, const ClientCallbacks& callbacks, ClientResult& result) {
    namespace http = beast::http;
    const bool reused = !idle.empty();
    std::unique_ptr<Connection> connection;
    if (reused) {
      connection = std::move(idle.back());
      idle.pop_back();
    } else {
      connection = std::make_unique<Connection>(context);
    }
    struct Busy {
      Impl& impl;
      Connection& connection;
      ~Busy() { impl.end(connection); }
    };
    begin(*connection);
    const Busy busy_until_return{*this, *connection};
    Socket& socket = connection->socket;
    if (!reused && !(result.error = co_await connect(*connection)).empty()) co_return true;
    error_code code = co_await ask(socket, url, request);
    connection->deadline = std::chrono::steady_clock::now() + timeout;
    beast::flat_buffer buffer;
    http::response_parser<http::buffer_body> parser;
    parser.body_limit(boost::none);
    if (!code) std::tie(code, std::ignore) = co_await http::async_read_header(socket, buffer, parser, kWait);
    if (reused && (code == http::error::end_of_stream || code == asio::error::connection_reset || code == asio::error::broken_pipe))
      co_return false;
    if (code) {
      result.error = "no answer: " + text_of(code, *connection);
      co_return true;
    }
    result.status = static_cast<int>(parser.get().result_int());
    for (const auto& field : parser.get()) result.headers.emplace_back(std::string(field.name_string()), std::string(field.value()));
    std::array<char, 64 << 10> piece;
    while (!parser.is_done()) {
      parser.get().body().data = piece.data();
      parser.get().body().size = piece.size();
      std::tie(code, std::ignore) = co_await http::async_read_some(socket, buffer, parser, kWait);
      connection->deadline = std::chrono::steady_clock::now() + timeout;
      const size_t size = piece.size() - parser.get().body().size;
      if (size > 0 && callbacks.on_piece) callbacks.on_piece(result.status, std::string_view(piece.data(), size));
      if (code && code != http::error::need_buffer) {
        result.error = "answer broke off: " + text_of(code, *connection);
        co_return true;
      }
    }
    if (parser.keep_alive()) idle.push_back(std::move(connection));
    co_return true;
  }

  Url url;
  std::chrono::milliseconds timeout;
  std::unordered_set<Connection*> busy;
  bool is_watched = false, is_ending = false;
  asio::io_context context{1};  // destroys what is still under way
  asio::steady_timer look{context};
  std::vector<tcp::endpoint> endpoints;
  std::vector<std::unique_ptr<Connection>> idle;
};

Client::Client(const Url& server, std::chrono::milliseconds timeout) : impl_(std::make_unique<Impl>(server, timeout)) {}
Client::~Client() = default;

void Client::send(ClientRequest request, ClientCallbacks callbacks) {
  asio::co_spawn(impl_->context, impl_->exchange(std::move(request), std::move(callbacks)), [](std::exception_ptr error) {
    if (error) std::rethrow_exception(error);
  });
}

void Client::after(std::chrono::nanoseconds delay, std::function<void()> call) {
  auto timer = std::make_shared<asio::steady_timer>(impl_->context, delay);
  timer->async_wait([timer, call = std::move(call)](error_code code) {
    if (!code) call();
  });
}

void Client::run() { impl_->context.run(); }

Answer fetch(const Url& server, ClientRequest request, std::chrono::milliseconds timeout) {
  Client client(server, timeout);
  Answer answer;
  std::string error;
  client.send(std::move(request), {.on_piece = [&](int, std::string_view piece) { answer.body += piece; },
                                   .on_end =
                                       [&](ClientResult result) {
                                         answer.status = result.status;
                                         error = std::move(result.error);
                                       }});
  client.run();
  if (!error.empty()) fail(ErrorCode::Unavailable, "http://{}:{}: {}", server.host, server.port, error);
  return answer;
}

}  // namespace tokamak::server::http
