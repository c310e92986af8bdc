#define PCRE2_CODE_UNIT_WIDTH 8
#include "llm/tokenizer/regex.h"

#include <pcre2.h>

#include <algorithm>
#include <ctime>

#include "base/error.h"
#include "llm/tokenizer/utf8.h"

namespace tokamak::llm::tokenizer {

namespace {

constexpr size_t kMaxPatternBytes = 1 << 16;
// Steps of one match: a run of n blanks takes some n steps to find that no line ends behind it.
constexpr size_t kMatchLimit = 100'000, kMatchLimitPerByte = 16, kMaxMatchLimit = 2'000'000'000;
constexpr uint32_t kDepthLimit = 100'000, kHeapLimitKib = 16 << 10;
// Processor time of one pass. Public patterns take 0.05 s for a megabyte.
constexpr double kSeconds = 5, kSecondsPerByte = 1e-6;
constexpr size_t kMatchesPerCheck = 64;
constexpr size_t kJitStackBytes = 64 << 10, kMaxJitStackBytes = 8u << 20;

// What pcre2_match() needs beside the pattern; one per thread.
struct MatchState {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* jit_stack = pcre2_jit_stack_create(kJitStackBytes, kMaxJitStackBytes, nullptr);

  MatchState() {
    if (!data || !context) fail(ErrorCode::ResourceExhausted, "no memory to search a pattern");
    pcre2_set_depth_limit(context, kDepthLimit);
    pcre2_set_heap_limit(context, kHeapLimitKib);
    pcre2_jit_stack_assign(context, nullptr, jit_stack);
  }
  ~MatchState() {
    pcre2_jit_stack_free(jit_stack);
    pcre2_match_context_free(context);
    pcre2_match_data_free(data);
  }
  MatchState(const MatchState&) = delete;
  MatchState& operator=(const MatchState&) = delete;
};

MatchState& match_state() {
  thread_local MatchState state;
  return state;
}

double thread_seconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

PCRE2_SPTR bytes_of(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

}  // namespace

struct Regex::Code {
  pcre2_code* code = nullptr;
  std::string pattern;
  ~Code() { pcre2_code_free(code); }

  static std::unique_ptr<const Code> compile(std::string_view translated, uint32_t options, std::string_view original) {
    if (translated.size() > kMaxPatternBytes) {
      fail(ErrorCode::Unsupported, "tokenizer.json: a pattern of {} bytes; the limit is {}", translated.size(), kMaxPatternBytes);
    }
    auto made = std::make_unique<Code>();
    made->pattern = original.substr(0, 200);
    int error = 0;
    PCRE2_SIZE offset = 0;
    made->code = pcre2_compile(bytes_of(translated), translated.size(), options | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
    if (!made->code) {
      PCRE2_UCHAR message[160];
      pcre2_get_error_message(error, message, sizeof message);
      fail(ErrorCode::Unsupported, "tokenizer.json: the pattern '{}' does not compile: {} (at byte {} of '{}')", made->pattern,
           reinterpret_cast<const char*>(message), offset, translated.substr(0, 300));
    }
    pcre2_jit_compile(made->code, PCRE2_JIT_COMPLETE);  // where there is no JIT, the interpreter runs
    return made;
  }
};

Regex::Regex(std::string_view pattern)
    : code_(Code::compile(translate_oniguruma(pattern), PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, pattern)) {}

Regex Regex::literal(std::string_view text) {
  Regex regex;
  regex.code_ = Code::compile(text, PCRE2_UTF | PCRE2_LITERAL, text);
  return regex;
}

Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
Regex::~Regex() = default;

Regex::Search::Search(const Code& code, std::string_view text) : code_(code), text_(text) {}
Regex::Search::~Search() = default;

std::optional<std::pair<size_t, size_t>> Regex::Search::next() {
  MatchState& state = match_state();
  pcre2_set_match_limit(state.context, static_cast<uint32_t>(std::min(kMatchLimit + kMatchLimitPerByte * text_.size(), kMaxMatchLimit)));
  if (++matches_ % kMatchesPerCheck == 0) {
    const double now = thread_seconds();
    if (matches_ == kMatchesPerCheck) started_ = now;
    if (now - started_ > kSeconds + kSecondsPerByte * static_cast<double>(text_.size())) {
      fail(ErrorCode::ResourceExhausted, "the tokenizer's pattern '{}' is too slow for a text of {} bytes", code_.pattern, text_.size());
    }
  }
  while (at_ <= text_.size()) {
    int rc = pcre2_match(code_.code, bytes_of(text_), text_.size(), at_, PCRE2_NO_UTF_CHECK, state.data, state.context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
      rc = pcre2_match(code_.code, bytes_of(text_), text_.size(), at_, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, state.data, state.context);
    }
    if (rc == PCRE2_ERROR_NOMATCH) break;
    if (rc < 0) {
      PCRE2_UCHAR message[160];
      pcre2_get_error_message(rc, message, sizeof message);
      fail(ErrorCode::ResourceExhausted, "the tokenizer's pattern '{}' gives up at byte {} of a text of {} bytes: {}", code_.pattern, at_,
           text_.size(), reinterpret_cast<const char*>(message));
    }
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(state.data);
    const size_t begin = range[0], end = range[1];
    // \K inside a look-ahead may start a match behind its end, or before the last one.
    if (begin > end || begin < at_) {
      fail(ErrorCode::Unsupported, "the tokenizer's pattern '{}' gives a match that begins outside its text", code_.pattern);
    }
    const auto step = [&](size_t at) { return at + (at < text_.size() ? utf8_length(text_[at]) : 1); };
    if (begin == end) {
      at_ = step(end);
      if (last_end_ == end) continue;
    } else {
      at_ = end;
    }
    last_end_ = end;
    return std::pair(begin, end);
  }
  at_ = text_.size() + 1;
  return std::nullopt;
}

}  // namespace tokamak::llm::tokenizer
