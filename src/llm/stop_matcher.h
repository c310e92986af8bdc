#pragma once
// Stop strings in a stream of text: finds them across any split, and holds back exactly the text that could still become one.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tokamak::llm {

// One Knuth-Morris-Pratt automaton a stop string: constant time per byte and string. One thread at a time.
class StopMatcher {
 public:
  // No string may be empty. `include_match`: a match is part of the text.
  StopMatcher(const std::vector<std::string>& stops, bool include_match);

  struct Result {
    std::string text;            // that can no longer become a stop string
    std::optional<int> matched;  // which string ended the text; the one that ends first, the longest of those
  };
  // After a match, and after finish(), nothing more may be pushed.
  Result push(std::string_view text);
  // What was held back.
  std::string finish();
  // Lets text pass without looking at it; what was held back comes first.
  std::string pass(std::string_view text);

 private:
  struct Automaton {
    const std::string* text;
    std::vector<int> failure;  // failure[i]: longest border of the first i bytes
    int state = 0;             // bytes of `text` that the stream ends with
  };
  std::vector<std::string> stops_;
  std::vector<Automaton> automata_;
  std::string held_;
  bool include_match_;
};

}  // namespace tokamak::llm
