#pragma once
// One client's connection: reads requests, hands them to handlers, writes answers. Includes Boost; only server.cc does.

#include <fmt/format.h>

#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>

#include "server/http/compression.h"
#include "server/http/exchange.h"
#include "server/http/outgoing.h"
#include "server/http/router.h"

namespace tokamak::server::http {

namespace asio = boost::asio;
namespace beast = boost::beast;
using asio::ip::tcp;
using boost::system::error_code;
// With the executor known, nothing is type-erased.
using Socket = asio::basic_stream_socket<tcp, asio::io_context::executor_type>;

inline constexpr auto kWait = asio::as_tuple(asio::use_awaitable);

// What connections share; immutable while the server runs but for `is_stopping`.
struct Shared {
  ServerOptions options;
  Router router;
  std::function<std::optional<Response>(const Request&)> filter;
  std::atomic<bool> is_stopping = false;
  std::atomic<int> num_connections = 0;
};

class ConnectionBase {
 public:
  virtual ~ConnectionBase() = default;
  virtual void close_if_idle() = 0;  // on the connection's thread
  virtual void close() = 0;          // likewise
};

Response error_response(const Shared& shared, ErrorCode code, const std::string& message);

// Stream: Socket or ssl::stream<Socket>. Everything happens on the socket's executor, one thread.
template <class Stream>
class Connection : public ConnectionBase, public std::enable_shared_from_this<Connection<Stream>> {
 public:
  Connection(Stream stream, Shared& shared)
      : stream_(std::move(stream)),
        shared_(shared),
        deadline_(stream_.get_executor()),
        woken_(stream_.get_executor()),
        watched_(stream_.get_executor()) {
    woken_.expires_at(asio::steady_timer::time_point::max());
    watched_.expires_at(asio::steady_timer::time_point::max());
  }
  ~Connection() override {
    if (exchange_) exchange_->detach();  // its handler may still send
  }

  asio::awaitable<void> run() {
    const auto self = this->shared_from_this();
    error_code code;
    const auto remote = socket().remote_endpoint(code);
    if (!code) remote_ = remote.address().to_string() + ":" + std::to_string(remote.port());
    socket().set_option(tcp::no_delay(true), code);
    asio::co_spawn(stream_.get_executor(), watch_deadline(), asio::detached);
    if constexpr (!std::is_same_v<Stream, Socket>) {
      limit(shared_.options.header_timeout_s);
      auto [failed] = co_await stream_.async_handshake(asio::ssl::stream_base::server, kWait);
      if (failed) co_return close();
    }
    while (co_await serve_one()) {
    }
    if constexpr (!std::is_same_v<Stream, Socket>) {
      if (!is_gone_ && !reading_) {
        limit(1);
        co_await stream_.async_shutdown(kWait);
      }
    }
    close();
  }

  void close_if_idle() override {
    if (!is_busy_) close();
  }
  void close() override {
    is_closed_ = true;
    for (asio::steady_timer* timer : {&deadline_, &woken_, &watched_}) timer->cancel();
    if (exchange_) exchange_->stop_sending();
    error_code ignored;
    socket().shutdown(tcp::socket::shutdown_both, ignored);
    socket().close(ignored);
  }

 private:
  Socket& socket() {
    if constexpr (std::is_same_v<Stream, Socket>) return stream_;
    else return stream_.next_layer();
  }

  // The connection is closed when nothing moves the limit before it is up; 0: no limit. Looked at now and then, so that moving it is free.
  void limit(int seconds) {
    until_ = seconds > 0 ? std::chrono::steady_clock::now() + std::chrono::seconds(seconds) : std::chrono::steady_clock::time_point::max();
  }
  asio::awaitable<void> watch_deadline() {
    const auto self = this->shared_from_this();
    const ServerOptions& o = shared_.options;
    const int shortest_s = std::min({o.header_timeout_s, o.body_timeout_s, o.idle_timeout_s, 4});
    while (!is_closed_) {
      deadline_.expires_after(std::chrono::milliseconds(std::max(250, shortest_s * 500)));
      co_await deadline_.async_wait(kWait);
      if (!is_closed_ && std::chrono::steady_clock::now() >= until_) close();
    }
  }

  // Reads ahead into buffer_ while a handler works: the only way to learn that a client left. One at a time; what it reads belongs to the
  // next request.
  void read_ahead() {
    if (reading_ || is_gone_ || buffer_.size() > 0) return;
    reading_ = true;
    stream_.async_read_some(buffer_.prepare(16 << 10), [self = this->shared_from_this(), this](error_code code, size_t size) {
      reading_ = false;
      buffer_.commit(size);
      if (code) {
        is_gone_ = true;
        if (exchange_) exchange_->disconnected();
      }
      watched_.cancel();
    });
  }

  // True: there is a byte of a request.
  asio::awaitable<bool> wait_for_request() {
    limit(shared_.options.idle_timeout_s);
    while (buffer_.size() == 0 && !is_gone_ && !is_closed_) {
      read_ahead();
      co_await watched_.async_wait(kWait);
    }
    while (reading_ && !is_closed_) co_await watched_.async_wait(kWait);
    co_return buffer_.size() > 0 && !is_closed_;
  }

  // False: the connection ends.
  asio::awaitable<bool> serve_one() {
    namespace http = beast::http;
    is_busy_ = false;
    form_ = {};
    if (shared_.is_stopping || !co_await wait_for_request()) co_return false;
    is_busy_ = true;
    limit(shared_.options.header_timeout_s);
    const int64_t begun_ns = std::chrono::steady_clock::now().time_since_epoch().count();
    http::request_parser<http::buffer_body> parser;
    parser.header_limit(static_cast<uint32_t>(shared_.options.max_header_bytes));
    parser.body_limit(boost::none);
    auto [code, header_size] = co_await http::async_read_header(stream_, buffer_, parser, kWait);
    if (code == http::error::header_limit)
      co_return co_await refuse(431, fmt::format("the header is larger than {} bytes", shared_.options.max_header_bytes));
    if (code == http::error::end_of_stream || code == http::error::partial_message || code == asio::error::eof ||
        code == asio::error::operation_aborted)
      co_return false;
    if (code && code.category() == beast::http::make_error_code(http::error::bad_method).category())
      co_return co_await refuse(400, "this is no HTTP/1.1 request: " + code.message());
    if (code) co_return false;

    auto request = std::make_shared<Request>();
    const auto& head = parser.get();
    request->method = std::string(head.method_string());
    request->remote = remote_;
    request->begun_ns = begun_ns;
    for (const auto& field : head) request->headers.emplace_back(std::string(field.name_string()), std::string(field.value()));
    const std::string_view target(head.target().data(), head.target().size());
    const size_t question = std::min(target.find('?'), target.size());
    const std::string raw_path(target.substr(0, question));
    if (question < target.size()) request->query = std::string(target.substr(question + 1));
    request->path = percent_decode(raw_path);
    form_ = {.keep_alive = head.keep_alive() && !shared_.is_stopping,
             .is_http10 = head.version() < 11,
             .is_head = request->method == "HEAD",
             .encoding = std::string(accepted_encoding(request->header("Accept-Encoding")))};
    if (request->header("Expect") == "100-continue") {
      static constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
      co_await asio::async_write(stream_, asio::buffer(kContinue), kWait);
    }
    auto body = std::make_shared<std::vector<std::byte>>();
    std::string problem;
    const int refused = co_await read_body(parser, *body, problem);
    if (refused < 0) co_return false;
    if (refused > 0) co_return co_await refuse(refused, problem);
    request->body = body;
    request->received_ns = std::chrono::steady_clock::now().time_since_epoch().count();
    co_return co_await answer(std::move(request), std::move(body), raw_path);
  }

  // 0: done; a status: refused; -1: the client is gone.
  template <class Parser>
  asio::awaitable<int> read_body(Parser& parser, std::vector<std::byte>& body, std::string& problem) {
    namespace http = beast::http;
    const size_t most = shared_.options.max_body_bytes;
    const auto too_large = [&] { return fmt::format("the body is larger than the {} bytes that this server takes", most); };
    if (parser.chunked()) {
      std::array<std::byte, 64 << 10> piece;
      while (!parser.is_done()) {
        parser.get().body().data = piece.data();
        parser.get().body().size = piece.size();
        limit(shared_.options.body_timeout_s);
        auto [code, size] = co_await http::async_read_some(stream_, buffer_, parser, kWait);
        const size_t got = piece.size() - parser.get().body().size;
        if (body.size() + got > most) {
          problem = too_large();
          co_return 413;
        }
        body.insert(body.end(), piece.begin(), piece.begin() + got);
        if (code && code != http::error::need_buffer) {
          if (code.category() != http::make_error_code(http::error::bad_chunk).category() || code == http::error::partial_message ||
              code == http::error::end_of_stream)
            co_return -1;
          problem = "the chunked body is malformed: " + code.message();
          co_return 400;
        }
      }
      co_return 0;
    }
    const auto length = parser.content_length();
    if (!length || *length == 0) co_return 0;
    if (*length > most) {
      problem = too_large();
      co_return 413;
    }
    // Grown as it arrives, so that a claimed length alone costs nothing.
    size_t have = std::min<size_t>(buffer_.size(), *length);
    body.resize(std::min<size_t>(*length, std::max<size_t>(have, 1 << 20)));
    asio::buffer_copy(asio::buffer(body), buffer_.data(), have);
    buffer_.consume(have);
    while (have < *length) {
      if (have == body.size()) body.resize(std::min<size_t>(*length, body.size() * 2));
      limit(shared_.options.body_timeout_s);
      auto [code, size] = co_await stream_.async_read_some(asio::buffer(body.data() + have, body.size() - have), kWait);
      if (code) co_return -1;
      have += size;
    }
    co_return 0;
  }

  asio::awaitable<bool> refuse(int status, std::string message) {
    form_.keep_alive = false;
    form_.encoding.clear();
    Response response = error_response(shared_, ErrorCode::InvalidArgument, message);
    response.status = status;
    limit(5);
    outgoing_.emplace(std::move(response), form_);
    co_await write_rest();
    // What the client still sends is read for a moment: closing on it at once would reset the answer away, and most clients read no answer
    // before they have sent all.
    error_code ignored;
    socket().shutdown(tcp::socket::shutdown_send, ignored);
    std::array<char, 16 << 10> sink;
    for (size_t total = 0; total < (256u << 20);) {
      auto [code, size] = co_await stream_.async_read_some(asio::buffer(sink), kWait);
      if (code) break;
      total += size;
    }
    co_return false;
  }

  asio::awaitable<bool> answer(std::shared_ptr<Request> request, std::shared_ptr<std::vector<std::byte>> body,
                               const std::string& raw_path) {
    std::function<void(Response)> send_now;
    // A thread that has the answer sends it: handing it over would cost a waking up. Not where it would have to compress or encrypt.
    if (std::is_same_v<Stream, Socket> && form_.encoding.empty())
      send_now = [this, descriptor = socket().native_handle()](Response response) {
        outgoing_.emplace(std::move(response), form_);
        outgoing_->send_some(descriptor);
      };
    auto exchange = std::make_shared<Exchange>(
        [weak = this->weak_from_this(), executor = stream_.get_executor()] {
          asio::post(executor, [weak] {
            if (const auto self = weak.lock()) self->woken_.cancel();
          });
        },
        std::move(send_now));
    exchange_ = exchange;
    limit(0);
    dispatch(std::move(request), *body, raw_path, std::make_shared<ExchangeHandle>(exchange));
    read_ahead();
    bool is_streaming = false, ok = true;
    for (;;) {
      Exchange::Work work = exchange->take();
      if (work.has_response && !work.is_streamed) {
        limit(shared_.options.body_timeout_s);
        if (!outgoing_) outgoing_.emplace(std::move(work.response), form_);
        ok = co_await write_rest();
        break;
      }
      std::string out;
      if (work.has_response) {
        is_streaming = true;
        out = head_of(work.response, form_, std::nullopt);
      }
      size_t bytes = 0;
      for (const std::string& piece : work.pieces) {
        bytes += piece.size();
        if (form_.is_head) continue;
        if (form_.is_http10) out += piece;
        else out += fmt::format("{:x}\r\n", piece.size()) + piece + "\r\n";
      }
      const bool is_complete = is_streaming && work.is_complete;
      if (is_complete && !form_.is_http10 && !form_.is_head) out += "0\r\n\r\n";
      if (!out.empty()) {
        limit(shared_.options.body_timeout_s);
        auto [code, size] = co_await asio::async_write(stream_, asio::buffer(out), kWait);
        exchange->wrote(bytes);
        limit(0);
        if (code) {
          ok = false;
          is_gone_ = true;
          exchange->disconnected();
          break;
        }
      }
      if (is_complete) {
        form_.keep_alive &= !form_.is_http10;
        break;
      }
      if (is_closed_) {
        ok = false;
        exchange->disconnected();
        break;
      }
      if (work.has_response || !work.pieces.empty()) continue;  // more may have come meanwhile
      co_await woken_.async_wait(kWait);
    }
    exchange->detach();
    exchange_ = nullptr;
    outgoing_.reset();
    co_return ok&& form_.keep_alive && !is_closed_;
  }

  void dispatch(std::shared_ptr<Request> request, std::vector<std::byte>& body, const std::string& raw_path,
                std::shared_ptr<Responder> responder) {
    try {
      if (shared_.filter)
        if (auto refusal = shared_.filter(*request)) return responder->send(std::move(*refusal));
      if (const auto encoding = request->header("Content-Encoding"); !encoding.empty() && encoding != "identity") {
        auto plain = std::make_shared<std::vector<std::byte>>();
        try {
          *plain = decompress(encoding, body, shared_.options.max_body_bytes);
        } catch (const Error& e) {
          Response response = error_response(shared_, ErrorCode::InvalidArgument, e.what());
          response.status = e.code() == ErrorCode::Unsupported ? 415 : e.code() == ErrorCode::ResourceExhausted ? 413 : 400;
          return responder->send(std::move(response));
        }
        request->body = std::move(plain);
      }
      auto match = shared_.router.find(request->method, raw_path);
      if (match.handler == nullptr) {
        Response response = error_response(
            shared_, ErrorCode::NotFound,
            match.allowed.empty() ? fmt::format("there is nothing at {} {}", request->method, request->path)
                                  : fmt::format("{} is not a method of {}: expected {}", request->method, request->path, match.allowed));
        if (!match.allowed.empty()) {
          response.status = 405;
          response.headers.emplace_back("Allow", match.allowed);
        }
        return responder->send(std::move(response));
      }
      request->captures = std::move(match.captures);
      (*match.handler)(std::move(request), responder);
    } catch (const Error& e) {
      responder->send(error_response(shared_, e.code(), e.what()));
    } catch (const std::exception& e) {
      responder->send(error_response(shared_, ErrorCode::Internal, e.what()));
    }
  }

  asio::awaitable<bool> write_rest() {
    if (outgoing_->rest().empty()) co_return true;
    std::vector<asio::const_buffer> buffers;
    for (const auto& piece : outgoing_->rest()) buffers.push_back(asio::buffer(piece.data(), piece.size()));
    auto [code, written] = co_await asio::async_write(stream_, buffers, kWait);
    co_return !code;
  }

  Stream stream_;
  Shared& shared_;
  asio::steady_timer deadline_, woken_, watched_;  // the last two are signals: waits end when they are cancelled
  std::chrono::steady_clock::time_point until_ = std::chrono::steady_clock::time_point::max();
  beast::flat_buffer buffer_;
  std::shared_ptr<Exchange> exchange_;  // of the request that is being answered
  AnswerForm form_;
  std::optional<Outgoing> outgoing_;  // written by a thread that sends (under the exchange's lock), read when `exchange_` said so
  std::string remote_;
  bool reading_ = false, is_gone_ = false, is_closed_ = false, is_busy_ = false;
};

}  // namespace tokamak::server::http
