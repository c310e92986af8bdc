#pragma once
// A prefix tree over byte strings, built once.

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace tokamak::llm::tokenizer {

class ByteTrie {
 public:
  using Node = uint32_t;
  static constexpr Node kRoot = 0, kNone = UINT32_MAX;

  ByteTrie() : ByteTrie(std::vector<std::pair<std::string_view, int32_t>>()) {}
  // The last of equal keys counts; values are >= 0. The views need not outlive the call.
  explicit ByteTrie(std::vector<std::pair<std::string_view, int32_t>> entries);

  Node child(Node node, char byte) const;
  // The value of the key that ends at `node`, or -1.
  int32_t value(Node node) const { return values_[node]; }
  bool empty() const { return labels_.size() == 1; }

  struct Match {
    size_t length = 0;  // 0: none
    int32_t value = -1;
  };
  // The longest key that begins `text`.
  Match longest_match(std::string_view text) const;

 private:
  // Nodes in breadth-first order: the children of node i are [first_child_[i], first_child_[i + 1]), ordered by label.
  std::vector<unsigned char> labels_;
  std::vector<Node> first_child_;
  std::vector<int32_t> values_;
};

}  // namespace tokamak::llm::tokenizer
