#include "server/instance.h"

#include <pthread.h>

#include <algorithm>

#include "server/backend_library.h"
#include "server/log.h"

namespace tokamak::server {

std::vector<InstancePlan> plan_instances(const inference::ModelConfig& config, bool has_gpu) {
  std::vector<InstancePlan> plans;
  for (int g = 0; g < std::max(1, config.instance_group_size()); ++g) {
    const inference::ModelInstanceGroup group =
        g < config.instance_group_size() ? config.instance_group(g) : inference::ModelInstanceGroup();
    const bool is_gpu = group.kind() == inference::ModelInstanceGroup::KIND_GPU ||
                        (group.kind() == inference::ModelInstanceGroup::KIND_AUTO && (has_gpu || group.gpus_size() > 0));
    std::vector<int> devices(group.gpus().begin(), group.gpus().end());
    if (devices.empty() || !is_gpu) devices = {0};
    const std::string base = group.name().empty() ? fmt::format("{}_{}", config.name(), g) : group.name();
    for (int device : devices)
      for (int i = 0; i < std::max(1, group.count()); ++i) {
        InstancePlan plan{.is_gpu = is_gpu, .gpu = device, .is_passive = group.passive()};
        plan.name = is_gpu ? fmt::format("{}_{}_gpu{}", base, i, device) : fmt::format("{}_{}", base, i);
        plan.needs.priority = std::max(1u, group.rate_limiter().priority());
        for (const auto& resource : group.rate_limiter().resources())
          plan.needs.resources.emplace_back(resource.global() || !is_gpu ? resource.name() : fmt::format("{}@{}", resource.name(), device),
                                            resource.count());
        plans.push_back(std::move(plan));
      }
  }
  return plans;
}

Instance::Instance(InstancePlan plan, int index, Parts parts) : plan_(std::move(plan)), index_(index), parts_(std::move(parts)) {
  thread_ = std::thread([this] { run(); });
}

Instance::~Instance() { thread_.join(); }

void Instance::wait_ready() { ready_.get_future().get(); }

void Instance::run() {
  ::pthread_setname_np(::pthread_self(), plan_.name.substr(0, 15).c_str());
  RateLimiter::Member* member = nullptr;
  try {
    const tkb_instance_args args = {.name = plan_.name.c_str(), .is_gpu = plan_.is_gpu, .gpu = plan_.gpu, .index = index_};
    throw_if(parts_.backend.create_instance(parts_.model, &args, &instance_));
    warm_up();
    if (parts_.limiter) member = parts_.limiter->add(plan_.needs);
  } catch (...) {
    if (instance_) parts_.backend.destroy_instance(instance_);
    ready_.set_exception(std::current_exception());
    return;
  }
  ready_.set_value();
  while (!plan_.is_passive) {
    Batcher::Batch batch = parts_.batcher->take(index_);
    if (batch.empty()) break;
    if (member) parts_.limiter->acquire(member);
    execute(std::move(batch));
    if (member) parts_.limiter->release(member);
  }
  {  // A backend may answer later than execute().
    std::unique_lock lock(parts_.scope.mutex);
    parts_.scope.idle.wait(lock, [this] { return parts_.scope.num_in_backend == 0 && parts_.batcher->is_closed(); });
  }
  if (member) parts_.limiter->remove(member);
  parts_.backend.destroy_instance(instance_);
}

void Instance::execute(Batcher::Batch batch) {
  requests_.clear();
  abi_.clear();
  int64_t rows = 0;
  const int64_t start_ns = steady_now_ns();
  for (auto& request : batch) {
    rows += request->rows();
    request->times().compute_start = start_ns;
    requests_.push_back(request.get());
    abi_.push_back(&request->abi());
    QueuedRequest::begin_execution(std::move(request));
  }
  tkb_error* failure = parts_.backend.execute(instance_, abi_.data(), abi_.size());
  const int64_t end_ns = steady_now_ns();
  std::atomic<int64_t>& execution_ns = parts_.scope.execution_ns;
  const int64_t before_ns = execution_ns.load(std::memory_order_relaxed);
  execution_ns.store(std::max(end_ns - start_ns, before_ns - before_ns / 8), std::memory_order_relaxed);
  std::optional<Error> error;
  try {
    throw_if(failure);
  } catch (const Error& e) {
    error = e;
  }
  // Padding counts nothing, but its rows do.
  const auto counted = std::find_if(requests_.begin(), requests_.end(), [](const QueuedRequest* r) { return r->statistics() != nullptr; });
  if (counted != requests_.end()) {
    const RequestTimes& times = (*counted)->times();
    const bool is_reported = times.compute_input_end > 0;
    const int64_t input_end = is_reported ? times.compute_input_end : start_ns;
    const int64_t output_start = is_reported ? times.compute_output_start : end_ns;
    (*counted)->statistics()->record_execution(rows, {.compute_input_ns = input_end - start_ns,
                                                      .compute_infer_ns = output_start - input_end,
                                                      .compute_output_ns = end_ns - output_start});
  }
  for (QueuedRequest* request : requests_) request->end_execution(error ? &*error : nullptr);
}

void Instance::warm_up() {
  for (const auto& sample : parts_.warmup) {
    RequestScope scope(parts_.scope.rules);
    scope.model_name = parts_.scope.model_name;
    scope.model_version = parts_.scope.model_version;
    scope.is_decoupled = parts_.scope.is_decoupled;
    scope.is_iterative = parts_.scope.is_iterative;
    std::optional<Error> error;  // written before num_in_backend becomes 0
    auto request = std::make_unique<InferRequest>();
    request->model_name = scope.model_name;
    request->inputs = sample->inputs;
    request->on_response = [&error](const InferResponse& response) {
      if (response.error_code) error.emplace(*response.error_code, response.error);
    };
    Batcher::Batch batch;
    batch.push_back(std::make_unique<QueuedRequest>(request, scope));
    parts_.batcher->complete(*batch.front());
    batch.front()->set_on_end([](std::unique_ptr<QueuedRequest>) {});  // one iteration is enough
    execute(std::move(batch));
    std::unique_lock lock(scope.mutex);
    scope.idle.wait(lock, [&scope] { return scope.num_in_backend == 0; });
    if (error) fail(error->code(), "warm-up of '{}' with sample '{}' failed: {}", plan_.name, sample->id, error->what());
  }
}

}  // namespace tokamak::server
