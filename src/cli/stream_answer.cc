#include "cli/stream_answer.h"

#include <unistd.h>

namespace tokamak::cli {

std::string printable(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    // U+0080 to U+009F are C2 80 to C2 9F in UTF-8; terminals obey some of them.
    const bool c1 = c == 0xC2 && i + 1 < text.size() && (static_cast<unsigned char>(text[i + 1]) & 0xE0) == 0x80;
    if (c1) ++i;
    if (c1 || (c < 0x20 && c != '\n' && c != '\t') || c == 0x7F) out += "\xEF\xBF\xBD";
    else out += text[i];
  }
  return out;
}

StreamedAnswer stream_answer(llm::LlmEngine& engine, llm::Request request, FILE* out, const InterruptCounter& interrupts) {
  using Clock = std::chrono::steady_clock;
  const bool terminal = out && isatty(fileno(out));
  const auto start = Clock::now();
  const llm::RequestId id = engine.submit(std::move(request));
  StreamedAnswer answer;
  Clock::time_point first, last;
  size_t first_tokens = 0;
  for (bool cancelled = false;;) {
    if (!cancelled && interrupts.count() > 0) cancelled = engine.cancel(id);
    const auto event = engine.next_event(id, std::chrono::milliseconds(50));
    if (!event) continue;
    if (!event->token_ids.empty()) {
      last = Clock::now();
      if (answer.token_ids.empty()) first = last, first_tokens = event->token_ids.size();
      answer.token_ids.insert(answer.token_ids.end(), event->token_ids.begin(), event->token_ids.end());
    }
    answer.text += event->text;
    if (out && !event->text.empty()) {
      const std::string text = terminal ? printable(event->text) : event->text;
      std::fwrite(text.data(), 1, text.size(), out);
      std::fflush(out);
    }
    if (event->finish_reason == llm::FinishReason::Error) throw Error(event->error_code, event->error);
    if (event->finish_reason != llm::FinishReason::None) answer.finish_reason = event->finish_reason;
    if (!event->is_last) continue;
    answer.usage = event->usage;
    break;
  }
  if (answer.token_ids.empty()) return answer;
  const auto seconds = [](Clock::duration d) { return std::chrono::duration<double>(d).count(); };
  answer.decode_s = seconds(last - first);
  const size_t after = answer.token_ids.size() - first_tokens;
  answer.output_tokens_per_s = after > 0 && answer.decode_s > 0 ? static_cast<double>(after) / answer.decode_s
                                                                : static_cast<double>(first_tokens) / seconds(last - start);
  return answer;
}

}  // namespace tokamak::cli
