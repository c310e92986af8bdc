#pragma once
// The queue of a model that keeps state between requests: the requests of a sequence go to one instance, in order, one at a time.
//
// Semantics are Triton's. Every instance has slots; a sequence gets a free one with its first request (START), or waits in the backlog, in
// order of arrival, and keeps it until it ends: with END, when nothing was queued or executing for max_sequence_idle, or when one of its
// queued requests is cancelled. A request's time limit counts in the backlog: there it takes the whole sequence with it. Two strategies:
//   direct   a slot is a row of the batch; rows of slots that have no request are padded up to the highest one that has.
//   oldest   a slot makes its sequence a candidate; batches are those of dynamic batching among the candidates' next requests, the one that
//            waited longest as such first.
// Differences from Triton: a sequence is not idle while it is executed; a START that follows an END of the same id waits until that is
// executed; in a direct batch the longest waiting request decides on the shape, so that none starves.

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "server/batcher.h"
#include "server/dynamic_batcher.h"
#include "server/sequence_controls.h"
#include "server/sequence_state.h"

namespace tokamak::server {

struct SequenceOptions {
  bool is_oldest = false;     // else direct
  bool is_iterative = false;  // a request without an id is a sequence of its own, and may be executed again and again
  int num_slots = 1;          // of one instance
  int64_t max_idle_ns = 1'000'000'000;
  int64_t max_delay_ns = 0;    // direct: how long to wait for
  double min_utilization = 0;  // this part of the slots
  BatcherOptions oldest = {};
};
SequenceOptions sequence_options(const inference::ModelConfig& config);

class SequenceBatcher : public Batcher, public std::enable_shared_from_this<SequenceBatcher> {
 public:
  // `takes`: for each instance whether it takes batches, or is passive. Throws as StateRules. `statistics` may be null.
  SequenceBatcher(const inference::ModelConfig& config, const std::string& model_folder, const std::vector<bool>& takes,
                  ModelStatistics* statistics);

  void enqueue(std::unique_ptr<QueuedRequest> request) override;
  Batch take(int index) override;
  // Sequences end with what is queued.
  void close() override;
  bool is_closed() const override;
  void complete(QueuedRequest& request) const override;

 private:
  struct Lane;
  struct Entry {
    std::unique_ptr<QueuedRequest> request;
    uint64_t id = 0;
  };
  struct Sequence {
    SequenceId id;
    std::deque<Entry> queue;
    std::shared_ptr<SequenceState> state;  // null: the model has none
    Lane* lane = nullptr;                  // null: in the backlog or behind it, or over
    int slot = -1;                         // -1: none, or its last request is executed
    uint64_t turn = 0;                     // its key in the lane's `ready`, 0 when it has none
    int64_t turn_ns = 0;                   // when it got it
    int64_t idle_ns = 0;                   // != 0: since when it is idle
    int64_t deadline_ns = kNever;          // in the backlog: the first time limit of its requests
    uint64_t arrival = 0;                  // its key in the backlog
    // Of the same id; this one is not in the backlog until `before` is over.
    std::shared_ptr<Sequence> before, next;
    bool is_executing = false;
    bool is_closed = false;  // takes no more requests
    std::list<std::shared_ptr<Sequence>>::iterator idle_place;
  };
  using SequencePtr = std::shared_ptr<Sequence>;
  struct Lane {  // of an instance
    int index = 0;
    std::vector<SequencePtr> slots;
    std::map<uint64_t, SequencePtr> ready;  // those whose next request may be executed, in the order in which they became so
    int num_executing = 0;
    std::shared_ptr<ResponseOrder> order;
    std::condition_variable changed;
    bool is_waiting = false;
    int64_t wake_ns = kNever;  // while it waits
  };
  struct Refusal {
    std::unique_ptr<QueuedRequest> request;
    ErrorCode code;
    std::string message;
  };
  using Refused = std::vector<Refusal>;

  void check(const QueuedRequest& request) const;
  uint64_t watch(Cancellation& cancellation);
  void cancel(uint64_t id);
  void ended(const SequencePtr& sequence, std::unique_ptr<QueuedRequest> again);
  void refuse(Refused& refused);

  // With the lock.
  bool place(Entry& entry, int64_t now_ns);
  void push(const SequencePtr& sequence, Entry entry, bool is_first);
  void advance(const SequencePtr& sequence);
  void assign();
  void free_slot(Sequence& sequence);
  void finish(const SequencePtr& sequence);
  void forget(const SequencePtr& sequence);
  void leave_backlog(const SequencePtr& sequence);
  void leave_idle(Sequence& sequence);
  void drop(const SequencePtr& sequence, size_t first, ErrorCode code, const std::string& message, Refused& refused);
  void expire(int64_t now_ns, Refused& refused);
  int64_t next_timer() const;
  bool is_drained() const;
  void settle();
  void wake_for_timer();
  Batch pick_direct(Lane& lane, int64_t now_ns, int64_t& wake_ns);
  Batch pick_oldest(Lane& lane, int64_t now_ns, int64_t& wake_ns);
  std::unique_ptr<QueuedRequest> pop(const SequencePtr& sequence);

  const SequenceOptions options_;
  const SequenceControls controls_;
  const StateRules states_;
  ModelStatistics* statistics_;
  std::atomic<uint64_t> next_id_ = 1;

  mutable std::mutex mutex_;
  std::deque<Lane> lanes_;                               // by instance
  size_t num_slots_ = 0;                                 // of all
  std::set<std::pair<int, int>> free_;                   // slots, with their lane: low ones first, so that instances share the load
  std::map<SequenceId, SequencePtr> sequences_;          // the newest of each id
  std::map<uint64_t, SequencePtr> backlog_;              // in order of arrival
  std::set<std::pair<int64_t, SequencePtr>> deadlines_;  // of the backlog
  std::list<SequencePtr> idle_;                          // longest first
  std::unordered_map<uint64_t, SequencePtr> queued_;     // requests
  uint64_t next_number_ = 1;                             // of arrivals and turns
  uint64_t next_sequence_ = 1;                           // ids for requests without one
  bool is_closed_ = false;
};

}  // namespace tokamak::server
