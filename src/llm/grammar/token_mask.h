#pragma once
// Which tokens may come next, for one automaton over one vocabulary; shared by all answers under it.
//
// What a token may be depends mostly on the topmost rule: inside a string nearly all tokens are allowed wherever the string stands. So the
// walk over the vocabulary's trie is done for the top of the stack alone and kept; the tokens that end the rule are the few that are looked
// at again with what is below. Method: the context-independent tokens of XGrammar (arXiv:2411.15100, section 3.1), here per set of states
// rather than per state, with the trie walk that llguidance documents (its docs/toktrie.md).

#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "llm/grammar/machine.h"
#include "llm/grammar/vocabulary.h"

namespace tokamak::llm::grammar {

// Everything known about one automaton over one vocabulary; grows, and is replaced when it has grown too large. Not thread-safe.
class MaskCache {
 public:
  MaskCache(const Automaton& automaton, const Vocabulary& vocabulary);

  Machine& machine() { return machine_; }
  // One bit a token. Valid until the next call. `is_first`: nothing has been read.
  std::span<const uint64_t> mask(Machine::Config config, bool is_first);
  size_t bytes() const { return machine_.bytes() + mask_bytes_; }
  // What one token may cost: what follows throws ResourceExhausted when it is more than that.
  void start_work() { machine_.limit_work(kMaxWork); }

 private:
  using Bits = std::vector<uint64_t>;
  struct LocalMask {
    Bits allowed;
    std::vector<uint32_t> escapes;  // trie nodes where the local rules have ended and longer tokens go on
  };

  static constexpr int64_t kMaxWork = 300'000;
  static constexpr uint64_t kKnown = uint64_t{1} << 63;  // no kind of byte has this bit

  const LocalMask& local_mask(Machine::Config local);
  // Allows the tokens below `node` that can be read from `config`; `escapes` gets the nodes where a local configuration escapes.
  void walk(const Trie& trie, uint32_t node, Machine::Config config, Bits& allowed, std::vector<uint32_t>* escapes);
  // Whether bytes of these kinds all leave `config` as it is. Finding out pays for many bytes only; for fewer, false may mean that it is
  // not known.
  bool loops(Machine::Config config, uint64_t kinds, bool is_many);

  const Vocabulary& vocabulary_;
  Machine machine_;
  size_t num_words_;
  std::unordered_map<Machine::Config, LocalMask> local_masks_;
  std::unordered_map<Machine::Config, int32_t> mask_of_;  // configuration -> index into masks_
  Interner part_lists_;
  std::vector<Bits> masks_;           // [part list]
  Bits first_mask_;                   // of the initial configuration, where the first token is special
  std::vector<uint64_t> loop_kinds_;  // [configuration], kKnown when it has been computed
  std::vector<Machine::Config> path_;
  size_t mask_bytes_ = 0;
};

}  // namespace tokamak::llm::grammar
