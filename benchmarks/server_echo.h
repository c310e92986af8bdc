#pragma once
// Bare servers of the libraries that the server is built on: what a protocol costs when nothing is done. Each answers whatever it is asked
// with the same bytes.

#include <memory>
#include <string>

namespace tokamak::bench {

// Boost.Beast, one thread, connections kept; `answer` is a whole HTTP message.
class HttpEcho {
 public:
  explicit HttpEcho(std::string answer);
  ~HttpEcho();
  int port() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// GRPCInferenceService of gRPC's callback API; `answer` is a serialized ModelInferResponse.
class GrpcEcho {
 public:
  explicit GrpcEcho(std::string answer);
  ~GrpcEcho();
  int port() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tokamak::bench
