#include "server/grpc/service.h"

#include <exception>

#include "grpc_service.pb.h"
#include "health.pb.h"
#include "server/grpc/management.h"
#include "server/grpc/shared_memory_calls.h"
#include "server/grpc/status.h"

namespace tokamak::server {

namespace {

constexpr std::string_view kInferenceService = "inference.GRPCInferenceService";
constexpr std::string_view kHealthService = "grpc.health.v1.Health";

class RefusedCall final : public CallHandler {
 public:
  RefusedCall(Call& call, grpc::Status status) : call_(call), status_(std::move(status)) {}
  void on_start() override { call_.finish(status_); }
  void on_read(bool) override {}
  void on_cancel() override {}

 private:
  Call& call_;
  const grpc::Status status_;
};

// A message for a message. The answer may come later, from another thread; the client may leave meanwhile: the work goes on, the call ends.
class UnaryCall final : public CallHandler, public std::enable_shared_from_this<UnaryCall> {
 public:
  using Done = std::function<void(const std::exception_ptr& error, const google::protobuf::Message& response)>;
  using Begin = std::function<void(const grpc::ByteBuffer& request, Done)>;  // throws Error
  UnaryCall(Call& call, const Begin& begin) : call_(call), begin_(begin) {}

  void on_start() override { call_.read(&message_); }

  void on_read(bool ok) override {
    if (!ok) return finish({grpc::StatusCode::INTERNAL, "the call ended before its message came"});
    const grpc::Status status = status_of([&] {
      begin_(message_, [self = shared_from_this()](const std::exception_ptr& error, const google::protobuf::Message& response) {
        self->answer(error, response);
      });
    });
    if (!status.ok()) finish(status);
  }

  void on_cancel() override { finish(grpc::Status::CANCELLED); }

 private:
  void answer(const std::exception_ptr& error, const google::protobuf::Message& response) {
    grpc::ByteBuffer bytes;
    const grpc::Status status = status_of([&] {
      if (error) std::rethrow_exception(error);
      const grpc::Slice slice(response.SerializeAsString());
      bytes = grpc::ByteBuffer(&slice, 1);
    });
    if (!status.ok()) return finish(status);
    if (!is_finished_.exchange(true, std::memory_order_acq_rel)) call_.finish(bytes);
  }

  void finish(const grpc::Status& status) {
    if (!is_finished_.exchange(true, std::memory_order_acq_rel)) call_.finish(status);
  }

  Call& call_;  // there until finish()
  const Begin& begin_;
  grpc::ByteBuffer message_;
  std::atomic<bool> is_finished_ = false;
};

template <class Message>
Message parse(const grpc::ByteBuffer& bytes) {
  Message message;
  std::vector<grpc::Slice> slices;
  std::string text;
  if (!bytes.Dump(&slices).ok()) fail(ErrorCode::InvalidArgument, "the message cannot be decompressed");
  for (const grpc::Slice& slice : slices) text.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  if (!message.ParseFromString(text)) fail(ErrorCode::InvalidArgument, "the message is not a {}", message.GetTypeName());
  return message;
}

}  // namespace

Service::Service(const std::shared_ptr<InferCalls>& calls, const Restrictions& restrictions) : restrictions_(restrictions) {
  add_inference(calls);
  add_management(calls->server);
  add_shared_memory(calls->server);
  add_health(calls->server);
}

std::shared_ptr<CallHandler> Service::start(Call& call) const {
  const auto method = methods_.find(call.method());
  if (method == methods_.end())
    return std::make_shared<RefusedCall>(
        call, grpc::Status(grpc::StatusCode::UNIMPLEMENTED, fmt::format("method '{}' is not one of this server", call.method())));
  grpc::Status status = restrictions_.check(call.context(), method->second.group);
  if (!status.ok()) return std::make_shared<RefusedCall>(call, std::move(status));
  return method->second.start(call);
}

template <class Request, class Response>
void Service::add(std::string_view name, CallGroup group, std::function<void(const Request&, Response&)> answer) {
  const std::string_view service = group == CallGroup::Health && name == "Check" ? kHealthService : kInferenceService;
  const UnaryCall::Begin begin = [answer = std::move(answer)](const grpc::ByteBuffer& request, const UnaryCall::Done& done) {
    Response response;
    answer(parse<Request>(request), response);
    done(nullptr, response);
  };
  methods_[fmt::format("/{}/{}", service, name)] = {group, [begin](Call& call) { return std::make_shared<UnaryCall>(call, begin); }};
}

template <class Request, class Response>
void Service::add_later(std::string_view name, CallGroup group, std::function<void(const Request&, Repository::Done)> begin_later) {
  const UnaryCall::Begin begin = [begin_later = std::move(begin_later)](const grpc::ByteBuffer& request, const UnaryCall::Done& done) {
    begin_later(parse<Request>(request), [done](const std::exception_ptr& error) { done(error, Response()); });
  };
  methods_[fmt::format("/{}/{}", kInferenceService, name)] = {group,
                                                              [begin](Call& call) { return std::make_shared<UnaryCall>(call, begin); }};
}

void Service::add_inference(const std::shared_ptr<InferCalls>& calls) {
  methods_[fmt::format("/{}/ModelInfer", kInferenceService)] = {CallGroup::Inference,
                                                                [calls](Call& call) { return make_infer(calls, call); }};
  methods_[fmt::format("/{}/ModelStreamInfer", kInferenceService)] = {CallGroup::Inference,
                                                                      [calls](Call& call) { return make_stream(calls, call); }};
}

void Service::add_management(Server& server) {
  using namespace inference;
  add<ServerLiveRequest, ServerLiveResponse>("ServerLive", CallGroup::Health,
                                             [&server](const auto&, auto& response) { response.set_live(server.is_live()); });
  add<ServerReadyRequest, ServerReadyResponse>("ServerReady", CallGroup::Health,
                                               [&server](const auto&, auto& response) { response.set_ready(server.is_ready()); });
  add<ModelReadyRequest, ModelReadyResponse>("ModelReady", CallGroup::Health, [&server](const auto& request, auto& response) {
    response.set_ready(server.is_model_ready(request.name(), Server::parse_version(request.version())));
  });
  add<ServerMetadataRequest, ServerMetadataResponse>(
      "ServerMetadata", CallGroup::Metadata, [&server](const auto&, auto& response) { management::server_metadata(server, response); });
  add<ModelMetadataRequest, ModelMetadataResponse>("ModelMetadata", CallGroup::Metadata, [&server](const auto& request, auto& response) {
    management::model_metadata(server, request, response);
  });
  add<ModelConfigRequest, ModelConfigResponse>("ModelConfig", CallGroup::ModelConfig, [&server](const auto& request, auto& response) {
    management::model_config(server, request, response);
  });
  add<ModelStatisticsRequest, ModelStatisticsResponse>(
      "ModelStatistics", CallGroup::Statistics,
      [&server](const auto& request, auto& response) { management::model_statistics(server, request, response); });
  add<RepositoryIndexRequest, RepositoryIndexResponse>(
      "RepositoryIndex", CallGroup::ModelRepository,
      [&server](const auto& request, auto& response) { management::repository_index(server, request, response); });
  add_later<RepositoryModelLoadRequest, RepositoryModelLoadResponse>(
      "RepositoryModelLoad", CallGroup::ModelRepository,
      [&server](const auto& request, Repository::Done done) { management::load_model(server, request, std::move(done)); });
  add_later<RepositoryModelUnloadRequest, RepositoryModelUnloadResponse>(
      "RepositoryModelUnload", CallGroup::ModelRepository,
      [&server](const auto& request, Repository::Done done) { management::unload_model(server, request, std::move(done)); });
  add<TraceSettingRequest, TraceSettingResponse>("TraceSetting", CallGroup::Trace, [&server](const auto& request, auto& response) {
    management::trace_setting(server, request, response);
  });
  add<LogSettingsRequest, LogSettingsResponse>("LogSettings", CallGroup::Logging,
                                               [](const auto& request, auto& response) { management::log_settings(request, response); });
}

void Service::add_shared_memory(Server& server) {
  using namespace inference;
  constexpr auto kGroup = CallGroup::SharedMemory;
  add<SystemSharedMemoryStatusRequest, SystemSharedMemoryStatusResponse>(
      "SystemSharedMemoryStatus", kGroup,
      [&server](const auto& request, auto& response) { management::system_shared_memory_status(server, request.name(), response); });
  add<SystemSharedMemoryRegisterRequest, SystemSharedMemoryRegisterResponse>(
      "SystemSharedMemoryRegister", kGroup,
      [&server](const auto& request, auto&) { management::register_system_shared_memory(server, request); });
  add<SystemSharedMemoryUnregisterRequest, SystemSharedMemoryUnregisterResponse>(
      "SystemSharedMemoryUnregister", kGroup,
      [&server](const auto& request, auto&) { management::unregister_system_shared_memory(server, request.name()); });
  add<CudaSharedMemoryStatusRequest, CudaSharedMemoryStatusResponse>(
      "CudaSharedMemoryStatus", kGroup,
      [&server](const auto& request, auto&) { management::cuda_shared_memory_status(server, request.name()); });
  add<CudaSharedMemoryRegisterRequest, CudaSharedMemoryRegisterResponse>(
      "CudaSharedMemoryRegister", kGroup,
      [&server](const auto& request, auto&) { management::register_cuda_shared_memory(server, request.name()); });
  add<CudaSharedMemoryUnregisterRequest, CudaSharedMemoryUnregisterResponse>(
      "CudaSharedMemoryUnregister", kGroup,
      [&server](const auto& request, auto&) { management::unregister_cuda_shared_memory(server, request.name()); });
}

// SERVING when the server is ready; for "", for this service and for inference's.
void Service::add_health(Server& server) {
  using grpc::health::v1::HealthCheckRequest, grpc::health::v1::HealthCheckResponse;
  add<HealthCheckRequest, HealthCheckResponse>("Check", CallGroup::Health, [&server](const auto& request, auto& response) {
    const std::string& service = request.service();
    if (!service.empty() && service != kInferenceService && service != kHealthService)
      fail(ErrorCode::NotFound, "service '{}' is not one of this server", service);
    response.set_status(server.is_ready() ? HealthCheckResponse::SERVING : HealthCheckResponse::NOT_SERVING);
  });
}

}  // namespace tokamak::server
