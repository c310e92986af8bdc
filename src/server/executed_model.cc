#include "server/executed_model.h"

#include <nlohmann/json.hpp>

#include "server/backend_library.h"
#include "server/config.h"
#include "server/dynamic_batcher.h"
#include "server/ensemble.h"
#include "server/instance.h"
#include "server/llm_model.h"
#include "server/response_cache.h"
#include "server/sequence_batcher.h"
#include "server/warmup.h"

namespace tokamak::server {

namespace {

// What a backend's describe() says, read.
struct Described {
  ModelDescription model;
  std::optional<int> max_batch_size;
  std::optional<bool> is_decoupled;
  std::optional<std::string> dynamic_batching;
  bool runs_anywhere = false;
};

ModelDescription::Io read_io(const nlohmann::json& json) {
  inference::DataType type = inference::TYPE_INVALID;
  inference::DataType_Parse(json.at("data_type").get<std::string>(), &type);
  const std::optional<DType> dtype = from_config_type(type);
  if (!dtype)
    fail(ErrorCode::Unsupported, "tensor '{}' has the type {}, which no client can send", json.at("name").get<std::string>(),
         json.at("data_type").get<std::string>());
  return {.name = json.at("name"), .dtype = *dtype, .shape = json.at("shape").get<Shape>(), .is_optional = json.value("optional", false)};
}

Described read_description(const char* text) {
  Described d;
  try {
    const nlohmann::json json = nlohmann::json::parse(text);
    for (const auto& io : json.value("inputs", nlohmann::json::array())) d.model.inputs.push_back(read_io(io));
    for (const auto& io : json.value("outputs", nlohmann::json::array())) d.model.outputs.push_back(read_io(io));
    d.model.can_batch = json.value("can_batch", false);
    d.model.has_sequence_tensors = json.value("sequence_tensors", true);
    if (json.contains("max_batch_size")) d.max_batch_size = json.at("max_batch_size").get<int>();
    if (json.contains("decoupled")) d.is_decoupled = json.at("decoupled").get<bool>();
    d.runs_anywhere = json.value("any_thread", false);
    if (json.contains("dynamic_batching")) d.dynamic_batching = json.at("dynamic_batching").dump();
  } catch (const nlohmann::json::exception& e) {
    fail(ErrorCode::Internal, "what the backend says about the model cannot be read: {}", e.what());
  }
  return d;
}

void complete(inference::ModelConfig& config, const Described& d, const LoadArgs& args) {
  if (!args.complete) {
    check_against_model(config, d.model);
    return;
  }
  if (d.max_batch_size && config.max_batch_size() == 0) config.set_max_batch_size(*d.max_batch_size);
  if (d.is_decoupled && !config.has_model_transaction_policy()) config.mutable_model_transaction_policy()->set_decoupled(*d.is_decoupled);
  if (d.dynamic_batching && config.scheduling_choice_case() == inference::ModelConfig::SCHEDULING_CHOICE_NOT_SET) {
    const inference::ModelConfig own = parse_config_json("{\"dynamic_batching\":" + *d.dynamic_batching + "}");
    *config.mutable_dynamic_batching() = own.dynamic_batching();
  }
  complete_config(config, d.model, args.settings ? args.settings->default_max_batch_size : 4);
}

// Handing a request to an instance's thread costs some 30 us: of what takes longer than this, it is little.
constexpr int64_t kMaxInlineNs = 1'000'000;

class ExecutedModel : public Model {
 public:
  explicit ExecutedModel(const LoadArgs& args);
  ~ExecutedModel() override;

  const std::string& name() const override { return config_.name(); }
  int64_t version() const override { return args_.version; }
  const std::string& platform() const override { return platform_; }
  const inference::ModelConfig& config() const override { return config_; }
  const std::vector<TensorMetadata>& inputs() const override { return inputs_; }
  const std::vector<TensorMetadata>& outputs() const override { return outputs_; }
  bool is_decoupled() const override { return config_.model_transaction_policy().decoupled(); }
  void infer(std::unique_ptr<InferRequest> request) override;
  ModelStatistics& statistics() override { return *args_.statistics; }
  LlmModel* llm() override { return llm_; }

 private:
  void load();
  void start_instances();
  void stop();

  LoadArgs args_;
  inference::ModelConfig config_;
  std::string platform_;
  std::vector<TensorMetadata> inputs_, outputs_;
  const tkb_backend* backend_ = nullptr;
  tkb_model* model_ = nullptr;
  LlmModel* llm_ = nullptr;
  bool is_inline_allowed_ = false;  // a request may be executed by whoever sends it
  std::unique_ptr<RequestScope> scope_;
  std::shared_ptr<Batcher> batcher_;
  std::vector<std::unique_ptr<Instance>> instances_;
  std::shared_ptr<ModelCache> cache_;  // null: none
};

// What the command line says about this backend and about all, the former first.
std::map<std::string, std::string> settings_of(const LoadArgs& args, const std::string& backend) {
  std::map<std::string, std::string> result;
  if (!args.settings) return result;
  for (const std::string& key : {backend, std::string()})
    if (const auto own = args.settings->config.find(key); own != args.settings->config.end())
      result.insert(own->second.begin(), own->second.end());
  result.emplace("default-max-batch-size", std::to_string(args.settings->default_max_batch_size));
  if (!args.settings->default_device.empty()) result.emplace("device", args.settings->default_device);
  if (!args.settings->precision.empty()) result.emplace("precision", args.settings->precision);
  return result;
}

ExecutedModel::ExecutedModel(const LoadArgs& args) : args_(args), config_(args.config) {
  if (!args_.statistics) args_.statistics = std::make_shared<ModelStatistics>(config_.name(), args_.version);
  platform_ = config_.platform().empty() ? config_.backend() : config_.platform();
  backend_ = &find_backend(config_.backend(), args_.settings ? args_.settings->directories : std::vector<std::string>());
  try {
    load();
    start_instances();
  } catch (...) {
    stop();
    throw;
  }
}

void ExecutedModel::load() {
  const std::string config_text = config_json(config_);
  const std::map<std::string, std::string> settings = settings_of(args_, config_.backend());
  std::vector<tkb_setting> setting_list;
  for (const auto& [key, value] : settings) setting_list.push_back({key.c_str(), value.c_str()});
  const tkb_model_args model_args = {.name = config_.name().c_str(),
                                     .version = args_.version,
                                     .model_folder = args_.directory.c_str(),
                                     .version_folder = args_.version_directory.c_str(),
                                     .file_name = config_.default_model_filename().c_str(),
                                     .config_json = config_text.c_str(),
                                     .settings = setting_list.data(),
                                     .num_settings = setting_list.size(),
                                     .complete = args_.complete};
  throw_if(backend_->load(&model_args, &model_));
  if (backend_->describe)
    if (const char* description = backend_->describe(model_)) {
      const Described described = read_description(description);
      complete(config_, described, args_);
      // With a limiter, instances wait for their turn.
      is_inline_allowed_ = described.runs_anywhere && !(args_.settings && args_.settings->rate_limiter);
    }
  validate_config(config_);
  if (backend_->size > offsetof(tkb_backend, find_interface) && backend_->find_interface)
    llm_ = static_cast<LlmModel*>(backend_->find_interface(model_, "llm_model"));
  inputs_ = input_metadata(config_);
  outputs_ = output_metadata(config_, args_.labels);
}

void ExecutedModel::start_instances() {
  scope_ = std::make_unique<RequestScope>(RequestRules(config_));
  scope_->model_name = config_.name();
  scope_->model_version = args_.version;
  scope_->is_decoupled = is_decoupled();
  scope_->statistics = args_.statistics.get();
  scope_->labels = args_.labels;
  scope_->is_iterative = config_.sequence_batching().iterative_sequence();
  scope_->tracer = args_.settings ? args_.settings->tracer.get() : nullptr;
  const auto warmup = warmup_requests(config_, args_.directory);
  const bool has_gpu = args_.settings && args_.settings->default_device.starts_with("cuda");
  std::vector<InstancePlan> plans = plan_instances(config_, has_gpu);
  if (config_.has_sequence_batching()) {
    std::vector<bool> takes;
    for (const InstancePlan& plan : plans) takes.push_back(!plan.is_passive);
    batcher_ = std::make_shared<SequenceBatcher>(config_, args_.directory, takes, args_.statistics.get());
  } else {
    batcher_ = std::make_shared<DynamicBatcher>(batcher_options(config_), args_.statistics.get());
  }
  for (InstancePlan& plan : plans)
    instances_.push_back(std::make_unique<Instance>(std::move(plan), static_cast<int>(instances_.size()),
                                                    Instance::Parts{.backend = *backend_,
                                                                    .model = model_,
                                                                    .scope = *scope_,
                                                                    .batcher = batcher_,
                                                                    .limiter = args_.settings ? args_.settings->rate_limiter : nullptr,
                                                                    .warmup = warmup}));
  for (auto& instance : instances_) instance->wait_ready();
  cache_ = ModelCache::create(config_, args_.version, args_.settings ? args_.settings->response_cache : nullptr, args_.statistics);
}

void ExecutedModel::stop() {
  if (batcher_) {
    batcher_->close();
    const std::lock_guard lock(scope_->mutex);  // instances wait for both
    scope_->idle.notify_all();
  }
  instances_.clear();
  if (model_) backend_->unload(model_);
  model_ = nullptr;
}

ExecutedModel::~ExecutedModel() { stop(); }

void ExecutedModel::infer(std::unique_ptr<InferRequest> request) {
  if (cache_ && cache_->answer(*request)) return;
  std::unique_ptr<QueuedRequest> queued;
  try {
    queued = std::make_unique<QueuedRequest>(request, *scope_);
  } catch (const std::exception& e) {
    const Error* error = dynamic_cast<const Error*>(&e);
    const int64_t now = steady_now_ns();
    args_.statistics->record_failure(FailureReason::Other, request->received_ns > 0 ? now - request->received_ns : 0);
    respond_error(*request, error ? error->code() : ErrorCode::Internal, e.what());
    return;
  }
  const int64_t expected_ns = scope_->execution_ns.load(std::memory_order_relaxed);
  const std::function<void(int64_t)> before_inline = std::move(queued->request().before_inline);
  if (!before_inline || !is_inline_allowed_ || expected_ns == 0 || expected_ns > kMaxInlineNs) return batcher_->enqueue(std::move(queued));
  Batcher::Loan loan = batcher_->enqueue_or_lend(std::move(queued));
  if (loan.batch.empty()) return;
  before_inline(expected_ns);
  instances_[loan.index]->execute(std::move(loan.batch));
  batcher_->give_back(loan.index);
}

}  // namespace

std::shared_ptr<Model> load_model(const LoadArgs& args) {
  if (args.config.has_ensemble_scheduling() || args.config.platform() == "ensemble") return load_ensemble(args);
  return std::make_shared<ExecutedModel>(args);
}

}  // namespace tokamak::server
