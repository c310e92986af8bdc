#include "llm/scheduler.h"

#include <algorithm>

#include "base/error.h"

namespace tokamak::llm {

Scheduler::Scheduler(BlockManager& blocks, const SchedulerOptions& options) : blocks_(blocks), options_(options) {
  if (options.max_num_seqs < 1) fail(ErrorCode::InvalidArgument, "max_num_seqs is {}, expected 1 or more", options.max_num_seqs);
  if (options.max_num_batched_tokens < options.max_num_seqs)
    fail(ErrorCode::InvalidArgument, "max_num_batched_tokens is {}, expected at least max_num_seqs ({})", options.max_num_batched_tokens,
         options.max_num_seqs);
}

void Scheduler::add(Sequence* s) {
  CHECK(blocks_.blocks_for(s->size()) <= blocks_.num_blocks() && s->seats <= options_.max_num_seqs);
  waiting_.insert(s);
}

void Scheduler::fork(Sequence* parent, Sequence* child) {
  CHECK(parent->is_running);
  child->table = blocks_.fork(parent->table);
  child->num_computed = parent->num_computed;
  child->num_cached = parent->num_cached;
  parent->seats = child->seats = 1;
  insert_running(child);
}

void Scheduler::remove(Sequence* s) {
  if (s->is_running) std::erase(running_, s);
  else waiting_.erase(s);
  s->is_running = false;
  blocks_.release(s->table);
}

void Scheduler::insert_running(Sequence* s) {
  running_.insert(std::ranges::upper_bound(running_, s, Before()), s);
  s->is_running = true;
}

int Scheduler::seats_used() const {
  int seats = 0;
  for (const Sequence* s : running_) seats += s->seats;
  return seats;
}

// Free blocks that admitting would take; a cached block that nobody references counts, it leaves the free list too.
int Scheduler::blocks_to_admit(const Sequence& s) const {
  const auto match = blocks_.find_prefix(cacheable(s));
  return blocks_.blocks_for(s.size()) - match.num_blocks + match.num_unreferenced;
}

// Blocks left free at admission, so that who runs can grow a little before someone is preempted.
int Scheduler::reserve() const { return running_.empty() ? 0 : std::max(1, blocks_.num_blocks() / 100); }

bool Scheduler::fits(const Sequence& s) const {
  return seats_used() + s.seats <= options_.max_num_seqs && blocks_to_admit(s) + reserve() <= blocks_.num_free();
}

void Scheduler::preempt_for_priority() {
  if (waiting_.empty()) return;
  const Sequence* head = *waiting_.begin();
  const auto first_after = std::ranges::upper_bound(running_, head, Before());
  if (first_after == running_.end() || fits(*head)) return;
  // Only if it helps.
  int seats = seats_used() + head->seats, blocks = blocks_.num_free();
  for (auto it = first_after; it != running_.end(); ++it) seats -= (*it)->seats, blocks += static_cast<int>((*it)->table.blocks.size());
  if (seats > options_.max_num_seqs || blocks_to_admit(*head) > blocks) return;
  for (auto count = running_.end() - first_after; count > 0 && !fits(*head); --count) preempt(running_.back());
}

void Scheduler::preempt(Sequence* s) {
  std::erase(running_, s);
  blocks_.release(s->table);
  s->num_computed = s->num_scheduled = s->lookahead = 0;
  s->is_running = false;
  ++s->num_preemptions;
  ++num_preemptions_;
  waiting_.insert(s);
  step_.preempted.push_back(s);
}

// Blocks for all tokens of a generating sequence; the one it writes to is its own.
bool Scheduler::make_room(Sequence& s) {
  if (blocks_.is_shared(s.table, s.num_computed)) {
    const auto copy = blocks_.make_writable(s.table, s.num_computed);
    if (!copy) return false;
    step_.copies.push_back(*copy);
  }
  return blocks_.grow(s.table, s.size());
}

void Scheduler::schedule_generating(int lookahead, int& budget) {
  const auto generates = [](const Sequence* s) { return s->remaining() == 1; };
  int spare = budget - static_cast<int>(std::ranges::count_if(running_, generates));
  if (!waiting_.empty() || !std::ranges::all_of(running_, generates)) spare /= 2;  // prompts come before guesses
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence* s = running_[i];
    if (!generates(s)) continue;
    // Whoever comes last goes; it is not scheduled yet, since this loop runs in the same order.
    while (s->is_running && !make_room(*s)) preempt(running_.back());
    if (!s->is_running) return;
    s->lookahead = std::max(0, std::min({lookahead, s->max_lookahead, spare}));
    while (s->lookahead > 0 && !blocks_.grow(s->table, s->size() + s->lookahead)) --s->lookahead;
    spare -= s->lookahead;
    budget -= 1 + s->lookahead;
    s->num_scheduled = 1;
    step_.sequences.push_back(s);
  }
}

void Scheduler::schedule_prompt(Sequence& s, int& budget) {
  int count = std::min(s.remaining(), budget);
  if (!options_.chunked_prefill && count < s.remaining()) {
    if (has_prompt_) return;
    count = s.remaining();
  }
  if (s.max_chunk > 0) count = std::min(count, s.max_chunk);
  if (count <= 0) return;
  s.num_scheduled = count;
  budget -= count;
  has_prompt_ = true;
  step_.sequences.push_back(&s);
}

// What the running sequences will take until their ends.
void Scheduler::foresee() {
  growths_.clear();
  final_blocks_ = 0;
  int64_t own_blocks = 0;
  for (const Sequence* s : running_) {
    if (s->final_size == 0) continue;
    growths_.push_back({s->final_size - s->size(), s->size() - s->num_cached, s->seats});
    own_blocks += blocks_.blocks_for(s->size() - s->num_cached);
    final_blocks_ += int64_t{blocks_.blocks_for(s->final_size - s->num_cached)} * s->seats;
  }
  std::ranges::sort(growths_, std::ranges::greater(), &Growth::steps);
  steady_blocks_ = std::max<int64_t>(0, blocks_.num_used() - own_blocks);
}

// Whether there are blocks for it and all that run, as they grow and end. Then it is one of them.
bool Scheduler::fits_to_the_end(const Sequence& s) {
  if (s.final_size == 0 || running_.empty()) return true;
  const int cached = blocks_.find_prefix(cacheable(s)).num_blocks * blocks_.block_size();
  const Growth own{s.final_size - s.size(), s.size() - cached, s.seats};
  const auto at = growths_.insert(std::ranges::upper_bound(growths_, own.steps, std::ranges::greater(), &Growth::steps), own);
  const int64_t own_final = int64_t{blocks_.blocks_for(s.final_size - cached)} * s.seats;
  if (steady_blocks_ + final_blocks_ + own_final <= blocks_.num_blocks()) {  // even if all ended at once
    final_blocks_ += own_final;
    return true;
  }
  // The most is taken just before one of them ends, by those that do not end earlier; at most a block each is not full.
  int64_t size = 0, seats = 0;
  for (const Growth& g : growths_) {
    size += g.size, seats += g.seats;
    if (steady_blocks_ + (size + seats * g.steps) / blocks_.block_size() + seats <= blocks_.num_blocks()) continue;
    growths_.erase(at);
    return false;
  }
  final_blocks_ += own_final;
  return true;
}

void Scheduler::admit(int& budget) {
  if (!waiting_.empty() && budget > 0) foresee();
  while (!waiting_.empty() && budget > 0) {
    Sequence* s = *waiting_.begin();
    if (!fits(*s) || !fits_to_the_end(*s)) return;
    if (!options_.chunked_prefill && has_prompt_) {
      const int cached = blocks_.find_prefix(cacheable(*s)).num_blocks * blocks_.block_size();
      if (s->size() - cached > budget) return;
    }
    waiting_.erase(waiting_.begin());
    s->num_computed = blocks_.take_prefix(s->tokens, static_cast<int>(cacheable(*s).size()) / blocks_.block_size(), s->table);
    CHECK(blocks_.grow(s->table, s->size()));
    prefix_query_tokens_ += s->size();
    prefix_hit_tokens_ += s->num_computed;
    if (s->num_preemptions == 0) s->num_cached = s->num_computed;
    insert_running(s);
    schedule_prompt(*s, budget);
  }
}

const Scheduler::Step& Scheduler::schedule(int lookahead) {
  step_.sequences.clear();
  step_.copies.clear();
  step_.preempted.clear();
  has_prompt_ = false;
  for (Sequence* s : running_) s->num_scheduled = s->lookahead = 0;
  preempt_for_priority();
  const size_t num_preempted = step_.preempted.size();
  int budget = options_.max_num_batched_tokens;
  schedule_generating(lookahead, budget);
  for (Sequence* s : running_)
    if (s->num_scheduled == 0) schedule_prompt(*s, budget);
  if (step_.preempted.size() == num_preempted) admit(budget);  // else blocks are short
  step_.num_tokens = 0;
  for (const Sequence* s : step_.sequences) step_.num_tokens += s->num_scheduled;
  CHECK(!step_.sequences.empty() || (running_.empty() && waiting_.empty()) ||
        std::ranges::any_of(running_, [](const Sequence* s) { return s->remaining() == 0; }));
  return step_;
}

void Scheduler::advance(Sequence& s, int num_new) {
  s.num_computed += num_new;
  DCHECK(s.num_computed <= s.size());
}

void Scheduler::settle(Sequence& s, int num_computed) { blocks_.register_full(s.table, s.tokens, num_computed); }

void Scheduler::commit(Sequence& s, int num_new) {
  advance(s, num_new);
  settle(s, s.num_computed);
  blocks_.trim(s.table, s.size());
}

}  // namespace tokamak::llm
