#include "server/ensemble.h"

#include "base/error.h"
#include "server/config.h"
#include "server/ensemble_run.h"
#include "server/response_cache.h"

namespace tokamak::server {

namespace {

class Ensemble : public Model {
 public:
  explicit Ensemble(const LoadArgs& args) : config_(args.config), statistics_(args.statistics) {
    validate_config(config_);
    if (!statistics_) statistics_ = std::make_shared<ModelStatistics>(config_.name(), args.version);
    auto scope = std::make_shared<EnsembleScope>(EnsembleScope{.plan = {config_, args.labels, args.find_model},
                                                               .name = config_.name(),
                                                               .version = args.version,
                                                               .statistics = statistics_,
                                                               .find_model = args.find_model});
    if (const uint32_t limit = config_.ensemble_scheduling().max_inflight_requests(); limit > 0)
      for (size_t i = 0; i < scope->plan.steps.size(); ++i) scope->limiters.push_back(std::make_unique<StepLimiter>(limit));
    config_.mutable_model_transaction_policy()->set_decoupled(scope->plan.is_decoupled);
    validate_config(config_);  // what a decoupled model may not have
    inputs_ = input_metadata(config_);
    outputs_ = output_metadata(config_);
    for (size_t i = 0; i < outputs_.size(); ++i) outputs_[i].labels = scope->plan.output_labels[i];
    cache_ = ModelCache::create(config_, args.version, args.settings ? args.settings->response_cache : nullptr, statistics_);
    scope_ = std::move(scope);
  }

  const std::string& name() const override { return config_.name(); }
  int64_t version() const override { return scope_->version; }
  const std::string& platform() const override { return config_.platform(); }
  const inference::ModelConfig& config() const override { return config_; }
  const std::vector<TensorMetadata>& inputs() const override { return inputs_; }
  const std::vector<TensorMetadata>& outputs() const override { return outputs_; }
  bool is_decoupled() const override { return scope_->plan.is_decoupled; }
  ModelStatistics& statistics() override { return *statistics_; }

  void infer(std::unique_ptr<InferRequest> request) override {
    if (cache_ && cache_->answer(*request)) return;
    CheckedRequest checked;
    try {
      checked = check_request(scope_->plan.rules, *request);
    } catch (const Error& e) {
      statistics_->record_failure(FailureReason::Other, request->received_ns > 0 ? steady_now_ns() - request->received_ns : 0);
      respond_error(*request, e.code(), e.what());
      return;
    }
    EnsembleRun::start(scope_, std::move(request), checked);
  }

 private:
  inference::ModelConfig config_;
  std::shared_ptr<ModelStatistics> statistics_;
  std::vector<TensorMetadata> inputs_, outputs_;
  std::shared_ptr<const EnsembleScope> scope_;
  std::shared_ptr<ModelCache> cache_;
};

}  // namespace

std::shared_ptr<Model> load_ensemble(const LoadArgs& args) { return std::make_shared<Ensemble>(args); }

}  // namespace tokamak::server
