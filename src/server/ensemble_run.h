#pragma once
// One request of an ensemble on its way through the steps: data-flow, driven by the responses of the members. No thread of its own, and
// none ever waits: what there is to do is done by whoever brings a response.
//
// A tensor of a decoupled member comes several times. Each is known by its path: the number of the response at every decoupled member
// that it came through. A step runs once for every path that all its inputs have, and the responses of the ensemble leave in the order of
// their paths, however the steps overtake each other.

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "server/ensemble_plan.h"
#include "server/statistics.h"
#include "server/step_limiter.h"

namespace tokamak::server {

// What the requests of one ensemble share. Outlives the model while some are in flight.
struct EnsembleScope {
  EnsemblePlan plan;
  std::string name;
  int64_t version = 0;
  std::shared_ptr<ModelStatistics> statistics;
  FindModel find_model;
  std::vector<std::unique_ptr<StepLimiter>> limiters = {};  // of each step; empty: there is no limit
};

class EnsembleRun : public std::enable_shared_from_this<EnsembleRun> {
 public:
  // Answers `request`, which `checked` allows, on this or any other thread. The members are those that are found now.
  static void start(std::shared_ptr<const EnsembleScope> scope, std::unique_ptr<InferRequest> request, const CheckedRequest& checked);

 private:
  using Path = std::vector<uint32_t>;
  // Of a sequence; a response's parameters may change it for the steps behind.
  struct Sequence {
    SequenceId id;
    bool start = false, end = false;
  };
  struct Value {
    std::optional<Tensor> tensor;      // nothing: an optional input that was not given, an output that the model left out
    int64_t rows = 0;                  // of the request it comes from; 0: that did not batch
    std::optional<Sequence> sequence;  // nothing: the request's own
    int num_uses = 0;                  // still to come
  };
  // A step at a path, from when its inputs are there to the final response.
  struct Execution {
    int step = 0;
    Path path;
    uint32_t num_responses = 0;
    int64_t rows = 0;
    Sequence sequence;
    std::unique_ptr<InferRequest> request;  // until the member has it
    std::shared_ptr<Cancellation> cancellation;
    std::multiset<Path>::iterator open;
  };
  struct Launch {
    uint64_t execution = 0;
    int step = 0;
    bool has_place = false;  // of the step's limiter
  };

  EnsembleRun(std::shared_ptr<const EnsembleScope> scope, std::unique_ptr<InferRequest> request);

  void cancel();
  void act();
  void launch(Launch launch);
  bool resume(Launch launch);
  void send(InferResponse response);
  void count(const InferResponse& last);
  void on_response(uint64_t execution, InferResponse response);

  // With `mutex_`.
  void begin(const CheckedRequest& checked);
  void choose_steps();
  void consume(Execution& execution, const InferResponse& response);
  void put(int tensor, const Path& path, Value value);
  void drop_use(int tensor, const Path& path);
  bool has_all(const std::vector<int>& tensors, const Path& path) const;
  void schedule(const std::vector<int>& tensors, const Path& path);
  void open(int step, const Path& path);
  InferResponse make_response(const Path& path);
  void settle();
  void fail_with(ErrorCode code, const std::string& message);
  InferResponse empty_response() const;

  const std::shared_ptr<const EnsembleScope> scope_;
  const std::shared_ptr<ComputeTimes> compute_times_ = std::make_shared<ComputeTimes>();
  const int64_t start_ns_;
  int64_t rows_ = 0;                             // 0: the ensemble does not batch
  std::vector<int> asked_, outputs_;             // of the rules' outputs, and the tensors they are
  std::vector<bool> is_needed_;                  // steps
  std::vector<int> num_uses_;                    // of each tensor: steps that are needed, and the ensemble itself
  std::vector<std::shared_ptr<Model>> members_;  // of the steps that are needed

  std::mutex mutex_;
  std::unique_ptr<InferRequest> request_;  // null after the final response
  std::vector<std::map<Path, Value>> tensors_;
  std::map<uint64_t, Execution> executions_;
  uint64_t last_execution_ = 0;
  std::multiset<Path> open_;             // where responses may come from: for a decoupled step the path of the next one
  std::map<Path, InferResponse> ready_;  // until all before them are
  bool is_over_ = false;                 // the final response is in outbox_ or sent

  // For act(), which one thread at a time does, without the lock.
  bool is_acting_ = false;
  std::deque<Launch> launches_;
  std::vector<std::shared_ptr<Cancellation>> to_cancel_;
  std::deque<InferResponse> outbox_;
  bool has_sent_ = false;
};

}  // namespace tokamak::server
