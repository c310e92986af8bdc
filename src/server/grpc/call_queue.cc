#include "server/grpc/call_queue.h"

#include <pthread.h>

namespace tokamak::server {

Call::Call(CallQueue& queue) : queue_(queue) { queue_.num_calls_.fetch_add(1, std::memory_order_relaxed); }

Call::~Call() {
  if (queue_.num_calls_.fetch_sub(1, std::memory_order_acq_rel) == 1) queue_.num_calls_.notify_all();
}

void Call::read(grpc::ByteBuffer* message) {
  num_expected_.fetch_add(1, std::memory_order_relaxed);
  stream_.Read(message, &read_);
}

void Call::write(const grpc::ByteBuffer& message) {
  num_expected_.fetch_add(1, std::memory_order_relaxed);
  stream_.Write(message, &written_);
}

void Call::finish(const grpc::Status& status) { stream_.Finish(status, &finished_); }

void Call::finish(const grpc::ByteBuffer& last_message) {
  stream_.WriteAndFinish(last_message, grpc::WriteOptions(), grpc::Status::OK, &finished_);
}

void Call::stay_polled() {
  if (queue_.num_waiting_.load() == 0) queue_.wake_stand_in(true);
}

void Call::accepted(bool ok) {
  if (!ok) {  // the server stops
    delete this;
    return;
  }
  CallQueue& queue = queue_;
  handler_ = queue.start_(*this);
  has_handler_.store(true, std::memory_order_release);
  has_handler_.notify_one();
  handler_->on_start();
  leave();
  queue.accept_one();
}

void Call::was_read(bool ok) {
  handler_->on_read(ok);
  leave();
}

void Call::was_written(bool ok) {
  handler_->on_write(ok);
  leave();
}

void Call::was_finished(bool) { leave(); }

void Call::has_ended(bool) {
  has_handler_.wait(false, std::memory_order_acquire);  // the client may be gone before accepted() has run
  if (context_.IsCancelled()) handler_->on_cancel();
  leave();
}

void Call::leave() {
  if (num_expected_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  handler_->on_done();
  delete this;
}

CallQueue::~CallQueue() { stop(); }

void CallQueue::add_to(grpc::ServerBuilder& builder) {
  builder.RegisterAsyncGenericService(&service_);
  queue_ = builder.AddCompletionQueue();
}

void CallQueue::run(int num_threads) {
  accepts_ = true;
  num_pollers_ = num_threads;
  num_waiting_ = num_threads;
  // More than threads: a call is replaced only when its thread has started it.
  for (int i = 0; i < 2 * num_threads + 2; ++i) accept_one();
  for (int i = 0; i < num_threads; ++i) threads_.emplace_back([this] { poll(); });
  threads_.emplace_back([this] { stand_in(); });
}

void CallQueue::stop() {
  if (!queue_) return;
  {
    const std::lock_guard lock(mutex_);
    accepts_ = false;
  }
  // Shutdown() has cancelled what is left, but handlers may not have finished it.
  while (const int left = num_calls_.load(std::memory_order_acquire)) num_calls_.wait(left, std::memory_order_acquire);
  queue_->Shutdown();
  {
    const std::lock_guard lock(stand_in_mutex_);
    is_stopping_ = true;
  }
  stand_in_wake_.notify_one();
  if (threads_.empty()) {  // the server has not started
    void* tag = nullptr;
    bool ok = false;
    while (queue_->Next(&tag, &ok)) {
    }
  }
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
  queue_.reset();
}

void CallQueue::accept_one() {
  const std::lock_guard lock(mutex_);
  if (!accepts_) return;
  auto* call = new Call(*this);
  call->context_.AsyncNotifyWhenDone(&call->ended_);
  service_.RequestCall(&call->context_, &call->stream_, queue_.get(), queue_.get(), &call->accepted_);
}

void CallQueue::poll() {
  ::pthread_setname_np(::pthread_self(), "grpc");
  const gpr_timespec never = gpr_inf_future(GPR_CLOCK_REALTIME);
  void* tag = nullptr;
  bool ok = false;
  auto status = queue_->AsyncNext(&tag, &ok, never);
  while (status == grpc::CompletionQueue::GOT_EVENT) {
    const auto run = [&] {
      num_waiting_.fetch_sub(1);
      if (is_stand_in_asleep_.load()) wake_stand_in(false);
      static_cast<const Call::Tag*>(tag)->run(ok);
      num_events_.fetch_add(1, std::memory_order_relaxed);
      num_waiting_.fetch_add(1);
    };
    // What the call starts and has at once (its message, most often) comes back here, instead of to a thread that is woken for it.
    status = queue_->DoThenAsyncNext(run, &tag, &ok, never);
  }
}

void CallQueue::wake_stand_in(bool polls) {
  {
    const std::lock_guard lock(stand_in_mutex_);
    is_stand_in_wanted_ |= polls;
    is_stand_in_asleep_ = false;
  }
  stand_in_wake_.notify_one();
}

// Looks each millisecond whether the others get on, and sleeps when there has been nothing to do for a while.
void CallQueue::stand_in() {
  using std::chrono::milliseconds, std::chrono::system_clock;
  ::pthread_setname_np(::pthread_self(), "grpc stand-in");
  uint64_t seen = 0;
  int idle = 0;
  std::unique_lock lock(stand_in_mutex_);
  while (!is_stopping_) {
    if (idle < 100) {
      stand_in_wake_.wait_for(lock, milliseconds(1), [this] { return is_stopping_ || is_stand_in_wanted_; });
    } else {
      is_stand_in_asleep_ = true;  // before the look at who is waiting: a poller leaves first and looks at this then
      stand_in_wake_.wait(
          lock, [this] { return is_stopping_ || is_stand_in_wanted_ || !is_stand_in_asleep_ || num_waiting_.load() < num_pollers_; });
      is_stand_in_asleep_ = false;
    }
    const uint64_t now = num_events_.load(std::memory_order_relaxed);
    const bool is_stuck = now == seen && num_waiting_.load() == 0;
    idle = now == seen && num_waiting_.load() == num_pollers_ ? idle + 1 : 0;
    seen = now;
    if (!is_stuck && !is_stand_in_wanted_) continue;
    is_stand_in_wanted_ = false;
    lock.unlock();
    while (num_waiting_.load() == 0) {
      void* tag = nullptr;
      bool ok = false;
      const auto status = queue_->AsyncNext(&tag, &ok, system_clock::now() + milliseconds(1));
      if (status == grpc::CompletionQueue::SHUTDOWN) return;
      if (status == grpc::CompletionQueue::GOT_EVENT) static_cast<const Call::Tag*>(tag)->run(ok);
    }
    lock.lock();
  }
}

}  // namespace tokamak::server
