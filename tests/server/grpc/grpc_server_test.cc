#include "server/grpc/grpc_server.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <thread>

#include "health.grpc.pb.h"
#include "server/log.h"
#include "server/shared_memory.h"
#include "tests/server/grpc/certificates.h"
#include "tests/server/grpc/grpc_fixture.h"

namespace tokamak::server {
namespace {

class GrpcManagement : public GrpcTest {
 protected:
  // One call, by the stub's method.
  template <class Method, class Request, class Response>
  grpc::Status call(Method method, const Request& request, Response& response,
                    const std::vector<std::pair<std::string, std::string>>& metadata = {}) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    for (const auto& [name, value] : metadata) context.AddMetadata(name, value);
    response = {};
    return (stub_.get()->*method)(&context, request, &response);
  }
  using Stub = inference::GRPCInferenceService::Stub;
};

TEST_F(GrpcManagement, HealthAndMetadata) {
  inference::ServerLiveResponse live;
  ASSERT_TRUE(call(&Stub::ServerLive, inference::ServerLiveRequest(), live).ok());
  EXPECT_TRUE(live.live());
  inference::ServerReadyResponse ready;
  ASSERT_TRUE(call(&Stub::ServerReady, inference::ServerReadyRequest(), ready).ok());
  EXPECT_TRUE(ready.ready());
  inference::ModelReadyRequest which;
  inference::ModelReadyResponse model_ready;
  which.set_name("echo");
  ASSERT_TRUE(call(&Stub::ModelReady, which, model_ready).ok());
  EXPECT_TRUE(model_ready.ready());
  which.set_version("3");
  ASSERT_TRUE(call(&Stub::ModelReady, which, model_ready).ok());
  EXPECT_FALSE(model_ready.ready());
  which.set_version("x");
  EXPECT_EQ(call(&Stub::ModelReady, which, model_ready).error_code(), grpc::StatusCode::INVALID_ARGUMENT);

  inference::ServerMetadataResponse server;
  ASSERT_TRUE(call(&Stub::ServerMetadata, inference::ServerMetadataRequest(), server).ok());
  EXPECT_EQ(server.name(), server_->metadata().name);
  EXPECT_GT(server.extensions_size(), 0);

  inference::ModelMetadataRequest request;
  inference::ModelMetadataResponse model;
  request.set_name("echo");
  ASSERT_TRUE(call(&Stub::ModelMetadata, request, model).ok());
  EXPECT_EQ(model.name(), "echo");
  EXPECT_EQ(model.platform(), "fake");
  ASSERT_EQ(model.versions_size(), 1);
  EXPECT_EQ(model.versions(0), "1");
  ASSERT_EQ(model.inputs_size(), 1);
  EXPECT_EQ(model.inputs(0).name(), "IN0");
  EXPECT_EQ(model.inputs(0).datatype(), "INT32");
  ASSERT_EQ(model.inputs(0).shape_size(), 1);
  EXPECT_EQ(model.inputs(0).shape(0), -1);
  EXPECT_EQ(model.outputs(0).name(), "OUT0");
  request.set_name("nothing");
  EXPECT_EQ(call(&Stub::ModelMetadata, request, model).error_code(), grpc::StatusCode::NOT_FOUND);

  inference::ModelConfigRequest config_request;
  inference::ModelConfigResponse config;
  config_request.set_name("echo");
  ASSERT_TRUE(call(&Stub::ModelConfig, config_request, config).ok());
  EXPECT_EQ(config.config().name(), "echo");
  EXPECT_EQ(config.config().input_size(), 1);
}

TEST_F(GrpcManagement, StandardHealthCheck) {
  const auto health = grpc::health::v1::Health::NewStub(connect());
  const auto check = [&](const std::string& service, grpc::health::v1::HealthCheckResponse& response) {
    grpc::ClientContext context;
    grpc::health::v1::HealthCheckRequest request;
    request.set_service(service);
    return health->Check(&context, request, &response);
  };
  grpc::health::v1::HealthCheckResponse response;
  for (const char* service : {"", "inference.GRPCInferenceService"}) {
    ASSERT_TRUE(check(service, response).ok()) << service;
    EXPECT_EQ(response.status(), grpc::health::v1::HealthCheckResponse::SERVING);
  }
  EXPECT_EQ(check("another", response).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(GrpcManagement, RepositoryAndStatistics) {
  inference::RepositoryIndexResponse index;
  ASSERT_TRUE(call(&Stub::RepositoryIndex, inference::RepositoryIndexRequest(), index).ok());
  EXPECT_EQ(index.models_size(), 9);
  EXPECT_EQ(index.models(0).state(), "READY");

  inference::RepositoryModelUnloadRequest unload;
  inference::RepositoryModelUnloadResponse unloaded;
  unload.set_model_name("fail");
  (*unload.mutable_parameters())["unload_dependents"].set_bool_param(false);
  ASSERT_TRUE(call(&Stub::RepositoryModelUnload, unload, unloaded).ok());
  EXPECT_FALSE(server_->is_model_ready("fail"));
  inference::RepositoryModelLoadRequest load;
  inference::RepositoryModelLoadResponse loaded;
  load.set_model_name("fail");
  ASSERT_TRUE(call(&Stub::RepositoryModelLoad, load, loaded).ok());
  EXPECT_TRUE(server_->is_model_ready("fail"));
  (*load.mutable_parameters())["config"].set_string_param("{\"backend\": \"fake\", \"max_batch_size\": 3}");
  ASSERT_TRUE(call(&Stub::RepositoryModelLoad, load, loaded).ok());
  EXPECT_EQ(server_->find_model("fail")->config().max_batch_size(), 3);

  load.set_model_name("nothing");
  load.clear_parameters();
  EXPECT_FALSE(call(&Stub::RepositoryModelLoad, load, loaded).ok());
  load.set_model_name("echo");
  (*load.mutable_parameters())["other"].set_bool_param(true);
  EXPECT_EQ(call(&Stub::RepositoryModelLoad, load, loaded).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  load.clear_parameters();
  load.set_repository_name("r");
  EXPECT_EQ(call(&Stub::RepositoryModelLoad, load, loaded).error_code(), grpc::StatusCode::UNIMPLEMENTED);

  inference::ModelStatisticsRequest which;
  inference::ModelStatisticsResponse statistics;
  which.set_name("echo");
  ASSERT_TRUE(call(&Stub::ModelStatistics, which, statistics).ok());
  ASSERT_EQ(statistics.model_stats_size(), 1);
  EXPECT_EQ(statistics.model_stats(0).name(), "echo");
  which.set_name("nothing");
  EXPECT_FALSE(call(&Stub::ModelStatistics, which, statistics).ok());
}

TEST_F(GrpcManagement, TraceAndLogSettings) {
  inference::TraceSettingRequest trace;
  inference::TraceSettingResponse traced;
  ASSERT_TRUE(call(&Stub::TraceSetting, trace, traced).ok());
  EXPECT_TRUE(traced.settings().contains("trace_rate"));
  (*trace.mutable_settings())["trace_rate"].add_value("7");
  ASSERT_TRUE(call(&Stub::TraceSetting, trace, traced).ok());
  EXPECT_EQ(traced.settings().at("trace_rate").value(0), "7");
  (*trace.mutable_settings())["trace_rate"].clear_value();
  ASSERT_TRUE(call(&Stub::TraceSetting, trace, traced).ok());
  EXPECT_NE(traced.settings().at("trace_rate").value(0), "7");
  trace.set_model_name("nothing");
  EXPECT_EQ(call(&Stub::TraceSetting, trace, traced).error_code(), grpc::StatusCode::NOT_FOUND);

  const LogSettings before = log().settings();
  inference::LogSettingsRequest settings;
  inference::LogSettingsResponse told;
  auto& values = *settings.mutable_settings();
  values["log_info"].set_bool_param(false);
  values["log_verbose_level"].set_uint32_param(2);
  values["log_format"].set_string_param("ISO8601");
  ASSERT_TRUE(call(&Stub::LogSettings, settings, told).ok());
  EXPECT_FALSE(log().settings().info);
  EXPECT_EQ(told.settings().at("log_verbose_level").uint32_param(), 2U);
  EXPECT_EQ(told.settings().at("log_format").string_param(), "ISO8601");
  for (const auto& [name, part] : {std::pair("log_file", "command line"), {"log_colour", "not a log setting"}, {"log_error", "boolean"}}) {
    inference::LogSettingsRequest wrong;
    (*wrong.mutable_settings())[name].set_string_param("x");
    const grpc::Status status = call(&Stub::LogSettings, wrong, told);
    EXPECT_NE(status.error_message().find(part), std::string::npos) << name << ": " << status.error_message();
  }
  log().set(before);
}

TEST_F(GrpcManagement, SharedMemoryIsOffUnlessAllowed) {
  inference::SystemSharedMemoryStatusResponse response;
  EXPECT_EQ(call(&Stub::SystemSharedMemoryStatus, inference::SystemSharedMemoryStatusRequest(), response).error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
}

class GrpcSharedMemory : public GrpcManagement {
 protected:
  GrpcSharedMemory() { shared_memory_ = std::make_shared<SharedMemoryRegistry>(); }
  void SetUp() override {
    GrpcManagement::SetUp();
    const int file = ::shm_open(key_.c_str(), O_CREAT | O_RDWR, 0600);
    ASSERT_GE(file, 0);
    ASSERT_EQ(::ftruncate(file, kBytes), 0);
    bytes_ = static_cast<char*>(::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
    ::close(file);
    ASSERT_NE(bytes_, MAP_FAILED);
  }
  void TearDown() override {
    ::munmap(bytes_, kBytes);
    ::shm_unlink(key_.c_str());
    GrpcManagement::TearDown();
  }
  grpc::Status add(const std::string& name, const std::string& key, uint64_t offset, uint64_t byte_size) {
    inference::SystemSharedMemoryRegisterRequest request;
    inference::SystemSharedMemoryRegisterResponse response;
    request.set_name(name);
    request.set_key(key);
    request.set_offset(offset);
    request.set_byte_size(byte_size);
    return call(&Stub::SystemSharedMemoryRegister, request, response);
  }

  static constexpr size_t kBytes = 8192 + 64;
  const std::string key_ = fmt::format("/tokamak-grpc-test-{}", ::getpid());
  char* bytes_ = nullptr;
};

TEST_F(GrpcSharedMemory, InputsAndOutputs) {
  ASSERT_TRUE(add("in", key_, 4096 + 16, 64).ok());
  ASSERT_TRUE(add("out", key_, 0, 64).ok());
  const int32_t values[] = {1, -2, 3};
  std::memcpy(bytes_ + 4096 + 16 + 8, values, sizeof(values));
  inference::ModelInferRequest request;
  request.set_model_name("echo");
  auto& input = *request.add_inputs();
  input.set_name("IN0");
  input.set_datatype("INT32");
  input.add_shape(3);
  (*input.mutable_parameters())["shared_memory_region"].set_string_param("in");
  (*input.mutable_parameters())["shared_memory_offset"].set_int64_param(8);
  (*input.mutable_parameters())["shared_memory_byte_size"].set_int64_param(12);
  auto& output = *request.add_outputs();
  output.set_name("OUT0");
  (*output.mutable_parameters())["shared_memory_region"].set_string_param("out");
  (*output.mutable_parameters())["shared_memory_byte_size"].set_int64_param(64);
  inference::ModelInferResponse response;
  const grpc::Status status = call(&Stub::ModelInfer, request, response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(std::memcmp(bytes_, values, sizeof(values)), 0);
  EXPECT_EQ(response.outputs(0).parameters().at("shared_memory_region").string_param(), "out");
  EXPECT_EQ(response.outputs(0).parameters().at("shared_memory_byte_size").int64_param(), 12);
  ASSERT_EQ(response.raw_output_contents_size(), 1);
  EXPECT_EQ(response.raw_output_contents(0), "");

  (*request.mutable_outputs(0)->mutable_parameters())["shared_memory_byte_size"].set_int64_param(8);
  EXPECT_NE(call(&Stub::ModelInfer, request, response).error_message().find("output 'OUT0' has 12 bytes"), std::string::npos);
  (*request.mutable_outputs(0)->mutable_parameters())["shared_memory_byte_size"].set_int64_param(65);
  EXPECT_NE(call(&Stub::ModelInfer, request, response).error_message().find("beyond the 64 bytes"), std::string::npos);
  (*request.mutable_inputs(0)->mutable_parameters())["shared_memory_region"].set_string_param("other");
  EXPECT_EQ(call(&Stub::ModelInfer, request, response).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(GrpcSharedMemory, Registration) {
  ASSERT_TRUE(add("a", key_, 16, 32).ok());
  EXPECT_EQ(add("a", key_, 0, 32).error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(add("b", "/tokamak-no-such-key", 0, 32).error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(add("b", "/../etc/passwd", 0, 32).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(add("b", "triton_python_backend_shm_region_0", 0, 32).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(add("b", key_, 0, 0).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(add("b", key_, 0, kBytes + 1).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(add("b", key_, UINT64_MAX, 2).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(add("b", key_, 16, UINT64_MAX - 8).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  inference::SystemSharedMemoryStatusResponse status;
  ASSERT_TRUE(call(&Stub::SystemSharedMemoryStatus, inference::SystemSharedMemoryStatusRequest(), status).ok());
  ASSERT_EQ(status.regions_size(), 1);
  EXPECT_EQ(status.regions().at("a").offset(), 16U);
  EXPECT_EQ(status.regions().at("a").key(), key_);
  inference::SystemSharedMemoryUnregisterRequest which;
  inference::SystemSharedMemoryUnregisterResponse removed;
  which.set_name("b");
  EXPECT_EQ(call(&Stub::SystemSharedMemoryUnregister, which, removed).error_code(), grpc::StatusCode::NOT_FOUND);
  which.set_name("");
  ASSERT_TRUE(call(&Stub::SystemSharedMemoryUnregister, which, removed).ok());
  EXPECT_TRUE(shared_memory_->regions().empty());
  inference::CudaSharedMemoryRegisterRequest cuda;
  inference::CudaSharedMemoryRegisterResponse cuda_response;
  EXPECT_EQ(call(&Stub::CudaSharedMemoryRegister, cuda, cuda_response).error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

TEST_F(GrpcManagement, RestrictedCallsNeedTheirHeader) {
  GrpcOptions options;
  options.restricted = {{{"model-repository", "inference"}, "admin-Key", "secret"}};
  restart(std::move(options));
  inference::RepositoryIndexResponse index;
  const grpc::Status refused = call(&Stub::RepositoryIndex, inference::RepositoryIndexRequest(), index);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_NE(refused.error_message().find("'triton-grpc-protocol-admin-key'"), std::string::npos) << refused.error_message();
  EXPECT_FALSE(
      call(&Stub::RepositoryIndex, inference::RepositoryIndexRequest(), index, {{"triton-grpc-protocol-admin-key", "secreT"}}).ok());
  EXPECT_TRUE(
      call(&Stub::RepositoryIndex, inference::RepositoryIndexRequest(), index, {{"triton-grpc-protocol-admin-key", "secret"}}).ok());
  inference::ModelInferResponse response;
  EXPECT_EQ(call(&Stub::ModelInfer, request_of<int32_t>("echo", "INT32", {1}), response).error_code(), grpc::StatusCode::PERMISSION_DENIED);
  grpc::ClientContext context;
  const auto stream = stub_->ModelStreamInfer(&context);
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::PERMISSION_DENIED);
  inference::ServerLiveResponse live;
  EXPECT_TRUE(call(&Stub::ServerLive, inference::ServerLiveRequest(), live).ok());
}

TEST_F(GrpcManagement, OptionsAreChecked) {
  const auto make = [&](auto change) {
    GrpcOptions options;
    change(options);
    GrpcServer server(*server_, std::move(options));
  };
  EXPECT_THROW(make([](GrpcOptions& o) { o.restricted = {{{"everything"}, "k", "v"}}; }), Error);
  EXPECT_THROW(make([](GrpcOptions& o) { o.restricted = {{{"health"}, "", "v"}}; }), Error);
  EXPECT_THROW(make([](GrpcOptions& o) { o.restricted = {{{"health"}, "k", "v"}, {{"health"}, "l", "w"}}; }), Error);
  EXPECT_THROW(make([](GrpcOptions& o) { o.response_compression = "max"; }), Error);
  EXPECT_THROW(make([](GrpcOptions& o) { o.forward_header_pattern = "("; }), Error);
  GrpcOptions taken;
  taken.address = "127.0.0.1";
  taken.port = grpc_->port();
  GrpcServer second(*server_, std::move(taken));
  EXPECT_THROW(second.start(), Error);
}

class GrpcTls : public GrpcManagement {
 protected:
  std::string put(const std::string& name, const std::string& text) {
    const auto path = folder_.parent_path() / (folder_.filename().string() + "-" + name);
    std::ofstream(path) << text;
    files_.push_back(path);
    return path.string();
  }
  void TearDown() override {
    for (const auto& file : files_) std::filesystem::remove(file);
    GrpcManagement::TearDown();
  }
  grpc::Status live_with(const grpc::SslCredentialsOptions& options) {
    grpc::ChannelArguments arguments;
    stub_ = inference::GRPCInferenceService::NewStub(connect(arguments, grpc::SslCredentials(options)));
    inference::ServerLiveResponse live;
    return call(&Stub::ServerLive, inference::ServerLiveRequest(), live);
  }
  std::vector<std::filesystem::path> files_;
};

TEST_F(GrpcTls, OneSidedAndMutual) {
  const KeyPair authority = make_certificate("authority"), server = make_certificate("server", &authority),
                client = make_certificate("client", &authority), stranger = make_certificate("stranger");
  GrpcOptions options;
  options.tls = std::make_unique<GrpcTlsOptions>(GrpcTlsOptions{put("server.pem", server.certificate), put("server.key", server.key), ""});
  restart(std::move(options));
  EXPECT_TRUE(live_with({.pem_root_certs = authority.certificate}).ok());
  EXPECT_FALSE(live_with({.pem_root_certs = stranger.certificate}).ok());

  GrpcOptions mutual;
  mutual.tls = std::make_unique<GrpcTlsOptions>(
      GrpcTlsOptions{put("server.pem", server.certificate), put("server.key", server.key), put("ca.pem", authority.certificate)});
  restart(std::move(mutual));
  EXPECT_TRUE(live_with({authority.certificate, client.key, client.certificate}).ok());
  EXPECT_FALSE(live_with({.pem_root_certs = authority.certificate}).ok());
  EXPECT_FALSE(live_with({authority.certificate, stranger.key, stranger.certificate}).ok());
}

TEST_F(GrpcManagement, StopLetsCallsFinishAndThenCancelsThem) {
  inference::ModelInferResponse response;
  grpc::Status status;
  std::thread client([&] { status = call(&Stub::ModelInfer, request_of<int32_t>("hold", "INT32", {1}), response); });
  ASSERT_TRUE(state_->wait_for([&] { return state_->held.size() == 1; }));
  std::thread stopper([&] { grpc_->stop(std::chrono::seconds(20)); });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  release();
  client.join();
  stopper.join();
  EXPECT_TRUE(status.ok()) << status.error_message();

  restart({});
  std::thread second([&] { status = call(&Stub::ModelInfer, request_of<int32_t>("hold", "INT32", {1}), response); });
  ASSERT_TRUE(state_->wait_for([&] { return state_->held.size() == 1; }));
  grpc_->stop(std::chrono::milliseconds(50));
  second.join();
  EXPECT_FALSE(status.ok());
  EXPECT_EQ(grpc_->num_calls(), 0);
  EXPECT_EQ(state_->num_cancelled, 1);
}

}  // namespace
}  // namespace tokamak::server
