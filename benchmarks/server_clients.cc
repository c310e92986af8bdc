#include "benchmarks/server_clients.h"

#include <arpa/inet.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <vector>

#include "base/error.h"
#include "grpc_service.grpc.pb.h"

namespace tokamak::bench {

namespace {

using Clock = std::chrono::steady_clock;
constexpr const char* kMethod = "/inference.GRPCInferenceService/ModelInfer";

int connect_to(int port) {
  const int s = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int on = 1;
  ::setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (::connect(s, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    fail(ErrorCode::Unavailable, "port {} of this machine cannot be connected to", port);
  return s;
}

// Bytes of the message that begins `text`; 0: not all of its header is there.
size_t message_size(const std::string& text) {
  const size_t end = text.find("\r\n\r\n");
  if (end == std::string::npos) return 0;
  constexpr std::string_view kLength = "Content-Length: ";
  const size_t at = text.find(kLength);
  size_t length = 0;
  if (at < end) std::from_chars(text.data() + at + kLength.size(), text.data() + end, length);
  return end + 4 + length;
}

// Reads what is there; true: the message is complete.
bool receive(int socket, std::string& answer) {
  char piece[16 << 10];
  const ssize_t count = ::recv(socket, piece, sizeof piece, 0);
  if (count <= 0) fail(ErrorCode::Unavailable, "the server closed the connection");
  answer.append(piece, static_cast<size_t>(count));
  const size_t size = message_size(answer);
  if (size == 0 || answer.size() < size) return false;
  if (!answer.starts_with("HTTP/1.1 200")) fail(ErrorCode::Internal, "the server answered: {}", answer);
  return true;
}

void send_all(int socket, const std::string& request) {
  if (::send(socket, request.data(), request.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(request.size()))
    fail(ErrorCode::Unavailable, "the request could not be sent at once");
}

std::shared_ptr<grpc::Channel> channel_to(int port) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // else channels share a connection
  return grpc::CreateCustomChannel(fmt::format("127.0.0.1:{}", port), grpc::InsecureChannelCredentials(), arguments);
}

}  // namespace

HttpClient::HttpClient(int port, std::string request) : socket_(connect_to(port)), request_(std::move(request)) {}
HttpClient::~HttpClient() { ::close(socket_); }

const std::string& HttpClient::ask() {
  send_all(socket_, request_);
  answer_.clear();
  while (!receive(socket_, answer_)) {
  }
  return answer_;
}

struct GrpcClient::Impl {
  inference::ModelInferRequest request;
  std::unique_ptr<inference::GRPCInferenceService::Stub> stub;
};

GrpcClient::GrpcClient(int port, const std::string& request) : impl_(std::make_unique<Impl>()) {
  CHECK(impl_->request.ParseFromString(request));
  impl_->stub = inference::GRPCInferenceService::NewStub(channel_to(port));
}
GrpcClient::~GrpcClient() = default;

std::string GrpcClient::ask() {
  grpc::ClientContext context;
  inference::ModelInferResponse response;
  const grpc::Status status = impl_->stub->ModelInfer(&context, impl_->request, &response);
  if (!status.ok()) fail(ErrorCode::Internal, "the server answered: {}", status.error_message());
  return response.SerializeAsString();
}

double http_throughput(int port, const std::string& request, int num_connections, double seconds) {
  struct Connection {
    int socket;
    std::string answer;
  };
  std::vector<Connection> connections;
  const int poll = ::epoll_create1(EPOLL_CLOEXEC);
  for (int i = 0; i < num_connections; ++i) {
    connections.push_back({connect_to(port), {}});
    epoll_event event = {.events = EPOLLIN, .data = {.u32 = static_cast<uint32_t>(i)}};
    ::epoll_ctl(poll, EPOLL_CTL_ADD, connections[i].socket, &event);
  }
  const auto start = Clock::now(), end = start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  int64_t count = 0;
  int waiting = num_connections;
  for (const Connection& c : connections) send_all(c.socket, request);
  auto now = start;
  while (waiting > 0) {
    epoll_event events[64];
    const int ready = ::epoll_wait(poll, events, 64, -1);
    now = Clock::now();
    for (int i = 0; i < ready; ++i) {
      Connection& c = connections[events[i].data.u32];
      if (!receive(c.socket, c.answer)) continue;
      c.answer.clear();
      ++count;
      if (now < end) send_all(c.socket, request);
      else --waiting;
    }
  }
  for (const Connection& c : connections) ::close(c.socket);
  ::close(poll);
  return static_cast<double>(count) / std::chrono::duration<double>(now - start).count();
}

double grpc_throughput(int port, const std::string& request, int num_connections, double seconds) {
  // A raw call each: what the client serializes would be measured with what the server does.
  struct Call {
    std::unique_ptr<grpc::GenericStub> stub;
    std::unique_ptr<grpc::ClientContext> context;
    std::unique_ptr<grpc::GenericClientAsyncResponseReader> reader;
    grpc::ByteBuffer answer;
    grpc::Status status;
  };
  grpc::CompletionQueue queue;
  const grpc::Slice slice(request);
  const grpc::ByteBuffer message(&slice, 1);
  std::vector<Call> calls(static_cast<size_t>(num_connections));
  const auto ask = [&](Call& call) {
    call.context = std::make_unique<grpc::ClientContext>();
    call.answer.Clear();
    call.reader = call.stub->PrepareUnaryCall(call.context.get(), kMethod, message, &queue);
    call.reader->StartCall();
    call.reader->Finish(&call.answer, &call.status, &call);
  };
  for (Call& call : calls) call.stub = std::make_unique<grpc::GenericStub>(channel_to(port));
  const auto start = Clock::now(), end = start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  for (Call& call : calls) ask(call);
  int64_t count = 0;
  size_t waiting = calls.size();
  auto now = start;
  while (waiting > 0) {
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    Call& call = *static_cast<Call*>(tag);
    if (!call.status.ok()) fail(ErrorCode::Internal, "the server answered: {}", call.status.error_message());
    ++count;
    now = Clock::now();
    if (now < end) ask(call);
    else --waiting;
  }
  queue.Shutdown();
  for (void* tag = nullptr; bool ok = false;)
    if (!queue.Next(&tag, &ok)) break;
  return static_cast<double>(count) / std::chrono::duration<double>(now - start).count();
}

}  // namespace tokamak::bench
