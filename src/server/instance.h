#pragma once
// One instance of a model: a thread that takes batches and has the backend execute them.

#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "server/batcher.h"
#include "server/rate_limiter.h"
#include "tokamak/backend.h"

namespace tokamak::server {

// Of one instance group.
struct InstancePlan {
  std::string name;
  bool is_gpu = false;
  int gpu = 0;
  bool is_passive = false;  // loaded, takes nothing
  ResourceNeeds needs = {};
};

// Every instance that the groups ask for; KIND_AUTO is a GPU's when `has_gpu`. Names are unique.
std::vector<InstancePlan> plan_instances(const inference::ModelConfig& config, bool has_gpu);

class Instance {
 public:
  struct Parts {
    const tkb_backend& backend;
    tkb_model* model;
    RequestScope& scope;
    std::shared_ptr<Batcher> batcher;
    std::shared_ptr<RateLimiter> limiter;                          // may be null
    std::vector<std::shared_ptr<const InferRequest>> warmup = {};  // run once each, before the first batch
  };

  // Starts the thread, which creates the backend's instance.
  Instance(InstancePlan plan, int index, Parts parts);
  ~Instance();  // after Batcher::close(): waits for what it executes
  // Waits until it is created and warm. Throws what the backend said.
  void wait_ready();
  // On whatever thread has the instance: its own, or one that the batcher lent it to.
  void execute(Batcher::Batch batch);

 private:
  void run();
  void warm_up();

  const InstancePlan plan_;
  const int index_;
  const Parts parts_;
  tkb_instance* instance_ = nullptr;
  std::vector<QueuedRequest*> requests_;  // of the execution
  std::vector<const tkb_request*> abi_;
  std::promise<void> ready_;
  std::thread thread_;
};

}  // namespace tokamak::server
