#pragma once
// Which tokens of which sequences the next step computes. Pure bookkeeping: no model, no clock, no threads.
//
// Continuous batching: a step takes one token of every sequence that generates, then continues prompts that are partly computed, then
// admits waiting sequences, all within `max_num_batched_tokens`. A sequence is admitted with blocks for all its tokens, less what the
// prefix cache holds. When a generating sequence finds no block, the last of the running ones is preempted: its blocks go, its tokens stay,
// and it waits to be computed again (preemption by recompute, arXiv:2309.06180 section 4.5). Sequences whose ends are known are not
// admitted when all of them would, at some moment, not have blocks enough: what is computed for them is then computed once.
//
// Order is one number a sequence, fixed when it arrives: arrival time + priority * aging. It decides who is admitted first (nobody
// overtakes the head of the queue, so nothing starves) and who is preempted first (the last). A waiting sequence preempts running ones that
// come after it, when seats or blocks are what it lacks.

#include <set>
#include <span>
#include <vector>

#include "llm/block_manager.h"

namespace tokamak::llm {

// One growing list of tokens. The scheduler owns its fields but those above `table`, which the caller sets.
// A sequence without remaining tokens waits for one and is not scheduled.
struct Sequence {
  std::vector<int32_t> tokens;  // prompt and answer; those past num_computed are not in the cache yet
  int64_t order = 0;            // smaller comes first
  uint64_t serial = 0;          // breaks ties; unique
  int seats = 1;                // places in the batch: 1, or the number of answers while they still are one prompt
  int max_lookahead = 0;        // speculated tokens this sequence can use in a step
  int final_size = 0;           // tokens it is going to have, when it is certain; 0: not known
  bool skips_prefix = false;    // every token is computed, whatever the prefix cache holds
  int max_chunk = 0;            // most tokens of it in a step; 0: no limit of its own

  BlockTable table;
  int num_computed = 0;
  int num_scheduled = 0;  // tokens of this step: [num_computed, num_computed + num_scheduled)
  int lookahead = 0;      // further tokens that there is room for in this step
  int num_cached = 0;     // tokens found in the prefix cache when first admitted
  int num_preemptions = 0;
  bool is_running = false;

  int size() const { return static_cast<int>(tokens.size()); }
  int remaining() const { return size() - num_computed; }
};

struct SchedulerOptions {
  int max_num_seqs = 64;
  int max_num_batched_tokens = 512;  // >= max_num_seqs
  bool chunked_prefill = true;       // off: see LlmOptions
};

class Scheduler {
 public:
  // Throws InvalidArgument when the options are out of range. `blocks` must outlive the scheduler.
  Scheduler(BlockManager& blocks, const SchedulerOptions& options);

  // The sequence waits from now on; it must fit alone (blocks_for(its tokens) <= num_blocks, seats <= max_num_seqs) and stay where it is
  // until removed.
  void add(Sequence* sequence);
  // `child` runs from now on with the blocks of `parent`, which is running; both then need one seat.
  void fork(Sequence* parent, Sequence* child);
  // Finished or cancelled: forgets it and frees its blocks.
  void remove(Sequence* sequence);

  struct Step {
    std::vector<Sequence*> sequences;        // each with num_scheduled >= 1
    std::vector<BlockManager::Copy> copies;  // to be made in this order, before anything is computed
    std::vector<Sequence*> preempted;
    int num_tokens = 0;  // without lookahead
  };
  // The next step; empty only when no sequence has remaining tokens. `lookahead`: tokens wanted beside one for every generating sequence,
  // given where budget and free blocks allow, never by preemption. Valid until the next call.
  const Step& schedule(int lookahead = 0);
  const Step& last_step() const { return step_; }
  // The step was computed: `num_new` more tokens of the sequence are in the cache (accepted lookahead included, and already in `tokens`).
  void commit(Sequence& sequence, int num_new);
  // The two halves of commit(), for a step that is still being computed when the next one is scheduled: the step will compute `num_new`
  // tokens; and it has, so that the first `num_computed` are in the cache, and known. settle() needs the blocks that the step wrote to.
  void advance(Sequence& sequence, int num_new);
  void settle(Sequence& sequence, int num_computed);

  int num_running() const { return static_cast<int>(running_.size()); }
  int num_waiting() const { return static_cast<int>(waiting_.size()); }
  int64_t prefix_query_tokens() const { return prefix_query_tokens_; }
  int64_t prefix_hit_tokens() const { return prefix_hit_tokens_; }
  int64_t num_preemptions() const { return num_preemptions_; }

 private:
  struct Before {
    bool operator()(const Sequence* a, const Sequence* b) const {
      return a->order != b->order ? a->order < b->order : a->serial < b->serial;
    }
  };

  // The tokens that may come from the prefix cache: never the last, which gives the logits.
  static std::span<const int32_t> cacheable(const Sequence& s) { return {s.tokens.data(), s.skips_prefix ? 0 : s.tokens.size() - 1}; }
  int seats_used() const;
  int blocks_to_admit(const Sequence& sequence) const;
  int reserve() const;
  bool fits(const Sequence& sequence) const;
  void preempt_for_priority();
  void preempt(Sequence* sequence);
  bool make_room(Sequence& sequence);
  void schedule_generating(int lookahead, int& budget);
  void schedule_prompt(Sequence& sequence, int& budget);
  void admit(int& budget);
  void foresee();
  bool fits_to_the_end(const Sequence& sequence);
  void insert_running(Sequence* sequence);

  BlockManager& blocks_;
  SchedulerOptions options_;
  std::vector<Sequence*> running_;  // sorted by Before
  std::set<Sequence*, Before> waiting_;
  // What a running sequence will take, in tokens that it shares with nobody.
  struct Growth {
    int steps;  // to its end
    int64_t size;
    int seats;
  };
  std::vector<Growth> growths_;  // those that last longest first
  int64_t steady_blocks_ = 0;    // that the others take
  int64_t final_blocks_ = 0;     // that all of growths_ would take at their ends
  Step step_;
  bool has_prompt_ = false;  // this step computes part of a prompt
  int64_t prefix_query_tokens_ = 0, prefix_hit_tokens_ = 0, num_preemptions_ = 0;
};

}  // namespace tokamak::llm
