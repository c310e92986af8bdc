#pragma once
// Which calls need a secret.

#include <grpcpp/grpcpp.h>

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "server/grpc/grpc_server.h"

namespace tokamak::server {

enum class CallGroup { Health, Metadata, Inference, SharedMemory, ModelConfig, ModelRepository, Statistics, Trace, Logging };
inline constexpr int kNumCallGroups = 9;

class Restrictions {
 public:
  // Throws InvalidArgument for an unknown group, one that is restricted twice, and empty keys.
  explicit Restrictions(const std::vector<RestrictedGrpcCalls>& restricted);

  // PERMISSION_DENIED that names the header, unless the call may go on.
  grpc::Status check(const grpc::ServerContextBase& context, CallGroup group) const;

 private:
  struct Secret {
    std::string header, value;
  };
  std::array<std::optional<Secret>, kNumCallGroups> secrets_;
};

}  // namespace tokamak::server
