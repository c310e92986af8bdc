// The part of http.h that has sockets. Threads have an io_context each; a connection stays on the thread it was accepted for, so nothing of
// it is locked but its answer (exchange.h).

#include <sys/resource.h>

#include <thread>
#include <unordered_set>

#include "server/http/connection.h"

namespace tokamak::server::http {

const char* reason_of(int status) {
  const auto text = beast::http::obsolete_reason(static_cast<beast::http::status>(status));
  return status == 499 ? "Client Closed Request" : text.data();
}

Response error_response(const Shared& shared, ErrorCode code, const std::string& message) {
  if (shared.options.on_error) return shared.options.on_error(code, message);
  std::string text;
  for (const char c : message) {
    if (c == '"' || c == '\\') text += '\\';
    if (static_cast<unsigned char>(c) < 0x20) text += fmt::format("\\u{:04x}", static_cast<int>(c));
    else text += c;
  }
  return {.status = http_status(code), .headers = {{"Content-Type", "application/json"}}, .body = fmt::format(R"({{"error":"{}"}})", text)};
}

struct Server::Impl {
  // One of the threads, and the connections it has.
  struct Worker {
    asio::io_context context{1};
    std::optional<asio::executor_work_guard<asio::io_context::executor_type>> guard;
    std::unordered_set<ConnectionBase*> connections;
    std::thread thread;
  };

  explicit Impl(ServerOptions options) { shared.options = std::move(options); }

  template <class Stream>
  asio::awaitable<void> serve(Worker& worker, Stream stream) {
    auto connection = std::make_shared<Connection<Stream>>(std::move(stream), shared);
    worker.connections.insert(connection.get());
    co_await connection->run();
    worker.connections.erase(connection.get());
    shared.num_connections.fetch_sub(1);
  }

  asio::awaitable<void> turn_away(Socket socket) {
    Response response =
        error_response(shared, ErrorCode::Unavailable,
                       fmt::format("there are {} connections, as many as this server takes", shared.options.max_connections));
    const std::string text = fmt::format(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
        response.body.size(), response.body);
    co_await asio::async_write(socket, asio::buffer(text), kWait);
  }

  asio::awaitable<void> accept() {
    size_t next = 0;
    while (acceptor->is_open()) {
      Worker& worker = *workers[next++ % workers.size()];
      auto [code, socket] = co_await acceptor->async_accept(worker.context, kWait);
      if (!acceptor->is_open()) break;
      if (code) {
        // Out of descriptors, most likely: those in use may come back.
        asio::steady_timer pause(workers[0]->context, std::chrono::milliseconds(50));
        co_await pause.async_wait(kWait);
        continue;
      }
      if (shared.num_connections.load() >= shared.options.max_connections) {
        auto executor = socket.get_executor();
        asio::co_spawn(executor, turn_away(std::move(socket)), asio::detached);
        continue;
      }
      shared.num_connections.fetch_add(1);
      if (tls) {
        asio::co_spawn(worker.context, serve(worker, asio::ssl::stream<Socket>(std::move(socket), *tls)), asio::detached);
      } else {
        asio::co_spawn(worker.context, serve(worker, std::move(socket)), asio::detached);
      }
    }
  }

  void make_tls() {
    if (!shared.options.tls) return;
    const TlsOptions& o = *shared.options.tls;
    try {
      tls.emplace(asio::ssl::context::tls_server);
      tls->set_options(asio::ssl::context::default_workarounds | asio::ssl::context::no_sslv2 | asio::ssl::context::no_sslv3 |
                       asio::ssl::context::no_tlsv1 | asio::ssl::context::no_tlsv1_1);
      tls->use_certificate_chain_file(o.certificate_file);
      tls->use_private_key_file(o.key_file, asio::ssl::context::pem);
      if (!o.client_ca_file.empty()) {
        tls->load_verify_file(o.client_ca_file);
        tls->set_verify_mode(asio::ssl::verify_peer | asio::ssl::verify_fail_if_no_peer_cert);
      }
    } catch (const boost::system::system_error& e) {
      fail(ErrorCode::InvalidArgument, "TLS: certificate '{}', key '{}'{}: {}; expected PEM files that belong together", o.certificate_file,
           o.key_file, o.client_ca_file.empty() ? "" : ", client CA '" + o.client_ca_file + "'", e.code().message());
    }
  }

  void start() {
    make_tls();
    // Each connection is a descriptor; the soft limit is often 1,024.
    rlimit files = {};
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
      files.rlim_cur = files.rlim_max;
      setrlimit(RLIMIT_NOFILE, &files);
    }
    for (int i = 0; i < std::max(1, shared.options.threads); ++i) {
      workers.push_back(std::make_unique<Worker>());
      workers.back()->guard.emplace(workers.back()->context.get_executor());
    }
    error_code code;
    const auto address = asio::ip::make_address(shared.options.address, code);
    if (code) fail(ErrorCode::InvalidArgument, "'{}' is no address to listen on: expected one like 0.0.0.0 or ::", shared.options.address);
    const tcp::endpoint endpoint(address, static_cast<uint16_t>(shared.options.port));
    acceptor.emplace(workers[0]->context);
    acceptor->open(endpoint.protocol(), code);
    if (!code) acceptor->set_option(tcp::acceptor::reuse_address(true), code);
    if (!code) acceptor->bind(endpoint, code);
    if (!code) acceptor->listen(4096, code);
    if (code)
      fail(ErrorCode::Io, "cannot listen on {}:{}: {}{}", shared.options.address, shared.options.port, code.message(),
           code == asio::error::address_in_use ? "; another process has that port" : "");
    bound_port = acceptor->local_endpoint().port();
    asio::co_spawn(workers[0]->context, accept(), asio::detached);
    for (auto& worker : workers) worker->thread = std::thread([&context = worker->context] { context.run(); });
  }

  void stop(int timeout_s) {
    if (workers.empty() || stopped) return;
    stopped = true;
    shared.is_stopping = true;
    asio::post(workers[0]->context, [this] {
      error_code ignored;
      acceptor->close(ignored);
    });
    for (auto& worker : workers)
      asio::post(worker->context, [&worker = *worker] {
        for (ConnectionBase* connection : worker.connections) connection->close_if_idle();
      });
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(timeout_s);
    while (shared.num_connections > 0 && std::chrono::steady_clock::now() < until)
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    for (auto& worker : workers)
      asio::post(worker->context, [&worker = *worker] {
        for (ConnectionBase* connection : worker.connections) connection->close();
      });
    // Answers of handlers that still work are dropped when they come; their coroutines end with the contexts.
    const auto patience = std::chrono::steady_clock::now() + std::chrono::milliseconds(500);
    while (shared.num_connections > 0 && std::chrono::steady_clock::now() < patience)
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    for (auto& worker : workers) {
      worker->guard.reset();
      worker->context.stop();
    }
    for (auto& worker : workers)
      if (worker->thread.joinable()) worker->thread.join();
  }

  Shared shared;
  std::optional<asio::ssl::context> tls;
  std::vector<std::unique_ptr<Worker>> workers;
  std::optional<tcp::acceptor> acceptor;
  int bound_port = 0;
  bool stopped = false;
};

Server::Server(ServerOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}
Server::~Server() { stop(0); }
void Server::route(std::string method, std::string pattern, Handler handler) {
  impl_->shared.router.add(std::move(method), pattern, std::move(handler));
}
void Server::set_filter(std::function<std::optional<Response>(const Request&)> filter) { impl_->shared.filter = std::move(filter); }
void Server::start() { impl_->start(); }
int Server::port() const { return impl_->bound_port; }
void Server::stop(int timeout_s) { impl_->stop(timeout_s); }
int Server::num_connections() const { return impl_->shared.num_connections; }

}  // namespace tokamak::server::http
