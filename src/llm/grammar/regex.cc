#include "llm/grammar/regex.h"

#include <algorithm>
#include <map>

#include "base/error.h"

namespace tokamak::llm::grammar {

namespace {

using Kind = RegexTree::Kind;

constexpr int64_t kMaxUnrolled = 200;  // nodes; larger repetitions count

// Nodes the tree below `node` becomes, about.
int64_t size_of(const RegexTree& tree, int32_t node) {
  const auto& n = tree.nodes[node];
  int64_t size = 1;
  if (n.kind == Kind::Set) size += static_cast<int64_t>(tree.sets[n.index].ranges().size()) * 2;
  for (const int32_t child : n.children) size += size_of(tree, child);
  if (n.kind == Kind::Repeat) size *= std::min<int64_t>(n.max == Repeat::kUnbounded ? std::max(n.min, 1) : n.max, kMaxUnrolled);
  return std::min<int64_t>(size, kMaxUnrolled * 100);
}

void add_repeat(AutomatonBuilder& builder, int32_t from, const RegexTree& tree, const RegexTree::Node& repeat, Spelling spelling,
                int32_t to) {
  const int32_t child = repeat.children[0], rule = builder.rule_of(from);
  const int32_t count = repeat.max == Repeat::kUnbounded ? repeat.min : repeat.max;
  if (count > 2 && size_of(tree, child) * count > kMaxUnrolled) {
    const int32_t body = builder.add_rule("repetition", true);
    add_regex(builder, builder.rule(body).start, tree, child, spelling, builder.rule(body).end);
    return builder.add_repeat(from, body, repeat.min, repeat.max, to);
  }
  int32_t at = from;
  const auto step = [&](int32_t next) {
    add_regex(builder, at, tree, child, spelling, next);
    at = next;
  };
  for (int32_t i = 0; i < repeat.min; ++i) step(builder.add_node(rule));
  if (repeat.max == Repeat::kUnbounded) {
    const int32_t loop = builder.add_node(rule);
    builder.add_epsilon(at, loop);
    at = loop;
    step(loop);
    return builder.add_epsilon(loop, to);
  }
  for (int32_t i = repeat.min; i < repeat.max; ++i) {
    builder.add_epsilon(at, to);
    step(builder.add_node(rule));
  }
  builder.add_epsilon(at, to);
}

}  // namespace

void add_regex(AutomatonBuilder& builder, int32_t from, const RegexTree& tree, int32_t node, Spelling spelling, int32_t to) {
  const auto& n = tree.nodes[node];
  switch (n.kind) {
    case Kind::Sequence: {
      for (const int32_t child : n.children) {
        const int32_t next = builder.add_node(builder.rule_of(from));
        add_regex(builder, from, tree, child, spelling, next);
        from = next;
      }
      return builder.add_epsilon(from, to);
    }
    case Kind::Choice:
      for (const int32_t child : n.children) add_regex(builder, from, tree, child, spelling, to);
      return;
    case Kind::Set: return add_characters(builder, from, tree.sets[n.index], spelling, to);
    case Kind::Repeat: return add_repeat(builder, from, tree, n, spelling, to);
    case Kind::Call: return builder.add_call(from, n.index, to);
    case Kind::Begin:
    case Kind::End: CHECK(false);  // resolve_anchors() has refused them
  }
}

namespace {

// The tree as a nondeterministic automaton over characters.
struct CharacterAutomaton {
  struct Edge {
    int32_t set, target;  // set -1: reads nothing
  };
  static constexpr size_t kMaxNodes = 20'000;

  const RegexTree& tree;
  std::vector<std::vector<Edge>> nodes;

  int32_t add_node() {
    if (nodes.size() >= kMaxNodes)
      fail(ErrorCode::ResourceExhausted, "a pattern together with a length needs more than {} states; make its repetitions narrower",
           kMaxNodes);
    nodes.emplace_back();
    return static_cast<int32_t>(nodes.size()) - 1;
  }

  void add(int32_t from, int32_t node, int32_t to) {
    const auto& n = tree.nodes[node];
    switch (n.kind) {
      case Kind::Sequence:
        for (const int32_t child : n.children) {
          const int32_t next = add_node();
          add(from, child, next);
          from = next;
        }
        nodes[from].push_back({-1, to});
        return;
      case Kind::Choice:
        for (const int32_t child : n.children) add(from, child, to);
        return;
      case Kind::Set: nodes[from].push_back({n.index, to}); return;
      case Kind::Repeat: {
        for (int32_t i = 0; i < n.min; ++i) {
          const int32_t next = add_node();
          add(from, n.children[0], next);
          from = next;
        }
        if (n.max == Repeat::kUnbounded) {
          const int32_t loop = add_node();
          nodes[from].push_back({-1, loop});
          add(loop, n.children[0], loop);
          nodes[loop].push_back({-1, to});
          return;
        }
        for (int32_t i = n.min; i < n.max; ++i) {
          nodes[from].push_back({-1, to});
          const int32_t next = add_node();
          add(from, n.children[0], next);
          from = next;
        }
        nodes[from].push_back({-1, to});
        return;
      }
      case Kind::Call:
      case Kind::Begin:
      case Kind::End: CHECK(false);
    }
  }
};

}  // namespace

void add_bounded_regex(AutomatonBuilder& builder, int32_t from, const RegexTree& tree, Spelling spelling, int32_t min, int32_t max,
                       int32_t to) {
  const auto* only = &tree.nodes[tree.root];
  while ((only->kind == Kind::Sequence || only->kind == Kind::Choice) && only->children.size() == 1) only = &tree.nodes[only->children[0]];
  if (only->kind == Kind::Repeat && tree.nodes[only->children[0]].kind == Kind::Set) {  // [a-z]+ and the like
    RegexTree::Node repeat = *only;
    repeat.min = std::max(repeat.min, min);
    repeat.max = std::min(repeat.max, max);
    if (repeat.min <= repeat.max) add_repeat(builder, from, tree, repeat, spelling, to);
    return;
  }
  CharacterAutomaton automaton{tree, {}};
  const int32_t start = automaton.add_node(), end = automaton.add_node();
  automaton.add(start, tree.root, end);
  // The product with a counter that stays at the first count from which nothing changes.
  const int32_t last = max == Repeat::kUnbounded ? min : max;
  std::map<std::pair<int32_t, int32_t>, int32_t> nodes;
  std::vector<std::pair<int32_t, int32_t>> work;
  const auto node_of = [&](int32_t state, int32_t count) {
    const auto [it, is_new] = nodes.try_emplace({state, count}, 0);
    if (is_new) {
      it->second = builder.add_node(builder.rule_of(from));
      work.emplace_back(state, count);
    }
    return it->second;
  };
  builder.add_epsilon(from, node_of(start, 0));
  while (!work.empty()) {
    const auto [state, count] = work.back();
    work.pop_back();
    const int32_t node = nodes.at({state, count});
    if (state == end && count >= min) builder.add_epsilon(node, to);
    for (const auto& edge : automaton.nodes[state]) {
      if (edge.set < 0) builder.add_epsilon(node, node_of(edge.target, count));
      else if (count < last) add_characters(builder, node, tree.sets[edge.set], spelling, node_of(edge.target, count + 1));
      else if (max == Repeat::kUnbounded) add_characters(builder, node, tree.sets[edge.set], spelling, node_of(edge.target, count));
    }
  }
}

}  // namespace tokamak::llm::grammar
