#pragma once
// An HTTP/1.1 client of many requests at once on one thread, for measuring servers: connections are kept and reused, answers come in
// pieces as they arrive.

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "server/http/http.h"

namespace tokamak::server::http {

struct Url {
  std::string host, path;  // path without a trailing slash; "" for the root
  int port = 80;
};
// "http://host[:port][/path]". Throws InvalidArgument; Unsupported for https.
Url parse_url(const std::string& text);

struct ClientRequest {
  std::string method = "GET", target = "/";
  std::vector<Header> headers = {};
  std::string body = {};
};

struct ClientResult {
  int status = 0;     // 0: there was no answer
  std::string error;  // of the connection: "connect: Connection refused", "timeout"; empty when the answer was complete
  std::vector<Header> headers;
};

struct ClientCallbacks {
  std::function<void(int status, std::string_view piece)> on_piece;  // of the body, as it arrives
  std::function<void(ClientResult)> on_end;                          // once; the last
};

// All callbacks run on the thread that is in run(), which is also where the calls belong once it runs.
class Client {
 public:
  Client(const Url& server, std::chrono::milliseconds timeout);  // without progress
  ~Client();

  void send(ClientRequest request, ClientCallbacks callbacks);
  void after(std::chrono::nanoseconds delay, std::function<void()> call);
  // Returns when nothing is left to do. An exception of a callback comes out of it.
  void run();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// One request and its whole answer. Throws Unavailable when there was none.
struct Answer {
  int status = 0;
  std::string body;
};
Answer fetch(const Url& server, ClientRequest request, std::chrono::milliseconds timeout);

}  // namespace tokamak::server::http
