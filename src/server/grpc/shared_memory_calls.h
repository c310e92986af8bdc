#pragma once
// The six shared memory calls. All throw Error: Unsupported when clients may not use shared memory, and for CUDA's.

#include "grpc_service.pb.h"
#include "server/server.h"

namespace tokamak::server::management {

// Throws Unsupported when the server was started without it.
SharedMemoryRegistry& shared_memory_of(Server& server);

void system_shared_memory_status(Server& server, const std::string& name, inference::SystemSharedMemoryStatusResponse& response);
void register_system_shared_memory(Server& server, const inference::SystemSharedMemoryRegisterRequest& request);
// Name "": all of them.
void unregister_system_shared_memory(Server& server, const std::string& name);

// No region of CUDA memory can be registered: the status of all is empty, and everything else is refused.
void cuda_shared_memory_status(Server& server, const std::string& name);
void register_cuda_shared_memory(Server& server, const std::string& name);
void unregister_cuda_shared_memory(Server& server, const std::string& name);

}  // namespace tokamak::server::management
