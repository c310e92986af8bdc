#include "cli/chat.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <optional>

#include "cli/interrupt.h"
#include "cli/stream_answer.h"

namespace tokamak::cli {

namespace {

constexpr const char* kHelp =
    "  /reset   forget the conversation        /exit, Ctrl-D   leave\n"
    "  Ctrl-C   stop the answer, twice: leave   \\ at the end of a line: it goes on\n";
constexpr int kMinAnswer = 64;  // tokens of room that a turn should find

// Lines of standard input, until an interrupt comes between.
class LineReader {
 public:
  enum class Result { Line, End, Interrupted };

  Result read(std::string& line, InterruptCounter& interrupts) {
    for (;;) {
      const size_t end = pending_.find('\n');
      if (end != std::string::npos) {
        line = pending_.substr(0, end);
        pending_.erase(0, end + 1);
        return Result::Line;
      }
      if (!interrupts.wait_readable(STDIN_FILENO)) {
        pending_.clear();
        return Result::Interrupted;
      }
      char buffer[4096];
      const ssize_t count = ::read(STDIN_FILENO, buffer, sizeof(buffer));
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) {
        line = std::exchange(pending_, "");
        return line.empty() ? Result::End : Result::Line;
      }
      pending_.append(buffer, static_cast<size_t>(count));
    }
  }

 private:
  std::string pending_;
};

class Chat {
 public:
  Chat(llm::LlmEngine& engine, Conversation& conversation, const ChatOptions& options)
      : engine_(engine), conversation_(conversation), options_(options) {}

  void run() {
    fmt::print(stderr, "{}", kHelp);
    while (const auto message = next_message()) {
      if (*message == "/exit" || *message == "/quit") return;
      if (*message == "/help") fmt::print(stderr, "{}", kHelp);
      else if (*message == "/reset") conversation_.clear();
      else if (message->starts_with("/") && message->find(' ') == std::string::npos)
        fmt::print(stderr, "unknown command {}\n{}", *message, kHelp);
      else if (message->find_first_not_of(" \t\r\n") != std::string::npos && !turn(*message)) return;
    }
  }

 private:
  // A message of one or more lines; nothing at the end of the input or after the second Ctrl-C in a row.
  std::optional<std::string> next_message() {
    std::string message, line;
    for (bool goes_on = false;;) {
      fmt::print(stderr, "{}", goes_on ? "| " : "> ");
      switch (reader_.read(line, interrupts_)) {
        case LineReader::Result::End: fmt::print(stderr, "\n"); return std::nullopt;
        case LineReader::Result::Interrupted:
          fmt::print(stderr, "\n");
          if (interrupts_.count() > 1) return std::nullopt;
          fmt::print(stderr, "(Ctrl-C again or Ctrl-D leaves)\n");
          message.clear();
          goes_on = false;
          continue;
        case LineReader::Result::Line: break;
      }
      interrupts_.reset();
      goes_on = line.ends_with('\\');
      if (!goes_on) return message + line;
      message += line.substr(0, line.size() - 1) + "\n";
    }
  }

  // False to leave.
  bool turn(const std::string& message) {
    conversation_.add("user", message);
    try {
      llm::Request request;
      request.prompt_ids = prompt();
      request.sampling = options_.sampling;
      const int room = engine_.context_length() - static_cast<int>(request.prompt_ids.size());
      if (request.sampling.max_tokens <= 0) request.sampling.max_tokens = std::max(room, 1);
      const StreamedAnswer answer = stream_answer(engine_, std::move(request), stdout, interrupts_);
      fmt::print("\n");
      std::fflush(stdout);
      conversation_.add("assistant", answer.text);
      if (options_.show_speed)
        fmt::print(stderr, "[{} tokens, first after {:.0f} ms, {:.1f} tokens/s, {} of {} prompt tokens known{}]\n", answer.token_ids.size(),
                   answer.usage.ttft_ms, answer.output_tokens_per_s, answer.usage.cached_tokens, answer.usage.prompt_tokens,
                   answer.finish_reason == llm::FinishReason::Length  ? ", cut at the length limit"
                   : answer.finish_reason == llm::FinishReason::Abort ? ", stopped"
                                                                      : "");
      if (interrupts_.count() > 1) return false;
    } catch (const Error& error) {
      fmt::print(stderr, "error: {}\n", error.what());
      conversation_.pop();
      interrupts_.reset();
    }
    return true;
  }

  std::vector<int32_t> prompt() {
    std::vector<int32_t> ids = conversation_.prompt_ids();
    int forgotten = 0;
    while (static_cast<int>(ids.size()) + kMinAnswer > engine_.context_length() && conversation_.forget_oldest_turn()) {
      ++forgotten;
      ids = conversation_.prompt_ids();
    }
    if (forgotten > 0) fmt::print(stderr, "note: the context is full: the oldest {} turns are forgotten\n", forgotten);
    return ids;
  }

  llm::LlmEngine& engine_;
  Conversation& conversation_;
  const ChatOptions& options_;
  InterruptCounter interrupts_;
  LineReader reader_;
};

}  // namespace

void run_chat(llm::LlmEngine& engine, Conversation& conversation, const ChatOptions& options) { Chat(engine, conversation, options).run(); }

}  // namespace tokamak::cli
