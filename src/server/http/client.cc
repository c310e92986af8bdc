#include "server/http/client.h"

#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <charconv>

namespace tokamak::server::http {

namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
using asio::ip::tcp;
using boost::system::error_code;

constexpr auto kWait = asio::as_tuple(asio::use_awaitable);

std::string text_of(const error_code& code) { return code == beast::error::timeout ? "timeout" : code.message(); }

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
  using Stream = beast::tcp_stream;

  Impl(const Url& server, std::chrono::milliseconds limit) : url(server), timeout(limit) {}

  // The error, or "".
  asio::awaitable<std::string> connect(Stream& stream) {
    if (endpoints.empty()) {
      tcp::resolver resolver(context);
      auto [code, found] = co_await resolver.async_resolve(url.host, std::to_string(url.port), kWait);
      if (code) co_return "resolve: " + text_of(code);
      for (const auto& entry : found) endpoints.push_back(entry.endpoint());
    }
    auto [code, endpoint] = co_await stream.async_connect(endpoints, kWait);
    if (code) co_return "connect: " + text_of(code);
    stream.socket().set_option(tcp::no_delay(true));
    co_return "";
  }

  asio::awaitable<error_code> ask(Stream& stream, const ClientRequest& request) {
    beast::http::request<beast::http::span_body<const char>> message;
    message.method_string(request.method);
    message.target(request.target);
    message.version(11);
    message.set(beast::http::field::host, url.host + ":" + std::to_string(url.port));
    for (const auto& [name, value] : request.headers) message.set(name, value);
    message.body() = beast::span<const char>(request.body.data(), request.body.size());
    message.content_length(request.body.size());
    auto [code, size] = co_await beast::http::async_write(stream, message, kWait);
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
    std::unique_ptr<Stream> stream;
    if (reused) {
      stream = std::move(idle.back());
      idle.pop_back();
    } else {
      stream = std::make_unique<Stream>(context);
    }
    stream->expires_after(timeout);
    if (!reused && !(result.error = co_await connect(*stream)).empty()) co_return true;
    error_code code = co_await ask(*stream, request);
    beast::flat_buffer buffer;
    http::response_parser<http::buffer_body> parser;
    parser.body_limit(boost::none);
    if (!code) std::tie(code, std::ignore) = co_await http::async_read_header(*stream, buffer, parser, kWait);
    if (reused && (code == http::error::end_of_stream || code == asio::error::connection_reset || code == asio::error::broken_pipe))
      co_return false;
    if (code) {
      result.error = "no answer: " + text_of(code);
      co_return true;
    }
    result.status = static_cast<int>(parser.get().result_int());
    for (const auto& field : parser.get()) result.headers.emplace_back(std::string(field.name_string()), std::string(field.value()));
    std::array<char, 64 << 10> piece;
    while (!parser.is_done()) {
      parser.get().body().data = piece.data();
      parser.get().body().size = piece.size();
      stream->expires_after(timeout);
      std::tie(code, std::ignore) = co_await http::async_read_some(*stream, buffer, parser, kWait);
      const size_t size = piece.size() - parser.get().body().size;
      if (size > 0 && callbacks.on_piece) callbacks.on_piece(result.status, std::string_view(piece.data(), size));
      if (code && code != http::error::need_buffer) {
        result.error = "answer broke off: " + text_of(code);
        co_return true;
      }
    }
    if (parser.keep_alive()) {
      stream->expires_never();
      idle.push_back(std::move(stream));
    }
    co_return true;
  }

  Url url;
  std::chrono::milliseconds timeout;
  asio::io_context context{1};
  std::vector<tcp::endpoint> endpoints;
  std::vector<std::unique_ptr<Stream>> idle;
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
