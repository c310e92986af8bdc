#pragma once
// One answer in the making: its tokens, how they are chosen, and the text they become.

#include "llm/proposer.h"
#include "llm/stop_matcher.h"
#include "llm/text_decoder.h"

namespace tokamak::llm {

struct Answer;

// A submitted request and its n answers; the first exists from the start, the others once the prompt is computed.
struct ActiveRequest {
  RequestId id = 0;
  Request request;
  uint64_t seed = 0;
  std::vector<std::unique_ptr<Answer>> answers;
  int num_unfinished = 0;  // answers, those to come included
  Usage usage;
  std::vector<Logprobs> prompt_logprobs;  // so far
  int64_t arrival_ns = 0, first_step_ns = 0, first_token_ns = 0;

  // Whether log-probabilities of the prompt are asked for and not all there yet.
  bool lacks_prompt_logprobs() const {
    return request.sampling.prompt_logprobs >= 0 && prompt_logprobs.size() + 1 < request.prompt_ids.size();
  }
};

struct Answer : Sequence {
  Answer(ActiveRequest& request, int index, SamplingState sampling, std::unique_ptr<TextDecoder> decoder);

  // The token becomes part of the answer (in the place of the first unknown one, if there is one) and of `event`, with its text. Says
  // whether, and why, that ends the answer. `context_length`: most tokens of prompt and answer.
  FinishReason append(int32_t token, int context_length, Event& event);
  // The token after the unknown ones, if they do not end the answer, ends it, being the last there is room for.
  bool is_last(int context_length) const {
    return sampling.num_generated() + num_unknown + 1 >= sampling.params().max_tokens || size() + 1 >= context_length;
  }
  // Adds text that waited for more; the answer ends for another reason than a stop string, unless that text completes one.
  FinishReason flush(FinishReason reason, Event& event);

  ActiveRequest& request;
  int index;
  SamplingState sampling;
  std::unique_ptr<TextDecoder> decoder;
  StopMatcher stops;
  Proposal proposal;
  int first_row = -1;                             // of this step's logits; -1: none yet
  int first_prompt_row = 0, num_prompt_rows = 0;  // of this step's logits: those for log-probabilities of the prompt
  int num_unknown = 0;                            // last of `tokens`: unknown_token(row), chosen by steps in flight
  bool has_ended = false;

 private:
  bool push_text(std::string_view text, Event& event);
};

}  // namespace tokamak::llm
