#pragma once
// What a language model's requests tell whoever counts: the latency histograms of the metrics are filled from here.

#include <string>

#include "tokamak/llm.h"

namespace tokamak::server {

// One request of a client that has ended; several prompts, or answers, are one request.
struct FinishedRequest {
  llm::FinishReason reason = llm::FinishReason::None;  // of the last answer; Abort when the client left
  int num_answers = 0;
  int max_tokens = 0;
  int64_t prompt_tokens = 0, completion_tokens = 0, cached_tokens = 0;
  double queue_s = 0;  // until the first step, as are the next two of the prompt that took longest
  double prefill_s = 0, decode_s = 0;
  double e2e_s = 0;  // since the request was received
};

// Called from an engine's thread: quick, and does not throw. Thread-safe, as there may be several engines.
class RequestObserver {
 public:
  virtual ~RequestObserver() = default;
  virtual void on_first_token(const std::string& model, double seconds) = 0;  // since the request was received; once an answer
  virtual void on_inter_token(const std::string& model, double seconds) = 0;  // between two events of an answer
  virtual void on_finished(const std::string& model, const FinishedRequest& request) = 0;
};

}  // namespace tokamak::server
