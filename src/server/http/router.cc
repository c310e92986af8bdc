#include "server/http/router.h"

namespace tokamak::server::http {

namespace {

std::vector<std::string_view> segments_of(std::string_view path) {
  std::vector<std::string_view> segments;
  if (path.starts_with('/')) path.remove_prefix(1);
  if (path.ends_with('/')) path.remove_suffix(1);
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    segments.push_back(path.substr(begin, end - begin));
    begin = end + 1;
  }
  return segments;
}

}  // namespace

void Router::add(std::string method, const std::string& pattern, Handler handler) {
  Route route{.method = std::move(method), .handler = std::move(handler)};
  for (const std::string_view segment : segments_of(pattern)) route.segments.emplace_back(segment);
  for (const Route& other : routes_)
    if (other.method == route.method && other.segments == route.segments)
      fail(ErrorCode::InvalidArgument, "the route {} {} is there twice", route.method, pattern);
  routes_.push_back(std::move(route));
}

Router::Match Router::find(std::string_view method, std::string_view path) const {
  const auto segments = segments_of(path);
  Match match;
  for (const Route& route : routes_) {
    if (route.segments.size() != segments.size()) continue;
    std::vector<std::string> captures;
    bool fits = true;
    for (size_t i = 0; i < segments.size() && fits; ++i) {
      if (route.segments[i] == "{}") {
        captures.push_back(percent_decode(segments[i]));
        fits = !segments[i].empty();
      } else {
        fits = route.segments[i] == segments[i];
      }
    }
    if (!fits) continue;
    if (route.method == method || (method == "HEAD" && route.method == "GET")) {
      match.handler = &route.handler;
      match.captures = std::move(captures);
      return match;
    }
    if (match.allowed.find(route.method) == std::string::npos) match.allowed += (match.allowed.empty() ? "" : ", ") + route.method;
  }
  return match;
}

}  // namespace tokamak::server::http
