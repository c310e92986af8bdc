#include "llm/tokenizer/byte_trie.h"

#include <algorithm>
#include <cstring>

namespace tokamak::llm::tokenizer {

ByteTrie::ByteTrie(std::vector<std::pair<std::string_view, int32_t>> entries) {
  std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  struct Range {
    size_t begin, end;  // entries that share the node's prefix
  };
  std::vector<Range> level = {{0, entries.size()}}, next;
  labels_ = {0};
  values_ = {-1};
  for (size_t depth = 0; !level.empty(); ++depth) {
    next.clear();
    const size_t first_of_level = labels_.size() - level.size();
    for (size_t i = 0; i < level.size(); ++i) {
      first_child_.push_back(static_cast<Node>(labels_.size()));
      auto [at, end] = level[i];
      for (; at < end && entries[at].first.size() == depth; ++at) values_[first_of_level + i] = entries[at].second;
      while (at < end) {
        const char label = entries[at].first[depth];
        const size_t begin = at;
        while (at < end && entries[at].first[depth] == label) ++at;
        labels_.push_back(static_cast<unsigned char>(label));
        values_.push_back(-1);
        next.push_back({begin, at});
      }
    }
    std::swap(level, next);
  }
  first_child_.push_back(static_cast<Node>(labels_.size()));
}

ByteTrie::Node ByteTrie::child(Node node, char byte) const {
  const Node begin = first_child_[node], end = first_child_[node + 1];
  if (begin == end) return kNone;
  const void* found = std::memchr(labels_.data() + begin, static_cast<unsigned char>(byte), end - begin);
  return found ? static_cast<Node>(static_cast<const unsigned char*>(found) - labels_.data()) : kNone;
}

ByteTrie::Match ByteTrie::longest_match(std::string_view text) const {
  Match best;
  Node node = kRoot;
  for (size_t i = 0; i < text.size(); ++i) {
    node = child(node, text[i]);
    if (node == kNone) break;
    if (values_[node] >= 0) best = {i + 1, values_[node]};
  }
  return best;
}

}  // namespace tokamak::llm::tokenizer
