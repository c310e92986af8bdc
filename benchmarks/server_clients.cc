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
#include <memory>
#include <vector>

#include "base/error.h"

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

// A raw call: what the client serializes and parses would be measured with what the server does. The stub's blocking call is some 40 us
// slower.
struct GrpcCall {
  GrpcCall(int port) : stub(channel_to(port)) {}

  void start(const grpc::ByteBuffer& request, grpc::CompletionQueue& queue) {
    context = std::make_unique<grpc::ClientContext>();
    answer.Clear();
    reader = stub.PrepareUnaryCall(context.get(), kMethod, request, &queue);
    reader->StartCall();
    reader->Finish(&answer, &status, this);
  }
  // The next of the queue's calls to be answered.
  static GrpcCall& next(grpc::CompletionQueue& queue) {
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    GrpcCall& call = *static_cast<GrpcCall*>(tag);
    if (!call.status.ok()) fail(ErrorCode::Internal, "the server answered: {}", call.status.error_message());
    return call;
  }

  grpc::GenericStub stub;
  std::unique_ptr<grpc::ClientContext> context;
  std::unique_ptr<grpc::GenericClientAsyncResponseReader> reader;
  grpc::ByteBuffer answer;
  grpc::Status status;
};

grpc::ByteBuffer buffer_of(const std::string& text) {
  const grpc::Slice slice(text);
  return {&slice, 1};
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
  grpc::ByteBuffer request;
  grpc::CompletionQueue queue;
  GrpcCall call;
};

GrpcClient::GrpcClient(int port, const std::string& request)
    : impl_(new Impl{.request = buffer_of(request), .queue = {}, .call = GrpcCall(port)}) {}
GrpcClient::~GrpcClient() = default;

void GrpcClient::ask() {
  impl_->call.start(impl_->request, impl_->queue);
  GrpcCall::next(impl_->queue);
}

std::string GrpcClient::answer() const {
  grpc::Slice slice;
  if (!impl_->call.answer.DumpToSingleSlice(&slice).ok()) fail(ErrorCode::Internal, "the server's answer cannot be read");
  return {reinterpret_cast<const char*>(slice.begin()), slice.size()};
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
  grpc::CompletionQueue queue;
  const grpc::ByteBuffer message = buffer_of(request);
  std::vector<std::unique_ptr<GrpcCall>> calls;
  for (int i = 0; i < num_connections; ++i) calls.push_back(std::make_unique<GrpcCall>(port));
  const auto start = Clock::now(), end = start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  for (auto& call : calls) call->start(message, queue);
  int64_t count = 0;
  size_t waiting = calls.size();
  auto now = start;
  while (waiting > 0) {
    GrpcCall& call = GrpcCall::next(queue);
    ++count;
    now = Clock::now();
    if (now < end) call.start(message, queue);
    else --waiting;
  }
  return static_cast<double>(count) / std::chrono::duration<double>(now - start).count();
}

}  // namespace tokamak::bench
