#include "server/sequence_batcher.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "server/log.h"

namespace tokamak::server {

namespace {

constexpr int64_t kNever = Batcher::kNever;

std::vector<NamedTensor> zero_inputs(const InferRequest& request) {
  std::vector<NamedTensor> inputs;
  for (const NamedTensor& input : request.inputs)
    inputs.push_back({.name = input.name, .tensor = zero_tensor(input.tensor.dtype(), input.tensor.shape())});
  return inputs;
}

int64_t nanoseconds(uint64_t us) { return static_cast<int64_t>(std::min<uint64_t>(us, kNever / 4000)) * 1000; }

}  // namespace

SequenceOptions sequence_options(const inference::ModelConfig& config) {
  const auto& batching = config.sequence_batching();
  SequenceOptions options{.is_oldest = batching.has_oldest(),
                          .is_iterative = batching.iterative_sequence(),
                          .num_slots = std::max(1, config.max_batch_size()),
                          .max_delay_ns = nanoseconds(batching.direct().max_queue_delay_microseconds()),
                          .min_utilization = batching.direct().minimum_slot_utilization()};
  if (batching.max_sequence_idle_microseconds() > 0) options.max_idle_ns = nanoseconds(batching.max_sequence_idle_microseconds());
  if (!options.is_oldest) return options;
  const auto& oldest = batching.oldest();
  if (oldest.max_candidate_sequences() > 0) options.num_slots = oldest.max_candidate_sequences();
  options.oldest.max_rows = config.max_batch_size();
  options.oldest.is_dynamic = config.max_batch_size() > 0;
  options.oldest.preferred.insert(oldest.preferred_batch_size().begin(), oldest.preferred_batch_size().end());
  options.oldest.max_delay_us = nanoseconds(oldest.max_queue_delay_microseconds()) / 1000;
  options.oldest.preserve_ordering = oldest.preserve_ordering();
  return options;
}

SequenceBatcher::SequenceBatcher(const inference::ModelConfig& config, const std::string& model_folder, const std::vector<bool>& takes,
                                 ModelStatistics* statistics)
    : options_(sequence_options(config)), controls_(config), states_(config, model_folder), statistics_(statistics) {
  for (size_t i = 0; i < takes.size(); ++i) {
    Lane& lane = lanes_.emplace_back();
    lane.index = static_cast<int>(i);
    if (options_.oldest.preserve_ordering) lane.order = std::make_shared<ResponseOrder>();
    if (!takes[i]) continue;
    lane.slots.resize(options_.num_slots);
    for (int slot = 0; slot < options_.num_slots; ++slot) free_.emplace(slot, lane.index);
  }
  num_slots_ = free_.size();
}

void SequenceBatcher::check(const QueuedRequest& queued) const {
  const InferRequest& request = queued.request();
  if (queued.rows() > 1)
    fail(ErrorCode::InvalidArgument, "inference request to model '{}' must specify batch-size 1 due to requirements of sequence batcher",
         request.model_name);
  if (!request.sequence && !options_.is_iterative)
    fail(ErrorCode::InvalidArgument, "inference request to model '{}' must specify a non-zero or non-empty correlation ID",
         request.model_name);
  controls_.check(request.sequence);
}

// By number: the request may be gone when the client cancels.
uint64_t SequenceBatcher::watch(Cancellation& cancellation) {
  const uint64_t id = next_id_++;
  cancellation.on_cancel([batcher = weak_from_this(), id] {
    if (const auto self = batcher.lock()) self->cancel(id);
  });
  return id;
}

void SequenceBatcher::enqueue(std::unique_ptr<QueuedRequest> request) {
  const std::string model = request->request().model_name, name = id_text(request->request().sequence);
  bool has_conflict = false;
  Entry entry{.request = std::move(request)};
  Refused refused;
  try {
    check(*entry.request);
    // Before an instance can have it, as a backend sets its own.
    entry.id = watch(*entry.request->request().cancellation);
  } catch (const Error& e) {
    refused.push_back({std::move(entry.request), e.code(), e.what()});
    return refuse(refused);
  }
  {
    const std::lock_guard lock(mutex_);
    const int64_t now_ns = steady_now_ns();
    expire(now_ns, refused);
    try {
      has_conflict = place(entry, now_ns);
    } catch (const Error& e) {
      refused.push_back({std::move(entry.request), e.code(), e.what()});
    }
    settle();
  }
  refuse(refused);
  if (has_conflict)
    log_warning("model '{}': sequence {} starts again before it ended; what was queued of it is executed, then it begins anew", model,
                name);
}

// Into its sequence, a new one when it starts one; whether that was running already. Throws what is wrong with it, and leaves it.
bool SequenceBatcher::place(Entry& entry, int64_t now_ns) {
  InferRequest& r = entry.request->request();
  if (is_closed_) fail(ErrorCode::Unavailable, "{}the model is being unloaded", request_prefix(r.id));
  if (r.cancellation->is_cancelled()) fail(ErrorCode::Cancelled, "{}Request cancelled", request_prefix(r.id));  // before it was queued
  if (!r.sequence) {
    do {
      r.sequence.number = next_sequence_;
      next_sequence_ = next_sequence_ % std::numeric_limits<int32_t>::max() + 1;  // CORRID may be INT32
    } while (sequences_.contains(r.sequence));
    r.sequence_start = true;
  }
  const auto found = sequences_.find(r.sequence);
  const bool is_running = found != sequences_.end() && !found->second->is_closed;
  if (!is_running && !r.sequence_start)
    fail(ErrorCode::InvalidArgument,
         "inference request for sequence {} to model '{}' must specify the START flag on the first request of the sequence",
         id_text(r.sequence), r.model_name);
  SequencePtr sequence;
  if (is_running) {
    sequence = found->second;
  } else {
    sequence = std::make_shared<Sequence>();
    sequence->id = r.sequence;
    sequence->arrival = next_number_++;
    if (found != sequences_.end()) {
      sequence->before = found->second;
      found->second->next = sequence;
    } else {
      backlog_.emplace(sequence->arrival, sequence);
    }
    sequences_[r.sequence] = sequence;
  }
  sequence->is_closed = r.sequence_end;
  if (!sequence->lane && r.timeout_us > 0) {
    deadlines_.erase({sequence->deadline_ns, sequence});
    sequence->deadline_ns = std::min(sequence->deadline_ns, now_ns + nanoseconds(r.timeout_us));
    deadlines_.emplace(sequence->deadline_ns, sequence);
  }
  const bool has_conflict = is_running && r.sequence_start;
  push(sequence, std::move(entry), false);
  return has_conflict;
}

void SequenceBatcher::push(const SequencePtr& sequence, Entry entry, bool is_first) {
  queued_.emplace(entry.id, sequence);
  if (statistics_) statistics_->add_pending(1);
  if (is_first) sequence->queue.push_front(std::move(entry));
  else sequence->queue.push_back(std::move(entry));
  advance(sequence);
}

// Whatever is next for a sequence with a slot: its next request gets a turn, or it is idle, or over.
void SequenceBatcher::advance(const SequencePtr& sequence) {
  Sequence& s = *sequence;
  if (!s.lane || s.is_executing || s.turn != 0) return;
  if (s.queue.empty()) {
    if (s.is_closed) {
      finish(sequence);
    } else if (s.idle_ns == 0) {
      s.idle_ns = steady_now_ns();
      s.idle_place = idle_.insert(idle_.end(), sequence);
    }
    return;
  }
  leave_idle(s);
  QueuedRequest& next = *s.queue.front().request;
  const InferRequest& r = next.request();
  if (!s.state && !states_.empty()) s.state = std::make_shared<SequenceState>(states_);
  else if (s.state && r.sequence_start) s.state->reset();
  std::vector<NamedTensor> inputs;
  controls_.append(inputs, r.sequence, r.sequence_start, r.sequence_end);
  next.prepare(std::move(inputs), s.state);
  s.turn = next_number_++;
  s.turn_ns = steady_now_ns();
  s.lane->ready.emplace(s.turn, sequence);
  s.lane->changed.notify_one();
}

// Free slots to the backlog.
void SequenceBatcher::assign() {
  while (!backlog_.empty() && !free_.empty()) {
    const SequencePtr sequence = backlog_.begin()->second;
    leave_backlog(sequence);
    const auto [slot, lane] = *free_.begin();
    free_.erase(free_.begin());
    sequence->slot = slot;
    sequence->lane = &lanes_[lane];
    sequence->lane->slots[slot] = sequence;
    advance(sequence);
  }
}

void SequenceBatcher::leave_backlog(const SequencePtr& sequence) {
  backlog_.erase(sequence->arrival);
  deadlines_.erase({sequence->deadline_ns, sequence});
}

void SequenceBatcher::leave_idle(Sequence& sequence) {
  if (sequence.idle_ns == 0) return;
  idle_.erase(sequence.idle_place);
  sequence.idle_ns = 0;
}

// It is over; the next one of its id may begin.
void SequenceBatcher::forget(const SequencePtr& sequence) {
  Sequence& s = *sequence;
  s.is_closed = true;
  const SequencePtr before = std::move(s.before), next = std::move(s.next);
  if (const auto found = sequences_.find(s.id); found->second == sequence) {
    if (before) found->second = before;
    else sequences_.erase(found);
  }
  if (next) next->before = before;
  if (before) before->next = next;
  else if (next) backlog_.emplace(next->arrival, next);
}

void SequenceBatcher::free_slot(Sequence& sequence) {
  if (sequence.slot < 0) return;
  sequence.lane->slots[sequence.slot].reset();
  free_.emplace(sequence.slot, sequence.lane->index);
  sequence.slot = -1;
}

void SequenceBatcher::finish(const SequencePtr& sequence) {
  leave_idle(*sequence);
  free_slot(*sequence);
  sequence->lane = nullptr;
  forget(sequence);
}

// Takes out the requests from number `first` on, and ends the sequence with those before.
void SequenceBatcher::drop(const SequencePtr& sequence, size_t first, ErrorCode code, const std::string& message, Refused& refused) {
  Sequence& s = *sequence;
  for (size_t i = first; i < s.queue.size(); ++i) {
    queued_.erase(s.queue[i].id);
    refused.push_back({std::move(s.queue[i].request), code, message});
  }
  if (statistics_) statistics_->add_pending(-static_cast<int64_t>(s.queue.size() - first));
  s.queue.resize(first);
  s.is_closed = true;
  if (!s.lane) {
    leave_backlog(sequence);
    forget(sequence);
    return;
  }
  if (s.turn != 0 && first == 0) {
    s.lane->ready.erase(s.turn);
    s.turn = 0;
  }
  advance(sequence);
}

void SequenceBatcher::cancel(uint64_t id) {
  Refused refused;
  {
    const std::lock_guard lock(mutex_);
    const auto found = queued_.find(id);
    if (found == queued_.end()) return;
    const SequencePtr sequence = found->second;
    size_t first = 0;  // nothing of the backlog has begun
    if (sequence->lane)
      while (sequence->queue[first].id != id) ++first;
    drop(sequence, first, ErrorCode::Cancelled, "Request cancelled", refused);
    for (Refusal& refusal : refused) refusal.message = request_prefix(refusal.request->request().id) + refusal.message;
    settle();
  }
  refuse(refused);
}

void SequenceBatcher::expire(int64_t now_ns, Refused& refused) {
  while (!idle_.empty() && now_ns - idle_.front()->idle_ns > options_.max_idle_ns) finish(SequencePtr(idle_.front()));
  while (!deadlines_.empty() && deadlines_.begin()->first < now_ns)
    drop(SequencePtr(deadlines_.begin()->second), 0, ErrorCode::Unavailable, "timeout of the corresponding sequence has been expired",
         refused);
}

bool SequenceBatcher::is_drained() const {
  return backlog_.empty() && free_.size() == num_slots_ &&
         std::all_of(lanes_.begin(), lanes_.end(), [](const Lane& lane) { return lane.num_executing == 0; });
}

int64_t SequenceBatcher::next_timer() const {
  int64_t due_ns = kNever;
  if (!idle_.empty()) due_ns = idle_.front()->idle_ns + options_.max_idle_ns + 1;
  if (!deadlines_.empty()) due_ns = std::min(due_ns, deadlines_.begin()->first + 1);
  return due_ns;
}

// After every change.
void SequenceBatcher::settle() {
  assign();
  if (!is_closed_ || !is_drained()) return wake_for_timer();
  for (Lane& lane : lanes_) lane.changed.notify_all();
}

// Some instance that waits must wake in time; the others need not.
void SequenceBatcher::wake_for_timer() {
  const int64_t due_ns = next_timer();
  Lane* waiting = nullptr;
  for (Lane& lane : lanes_) {
    if (!lane.is_waiting) continue;
    if (lane.wake_ns <= due_ns) return;
    waiting = &lane;
  }
  if (waiting) waiting->changed.notify_one();
}

std::unique_ptr<QueuedRequest> SequenceBatcher::pop(const SequencePtr& sequence) {
  Sequence& s = *sequence;
  Entry entry = std::move(s.queue.front());
  s.queue.pop_front();
  queued_.erase(entry.id);
  if (statistics_) statistics_->add_pending(-1);
  ++s.lane->num_executing;
  s.is_executing = true;
  entry.request->set_on_end([this, sequence](std::unique_ptr<QueuedRequest> again) { ended(sequence, std::move(again)); });
  const uint64_t turn = std::exchange(s.turn, 0);
  s.lane->ready.erase(turn);
  // With its last request, as whoever gets the answer may start another sequence at once. An iterative one may come again.
  if (s.is_closed && s.queue.empty() && !options_.is_iterative) free_slot(s);
  return std::move(entry.request);
}

SequenceBatcher::Batch SequenceBatcher::pick_direct(Lane& lane, int64_t now_ns, int64_t& wake_ns) {
  // Requests of a backend that answers later still have their rows.
  if (lane.ready.empty() || lane.num_executing > 0) return {};
  const SequencePtr first = lane.ready.begin()->second;
  const QueuedRequest& like = *first->queue.front().request;
  const auto fits = [&](const Sequence& s) { return s.queue.front().request->batch_key() == like.batch_key(); };
  int highest = 0;
  int64_t oldest_ns = kNever;
  for (const auto& [turn, s] : lane.ready) {
    oldest_ns = std::min(oldest_ns, s->queue.front().request->times().queue_start);
    if (fits(*s)) highest = std::max(highest, s->slot);
  }
  if (options_.max_delay_ns > 0 && options_.min_utilization > 0 && !is_closed_ && now_ns - oldest_ns <= options_.max_delay_ns &&
      static_cast<double>(lane.ready.size()) / options_.num_slots < options_.min_utilization) {
    wake_ns = std::min(wake_ns, oldest_ns + options_.max_delay_ns + 1);
    return {};
  }
  std::optional<std::vector<NamedTensor>> zeros;  // of padding
  Batch batch;
  batch.reserve(highest + 1);
  for (int slot = 0; slot <= highest; ++slot) {
    const SequencePtr sequence = lane.slots[slot];
    if (sequence && sequence->turn != 0 && fits(*sequence)) {
      batch.push_back(pop(sequence));
      continue;
    }
    if (!zeros) zeros = zero_inputs(like.request());
    std::vector<NamedTensor> controls;
    controls_.append_padding(controls);
    batch.push_back(QueuedRequest::padding(like, *zeros));
    batch.back()->prepare(std::move(controls), first->state ? first->state->zeros() : nullptr);
  }
  return batch;
}

SequenceBatcher::Batch SequenceBatcher::pick_oldest(Lane& lane, int64_t now_ns, int64_t& wake_ns) {
  BatchPicker picker(options_.oldest);
  for (const auto& [turn, s] : lane.ready)
    if (!picker.add(*s->queue.front().request, s->turn_ns)) break;
  const size_t count = picker.decide(now_ns, is_closed_, wake_ns);
  Batch batch;
  batch.reserve(count);
  while (batch.size() < count) {
    batch.push_back(pop(SequencePtr(lane.ready.begin()->second)));
    if (lane.order && !batch.back()->is_continued()) ResponseOrder::add(lane.order, batch.back()->request());
  }
  return batch;
}

SequenceBatcher::Batch SequenceBatcher::take(int index) {
  std::unique_lock lock(mutex_);
  Lane& lane = lanes_[index];
  while (true) {
    const int64_t now_ns = steady_now_ns();
    Refused refused;
    expire(now_ns, refused);
    assign();
    if (!refused.empty()) {
      lock.unlock();
      refuse(refused);
      lock.lock();
      continue;
    }
    int64_t wake_ns = next_timer();
    Batch batch = options_.is_oldest ? pick_oldest(lane, now_ns, wake_ns) : pick_direct(lane, now_ns, wake_ns);
    if (!batch.empty()) {
      settle();  // slots may be free, and another instance must look after the timers
      lock.unlock();
      for (auto& request : batch) request->request().cancellation->on_cancel(nullptr);
      return batch;
    }
    if (is_closed_ && is_drained()) return {};
    lane.is_waiting = true;
    lane.wake_ns = wake_ns;
    if (wake_ns == kNever) lane.changed.wait(lock);
    else lane.changed.wait_until(lock, std::chrono::steady_clock::time_point(std::chrono::nanoseconds(wake_ns)));
    lane.is_waiting = false;
  }
}

// An execution of a request of the sequence's is over.
void SequenceBatcher::ended(const SequencePtr& sequence, std::unique_ptr<QueuedRequest> again) {
  std::shared_ptr<Cancellation> cancellation;
  uint64_t id = 0;
  if (again) {
    cancellation = again->request().cancellation;
    id = watch(*cancellation);
  }
  {
    const std::lock_guard lock(mutex_);
    Lane& lane = *sequence->lane;
    sequence->is_executing = false;
    if (--lane.num_executing == 0) lane.changed.notify_one();
    if (again) {
      push(sequence, {std::move(again), id}, true);
    } else {
      sequence->is_closed |= options_.is_iterative;
      advance(sequence);
    }
    settle();
  }
  if (cancellation && cancellation->is_cancelled()) cancel(id);
}

void SequenceBatcher::refuse(Refused& refused) {
  for (Refusal& refusal : refused) QueuedRequest::reject(std::move(refusal.request), refusal.code, std::move(refusal.message));
}

void SequenceBatcher::close() {
  Refused refused;
  {
    const std::lock_guard lock(mutex_);
    is_closed_ = true;
    for (const auto& [id, sequence] : sequences_) sequence->is_closed = true;
    while (!idle_.empty()) finish(SequencePtr(idle_.front()));
    while (num_slots_ == 0 && !backlog_.empty())
      drop(SequencePtr(backlog_.begin()->second), 0, ErrorCode::Unavailable, "the model is being unloaded", refused);
    settle();
  }
  refuse(refused);
  for (Lane& lane : lanes_) lane.changed.notify_all();
}

bool SequenceBatcher::is_closed() const {
  const std::lock_guard lock(mutex_);
  return is_closed_;
}

void SequenceBatcher::complete(QueuedRequest& request) const {
  request.request().sequence_start = request.request().sequence_end = true;
  std::vector<NamedTensor> inputs;
  controls_.append(inputs, {}, true, true);
  request.prepare(std::move(inputs), states_.empty() ? nullptr : std::make_shared<SequenceState>(states_));
}

}  // namespace tokamak::server
