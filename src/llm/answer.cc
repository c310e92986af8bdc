#include "llm/answer.h"

#include <algorithm>

namespace tokamak::llm {

Answer::Answer(ActiveRequest& active, int index, SamplingState state, std::unique_ptr<TextDecoder> text_decoder)
    : request(active),
      index(index),
      sampling(std::move(state)),
      decoder(std::move(text_decoder)),
      stops(active.request.sampling.stop, active.request.sampling.include_stop_str_in_output) {}

bool Answer::push_text(std::string_view text, Event& event) {
  auto result = stops.push(text);
  event.text += result.text;
  if (result.matched) event.stop_string = request.request.sampling.stop[*result.matched];
  return result.matched.has_value();
}

FinishReason Answer::append(int32_t token, int context_length, Event& event) {
  const SamplingParams& params = sampling.params();
  if (num_unknown > 0) tokens[tokens.size() - num_unknown--] = token;
  else tokens.push_back(token);
  sampling.accept(token);
  event.token_ids.push_back(token);
  const bool ends = sampling.ends(token);
  if (decoder && (!ends || params.include_stop_str_in_output)) {
    const std::string text = decoder->push(token);
    if (sampling.num_generated() <= params.min_tokens) event.text += stops.pass(text);
    else if (push_text(text, event)) return FinishReason::Stop;
  }
  if (ends) {
    event.stop_token_id = token;
    return flush(FinishReason::Stop, event);
  }
  if (sampling.num_generated() >= params.max_tokens || size() - num_unknown >= context_length) return flush(FinishReason::Length, event);
  return FinishReason::None;
}

FinishReason Answer::flush(FinishReason reason, Event& event) {
  if (!decoder) return reason;
  if (push_text(decoder->finish(), event)) return FinishReason::Stop;
  event.text += stops.finish();
  return reason;
}

}  // namespace tokamak::llm
