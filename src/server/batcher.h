#pragma once
// What stands between the requests of a model and its instances: requests go in from any thread, each instance takes its batches out.

#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "server/queued_request.h"

namespace tokamak::server {

class Batcher {
 public:
  using Batch = std::vector<std::unique_ptr<QueuedRequest>>;
  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();  // of the steady clock, ns

  virtual ~Batcher() = default;
  // Queues it or answers it with an error. After close(): Unavailable. Needs a shared_ptr to this.
  virtual void enqueue(std::unique_ptr<QueuedRequest> request) = 0;
  // Waits for the next batch of instance `index` (of all of the model, passive ones too); empty after close() when nothing is left.
  virtual Batch take(int index) = 0;
  // An instance that whoever sent the batch executes it on, itself, and then gives back.
  struct Loan {
    Batch batch = {};
    int index = -1;
  };
  // As enqueue(), unless an instance waits and would take the request now, alone: then that one is lent. Without a batch: it is queued.
  virtual Loan enqueue_or_lend(std::unique_ptr<QueuedRequest> request) {
    enqueue(std::move(request));
    return {};
  }
  virtual void give_back(int index) { (void)index; }
  // What is queued is still taken, without waiting for more.
  virtual void close() = 0;
  virtual bool is_closed() const = 0;
  // Gives a request that no queue sees (warm-up) what the backend expects besides the client's inputs.
  virtual void complete(QueuedRequest&) const {}
};

}  // namespace tokamak::server
