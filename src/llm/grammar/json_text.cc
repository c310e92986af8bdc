#include "llm/grammar/json_text.h"

#include <algorithm>
#include <array>
#include <map>

namespace tokamak::llm::grammar {

int32_t JsonText::make(std::optional<int32_t>& slot, const char* name, const std::function<void(int32_t, int32_t)>& fill,
                       bool is_fragment) {
  if (!slot) {
    slot = builder_.add_rule(name, is_fragment);  // before `fill`, which may ask for it
    const Rule rule = builder_.rule(*slot);
    fill(rule.start, rule.end);
  }
  return *slot;
}

int32_t JsonText::add_space(int32_t from) {
  if (!options_.whitespace) return from;
  const int32_t rule = make(space_, "white space", [&](int32_t start, int32_t end) {
    builder_.add_epsilon(start, end);
    builder_.add_text(start, " ", end);
    int32_t at = builder_.add_node(*space_);
    builder_.add_text(start, "\n", at);
    builder_.add_text(start, "\r\n", at);
    for (int i = 0; i < options_.max_indent; ++i) {
      builder_.add_epsilon(at, end);
      const int32_t next = builder_.add_node(*space_);
      builder_.add_text(at, " ", next);
      builder_.add_text(at, "\t", next);
      at = next;
    }
    builder_.add_epsilon(at, end);
  });
  const int32_t to = builder_.add_node(builder_.rule_of(from));
  builder_.add_call(from, rule, to);
  return to;
}

int32_t JsonText::value() {
  return make(value_, "value", [&](int32_t start, int32_t end) {
    for (const char* word : {"null", "true", "false"}) builder_.add_text(start, word, end);
    for (const int32_t rule : {object(), array(), string(), number()}) builder_.add_call(start, rule, end);
  });
}

int32_t JsonText::object() {
  return make(object_, "object", [&](int32_t start, int32_t end) {
    const int32_t close = builder_.add_node(builder_.rule_of(start));
    const auto add_member = [&](int32_t from, int32_t to) {
      const int32_t name = builder_.add_node(builder_.rule_of(from)), after = builder_.add_node(builder_.rule_of(from));
      builder_.add_call(from, string(), name);
      builder_.add_call(add_token(add_space(name), ":"), value(), after);
      builder_.add_epsilon(add_space(after), to);
    };
    add_list(add_token(start, "{"), add_member, 0, Repeat::kUnbounded, close);
    builder_.add_text(close, "}", end);
  });
}

int32_t JsonText::array() {
  return make(array_, "array", [&](int32_t start, int32_t end) {
    const int32_t close = builder_.add_node(builder_.rule_of(start));
    const auto add_item = [&](int32_t from, int32_t to) {
      const int32_t after = builder_.add_node(builder_.rule_of(from));
      builder_.add_call(from, value(), after);
      builder_.add_epsilon(add_space(after), to);
    };
    add_list(add_token(start, "["), add_item, 0, Repeat::kUnbounded, close);
    builder_.add_text(close, "]", end);
  });
}

void JsonText::add_list(int32_t from, const AddItem& add_item, int32_t min, int32_t max, int32_t to) {
  if (min <= 0) builder_.add_epsilon(from, to);
  if (max <= 0) return;
  const int32_t after = builder_.add_node(builder_.rule_of(from));
  add_item(from, after);
  add_more(after, add_item, std::max(min - 1, 0), max == Repeat::kUnbounded ? max : max - 1, to);
}

void JsonText::add_more(int32_t from, const AddItem& add_item, int32_t min, int32_t max, int32_t to) {
  const int32_t rule = builder_.rule_of(from);
  if (min == 0 && max == Repeat::kUnbounded) {
    const int32_t loop = builder_.add_node(rule);
    builder_.add_epsilon(from, loop);
    add_item(add_token(loop, ","), loop);
    return builder_.add_epsilon(loop, to);
  }
  if (max == 0) return builder_.add_epsilon(from, to);
  const int32_t body = builder_.add_rule("list", true);
  add_item(add_token(builder_.rule(body).start, ","), builder_.rule(body).end);
  builder_.add_repeat(from, body, min, max, to);
}

namespace {

const CodePointSet& raw_characters() {
  static const CodePointSet set = CodePointSet{{0, 0x1F}, {'"', '"'}, {'\\', '\\'}}.inverse();
  return set;
}

void add_hex(AutomatonBuilder& builder, int32_t from, std::string_view choices, int32_t to) {
  for (const char c : choices) builder.add_bytes(from, c, c, to);
}

int32_t add_hex(AutomatonBuilder& builder, int32_t from, std::string_view choices) {
  const int32_t to = builder.add_node(builder.rule_of(from));
  add_hex(builder, from, choices, to);
  return to;
}

}  // namespace

// One character, in any spelling. A \u escape of a surrogate stands only in a pair: half of one is no character.
void JsonText::add_character(int32_t from, int32_t to) {
  static constexpr std::string_view kHex = "0123456789abcdefABCDEF";
  add_characters(builder_, from, raw_characters(), Spelling::Plain, to);
  const int32_t escape = builder_.add_text(from, "\\");
  for (const char c : std::string_view("\"\\/bfnrt")) builder_.add_bytes(escape, c, c, to);
  const int32_t first = builder_.add_text(escape, "u");
  const int32_t last = builder_.add_node(builder_.rule_of(from)), third = builder_.add_node(builder_.rule_of(from));
  add_hex(builder_, last, kHex, to);
  add_hex(builder_, third, kHex, last);
  add_hex(builder_, add_hex(builder_, first, "0123456789abcefABCEF"), kHex, third);
  const int32_t d = add_hex(builder_, first, "dD");
  add_hex(builder_, d, "01234567", third);
  const int32_t pair = builder_.add_text(add_hex(builder_, add_hex(builder_, add_hex(builder_, d, "89abAB"), kHex), kHex), "\\u");
  add_hex(builder_, add_hex(builder_, pair, "dD"), "cdefCDEF", third);
}

void JsonText::add_string(int32_t from, int32_t min, int32_t max, int32_t to) {
  const int32_t inside = builder_.add_text(from, "\""), close = builder_.add_node(builder_.rule_of(from));
  builder_.add_text(close, "\"", to);
  if (min == 0 && max == Repeat::kUnbounded) {
    add_character(inside, inside);
    return builder_.add_epsilon(inside, close);
  }
  const int32_t character = make(
      character_, "character", [&](int32_t start, int32_t end) { add_character(start, end); }, true);
  if (max == 0) return builder_.add_epsilon(inside, close);
  builder_.add_repeat(inside, character, min, max, close);
}

int32_t JsonText::string() {
  return make(string_, "string", [&](int32_t start, int32_t end) { add_string(start, 0, Repeat::kUnbounded, end); });
}

namespace {

// The inside of a string that is spelled with only the escapes JSON needs, as a deterministic automaton.
class NameAutomaton {
 public:
  static constexpr int kBase = 0, kNumStates = 14;

  // -1: the byte cannot come.
  static int step(int state, uint8_t byte) {
    enum { kOneMore = 1, kTwoMore, kThreeMore, kAfterE0, kAfterED, kAfterF0, kAfterF4, kEscape, kU, kU0, kU00, kU000, kU001 };
    const auto in = [&](int low, int high) { return byte >= low && byte <= high; };
    switch (state) {
      case kBase:
        if (byte == '\\') return kEscape;
        if (byte < 0x20 || byte == '"') return -1;
        if (byte < 0x80) return kBase;
        if (in(0xC2, 0xDF)) return kOneMore;
        if (byte == 0xE0) return kAfterE0;
        if (byte == 0xED) return kAfterED;
        if (in(0xE1, 0xEF)) return kTwoMore;
        if (byte == 0xF0) return kAfterF0;
        if (in(0xF1, 0xF3)) return kThreeMore;
        return byte == 0xF4 ? kAfterF4 : -1;
      case kOneMore: return in(0x80, 0xBF) ? kBase : -1;
      case kTwoMore: return in(0x80, 0xBF) ? kOneMore : -1;
      case kThreeMore: return in(0x80, 0xBF) ? kTwoMore : -1;
      case kAfterE0: return in(0xA0, 0xBF) ? kOneMore : -1;
      case kAfterED: return in(0x80, 0x9F) ? kOneMore : -1;
      case kAfterF0: return in(0x90, 0xBF) ? kTwoMore : -1;
      case kAfterF4: return in(0x80, 0x8F) ? kTwoMore : -1;
      case kEscape:
        if (byte == 'u') return kU;
        return std::string_view("\"\\bfnrt").find(static_cast<char>(byte)) != std::string_view::npos ? kBase : -1;
      case kU: return byte == '0' ? kU0 : -1;
      case kU0: return byte == '0' ? kU00 : -1;
      case kU00: return byte == '0' ? kU000 : byte == '1' ? kU001 : -1;
      case kU000: return in('0', '7') || byte == 'b' || byte == 'e' || byte == 'f' ? kBase : -1;
      default: return in('0', '9') || in('a', 'f') ? kBase : -1;
    }
  }
};

}  // namespace

int32_t JsonText::other_name(const std::vector<std::string>& names) {
  const int32_t rule = builder_.add_rule("name");
  const int32_t inside = builder_.add_text(builder_.rule(rule).start, "\""), close = builder_.add_node(rule);
  builder_.add_text(close, "\"", builder_.rule(rule).end);
  // Where no name can be equal any more, one node a state.
  std::array<int32_t, NameAutomaton::kNumStates> free;
  for (int32_t& node : free) node = builder_.add_node(rule);
  builder_.add_epsilon(free[NameAutomaton::kBase], close);

  // The edges of `node` in `state`, except for the bytes in `taken`.
  const auto add_free_edges = [&](int32_t node, int state, const std::map<uint8_t, int32_t>& taken) {
    for (int low = 0; low < 256;) {
      const int next = NameAutomaton::step(state, static_cast<uint8_t>(low));
      int high = low + 1;
      if (next >= 0 && !taken.contains(static_cast<uint8_t>(low))) {
        while (high < 256 && NameAutomaton::step(state, static_cast<uint8_t>(high)) == next && !taken.contains(static_cast<uint8_t>(high)))
          ++high;
        builder_.add_bytes(node, static_cast<uint8_t>(low), static_cast<uint8_t>(high - 1), free[next]);
      }
      low = high;
    }
  };
  for (int state = 0; state < NameAutomaton::kNumStates; ++state) add_free_edges(free[state], state, {});

  // The trie of the names: a node knows the state its text leads to.
  struct TrieNode {
    int32_t node;
    int state;
    bool is_name = false;
    std::map<uint8_t, int32_t> children;
  };
  std::vector<TrieNode> trie = {{inside, NameAutomaton::kBase, false, {}}};
  for (const std::string& name : names) {
    int32_t at = 0;
    for (const char c : json_spelling(name)) {
      const auto byte = static_cast<uint8_t>(c);
      const auto [it, is_new] = trie[at].children.try_emplace(byte, static_cast<int32_t>(trie.size()));
      const int32_t next = it->second;
      if (is_new) {
        const int state = NameAutomaton::step(trie[at].state, byte);
        trie.push_back({builder_.add_node(rule), state, false, {}});
        builder_.add_bytes(trie[at].node, byte, byte, trie[next].node);
      }
      at = next;
    }
    trie[at].is_name = true;
  }
  for (const TrieNode& node : trie) {
    add_free_edges(node.node, node.state, node.children);
    if (node.state == NameAutomaton::kBase && !node.is_name) builder_.add_epsilon(node.node, close);
  }
  return rule;
}

}  // namespace tokamak::llm::grammar
