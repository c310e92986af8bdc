#include "server/dynamic_batcher.h"

#include <algorithm>

namespace tokamak::server {

namespace {

constexpr int64_t kNever = Batcher::kNever;

QueuePolicy queue_policy(const inference::ModelQueuePolicy& policy) {
  return {.delays_late = policy.timeout_action() == inference::ModelQueuePolicy::DELAY,
          .timeout_us = static_cast<int64_t>(std::min<uint64_t>(policy.default_timeout_microseconds(), kNever / 2000)),
          .allow_timeout_override = policy.allow_timeout_override(),
          .max_size = policy.max_queue_size()};
}

int64_t deadline(const QueuePolicy& policy, const InferRequest& request, int64_t now_ns) {
  int64_t timeout_us = policy.timeout_us;
  if (policy.allow_timeout_override && request.timeout_us != 0 && request.timeout_us < static_cast<uint64_t>(timeout_us))
    timeout_us = static_cast<int64_t>(request.timeout_us);
  return timeout_us > 0 ? now_ns + timeout_us * 1000 : 0;
}

}  // namespace

BatcherOptions batcher_options(const inference::ModelConfig& config) {
  BatcherOptions options{.max_rows = config.max_batch_size()};
  if (!config.has_dynamic_batching()) return options;
  const inference::ModelDynamicBatching& dynamic = config.dynamic_batching();
  options.is_dynamic = config.max_batch_size() > 0;
  options.preferred.insert(dynamic.preferred_batch_size().begin(), dynamic.preferred_batch_size().end());
  options.max_delay_us = static_cast<int64_t>(std::min<uint64_t>(dynamic.max_queue_delay_microseconds(), kNever / 2000));
  options.preserve_ordering = dynamic.preserve_ordering();
  options.priority_levels = dynamic.priority_levels();
  options.default_level = dynamic.default_priority_level();
  options.default_policy = queue_policy(dynamic.default_queue_policy());
  for (const auto& [level, policy] : dynamic.priority_queue_policy()) options.level_policies[level] = queue_policy(policy);
  return options;
}

BatchPicker::BatchPicker(const BatcherOptions& options)
    : options_(options), max_preferred_(options.preferred.empty() ? options.max_rows : *options.preferred.rbegin()) {}

bool BatchPicker::add(const QueuedRequest& request, int64_t since_ns) {
  const int64_t more = request.rows();
  if (count_ > 0) {
    if (rows_ + more > max_preferred_ && best_ == 0) best_ = count_;
    is_full_ = !options_.is_dynamic || rows_ + more > options_.max_rows || request.batch_key() != *key_;
    if (is_full_) return false;
  } else {
    key_ = &request.batch_key();
  }
  rows_ += more;
  ++count_;
  oldest_ns_ = std::min(oldest_ns_, since_ns);
  if (options_.preferred.contains(rows_)) best_ = count_;
  return true;
}

size_t BatchPicker::decide(int64_t now_ns, bool is_closed, int64_t& wake_ns) const {
  if (!options_.is_dynamic || count_ == 0) return count_;
  const int64_t delay_ns = options_.max_delay_us * 1000;
  const bool is_overdue = delay_ns > 0 && now_ns - oldest_ns_ >= delay_ns;
  if (best_ > 0 && !is_overdue) return best_;
  if (is_full_ || rows_ >= max_preferred_ || is_overdue || delay_ns == 0 || is_closed) return count_;
  wake_ns = std::min(wake_ns, oldest_ns_ + delay_ns);
  return 0;
}

void ResponseOrder::add(std::shared_ptr<ResponseOrder> order, InferRequest& request) {
  auto slot = std::make_unique<Slot>();
  slot->call = std::move(request.on_response);
  ResponseOrder& o = *order;
  const std::lock_guard lock(o.mutex_);
  const uint64_t ticket = o.first_ + o.slots_.size();
  o.slots_.push_back(std::move(slot));
  request.on_response = [order = std::move(order), ticket](InferResponse response) { order->send(ticket, std::move(response)); };
}

void ResponseOrder::send(uint64_t ticket, InferResponse response) {
  std::unique_lock lock(mutex_);
  Slot& slot = *slots_[ticket - first_];
  slot.is_complete |= response.is_final;
  slot.waiting.push_back(std::move(response));
  if (is_sending_) return;  // whoever sends takes this too, if it is its turn
  is_sending_ = true;
  while (!slots_.empty()) {
    Slot& front = *slots_.front();
    if (front.waiting.empty() && !front.is_complete) break;
    if (front.waiting.empty()) {
      const std::unique_ptr<Slot> done = std::move(slots_.front());
      slots_.pop_front();
      ++first_;
      continue;
    }
    InferResponse next = std::move(front.waiting.front());
    front.waiting.pop_front();
    lock.unlock();
    front.call(std::move(next));
    lock.lock();
  }
  is_sending_ = false;
}

DynamicBatcher::DynamicBatcher(BatcherOptions options, ModelStatistics* statistics)
    : options_(std::move(options)), statistics_(statistics) {
  if (options_.preserve_ordering) order_ = std::make_shared<ResponseOrder>();
}

DynamicBatcher::Level& DynamicBatcher::level_of(const InferRequest& request) {
  uint64_t level = 0;
  if (options_.priority_levels > 0)
    level = request.priority == 0 || request.priority > options_.priority_levels ? options_.default_level : request.priority;
  auto [found, is_new] = levels_.try_emplace(level);
  if (is_new) {
    const auto own = options_.level_policies.find(level);
    found->second.policy = own == options_.level_policies.end() ? options_.default_policy : own->second;
  }
  return found->second;
}

DynamicBatcher::Loan DynamicBatcher::enqueue_or_lend(std::unique_ptr<QueuedRequest> request) {
  Loan loan;
  add(std::move(request), &loan);
  return loan;
}

void DynamicBatcher::give_back(int index) {
  std::unique_lock lock(mutex_);
  std::erase(lent_, index);
  idle_.push_back(index);
  if (is_closed_) changed_.notify_all();
  else if (size_ > 0) notify_one(lock);
}

// For an instance to look at the queue. Unlocks first, as it would have to wait for the lock. Lent instances wait for the same: one that
// cannot take anything must not be the only one that is woken.
void DynamicBatcher::notify_one(std::unique_lock<std::mutex>& lock) {
  const bool is_waiting = !idle_.empty();  // else whoever executes looks again
  const bool is_unsure = !lent_.empty();
  lock.unlock();
  if (!is_waiting) return;
  if (is_unsure) changed_.notify_all();
  else changed_.notify_one();
}

// `loan` may be null: not wanted.
void DynamicBatcher::add(std::unique_ptr<QueuedRequest> request, Loan* loan) {
  const std::shared_ptr<Cancellation> cancellation = request->request().cancellation;
  uint64_t id = 0;
  {
    const std::lock_guard lock(mutex_);
    id = next_id_++;
  }
  // By number: the request may be gone when the client cancels. Before an instance can have it, as a backend sets its own.
  cancellation->on_cancel([batcher = weak_from_this(), id] {
    if (const auto self = batcher.lock()) self->cancel(id);
  });
  {
    std::unique_lock lock(mutex_);
    Level& level = level_of(request->request());
    std::string refusal;
    if (is_closed_) {
      refusal = "the model is being unloaded";
    } else if (level.policy.max_size > 0 && level.queue.size() + level.late.size() >= level.policy.max_size) {
      refusal = "Exceeds maximum queue size";
    }
    if (!refusal.empty()) {
      lock.unlock();
      refusal = request_prefix(request->request().id) + refusal;
      QueuedRequest::reject(std::move(request), ErrorCode::Unavailable, std::move(refusal));
      return;
    }
    const int64_t deadline_ns = deadline(level.policy, request->request(), request->times().queue_start);
    if (deadline_ns > 0) next_deadline_ns_ = std::min(next_deadline_ns_, deadline_ns);
    const int64_t now_ns = request->times().queue_start;
    level.queue.push_back({std::move(request), id, deadline_ns});
    ++size_;
    int64_t wake_ns = kNever;
    if (loan && size_ == 1 && !idle_.empty() && count_to_take(now_ns, wake_ns) == 1) {
      *loan = {pop(1), idle_.back()};
      idle_.pop_back();
      lent_.push_back(loan->index);
      lock.unlock();
      taken(loan->batch, now_ns);
      return;
    }
    if (statistics_) statistics_->add_pending(1);
    notify_one(lock);
  }
  if (cancellation->is_cancelled()) cancel(id);  // between the two above
}

void DynamicBatcher::cancel(uint64_t id) {
  Refused refused;
  {
    const std::lock_guard lock(mutex_);
    for (auto& [number, level] : levels_)
      for (std::deque<Entry>* queue : {&level.queue, &level.late}) {
        const auto found = std::find_if(queue->begin(), queue->end(), [id](const Entry& e) { return e.id == id; });
        if (found == queue->end()) continue;
        refused.emplace_back(std::move(found->request), ErrorCode::Cancelled);
        queue->erase(found);
      }
    size_ -= refused.size();
  }
  refuse(refused);
}

template <class Visit>
void DynamicBatcher::visit(Visit&& visit) const {
  for (const auto& [number, level] : levels_)
    for (const std::deque<Entry>* queue : {&level.queue, &level.late})
      for (const Entry& entry : *queue)
        if (!visit(entry)) return;
}

void DynamicBatcher::apply_policies(int64_t now_ns, Refused& refused) {
  if (now_ns <= next_deadline_ns_) return;
  next_deadline_ns_ = kNever;
  for (auto& [number, level] : levels_) {
    for (auto entry = level.queue.begin(); entry != level.queue.end();) {
      if (entry->deadline_ns == 0 || now_ns <= entry->deadline_ns) {
        if (entry->deadline_ns > 0) next_deadline_ns_ = std::min(next_deadline_ns_, entry->deadline_ns);
        ++entry;
        continue;
      }
      if (level.policy.delays_late) level.late.push_back({std::move(entry->request), entry->id, 0});
      else refused.emplace_back(std::move(entry->request), ErrorCode::Unavailable);
      entry = level.queue.erase(entry);
    }
  }
  size_ -= refused.size();
}

// How many of the next requests are a batch now; 0: none until `wake_ns`.
size_t DynamicBatcher::count_to_take(int64_t now_ns, int64_t& wake_ns) const {
  wake_ns = size_ > 0 && next_deadline_ns_ != kNever ? next_deadline_ns_ + 1 : kNever;
  if (size_ == 0) return 0;
  BatchPicker picker(options_);
  visit([&](const Entry& entry) { return picker.add(*entry.request, entry.request->times().queue_start); });
  return picker.decide(now_ns, is_closed_, wake_ns);
}

DynamicBatcher::Batch DynamicBatcher::pop(size_t count) {
  Batch batch;
  batch.reserve(count);
  for (auto& [number, level] : levels_)
    for (std::deque<Entry>* queue : {&level.queue, &level.late})
      while (!queue->empty() && batch.size() < count) {
        batch.push_back(std::move(queue->front().request));
        queue->pop_front();
        if (order_) ResponseOrder::add(order_, batch.back()->request());
      }
  size_ -= count;
  return batch;
}

DynamicBatcher::Batch DynamicBatcher::take(int index) {
  std::unique_lock lock(mutex_);
  while (true) {
    if (std::find(lent_.begin(), lent_.end(), index) != lent_.end()) {
      changed_.wait(lock);
      std::erase(idle_, index);
      continue;
    }
    const int64_t now_ns = steady_now_ns();
    Refused refused;
    apply_policies(now_ns, refused);
    if (!refused.empty()) {
      lock.unlock();
      refuse(refused);
      lock.lock();
      continue;
    }
    int64_t wake_ns = kNever;
    if (const size_t count = count_to_take(now_ns, wake_ns)) {
      Batch batch = pop(count);
      if (size_ > 0) notify_one(lock);
      else lock.unlock();
      if (statistics_) statistics_->add_pending(-static_cast<int64_t>(batch.size()));
      taken(batch, now_ns);
      return batch;
    }
    if (is_closed_ && size_ == 0) return {};
    idle_.push_back(index);
    if (wake_ns == kNever) changed_.wait(lock);
    else changed_.wait_until(lock, std::chrono::steady_clock::time_point(std::chrono::nanoseconds(wake_ns)));
    std::erase(idle_, index);
  }
}

void DynamicBatcher::taken(Batch& batch, int64_t now_ns) {
  for (auto& request : batch) {
    request->request().cancellation->on_cancel(nullptr);
    request->times().compute_start = now_ns;
  }
}

void DynamicBatcher::refuse(Refused& refused) {
  if (statistics_) statistics_->add_pending(-static_cast<int64_t>(refused.size()));
  for (auto& [request, code] : refused) {
    std::string message =
        request_prefix(request->request().id) + (code == ErrorCode::Cancelled ? "Request cancelled" : "Request timeout expired");
    QueuedRequest::reject(std::move(request), code, std::move(message));
  }
}

void DynamicBatcher::close() {
  {
    const std::lock_guard lock(mutex_);
    is_closed_ = true;
  }
  changed_.notify_all();
}

bool DynamicBatcher::is_closed() const {
  const std::lock_guard lock(mutex_);
  return is_closed_;
}

}  // namespace tokamak::server
