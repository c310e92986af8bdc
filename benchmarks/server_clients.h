#pragma once
// Clients that cost as little as a client can: a blocking socket, and raw calls of gRPC, with requests that are ready.

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

namespace tokamak::bench {

// One kept connection to a port of this machine.
class HttpClient {
 public:
  HttpClient(int port, std::string request);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  // Sends the request and returns the whole answer, valid until the next call. Throws Error unless its status is 200.
  const std::string& ask();

 private:
  int socket_ = -1;
  const std::string request_;
  std::string answer_;
};

// One channel with a connection of its own. `request`: a serialized ModelInferRequest.
class GrpcClient {
 public:
  GrpcClient(int port, const std::string& request);
  ~GrpcClient();
  void ask();                  // waits for the answer; throws Error
  std::string answer() const;  // the last one, serialized

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Answers a second of `num_connections` clients that each ask again as soon as they are answered; one thread for all.
double http_throughput(int port, const std::string& request, int num_connections, double seconds);
double grpc_throughput(int port, const std::string& request, int num_connections, double seconds);

}  // namespace tokamak::bench
