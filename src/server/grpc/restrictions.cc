#include "server/grpc/restrictions.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <cctype>
#include <string_view>

#include "base/error.h"

namespace tokamak::server {

namespace {

constexpr std::array<std::string_view, kNumCallGroups> kGroups = {
    "health", "metadata", "inference", "shared-memory", "model-config", "model-repository", "statistics", "trace", "logging"};

size_t index_of(const std::string& group) {
  const auto it = std::find(kGroups.begin(), kGroups.end(), group == "infer" ? "inference" : std::string_view(group));
  if (it == kGroups.end())
    fail(ErrorCode::InvalidArgument, "'{}' is not a group of calls that can be restricted; those are {}", group, fmt::join(kGroups, ", "));
  return static_cast<size_t>(it - kGroups.begin());
}

}  // namespace

Restrictions::Restrictions(const std::vector<RestrictedGrpcCalls>& restricted) {
  for (const RestrictedGrpcCalls& rule : restricted) {
    if (rule.key.empty()) fail(ErrorCode::InvalidArgument, "a restriction of gRPC calls needs a key, as in 'health:key=value'");
    std::string header = "triton-grpc-protocol-" + rule.key;
    // Metadata has lower-case names only.
    std::transform(header.begin(), header.end(), header.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    for (const std::string& group : rule.groups) {
      auto& secret = secrets_[index_of(group)];
      if (secret) fail(ErrorCode::InvalidArgument, "group '{}' of gRPC calls is restricted twice", group);
      secret = Secret{header, rule.value};
    }
  }
}

grpc::Status Restrictions::check(const grpc::ServerContextBase& context, CallGroup group) const {
  const auto& secret = secrets_[static_cast<size_t>(group)];
  if (!secret) return grpc::Status::OK;
  const auto [first, last] = context.client_metadata().equal_range(secret->header);
  for (auto it = first; it != last; ++it)
    if (it->second.size() == secret->value.size() && CRYPTO_memcmp(it->second.data(), secret->value.data(), secret->value.size()) == 0)
      return grpc::Status::OK;
  return {grpc::StatusCode::PERMISSION_DENIED,
          fmt::format("This protocol is restricted, expecting header '{}': calls of group '{}' need its value", secret->header,
                      kGroups[static_cast<size_t>(group)])};
}

}  // namespace tokamak::server
