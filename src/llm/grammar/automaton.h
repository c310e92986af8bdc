#pragma once
// A grammar as a pushdown automaton over bytes: one nondeterministic automaton per rule, whose edges read a byte, nothing, or a text of
// another rule. Bounded repetitions count instead of being unrolled.

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tokamak::llm::grammar {

struct Edge {
  enum class Kind : uint8_t {
    Bytes,    // one byte in [low, high]
    Epsilon,  // nothing
    Call,     // a text of rule `index`
    Repeat,   // as many texts as repeats[index] says; a node with a Repeat has no other edge
  };
  Kind kind = Kind::Epsilon;
  uint8_t low = 0, high = 0;  // Bytes: byte classes in an Automaton, bytes in an AutomatonBuilder
  int32_t index = 0;
  int32_t target = 0;
};

struct Repeat {
  static constexpr int32_t kUnbounded = INT32_MAX;
  int32_t rule = 0;
  int32_t min = 0, max = 0;
};

struct Rule {
  std::string name;  // for messages
  int32_t start = 0, end = 0;
  bool nullable = false;  // the empty text is one of its texts
  // Masks are cached by where a rule is, whatever called it; a rule with this flag is seen together with its callers instead. For rules
  // whose texts are shorter than a token (one character of a string).
  bool is_fragment = false;
  int32_t rank = 0;  // larger than that of every rule that can begin with this one
};

struct Automaton {
  std::vector<int32_t> edge_begin;  // [num_nodes + 1] into edges
  std::vector<Edge> edges;
  std::vector<Rule> rules;
  std::vector<Repeat> repeats;
  std::vector<int32_t> rule_of;  // [num_nodes]
  int32_t root = 0;              // a rule
  // Bytes of one class are on the same edges everywhere.
  std::array<uint8_t, 256> class_of{};
  int num_classes = 0;

  bool is_end(int32_t node) const { return rules[rule_of[node]].end == node; }
};

class AutomatonBuilder {
 public:
  explicit AutomatonBuilder(int max_states) : max_states_(max_states) {}

  int32_t add_rule(std::string name, bool is_fragment = false);
  const Rule& rule(int32_t index) const { return rules_[index]; }
  // The nodes added from here on belong to `rule`. Throws ResourceExhausted above max_states, as all add_ functions do.
  int32_t add_node(int32_t rule);
  int32_t rule_of(int32_t node) const { return rule_of_[node]; }

  void add_bytes(int32_t from, uint8_t low, uint8_t high, int32_t to);
  void add_epsilon(int32_t from, int32_t to);
  void add_call(int32_t from, int32_t rule, int32_t to);
  void add_repeat(int32_t from, int32_t rule, int32_t min, int32_t max, int32_t to);
  // Reads `text`, ends in `to`; the other form ends in a new node, which it returns.
  void add_text(int32_t from, std::string_view text, int32_t to);
  int32_t add_text(int32_t from, std::string_view text);
  // Any of the texts, by a common prefix tree.
  void add_choices(int32_t from, std::vector<std::string> texts, int32_t to);

  int num_states() const { return static_cast<int>(rule_of_.size()); }

  // Removes what cannot reach an end. Throws InvalidArgument when no text matches or when a rule can begin with itself.
  Automaton finish(int32_t root);

 private:
  struct BuilderEdge {
    int32_t from;
    Edge edge;
  };
  void add(int32_t from, Edge edge);
  // Nodes from which the end of their rule can be reached, through edges that read bytes or (`reads` false) through others alone.
  std::vector<bool> reaching(bool reads) const;
  void prune();
  void rank_rules(Automaton& automaton) const;

  int max_states_;
  std::vector<Rule> rules_;
  std::vector<Repeat> repeats_;
  std::vector<int32_t> rule_of_;
  std::vector<BuilderEdge> edges_;
};

}  // namespace tokamak::llm::grammar
