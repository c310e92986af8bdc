#pragma once
// The two services: every call checked against the restrictions and handed on.

#include <memory>

#include "grpc_service.grpc.pb.h"
#include "health.grpc.pb.h"
#include "server/grpc/infer_calls.h"
#include "server/grpc/restrictions.h"

namespace tokamak::server {

using Rpc = inference::GRPCInferenceService;
using ManagementCalls = Rpc::WithCallbackMethod_ServerLive<Rpc::WithCallbackMethod_ServerReady<
    Rpc::WithCallbackMethod_ModelReady<Rpc::WithCallbackMethod_ServerMetadata<Rpc::WithCallbackMethod_ModelMetadata<
        Rpc::WithCallbackMethod_ModelConfig<Rpc::WithCallbackMethod_ModelStatistics<Rpc::WithCallbackMethod_RepositoryIndex<
            Rpc::WithCallbackMethod_RepositoryModelLoad<Rpc::WithCallbackMethod_RepositoryModelUnload<
                Rpc::WithCallbackMethod_SystemSharedMemoryStatus<Rpc::WithCallbackMethod_SystemSharedMemoryRegister<
                    Rpc::WithCallbackMethod_SystemSharedMemoryUnregister<Rpc::WithCallbackMethod_CudaSharedMemoryStatus<
                        Rpc::WithCallbackMethod_CudaSharedMemoryRegister<Rpc::WithCallbackMethod_CudaSharedMemoryUnregister<
                            Rpc::WithCallbackMethod_TraceSetting<Rpc::WithCallbackMethod_LogSettings<Rpc::Service>>>>>>>>>>>>>>>>>>;
// The inference calls are raw: the codec reads and writes their bytes.
using InferenceServiceBase = Rpc::WithRawCallbackMethod_ModelInfer<Rpc::WithRawCallbackMethod_ModelStreamInfer<ManagementCalls>>;

class InferenceService final : public InferenceServiceBase {
 public:
  InferenceService(std::shared_ptr<InferCalls> calls, const Restrictions& restrictions)
      : calls_(std::move(calls)), server_(calls_->server), restrictions_(restrictions) {}

  using Context = grpc::CallbackServerContext;
  using Reactor = grpc::ServerUnaryReactor;

  Reactor* ModelInfer(Context* context, const grpc::ByteBuffer* request, grpc::ByteBuffer* response) override;
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* ModelStreamInfer(Context* context) override;

  Reactor* ServerLive(Context*, const inference::ServerLiveRequest*, inference::ServerLiveResponse*) override;
  Reactor* ServerReady(Context*, const inference::ServerReadyRequest*, inference::ServerReadyResponse*) override;
  Reactor* ModelReady(Context*, const inference::ModelReadyRequest*, inference::ModelReadyResponse*) override;
  Reactor* ServerMetadata(Context*, const inference::ServerMetadataRequest*, inference::ServerMetadataResponse*) override;
  Reactor* ModelMetadata(Context*, const inference::ModelMetadataRequest*, inference::ModelMetadataResponse*) override;
  Reactor* ModelConfig(Context*, const inference::ModelConfigRequest*, inference::ModelConfigResponse*) override;
  Reactor* ModelStatistics(Context*, const inference::ModelStatisticsRequest*, inference::ModelStatisticsResponse*) override;
  Reactor* RepositoryIndex(Context*, const inference::RepositoryIndexRequest*, inference::RepositoryIndexResponse*) override;
  Reactor* RepositoryModelLoad(Context*, const inference::RepositoryModelLoadRequest*, inference::RepositoryModelLoadResponse*) override;
  Reactor* RepositoryModelUnload(Context*, const inference::RepositoryModelUnloadRequest*,
                                 inference::RepositoryModelUnloadResponse*) override;
  Reactor* SystemSharedMemoryStatus(Context*, const inference::SystemSharedMemoryStatusRequest*,
                                    inference::SystemSharedMemoryStatusResponse*) override;
  Reactor* SystemSharedMemoryRegister(Context*, const inference::SystemSharedMemoryRegisterRequest*,
                                      inference::SystemSharedMemoryRegisterResponse*) override;
  Reactor* SystemSharedMemoryUnregister(Context*, const inference::SystemSharedMemoryUnregisterRequest*,
                                        inference::SystemSharedMemoryUnregisterResponse*) override;
  Reactor* CudaSharedMemoryStatus(Context*, const inference::CudaSharedMemoryStatusRequest*,
                                  inference::CudaSharedMemoryStatusResponse*) override;
  Reactor* CudaSharedMemoryRegister(Context*, const inference::CudaSharedMemoryRegisterRequest*,
                                    inference::CudaSharedMemoryRegisterResponse*) override;
  Reactor* CudaSharedMemoryUnregister(Context*, const inference::CudaSharedMemoryUnregisterRequest*,
                                      inference::CudaSharedMemoryUnregisterResponse*) override;
  Reactor* TraceSetting(Context*, const inference::TraceSettingRequest*, inference::TraceSettingResponse*) override;
  Reactor* LogSettings(Context*, const inference::LogSettingsRequest*, inference::LogSettingsResponse*) override;

 private:
  template <class Call>
  Reactor* answer(Context* context, CallGroup group, Call&& call) const;
  template <class Call>
  Reactor* answer_later(Context* context, CallGroup group, Call&& call) const;

  const std::shared_ptr<InferCalls> calls_;
  Server& server_;
  const Restrictions& restrictions_;
};

// SERVING when the server is ready; for "", for this service and for inference's.
class HealthService final : public grpc::health::v1::Health::CallbackService {
 public:
  HealthService(Server& server, const Restrictions& restrictions) : server_(server), restrictions_(restrictions) {}
  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* context, const grpc::health::v1::HealthCheckRequest* request,
                                  grpc::health::v1::HealthCheckResponse* response) override;

 private:
  Server& server_;
  const Restrictions& restrictions_;
};

}  // namespace tokamak::server
