#include <algorithm>
#include <unordered_map>

#include "llm/batch_builder.h"
#include "llm/proposer.h"

namespace tokamak::llm {

struct DraftProposer::Impl {
  // What the draft knows of one sequence.
  struct State {
    BlockTable table;
    int num_computed = 0;          // tokens in the draft's cache
    int num_certain = 0;           // of those, tokens that were the sequence's own when computed
    std::vector<int32_t> guessed;  // the others
  };
  struct Active {
    const Slot* slot;
    State* state;
    int row = 0;
    int wanted = 0;
  };

  Impl(std::unique_ptr<StepModel> m, int vocab_size, int budget, bool prefix_cache)
      : model(std::move(m)),
        blocks(model->num_blocks(), model->config().block_size, prefix_cache),
        builder(model->config().block_size),
        sampler(vocab_size),
        max_num_batched_tokens(budget) {}

  State& state_of(const Sequence& sequence) {
    const auto [found, fresh] = states.try_emplace(&sequence);
    State& state = found->second;
    if (fresh)
      state.num_computed = state.num_certain =
          blocks.take_prefix(sequence.tokens, (sequence.size() - 1) / blocks.block_size(), state.table);
    // Guesses that came true count as computed; from the first that did not, the cache is stale.
    int kept = 0;
    while (kept < std::ssize(state.guessed) && state.num_certain + kept < sequence.size() - 1 &&
           state.guessed[kept] == sequence.tokens[state.num_certain + kept])
      ++kept;
    state.num_computed = state.num_certain = state.num_certain + kept;
    state.guessed.clear();
    return state;
  }

  // Feeds what the draft has not seen yet. Sequences that are then up to date, with room for guesses, become active.
  void catch_up(std::span<const Slot> slots) {
    active.clear();
    builder.clear();
    int budget = max_num_batched_tokens;
    for (const Slot& slot : slots) {
      const Sequence& sequence = *slot.sequence;
      const int wanted = std::min(slot.max_tokens, model->config().context_length - sequence.size());
      if (wanted < 1 || budget < 1) continue;
      State& state = state_of(sequence);
      // The last guess is not fed.
      if (!blocks.grow(state.table, sequence.size() + wanted - 1)) continue;
      const int count = std::min(budget, sequence.size() - state.num_computed);
      const bool complete = state.num_computed + count == sequence.size();
      const int row = builder.add(sequence.tokens, state.num_computed, count, {}, state.table.blocks, complete);
      state.num_computed = state.num_certain = state.num_computed + count;
      budget -= count;
      fed.push_back(&slot);
      if (complete) active.push_back({&slot, &state, row, wanted});
    }
  }

  void run() {
    try {
      model->run(builder.finish());
    } catch (...) {
      for (const Slot* slot : fed) drop(slot->sequence);
      throw;
    }
  }

  void drop(const Sequence* sequence) {
    const auto found = states.find(sequence);
    if (found == states.end()) return;
    blocks.release(found->second.table);
    states.erase(found);
  }

  int32_t guess(const Slot& slot, std::span<const float> logits) {
    Proposal& proposal = *slot.proposal;
    if (slot.sampling->is_greedy()) {
      row.scan(logits);
      return row.argmax();
    }
    if (proposal.num_distributions == std::ssize(proposal.distributions)) proposal.distributions.emplace_back();
    Distribution& q = proposal.distributions[proposal.num_distributions++];
    sampler.proposal(logits, *slot.sampling, q);
    return sampler.draw(q, slot.sampling->draw(Draw::Proposal, static_cast<int>(proposal.tokens.size())));
  }

  std::unique_ptr<StepModel> model;
  BlockManager blocks;
  BatchBuilder builder;
  Sampler sampler;
  LogitsRow row;
  int max_num_batched_tokens;
  std::unordered_map<const Sequence*, State> states;
  std::vector<Active> active;
  std::vector<const Slot*> fed;
};

DraftProposer::DraftProposer(std::unique_ptr<StepModel> model, int vocab_size, int max_num_batched_tokens, bool prefix_cache) {
  if (model->config().vocab_size != vocab_size)
    fail(ErrorCode::InvalidArgument, "the draft model has {} tokens, the target {}; they must have the same vocabulary",
         model->config().vocab_size, vocab_size);
  impl_ = std::make_unique<Impl>(std::move(model), vocab_size, max_num_batched_tokens, prefix_cache);
}

DraftProposer::~DraftProposer() = default;

void DraftProposer::forget(const Sequence* sequence) { impl_->drop(sequence); }

int DraftProposer::num_used_blocks() const { return impl_->blocks.num_used(); }

void DraftProposer::propose(std::span<const Slot> slots) {
  Impl& impl = *impl_;
  impl.fed.clear();
  impl.catch_up(slots);
  if (impl.fed.empty()) return;
  impl.run();
  for (const Slot* slot : impl.fed) {
    Impl::State& state = impl.states.at(slot->sequence);
    impl.blocks.register_full(state.table, slot->sequence->tokens, state.num_certain);
  }
  while (!impl.active.empty()) {
    for (Impl::Active& a : impl.active) a.slot->proposal->tokens.push_back(impl.guess(*a.slot, impl.model->logits(a.row)));
    std::erase_if(impl.active, [](const Impl::Active& a) { return std::ssize(a.slot->proposal->tokens) >= a.wanted; });
    if (impl.active.empty()) return;
    impl.builder.clear();
    for (Impl::Active& a : impl.active) {
      const int32_t last = a.slot->proposal->tokens.back();
      a.row = impl.builder.add({}, a.state->num_computed, 0, std::span(&last, 1), a.state->table.blocks, 1);
      a.state->guessed.push_back(last);
      ++a.state->num_computed;
    }
    impl.run();
  }
}

}  // namespace tokamak::llm
