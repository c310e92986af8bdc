#include "server/grpc/service.h"

#include <exception>

#include "server/grpc/management.h"
#include "server/grpc/shared_memory_calls.h"
#include "server/grpc/status.h"

namespace tokamak::server {

namespace {

template <class Call>
grpc::ServerUnaryReactor* answer_now(grpc::CallbackServerContext* context, const Restrictions& restrictions, CallGroup group, Call&& call) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  grpc::Status status = restrictions.check(*context, group);
  if (status.ok()) status = status_of(call);
  reactor->Finish(status);
  return reactor;
}

// A call that another thread ends. The client may leave meanwhile: the work goes on, the call ends.
class LaterCall final : public grpc::ServerUnaryReactor, public std::enable_shared_from_this<LaterCall> {
 public:
  void start() { self_ = shared_from_this(); }  // until OnDone
  void finish(const grpc::Status& status) {
    if (!is_finished_.exchange(true, std::memory_order_acq_rel)) Finish(status);
  }
  void OnCancel() override { finish(grpc::Status::CANCELLED); }
  void OnDone() override { self_.reset(); }

 private:
  std::atomic<bool> is_finished_ = false;
  std::shared_ptr<LaterCall> self_;
};

class RefusedStream final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  explicit RefusedStream(const grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

}  // namespace

template <class Call>
InferenceService::Reactor* InferenceService::answer(Context* context, CallGroup group, Call&& call) const {
  return answer_now(context, restrictions_, group, std::forward<Call>(call));
}

// `call` gets a Repository::Done.
template <class Call>
InferenceService::Reactor* InferenceService::answer_later(Context* context, CallGroup group, Call&& call) const {
  const auto later = std::make_shared<LaterCall>();
  later->start();
  grpc::Status status = restrictions_.check(*context, group);
  const auto done = [later](const std::exception_ptr& error) {
    later->finish(status_of([&] {
      if (error) std::rethrow_exception(error);
    }));
  };
  if (status.ok()) status = status_of([&] { call(done); });
  if (!status.ok()) later->finish(status);
  return later.get();
}

InferenceService::Reactor* InferenceService::ModelInfer(Context* context, const grpc::ByteBuffer* request, grpc::ByteBuffer* response) {
  if (const grpc::Status status = restrictions_.check(*context, CallGroup::Inference); !status.ok())
    return answer(context, CallGroup::Inference, [] {});
  return start_infer(calls_, context, request, response);
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* InferenceService::ModelStreamInfer(Context* context) {
  if (const grpc::Status status = restrictions_.check(*context, CallGroup::Inference); !status.ok()) return new RefusedStream(status);
  return start_stream(calls_, context);
}

InferenceService::Reactor* InferenceService::ServerLive(Context* context, const inference::ServerLiveRequest*,
                                                        inference::ServerLiveResponse* response) {
  return answer(context, CallGroup::Health, [&] { response->set_live(server_.is_live()); });
}

InferenceService::Reactor* InferenceService::ServerReady(Context* context, const inference::ServerReadyRequest*,
                                                         inference::ServerReadyResponse* response) {
  return answer(context, CallGroup::Health, [&] { response->set_ready(server_.is_ready()); });
}

InferenceService::Reactor* InferenceService::ModelReady(Context* context, const inference::ModelReadyRequest* request,
                                                        inference::ModelReadyResponse* response) {
  return answer(context, CallGroup::Health,
                [&] { response->set_ready(server_.is_model_ready(request->name(), Server::parse_version(request->version()))); });
}

InferenceService::Reactor* InferenceService::ServerMetadata(Context* context, const inference::ServerMetadataRequest*,
                                                            inference::ServerMetadataResponse* response) {
  return answer(context, CallGroup::Metadata, [&] { management::server_metadata(server_, *response); });
}

InferenceService::Reactor* InferenceService::ModelMetadata(Context* context, const inference::ModelMetadataRequest* request,
                                                           inference::ModelMetadataResponse* response) {
  return answer(context, CallGroup::Metadata, [&] { management::model_metadata(server_, *request, *response); });
}

InferenceService::Reactor* InferenceService::ModelConfig(Context* context, const inference::ModelConfigRequest* request,
                                                         inference::ModelConfigResponse* response) {
  return answer(context, CallGroup::ModelConfig, [&] { management::model_config(server_, *request, *response); });
}

InferenceService::Reactor* InferenceService::ModelStatistics(Context* context, const inference::ModelStatisticsRequest* request,
                                                             inference::ModelStatisticsResponse* response) {
  return answer(context, CallGroup::Statistics, [&] { management::model_statistics(server_, *request, *response); });
}

InferenceService::Reactor* InferenceService::RepositoryIndex(Context* context, const inference::RepositoryIndexRequest* request,
                                                             inference::RepositoryIndexResponse* response) {
  return answer(context, CallGroup::ModelRepository, [&] { management::repository_index(server_, *request, *response); });
}

InferenceService::Reactor* InferenceService::RepositoryModelLoad(Context* context, const inference::RepositoryModelLoadRequest* request,
                                                                 inference::RepositoryModelLoadResponse*) {
  return answer_later(context, CallGroup::ModelRepository,
                      [&](Repository::Done done) { management::load_model(server_, *request, std::move(done)); });
}

InferenceService::Reactor* InferenceService::RepositoryModelUnload(Context* context, const inference::RepositoryModelUnloadRequest* request,
                                                                   inference::RepositoryModelUnloadResponse*) {
  return answer_later(context, CallGroup::ModelRepository,
                      [&](Repository::Done done) { management::unload_model(server_, *request, std::move(done)); });
}

InferenceService::Reactor* InferenceService::SystemSharedMemoryStatus(Context* context,
                                                                      const inference::SystemSharedMemoryStatusRequest* request,
                                                                      inference::SystemSharedMemoryStatusResponse* response) {
  return answer(context, CallGroup::SharedMemory, [&] { management::system_shared_memory_status(server_, request->name(), *response); });
}

InferenceService::Reactor* InferenceService::SystemSharedMemoryRegister(Context* context,
                                                                        const inference::SystemSharedMemoryRegisterRequest* request,
                                                                        inference::SystemSharedMemoryRegisterResponse*) {
  return answer(context, CallGroup::SharedMemory, [&] { management::register_system_shared_memory(server_, *request); });
}

InferenceService::Reactor* InferenceService::SystemSharedMemoryUnregister(Context* context,
                                                                          const inference::SystemSharedMemoryUnregisterRequest* request,
                                                                          inference::SystemSharedMemoryUnregisterResponse*) {
  return answer(context, CallGroup::SharedMemory, [&] { management::unregister_system_shared_memory(server_, request->name()); });
}

InferenceService::Reactor* InferenceService::CudaSharedMemoryStatus(Context* context,
                                                                    const inference::CudaSharedMemoryStatusRequest* request,
                                                                    inference::CudaSharedMemoryStatusResponse*) {
  return answer(context, CallGroup::SharedMemory, [&] { management::cuda_shared_memory_status(server_, request->name()); });
}

InferenceService::Reactor* InferenceService::CudaSharedMemoryRegister(Context* context,
                                                                      const inference::CudaSharedMemoryRegisterRequest* request,
                                                                      inference::CudaSharedMemoryRegisterResponse*) {
  return answer(context, CallGroup::SharedMemory, [&] { management::register_cuda_shared_memory(server_, request->name()); });
}

InferenceService::Reactor* InferenceService::CudaSharedMemoryUnregister(Context* context,
                                                                        const inference::CudaSharedMemoryUnregisterRequest* request,
                                                                        inference::CudaSharedMemoryUnregisterResponse*) {
  return answer(context, CallGroup::SharedMemory, [&] { management::unregister_cuda_shared_memory(server_, request->name()); });
}

InferenceService::Reactor* InferenceService::TraceSetting(Context* context, const inference::TraceSettingRequest* request,
                                                          inference::TraceSettingResponse* response) {
  return answer(context, CallGroup::Trace, [&] { management::trace_setting(server_, *request, *response); });
}

InferenceService::Reactor* InferenceService::LogSettings(Context* context, const inference::LogSettingsRequest* request,
                                                         inference::LogSettingsResponse* response) {
  return answer(context, CallGroup::Logging, [&] { management::log_settings(*request, *response); });
}

grpc::ServerUnaryReactor* HealthService::Check(grpc::CallbackServerContext* context, const grpc::health::v1::HealthCheckRequest* request,
                                               grpc::health::v1::HealthCheckResponse* response) {
  return answer_now(context, restrictions_, CallGroup::Health, [&] {
    const std::string& service = request->service();
    if (!service.empty() && service != inference::GRPCInferenceService::service_full_name() &&
        service != grpc::health::v1::Health::service_full_name())
      fail(ErrorCode::NotFound, "service '{}' is not one of this server", service);
    response->set_status(server_.is_ready() ? grpc::health::v1::HealthCheckResponse::SERVING
                                            : grpc::health::v1::HealthCheckResponse::NOT_SERVING);
  });
}

}  // namespace tokamak::server
