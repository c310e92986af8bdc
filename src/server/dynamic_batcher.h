#pragma once
// The queue of a model: requests go in from any thread, instances take batches out. With max_rows 0 a batch is one request.
//
// Semantics are Triton's: a batch is taken when its rows are a preferred size, or the oldest request has waited max_delay, or nothing more
// fits; requests are taken in order of priority, then of arrival, and a batch ends before a request that may not share it (another shape,
// other optional inputs). A request whose time limit passes in the queue is refused, or goes behind all others of its priority (DELAY).

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "model_config.pb.h"
#include "server/batcher.h"

namespace tokamak::server {

struct QueuePolicy {
  bool delays_late = false;  // else they are refused
  int64_t timeout_us = 0;    // 0: none
  bool allow_timeout_override = false;
  size_t max_size = 0;  // 0: no limit
};

struct BatcherOptions {
  int64_t max_rows = 0;
  bool is_dynamic = false;  // else every request is a batch
  std::set<int64_t> preferred = {};
  int64_t max_delay_us = 0;
  bool preserve_ordering = false;
  uint64_t priority_levels = 0, default_level = 0;
  QueuePolicy default_policy = {};
  std::map<uint64_t, QueuePolicy> level_policies = {};
};
BatcherOptions batcher_options(const inference::ModelConfig& config);

// Which of the next requests are a batch. They are shown in the order in which they would be taken.
class BatchPicker {
 public:
  // Both outlive it.
  explicit BatchPicker(const BatcherOptions& options);
  // `since_ns`: when it began to wait. False: neither it nor what comes after it is of the batch.
  bool add(const QueuedRequest& request, int64_t since_ns);
  // How many, or 0: none until `wake_ns`, which only becomes earlier. `is_closed`: no more will come.
  size_t decide(int64_t now_ns, bool is_closed, int64_t& wake_ns) const;

 private:
  const BatcherOptions& options_;
  const int64_t max_preferred_;
  size_t count_ = 0, best_ = 0;  // best_: the largest preferred one
  int64_t rows_ = 0, oldest_ns_ = Batcher::kNever;
  const std::vector<int64_t>* key_ = nullptr;
  bool is_full_ = false;
};

// Hands on responses in the order of tickets, whoever finishes first.
class ResponseOrder {
 public:
  // From now on what is sent to `request` waits for those before it.
  static void add(std::shared_ptr<ResponseOrder> order, InferRequest& request);

 private:
  struct Slot {
    std::function<void(InferResponse)> call;
    std::deque<InferResponse> waiting;
    bool is_complete = false;
  };
  void send(uint64_t ticket, InferResponse response);

  std::mutex mutex_;
  std::deque<std::unique_ptr<Slot>> slots_;
  uint64_t first_ = 0;  // ticket of slots_.front()
  bool is_sending_ = false;
};

class DynamicBatcher : public Batcher, public std::enable_shared_from_this<DynamicBatcher> {
 public:
  DynamicBatcher(BatcherOptions options, ModelStatistics* statistics);

  void enqueue(std::unique_ptr<QueuedRequest> request) override { add(std::move(request), nullptr); }
  Loan enqueue_or_lend(std::unique_ptr<QueuedRequest> request) override;
  void give_back(int index) override;
  Batch take(int index) override;  // any instance may have any batch
  void close() override;
  bool is_closed() const override;

 private:
  struct Entry {
    std::unique_ptr<QueuedRequest> request;
    uint64_t id = 0;
    int64_t deadline_ns = 0;  // 0: none
  };
  struct Level {
    QueuePolicy policy;
    std::deque<Entry> queue, late;
  };
  using Refused = std::vector<std::pair<std::unique_ptr<QueuedRequest>, ErrorCode>>;

  void add(std::unique_ptr<QueuedRequest> request, Loan* loan);
  void notify_one(std::unique_lock<std::mutex>& lock);
  Level& level_of(const InferRequest& request);
  void cancel(uint64_t id);
  void apply_policies(int64_t now_ns, Refused& refused);
  size_t count_to_take(int64_t now_ns, int64_t& wake_ns) const;
  Batch pop(size_t count);
  void taken(Batch& batch, int64_t now_ns);
  void refuse(Refused& refused);
  template <class Visit>
  void visit(Visit&& visit) const;

  const BatcherOptions options_;
  ModelStatistics* statistics_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<uint64_t, Level> levels_;
  uint64_t next_id_ = 1;
  size_t size_ = 0;
  std::vector<int> idle_, lent_;       // instances that wait in take()
  int64_t next_deadline_ns_ = kNever;  // none is earlier
  bool is_closed_ = false;
  std::shared_ptr<ResponseOrder> order_;
};

}  // namespace tokamak::server
