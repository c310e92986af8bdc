#include "tests/server/grpc/grpc_fixture.h"

#include <algorithm>
#include <deque>
#include <fstream>
#include <thread>

#include "server/log.h"

namespace tokamak::server {

namespace {

constexpr const char* kModels[] = {"echo", "echo_thread", "hold", "deaf", "repeat", "repeat_thread", "fail", "big", "block"};

class FakeModel final : public Model {
 public:
  FakeModel(const LoadArgs& args, std::shared_ptr<FakeState> state)
      : name_(args.name), version_(args.version), config_(args.config), statistics_(args.statistics), state_(std::move(state)) {
    kind_ = name_.substr(0, name_.find('_'));
    inputs_ = outputs_ = {{.name = "IN0", .dtype = DType::I32, .shape = {-1}}};
    outputs_[0].name = "OUT0";
    if (name_.ends_with("_thread")) thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
  }

  ~FakeModel() override {
    thread_.request_stop();
    work_.notify_all();
  }

  const std::string& name() const override { return name_; }
  int64_t version() const override { return version_; }
  const std::string& platform() const override { return platform_; }
  const inference::ModelConfig& config() const override { return config_; }
  const std::vector<TensorMetadata>& inputs() const override { return inputs_; }
  const std::vector<TensorMetadata>& outputs() const override { return outputs_; }
  bool is_decoupled() const override { return kind_ == "repeat"; }
  ModelStatistics& statistics() override { return *statistics_; }

  void infer(std::unique_ptr<InferRequest> request) override {
    if (!thread_.joinable()) return execute(std::move(request));
    {
      const std::lock_guard lock(mutex_);
      queue_.push_back(std::move(request));
    }
    work_.notify_one();
  }

  static void echo(InferRequest& request) {
    InferResponse response{.model_name = request.model_name, .model_version = request.model_version, .id = request.id};
    for (NamedTensor& input : request.inputs) {
      NamedTensor output{"OUT" + input.name.substr(2), input.tensor};
      for (const RequestedOutput& requested : request.outputs) {
        if (requested.name != output.name || requested.classification == 0) continue;
        output.tensor = Tensor::empty(DType::String, {requested.classification});
        for (int i = 0; i < requested.classification; ++i)
          output.tensor.strings()[static_cast<size_t>(i)] = fmt::format("{}:{}", input.tensor.float_at(i), i);
      }
      response.outputs.push_back(std::move(output));
    }
    response.parameters = request.parameters;
    request.on_response(std::move(response));
  }

 private:
  void run(const std::stop_token& stop) {
    while (true) {
      std::unique_ptr<InferRequest> request;
      {
        std::unique_lock lock(mutex_);
        if (!work_.wait(lock, stop, [this] { return !queue_.empty(); })) return;
        request = std::move(queue_.front());
        queue_.pop_front();
      }
      execute(std::move(request));
    }
  }

  void execute(std::unique_ptr<InferRequest> request) {
    if (kind_ == "hold" || kind_ == "deaf") return hold(std::move(request));
    if (kind_ == "repeat") return repeat(*request);
    if (kind_ == "fail") return fail(*request);
    if (kind_ == "big") return big(*request);
    if (kind_ == "block") block();
    if (!name_.ends_with("_thread")) remember(*request);
    echo(*request);
  }

  void block() {
    std::unique_lock lock(state_->mutex);
    ++state_->num_blocked;
    state_->changed.notify_all();
    state_->changed.wait_for(lock, std::chrono::seconds(20), [this] { return state_->is_open; });
  }

  void remember(const InferRequest& request) {
    const std::lock_guard lock(state_->mutex);
    state_->last.id = request.id;
    state_->last.parameters = request.parameters;
    state_->last.sequence = request.sequence;
    state_->last.sequence_start = request.sequence_start;
    state_->last.sequence_end = request.sequence_end;
    state_->last.priority = request.priority;
    state_->last.timeout_us = request.timeout_us;
    state_->last.traceparent = request.traceparent;
    state_->last.received_ns = request.received_ns;
  }

  void hold(std::unique_ptr<InferRequest> request) {
    InferRequest* held = request.get();
    const auto cancellation = request->cancellation;
    {
      const std::lock_guard lock(state_->mutex);
      state_->held.push_back(std::move(request));
      state_->changed.notify_all();
    }
    if (kind_ == "deaf") return;
    cancellation->on_cancel([state = state_, held] {
      std::unique_ptr<InferRequest> found;
      {
        const std::lock_guard lock(state->mutex);
        const auto it = std::find_if(state->held.begin(), state->held.end(), [&](const auto& r) { return r.get() == held; });
        if (it == state->held.end()) return;
        found = std::move(*it);
        state->held.erase(it);
        ++state->num_cancelled;
        state->changed.notify_all();
      }
      respond_error(*found, ErrorCode::Cancelled, "cancelled");
    });
  }

  void repeat(InferRequest& request) {
    const Tensor& input = request.inputs.at(0).tensor;
    for (int64_t i = 0; i < input.count() && !request.cancellation->is_cancelled(); ++i) {
      InferResponse response{.model_name = request.model_name, .model_version = request.model_version, .id = request.id};
      response.outputs.push_back({"OUT0", Tensor::of<int32_t>({1}, {static_cast<int32_t>(input.int_at(i))})});
      response.is_final = false;
      request.on_response(std::move(response));
    }
    if (request.cancellation->is_cancelled()) {
      const std::lock_guard lock(state_->mutex);
      ++state_->num_cancelled;
      state_->changed.notify_all();
    }
    InferResponse last{.model_name = request.model_name, .model_version = request.model_version, .id = request.id};
    last.is_empty = true;
    request.on_response(std::move(last));
  }

  static void fail(InferRequest& request) {
    const auto code = static_cast<ErrorCode>(std::get<int64_t>(request.parameters.at("code")));
    respond_error(request, code, fmt::format("fails with {}", to_string(code)));
  }

  static void big(InferRequest& request) {
    InferResponse response{.model_name = request.model_name, .model_version = request.model_version, .id = request.id};
    response.outputs.push_back({"OUT0", Tensor::empty(DType::U8, {std::get<int64_t>(request.parameters.at("bytes"))})});
    request.on_response(std::move(response));
  }

  std::string name_, kind_, platform_ = "fake";
  int64_t version_;
  inference::ModelConfig config_;
  std::shared_ptr<ModelStatistics> statistics_;
  std::shared_ptr<FakeState> state_;
  std::vector<TensorMetadata> inputs_, outputs_;
  std::mutex mutex_;
  std::condition_variable_any work_;
  std::deque<std::unique_ptr<InferRequest>> queue_;
  std::jthread thread_;
};

}  // namespace

std::shared_ptr<Model> make_fake_model(const LoadArgs& args, std::shared_ptr<FakeState> state) {
  return std::make_shared<FakeModel>(args, std::move(state));
}

void GrpcTest::SetUp() {
  const auto* test = testing::UnitTest::GetInstance()->current_test_info();
  folder_ = std::filesystem::temp_directory_path() / fmt::format("tokamak-grpc-{}-{}", test->name(), ::getpid());
  std::filesystem::remove_all(folder_);
  for (const char* name : kModels) {
    std::filesystem::create_directories(folder_ / name / "1");
    std::ofstream(folder_ / name / "config.pbtxt") << "backend: \"fake\"\nmax_batch_size: 0\n"
                                                      "input { name: \"IN0\" data_type: TYPE_INT32 dims: -1 }\n"
                                                      "output { name: \"OUT0\" data_type: TYPE_INT32 dims: -1 }\n";
  }
  LogSettings quiet = log().settings();
  quiet.info = false;
  log().set(quiet);
  ServerOptions options;
  options.repository.paths = {folder_.string()};
  options.repository.mode = ControlMode::Explicit;
  options.repository.startup_models = {"*"};
  options.shared_memory = shared_memory_;
  options.loader = [state = state_](const LoadArgs& args) { return make_fake_model(args, state); };
  server_ = std::make_unique<Server>(std::move(options));
  const auto failed = server_->start();
  ASSERT_TRUE(failed.empty()) << failed[0].first << ": " << failed[0].second;
  restart({});
}

void GrpcTest::restart(GrpcOptions options) {
  stub_.reset();
  grpc_.reset();
  options.address = "127.0.0.1";
  options.port = 0;
  grpc_ = std::make_unique<GrpcServer>(*server_, std::move(options));
  grpc_->start();
  stub_ = inference::GRPCInferenceService::NewStub(connect());
}

std::shared_ptr<grpc::Channel> GrpcTest::connect(grpc::ChannelArguments arguments,
                                                 const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
  arguments.SetMaxReceiveMessageSize(std::numeric_limits<int32_t>::max());
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(fmt::format("127.0.0.1:{}", grpc_->port()), credentials, arguments);
}

void GrpcTest::release(size_t index) {
  std::unique_ptr<InferRequest> request;
  {
    const std::lock_guard lock(state_->mutex);
    ASSERT_LT(index, state_->held.size());
    request = std::move(state_->held[index]);
    state_->held.erase(state_->held.begin() + static_cast<std::ptrdiff_t>(index));
  }
  FakeModel::echo(*request);
}

void GrpcTest::TearDown() {
  stub_.reset();
  if (grpc_) {
    grpc_->stop(std::chrono::milliseconds(0));
    EXPECT_EQ(grpc_->num_calls(), 0);
  }
  grpc_.reset();
  {
    const std::lock_guard lock(state_->mutex);
    for (auto& request : state_->held) respond_error(*request, ErrorCode::Cancelled, "the test ends");
    state_->held.clear();
  }
  server_.reset();
  std::filesystem::remove_all(folder_);
}

}  // namespace tokamak::server
