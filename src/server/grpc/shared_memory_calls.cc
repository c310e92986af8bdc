#include "server/grpc/shared_memory_calls.h"

#include "server/shared_memory.h"

namespace tokamak::server::management {

SharedMemoryRegistry& shared_memory_of(Server& server) {
  if (SharedMemoryRegistry* registry = server.shared_memory()) return *registry;
  fail(ErrorCode::Unsupported, "clients may not use shared memory: the server was started without --allow-client-shm=true");
}

void system_shared_memory_status(Server& server, const std::string& name, inference::SystemSharedMemoryStatusResponse& response) {
  for (const SharedMemoryRegion& region : shared_memory_of(server).regions(name)) {
    auto& wire = (*response.mutable_regions())[region.name];
    wire.set_name(region.name);
    wire.set_key(region.key);
    wire.set_offset(region.offset);
    wire.set_byte_size(region.byte_size);
  }
}

void register_system_shared_memory(Server& server, const inference::SystemSharedMemoryRegisterRequest& request) {
  shared_memory_of(server).add(
      {.name = request.name(), .key = request.key(), .offset = request.offset(), .byte_size = request.byte_size()});
}

void unregister_system_shared_memory(Server& server, const std::string& name) {
  SharedMemoryRegistry& registry = shared_memory_of(server);
  if (name.empty()) registry.remove_all();
  else registry.remove(name);
}

void cuda_shared_memory_status(Server& server, const std::string& name) {
  shared_memory_of(server);
  if (!name.empty()) fail(ErrorCode::NotFound, "CUDA shared memory region '{}' is not registered", name);
}

void register_cuda_shared_memory(Server& server, const std::string& name) {
  shared_memory_of(server);
  fail(ErrorCode::Unsupported, "CUDA shared memory region '{}': this server takes system shared memory only", name);
}

void unregister_cuda_shared_memory(Server& server, const std::string& name) { cuda_shared_memory_status(server, name); }

}  // namespace tokamak::server::management
