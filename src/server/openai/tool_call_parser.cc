#include "server/openai/tool_call_parser.h"

#include <algorithm>
#include <random>

namespace tokamak::server::openai {
namespace {

constexpr std::string_view kBlanks = " \t\r\n";
constexpr std::string_view kOpenTag = "<tool_call>", kCloseTag = "</tool_call>", kMistralTag = "[TOOL_CALLS]",
                           kPythonTag = "<|python_tag|>";

bool is_blank(char c) { return kBlanks.find(c) != std::string_view::npos; }
size_t skip_blanks(std::string_view text, size_t at = 0) { return std::min(text.find_first_not_of(kBlanks, at), text.size()); }

// Bytes at the end of `text` that may be the beginning of `tag`.
size_t partial_match(std::string_view text, std::string_view tag) {
  for (size_t n = std::min(text.size(), tag.size() - 1); n > 0; --n)
    if (text.ends_with(tag.substr(0, n))) return n;
  return 0;
}

enum class Match { No, Yes, Maybe };
Match match(std::string_view text, std::string_view tag) {
  if (text.starts_with(tag)) return Match::Yes;
  return tag.starts_with(text) ? Match::Maybe : Match::No;
}

std::string unquoted(const std::string& json_string) {
  const Json parsed = Json::parse(json_string, nullptr, false);
  return parsed.is_string() ? parsed.get<std::string>() : std::string();
}

// Mistral's templates insist on nine letters or digits.
std::string make_call_id(ToolFormat format) {
  static constexpr std::string_view kAlphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
  thread_local std::mt19937_64 random{std::random_device{}()};
  std::string id = format == ToolFormat::Mistral ? "" : "call_";
  const size_t size = format == ToolFormat::Mistral ? 9 : id.size() + 24;
  while (id.size() < size) id += kAlphabet[random() % kAlphabet.size()];
  return id;
}

}  // namespace

size_t CallScanner::push(std::string_view text) {
  size_t i = 0;
  while (i < text.size() && state_ == State::Open) step(text[i++]);
  raw_.append(text, 0, i);
  return i;
}

void CallScanner::step(char c) {
  if (place_ == Place::InKey || (place_ == Place::InValue && in_string_)) {
    std::string& into = place_ == Place::InKey ? key_ : role_ == Role::Arguments && value_.empty() ? arguments_ : value_;
    into += c;
    if (is_escaped_) {
      is_escaped_ = false;
    } else if (c == '\\') {
      is_escaped_ = true;
    } else if (c == '"') {
      in_string_ = false;
      if (place_ == Place::InKey) place_ = Place::Colon;
      else if (depth_ == 0) end_value();
    }
    return;
  }
  switch (place_) {
    case Place::Start:
      if (c == '{') place_ = Place::Key;
      else if (!is_blank(c)) state_ = State::Bad;
      return;
    case Place::Key:
      if (c == '"') key_ = c, place_ = Place::InKey;
      else if (c == '}') state_ = State::Done;
      else if (!is_blank(c)) state_ = State::Bad;
      return;
    case Place::Colon:
      if (c == ':') place_ = Place::Value;
      else if (!is_blank(c)) state_ = State::Bad;
      return;
    case Place::Value:
      if (!is_blank(c)) begin_value(c);
      return;
    case Place::InValue: {
      const bool ends_scalar = depth_ == 0 && (c == ',' || c == '}' || is_blank(c));
      if (ends_scalar) {
        end_value();
        step(c);
        return;
      }
      (role_ == Role::Arguments ? arguments_ : value_) += c;
      if (c == '"') in_string_ = true;
      else if (c == '{' || c == '[') ++depth_;
      else if ((c == '}' || c == ']') && --depth_ == 0) end_value();
      return;
    }
    case Place::AfterValue:
      if (c == ',') place_ = Place::Key;
      else if (c == '}') state_ = State::Done;
      else if (!is_blank(c)) state_ = State::Bad;
      return;
    case Place::InKey: return;
  }
}

void CallScanner::begin_value(char c) {
  const std::string key = unquoted(key_);
  role_ = key == "name" && !has_name_                                      ? Role::Name
          : (key == "arguments" || key == "parameters") && !has_arguments_ ? Role::Arguments
                                                                           : Role::Other;
  if (role_ == Role::Name && c != '"') {
    state_ = State::Bad;
    return;
  }
  place_ = Place::InValue;
  depth_ = c == '{' || c == '[' ? 1 : 0;
  in_string_ = c == '"';
  value_.clear();
  // A string of arguments is gathered in value_, to be unquoted.
  if (role_ == Role::Arguments) has_arguments_ = true;
  (role_ == Role::Arguments && !in_string_ ? arguments_ : value_) += c;
}

void CallScanner::end_value() {
  place_ = Place::AfterValue;
  if (role_ == Role::Name) {
    name_ = unquoted(value_);
    has_name_ = true;
  }
  if (role_ == Role::Arguments && !value_.empty()) arguments_ += unquoted(value_);
  value_.clear();
}

std::string CallScanner::take_arguments() { return has_name_ ? std::exchange(arguments_, {}) : std::string(); }

void ToolCallParser::push(std::string_view text, AnswerDelta& out) {
  pending_ += text;
  while (!pending_.empty()) {
    std::optional<size_t> used;
    switch (place_) {
      case Place::Content: used = content(out); break;
      case Place::BeforeCall: used = before_call(out); break;
      case Place::Call: used = call(out); break;
      case Place::AfterCall: used = after_call(); break;
    }
    if (!used) return;
    pending_.erase(0, *used);
  }
}

std::optional<size_t> ToolCallParser::content(AnswerDelta& out) {
  switch (format_) {
    case ToolFormat::Tagged: return tagged_content(kOpenTag, out);
    case ToolFormat::Mistral: return tagged_content(kMistralTag, out);
    case ToolFormat::Llama: return llama_content(out);
  }
  return std::nullopt;
}

std::optional<size_t> ToolCallParser::tagged_content(std::string_view opening, AnswerDelta& out) {
  const std::string_view text = pending_;
  const size_t at = text.find(opening);
  size_t end = at == std::string_view::npos ? text.size() - partial_match(text, opening) : at;
  while (end > 0 && is_blank(text[end - 1])) --end;
  out.content += text.substr(0, end);
  has_content_ |= end > 0;
  if (at != std::string_view::npos) {
    const size_t used = at + opening.size();
    begin_call(text.substr(end, used - end));
    return used;
  }
  return end > 0 ? std::optional(end) : std::nullopt;
}

std::optional<size_t> ToolCallParser::llama_content(AnswerDelta& out) {
  const std::string_view text = pending_;
  if (!has_content_) {
    const size_t at = skip_blanks(text);
    if (at == text.size()) return std::nullopt;
    const Match tag = match(text.substr(at), kPythonTag);
    if (tag == Match::Maybe) return std::nullopt;
    if (tag == Match::Yes || text[at] == '{') {
      const size_t used = tag == Match::Yes ? at + kPythonTag.size() : at;
      begin_call(text.substr(0, used));
      return used;
    }
    has_content_ = true;
  }
  out.content += text;
  return text.size();
}

void ToolCallParser::begin_call(std::string_view prelude) {
  prelude_ = prelude;
  place_ = Place::BeforeCall;
}

std::optional<size_t> ToolCallParser::before_call(AnswerDelta& out) {
  for (size_t i = 0; i < pending_.size(); ++i) {
    if (pending_[i] == '{') {
      scanner_ = CallScanner();
      is_announced_ = false;
      place_ = Place::Call;
      return i;
    }
    if (!is_forced_ && !is_blank(pending_[i]) && !(format_ == ToolFormat::Mistral && pending_[i] == '[')) {
      give_up(out);
      return i;
    }
    prelude_ += pending_[i];
  }
  return pending_.size();
}

std::optional<size_t> ToolCallParser::call(AnswerDelta& out) {
  const size_t used = scanner_.push(pending_);
  // A Llama call has nothing around it: an answer in JSON that has a name but no arguments is none.
  const bool is_call =
      scanner_.has_name() && (scanner_.has_arguments() || (scanner_.state() == CallScanner::State::Done && format_ != ToolFormat::Llama));
  if (is_call) pass_call(out);
  if (scanner_.state() == CallScanner::State::Open) return used;
  if (!is_announced_) {
    prelude_ += scanner_.raw();
    give_up(out);
    return used;
  }
  ++num_calls_;
  place_ = Place::AfterCall;
  return used;
}

void ToolCallParser::pass_call(AnswerDelta& out) {
  const bool begins = !std::exchange(is_announced_, true);
  std::string arguments = scanner_.take_arguments();
  if (!scanner_.has_arguments()) arguments = "{}";
  if (num_calls_ >= max_calls_ || (!begins && arguments.empty())) return;
  if (out.calls.empty() || out.calls.back().index != num_calls_) out.calls.push_back({.index = num_calls_});
  AnswerDelta::Call& call = out.calls.back();
  if (begins) call.begins = true, call.id = make_call_id(format_), call.name = scanner_.name();
  call.arguments += arguments;
}

std::optional<size_t> ToolCallParser::after_call() {
  const std::string_view text = pending_;
  const size_t at = skip_blanks(text);
  if (at == text.size()) return std::nullopt;
  prelude_.clear();
  if (is_forced_) {
    place_ = Place::BeforeCall;
    return at;
  }
  switch (format_) {
    case ToolFormat::Tagged: {
      const Match close = match(text.substr(at), kCloseTag);
      if (close == Match::Maybe) return std::nullopt;
      place_ = Place::Content;
      return close == Match::Yes ? at + kCloseTag.size() : 0;
    }
    case ToolFormat::Mistral:
      place_ = text[at] == ',' ? Place::BeforeCall : Place::Content;
      return text[at] == ',' || text[at] == ']' ? at + 1 : 0;
    case ToolFormat::Llama: {
      const Match tag = match(text.substr(at), kPythonTag);
      if (tag == Match::Maybe) return std::nullopt;
      if (text[at] == ';' || text[at] == ',') return at + 1;
      place_ = text[at] == '{' || tag == Match::Yes ? Place::BeforeCall : Place::Content;
      has_content_ |= place_ == Place::Content;
      return tag == Match::Yes ? at + kPythonTag.size() : 0;
    }
  }
  return std::nullopt;
}

void ToolCallParser::give_up(AnswerDelta& out) {
  out.content += std::exchange(prelude_, {});
  has_content_ = true;
  place_ = Place::Content;
}

void ToolCallParser::finish(AnswerDelta& out) {
  switch (place_) {
    case Place::Content:
      // Blanks behind calls are nobody's content.
      if (num_calls_ == 0 || skip_blanks(pending_) < pending_.size()) out.content += pending_;
      break;
    case Place::BeforeCall:
      if (num_calls_ == 0) out.content += prelude_ + pending_;
      break;
    case Place::Call:
      if (is_announced_) ++num_calls_;
      else if (num_calls_ == 0 || !is_forced_) out.content += prelude_ + scanner_.raw();
      break;
    case Place::AfterCall: break;
  }
  pending_.clear();
}

}  // namespace tokamak::server::openai
