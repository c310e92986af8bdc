#pragma once
// Runs an Automaton over bytes, keeping all ways to read the text at once, and remembers every step it has taken: a deterministic automaton
// that grows as it is used.
//
// A way to read is a stack, and stacks share their lower parts: a frame is (node, iterations of the repetition there, the set of frames
// that go on when its rule ends). Frames that call one rule at one position have one callee, so there are few of them however ambiguous a
// grammar is. Method: graph-structured stacks, Tomita, "Efficient Parsing for Natural Language" (1985); Scott and Johnstone, "GLL Parsing"
// (2010).

#include <span>
#include <utility>
#include <vector>

#include "llm/grammar/automaton.h"
#include "llm/grammar/interner.h"

namespace tokamak::llm::grammar {

// Not thread-safe. The automaton outlives it.
class Machine {
 public:
  using Config = int32_t;     // all ways to read the text so far
  using CallerSet = int32_t;  // interned frames
  static constexpr Config kDead = 0;
  static constexpr CallerSet kUnknown = 0;  // below the bottom of a local configuration
  static constexpr CallerSet kNone = 1;     // the root rule's: the text ends there

  explicit Machine(const Automaton& automaton);

  Config initial() const { return initial_; }
  // Throws ResourceExhausted when there are too many ways to read the text, or too much work (limit_work).
  Config step(Config config, uint8_t byte) {
    const Config known = rows_[static_cast<size_t>(config) * num_classes_ + automaton_.class_of[byte]];
    return known >= 0 ? known : compute_step(config, automaton_.class_of[byte]);
  }
  Config run(Config config, std::string_view bytes) {
    for (const char c : bytes) {
      if (config == kDead) break;
      config = step(config, static_cast<uint8_t>(c));
    }
    return config;
  }

  // The text may end here.
  bool is_accepting(Config config) const { return configs_.at(config)[0] & kAccepting; }
  // Of a local configuration: the rule that was cut off below has ended.
  bool has_escaped(Config config) const { return configs_.at(config)[0] & kEscaped; }
  // More bytes may follow.
  bool goes_on(Config config) const { return configs_.at(config).size() > 1; }

  // A configuration seen from its topmost rules alone, whatever called them, and who did.
  struct Part {
    CallerSet callers;
    Config local;
    auto operator<=>(const Part&) const = default;
  };
  // The parts of `config`. What happens within `horizon` bytes depends on nothing else; counters that cannot matter within it are made
  // equal.
  std::vector<Part> split(Config config, int horizon);
  // Where the callers go on.
  Config resume(CallerSet callers);

  // The same configuration in another machine of the same automaton.
  Config move_to(Machine& other, Config config) const;

  // From here on, more work than this (in frames looked at) throws ResourceExhausted; the machine stays usable.
  void limit_work(int64_t work) { work_limit_ = work_ + work; }
  size_t bytes() const;

 private:
  static constexpr int32_t kAccepting = 1, kEscaped = 2;
  struct Frame {
    int32_t node, count;
    CallerSet callers;
  };
  using FrameId = int32_t;

  Frame frame(FrameId id) const {
    const auto f = frames_.at(id);
    return {f[0], f[1], f[2]};
  }
  FrameId intern(Frame f) {
    const int32_t values[] = {f.node, f.count, f.callers};
    return frames_.intern(values);
  }

  Config compute_step(Config config, int byte_class);
  void spend(int64_t work);
  void visit(Frame f);
  void expand(FrameId id, bool has_read);
  // All that can be reached from work_list_ without reading; interns the result.
  Config close();
  Config intern_config(std::span<const int32_t> flags_and_frames);
  const std::vector<std::pair<CallerSet, FrameId>>& local_frames(FrameId id, int horizon);
  int32_t clamped(int32_t node, int32_t count, int horizon) const;

  const Automaton& automaton_;
  size_t num_classes_;
  Interner frames_, caller_sets_;
  Interner configs_;                                                // flags, then frames that read a byte, ascending
  std::vector<Config> rows_;                                        // [config, class]; -1: not known yet
  std::vector<Config> resumed_;                                     // [caller set]; -1: not known yet
  std::vector<std::vector<std::pair<CallerSet, FrameId>>> locals_;  // [frame]
  Config initial_ = kDead;
  int64_t work_ = 0, work_limit_ = INT64_MAX;

  // Of the step being computed.
  std::vector<uint32_t> seen_;  // [frame], stamp_ when it was visited
  uint32_t stamp_ = 0;
  int32_t flags_ = 0;
  std::vector<FrameId> work_list_, active_;
  struct PendingCall {
    int32_t rank, rule;
    FrameId caller;
  };
  std::vector<PendingCall> pending_;
};

}  // namespace tokamak::llm::grammar
