#include "llm/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace tokamak::llm {

StopMatcher::StopMatcher(const std::vector<std::string>& stops, bool include_match) : stops_(stops), include_match_(include_match) {
  for (const std::string& stop : stops_) {
    Automaton a{&stop, std::vector<int>(stop.size() + 1, 0)};
    for (size_t i = 1, k = 0; i < stop.size(); ++i) {
      while (k > 0 && stop[i] != stop[k]) k = a.failure[k];
      if (stop[i] == stop[k]) ++k;
      a.failure[i + 1] = static_cast<int>(k);
    }
    automata_.push_back(std::move(a));
  }
}

StopMatcher::Result StopMatcher::push(std::string_view text) {
  Result result;
  if (automata_.empty()) return {std::string(text), std::nullopt};
  for (const char c : text) {
    held_ += c;
    int longest = 0;
    for (Automaton& a : automata_) {
      while (a.state > 0 && (*a.text)[a.state] != c) a.state = a.failure[a.state];
      if ((*a.text)[a.state] == c) ++a.state;
      longest = std::max(longest, a.state);
      if (a.state < std::ssize(*a.text)) continue;
      if (const int index = static_cast<int>(&a - automata_.data()); !result.matched || a.text->size() > stops_[*result.matched].size())
        result.matched = index;
    }
    if (result.matched) {
      if (!include_match_) held_.resize(held_.size() - stops_[*result.matched].size());
      result.text += std::exchange(held_, {});
      return result;
    }
    const size_t ready = held_.size() - static_cast<size_t>(longest);
    result.text.append(held_, 0, ready);
    held_.erase(0, ready);
  }
  return result;
}

std::string StopMatcher::finish() { return std::exchange(held_, {}); }

std::string StopMatcher::pass(std::string_view text) { return std::exchange(held_, {}).append(text); }

}  // namespace tokamak::llm
