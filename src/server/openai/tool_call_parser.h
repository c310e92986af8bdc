#pragma once
// Tool calls out of an answer's text, piece by piece: what is known for sure is passed on at once, so that the pieces of a streamed answer
// add up to the whole one, which is read the same way.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/openai/tools.h"

namespace tokamak::server::openai {

// What a piece of text adds to an answer.
struct AnswerDelta {
  struct Call {
    int index = 0;
    bool begins = false;  // then with the next two
    std::string id, name;
    std::string arguments;  // a piece of them
  };
  std::string content;
  std::vector<Call> calls;  // at most one of an index

  bool empty() const { return content.empty() && calls.empty(); }
};

// One call's JSON object, character by character: {"name": "...", "arguments": {...}}, in any order, other members ignored. Arguments are
// passed on as they are written; a string (some models quote them) is unquoted first.
class CallScanner {
 public:
  enum class State { Open, Done, Bad };
  // Returns how much of `text` belongs to the object: all of it while the state is Open.
  size_t push(std::string_view text);
  State state() const { return state_; }
  bool has_name() const { return has_name_; }
  bool has_arguments() const { return has_arguments_; }  // they have begun
  const std::string& name() const { return name_; }
  // Arguments since the last take, none before the name is known.
  std::string take_arguments();
  // All characters so far; what an object that is no call was.
  const std::string& raw() const { return raw_; }

 private:
  enum class Place { Start, Key, InKey, Colon, Value, InValue, AfterValue };
  enum class Role { Other, Name, Arguments };
  void step(char c);
  void begin_value(char c);
  void end_value();

  State state_ = State::Open;
  Place place_ = Place::Start;
  Role role_ = Role::Other;
  bool in_string_ = false, is_escaped_ = false, has_name_ = false, has_arguments_ = false;
  int depth_ = 0;  // inside the value
  std::string raw_, key_, value_, name_, arguments_;
};

class ToolCallParser {
 public:
  // `is_forced`: the answer is calls only. `max_calls`: later ones are dropped.
  ToolCallParser(ToolFormat format, bool is_forced, int max_calls)
      : format_(format), is_forced_(is_forced), max_calls_(max_calls), place_(is_forced ? Place::BeforeCall : Place::Content) {}

  // Adds to `out`.
  void push(std::string_view text, AnswerDelta& out);
  // The answer is over: what might have become a call and did not is content after all.
  void finish(AnswerDelta& out);
  int num_calls() const { return num_calls_; }

 private:
  enum class Place { Content, BeforeCall, Call, AfterCall };
  // Each takes from the front of pending_ and says how much, nothing when it needs more text to tell.
  std::optional<size_t> content(AnswerDelta& out);
  std::optional<size_t> tagged_content(std::string_view opening, AnswerDelta& out);
  std::optional<size_t> llama_content(AnswerDelta& out);
  std::optional<size_t> before_call(AnswerDelta& out);
  std::optional<size_t> call(AnswerDelta& out);
  std::optional<size_t> after_call();
  void begin_call(std::string_view prelude);
  void give_up(AnswerDelta& out);
  void pass_call(AnswerDelta& out);

  const ToolFormat format_;
  const bool is_forced_;
  const int max_calls_;
  Place place_;
  bool has_content_ = false;
  std::string pending_;
  std::string prelude_;  // what led to this call, for when it is none
  CallScanner scanner_;
  bool is_announced_ = false;
  int num_calls_ = 0;
};

}  // namespace tokamak::server::openai
