#pragma once
// The patterns of tokenizer files: Oniguruma's syntax (Ruby's flavour, what `tokenizers` compiles them with), run by PCRE2 with JIT.

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace tokamak::llm::tokenizer {

// Immutable; searching from many threads is safe. Patterns and texts come from strangers: work and memory of one match are limited.
class Regex {
 public:
  // Throws Unsupported with the pattern and the place of the error.
  explicit Regex(std::string_view pattern);
  // The pattern that matches exactly `text`.
  static Regex literal(std::string_view text);
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  ~Regex();

  // Calls f(begin, end) for each match in `text` (valid UTF-8), in order; an empty match right behind another is left out, as Oniguruma
  // does. Throws ResourceExhausted when a match exceeds its limit.
  template <class F>
  void for_each_match(std::string_view text, const F& f) const;

 private:
  struct Code;
  class Search;
  Regex() = default;
  std::unique_ptr<const Code> code_;
};

// One pass over one text.
class Regex::Search {
 public:
  Search(const Code& code, std::string_view text);
  ~Search();
  Search(const Search&) = delete;
  Search& operator=(const Search&) = delete;
  std::optional<std::pair<size_t, size_t>> next();

 private:
  const Code& code_;
  std::string_view text_;
  size_t at_ = 0;
  std::optional<size_t> last_end_;
  size_t matches_ = 0;
  double started_ = 0;
};

template <class F>
void Regex::for_each_match(std::string_view text, const F& f) const {
  Search search(*code_, text);
  while (const auto match = search.next()) f(match->first, match->second);
}

// The PCRE2 pattern (UTF and UCP on) with the meaning that `pattern` has in Oniguruma.
std::string translate_oniguruma(std::string_view pattern);

}  // namespace tokamak::llm::tokenizer
