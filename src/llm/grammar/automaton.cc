#include "llm/grammar/automaton.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"

namespace tokamak::llm::grammar {

int32_t AutomatonBuilder::add_rule(std::string name, bool is_fragment) {
  const auto index = static_cast<int32_t>(rules_.size());
  rules_.push_back({.name = std::move(name), .is_fragment = is_fragment});
  const int32_t start = add_node(index), end = add_node(index);
  rules_[index].start = start;
  rules_[index].end = end;
  return index;
}

int32_t AutomatonBuilder::add_node(int32_t rule) {
  if (num_states() >= max_states_)
    fail(ErrorCode::ResourceExhausted, "the grammar needs more than {} states; make it smaller or its bounds narrower", max_states_);
  rule_of_.push_back(rule);
  return num_states() - 1;
}

void AutomatonBuilder::add(int32_t from, Edge edge) {
  if (edges_.size() >= static_cast<size_t>(max_states_) * 4)
    fail(ErrorCode::ResourceExhausted, "the grammar needs more than {} transitions; make it smaller or its bounds narrower",
         max_states_ * 4);
  edges_.push_back({from, edge});
}

void AutomatonBuilder::add_bytes(int32_t from, uint8_t low, uint8_t high, int32_t to) { add(from, {Edge::Kind::Bytes, low, high, 0, to}); }
void AutomatonBuilder::add_epsilon(int32_t from, int32_t to) { add(from, {Edge::Kind::Epsilon, 0, 0, 0, to}); }
void AutomatonBuilder::add_call(int32_t from, int32_t rule, int32_t to) { add(from, {Edge::Kind::Call, 0, 0, rule, to}); }

void AutomatonBuilder::add_repeat(int32_t from, int32_t rule, int32_t min, int32_t max, int32_t to) {
  if (min > max) return;
  const int32_t node = add_node(rule_of_[from]);
  repeats_.push_back({rule, min, max});
  add_epsilon(from, node);
  add(node, {Edge::Kind::Repeat, 0, 0, static_cast<int32_t>(repeats_.size()) - 1, to});
}

void AutomatonBuilder::add_text(int32_t from, std::string_view text, int32_t to) {
  if (text.empty()) return add_epsilon(from, to);
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<uint8_t>(text[i]);
    const int32_t next = i + 1 == text.size() ? to : add_node(rule_of_[from]);
    add_bytes(from, byte, byte, next);
    from = next;
  }
}

int32_t AutomatonBuilder::add_text(int32_t from, std::string_view text) {
  const int32_t to = add_node(rule_of_[from]);
  add_text(from, text, to);
  return to;
}

void AutomatonBuilder::add_choices(int32_t from, std::vector<std::string> texts, int32_t to) {
  std::sort(texts.begin(), texts.end());
  // path[i]: the node after the first i bytes of the text before.
  std::vector<int32_t> path = {from};
  std::string_view last;
  for (const std::string& text : texts) {
    const size_t shared = std::mismatch(text.begin(), text.end(), last.begin(), last.end()).first - text.begin();
    path.resize(shared + 1);
    for (size_t i = shared; i < text.size(); ++i) {
      path.push_back(add_node(rule_of_[from]));
      add_bytes(path[i], static_cast<uint8_t>(text[i]), static_cast<uint8_t>(text[i]), path.back());
    }
    add_epsilon(path.back(), to);
    last = text;
  }
}

std::vector<bool> AutomatonBuilder::reaching(bool reads) const {
  const size_t num_nodes = rule_of_.size();
  std::vector<int32_t> begin(num_nodes + 1, 0);
  for (const auto& [from, edge] : edges_) ++begin[edge.target + 1];
  std::partial_sum(begin.begin(), begin.end(), begin.begin());
  std::vector<int32_t> incoming(edges_.size()), at(begin.begin(), begin.end() - 1);
  for (size_t i = 0; i < edges_.size(); ++i) incoming[at[edges_[i].edge.target]++] = static_cast<int32_t>(i);

  std::vector<bool> marked(num_nodes);
  std::vector<std::vector<int32_t>> waiting(rules_.size());  // edges that become passable with a rule
  std::vector<int32_t> work;
  const auto mark = [&](int32_t node) {
    if (marked[node]) return;
    marked[node] = true;
    work.push_back(node);
  };
  for (const Rule& rule : rules_) mark(rule.end);
  while (!work.empty()) {
    const int32_t node = work.back();
    work.pop_back();
    for (int32_t i = begin[node]; i < begin[node + 1]; ++i) {
      const auto& [from, edge] = edges_[incoming[i]];
      int32_t needed = -1;
      if (edge.kind == Edge::Kind::Bytes && !reads) continue;
      if (edge.kind == Edge::Kind::Call) needed = edge.index;
      if (edge.kind == Edge::Kind::Repeat && repeats_[edge.index].min > 0) needed = repeats_[edge.index].rule;
      if (needed < 0 || marked[rules_[needed].start]) mark(from);
      else waiting[needed].push_back(from);
    }
    if (rules_[rule_of_[node]].start == node) {
      for (const int32_t from : waiting[rule_of_[node]]) mark(from);
    }
  }
  return marked;
}

void AutomatonBuilder::prune() {
  const std::vector<bool> useful = reaching(true);
  std::vector<BuilderEdge> kept;
  kept.reserve(edges_.size());
  for (BuilderEdge e : edges_) {
    if (!useful[e.edge.target]) continue;
    if (e.edge.kind == Edge::Kind::Call && !useful[rules_[e.edge.index].start]) continue;
    if (e.edge.kind == Edge::Kind::Repeat && !useful[rules_[repeats_[e.edge.index].rule].start]) {
      if (repeats_[e.edge.index].min > 0) continue;
      e.edge.kind = Edge::Kind::Epsilon;
    }
    kept.push_back(e);
  }
  edges_ = std::move(kept);
}

Automaton AutomatonBuilder::finish(int32_t root) {
  prune();
  if (!reaching(true)[rules_[root].start]) fail(ErrorCode::InvalidArgument, "no text at all matches the grammar");
  Automaton out;
  out.root = root;
  out.rules = rules_;
  out.repeats = repeats_;
  out.rule_of = rule_of_;
  const std::vector<bool> empties = reaching(false);
  for (Rule& rule : out.rules) rule.nullable = empties[rule.start];
  // Iterations that read nothing are not counted, so one may as well leave at once.
  for (Repeat& repeat : out.repeats) {
    if (out.rules[repeat.rule].nullable) repeat.min = 0;
  }

  std::array<bool, 257> starts_class{};
  for (const auto& [from, edge] : edges_) {
    if (edge.kind == Edge::Kind::Bytes) starts_class[edge.low] = starts_class[edge.high + 1] = true;
  }
  int current = 0;
  for (int byte = 0; byte < 256; ++byte) {
    if (byte > 0 && starts_class[byte]) ++current;
    out.class_of[byte] = static_cast<uint8_t>(current);
  }
  out.num_classes = current + 1;

  out.edge_begin.assign(rule_of_.size() + 1, 0);
  for (const auto& [from, edge] : edges_) ++out.edge_begin[from + 1];
  std::partial_sum(out.edge_begin.begin(), out.edge_begin.end(), out.edge_begin.begin());
  out.edges.resize(edges_.size());
  std::vector<int32_t> at(out.edge_begin.begin(), out.edge_begin.end() - 1);
  for (const auto& [from, edge] : edges_) {
    Edge& copy = out.edges[at[from]++] = edge;
    if (edge.kind != Edge::Kind::Bytes) continue;
    copy.low = out.class_of[edge.low];
    copy.high = out.class_of[edge.high];
  }
  rank_rules(out);
  return out;
}

void AutomatonBuilder::rank_rules(Automaton& automaton) const {
  // firsts[r]: rules that a text of r can begin with.
  std::vector<std::vector<int32_t>> firsts(rules_.size());
  std::vector<int32_t> seen(rule_of_.size(), -1), work;
  for (size_t r = 0; r < rules_.size(); ++r) {
    const auto visit = [&](int32_t node) {
      if (seen[node] == static_cast<int32_t>(r)) return;
      seen[node] = static_cast<int32_t>(r);
      work.push_back(node);
    };
    visit(rules_[r].start);
    while (!work.empty()) {
      const int32_t node = work.back();
      work.pop_back();
      for (int32_t i = automaton.edge_begin[node]; i < automaton.edge_begin[node + 1]; ++i) {
        const Edge& edge = automaton.edges[i];
        bool passes = edge.kind == Edge::Kind::Epsilon;
        if (edge.kind == Edge::Kind::Call || edge.kind == Edge::Kind::Repeat) {
          const bool repeats = edge.kind == Edge::Kind::Repeat;
          const int32_t called = repeats ? automaton.repeats[edge.index].rule : edge.index;
          firsts[r].push_back(called);
          passes = automaton.rules[called].nullable || (repeats && automaton.repeats[edge.index].min == 0);
        }
        if (passes) visit(edge.target);
      }
    }
  }
  // Depth first; a rule is numbered when all it can begin with has been.
  enum : uint8_t { kNew, kOpen, kDone };
  std::vector<uint8_t> state(rules_.size(), kNew);
  struct Visit {
    int32_t rule;
    size_t next;
  };
  std::vector<Visit> stack;
  auto rank = static_cast<int32_t>(rules_.size());
  for (size_t r = 0; r < rules_.size(); ++r) {
    if (state[r] != kNew) continue;
    stack.push_back({static_cast<int32_t>(r), 0});
    state[r] = kOpen;
    while (!stack.empty()) {
      auto& [rule, next] = stack.back();
      if (next == firsts[rule].size()) {
        state[rule] = kDone;
        automaton.rules[rule].rank = rank--;
        stack.pop_back();
        continue;
      }
      const int32_t first = firsts[rule][next++];
      if (state[first] == kOpen) {
        constexpr size_t kShown = 120;  // a reference behind a reference makes a long path
        const std::string& name = rules_[first].name;
        fail(ErrorCode::InvalidArgument, "'{}{}' can begin with itself, without a character before; write it as a repetition",
             name.size() > kShown ? "..." : "", name.substr(name.size() - std::min(name.size(), kShown)));
      }
      if (state[first] == kDone) continue;
      state[first] = kOpen;
      stack.push_back({first, 0});
    }
  }
}

}  // namespace tokamak::llm::grammar
