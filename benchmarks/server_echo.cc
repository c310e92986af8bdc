#include "benchmarks/server_echo.h"

#include <grpcpp/grpcpp.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <thread>

#include "grpc_service.grpc.pb.h"

namespace tokamak::bench {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;

constexpr auto kWait = asio::as_tuple(asio::use_awaitable);

struct HttpEcho::Impl {
  asio::awaitable<void> serve(tcp::socket socket) {
    socket.set_option(tcp::no_delay(true));
    boost::beast::flat_buffer buffer;
    for (;;) {
      http::request<http::string_body> request;
      auto [code, size] = co_await http::async_read(socket, buffer, request, kWait);
      if (code) break;
      auto [failed, written] = co_await asio::async_write(socket, asio::buffer(answer), kWait);
      if (failed) break;
    }
  }
  asio::awaitable<void> accept() {
    for (;;) {
      auto [code, socket] = co_await acceptor.async_accept(kWait);
      if (code) break;
      asio::co_spawn(context, serve(std::move(socket)), asio::detached);
    }
  }

  std::string answer;
  asio::io_context context{1};
  tcp::acceptor acceptor{context, tcp::endpoint(asio::ip::make_address("127.0.0.1"), 0)};
  std::thread thread = {};
};

HttpEcho::HttpEcho(std::string answer) : impl_(new Impl{.answer = std::move(answer)}) {
  asio::co_spawn(impl_->context, impl_->accept(), asio::detached);
  impl_->thread = std::thread([this] { impl_->context.run(); });
}

HttpEcho::~HttpEcho() {
  impl_->context.stop();
  impl_->thread.join();
}

int HttpEcho::port() const { return impl_->acceptor.local_endpoint().port(); }

namespace {

using Rpc = inference::GRPCInferenceService;

class EchoService final : public Rpc::WithRawCallbackMethod_ModelInfer<Rpc::Service> {
 public:
  explicit EchoService(const std::string& answer) : slice_(answer) {}
  grpc::ServerUnaryReactor* ModelInfer(grpc::CallbackServerContext* context, const grpc::ByteBuffer*, grpc::ByteBuffer* response) override {
    *response = grpc::ByteBuffer(&slice_, 1);
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

 private:
  const grpc::Slice slice_;
};

}  // namespace

struct GrpcEcho::Impl {
  EchoService service;
  std::unique_ptr<grpc::Server> server = nullptr;
  int port = 0;
};

GrpcEcho::GrpcEcho(std::string answer) : impl_(new Impl{.service = EchoService(answer)}) {
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &impl_->port);
  builder.RegisterService(&impl_->service);
  impl_->server = builder.BuildAndStart();
}

GrpcEcho::~GrpcEcho() { impl_->server->Shutdown(); }

int GrpcEcho::port() const { return impl_->port; }

}  // namespace tokamak::bench
