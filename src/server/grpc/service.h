#pragma once
// Every method of the two services: KServe's inference and grpc.health.v1. Calls are checked against the restrictions and handed on.

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "server/grpc/infer_calls.h"
#include "server/grpc/restrictions.h"

namespace tokamak::server {

class Service {
 public:
  // `restrictions` outlives it.
  Service(const std::shared_ptr<InferCalls>& calls, const Restrictions& restrictions);
  // Of whatever method; those that are not of the services end with UNIMPLEMENTED.
  std::shared_ptr<CallHandler> start(Call& call) const;

 private:
  using Start = std::function<std::shared_ptr<CallHandler>(Call&)>;
  struct Method {
    CallGroup group;
    Start start;
  };

  void add_inference(const std::shared_ptr<InferCalls>& calls);
  void add_management(Server& server);
  void add_shared_memory(Server& server);
  void add_health(Server& server);
  template <class Request, class Response>
  void add(std::string_view name, CallGroup group, std::function<void(const Request&, Response&)> answer);
  template <class Request, class Response>
  void add_later(std::string_view name, CallGroup group, std::function<void(const Request&, Repository::Done)> begin);

  const Restrictions& restrictions_;
  std::map<std::string, Method, std::less<>> methods_;  // "/package.Service/Method"
};

}  // namespace tokamak::server
