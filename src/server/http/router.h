#pragma once
// From a request's method and path to its handler.

#include <string>
#include <string_view>
#include <vector>

#include "server/http/http.h"

namespace tokamak::server::http {

class Router {
 public:
  // {} stands for one path segment. Throws InvalidArgument when the same method and pattern are there already.
  void add(std::string method, const std::string& pattern, Handler handler);

  struct Match {
    const Handler* handler = nullptr;   // null: no such path, or (allowed not empty) not with this method
    std::vector<std::string> captures;  // percent-decoded
    std::string allowed;                // methods of the path, "GET, POST"
  };
  // `path` as it came, percent-encoded, without the query: an encoded slash does not end a segment. HEAD is answered by GET's handler.
  Match find(std::string_view method, std::string_view path) const;

 private:
  struct Route {
    std::string method;
    std::vector<std::string> segments;
    Handler handler;
  };
  std::vector<Route> routes_;
};

}  // namespace tokamak::server::http
