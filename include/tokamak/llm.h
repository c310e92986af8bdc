#pragma once
// Language models: many requests at once over one engine.
//
//   tokamak::llm::LlmEngine llm(engine, {.max_num_seqs = 16});
//   auto id = llm.submit({.prompt_ids = llm.tokenizer()->encode("Hello"), .sampling = {.max_tokens = 32}});
//   while (auto event = llm.next_event(id)) {
//     std::fputs(event->text.c_str(), stdout);
//     if (event->is_last) break;
//   }
//
// LlmEngine batches whatever is in flight (continuous batching), shares common prompt prefixes, and preempts when the KV cache is full.
// What one request does (a bad parameter, an error, a cancellation) never disturbs another. Nothing here knows of a protocol or of a
// device.

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "llm/model_config.h"
#include "llm/step_model.h"
#include "runtime/engine.h"

namespace tokamak::llm {

class Tokenizer;

// How the next token is chosen. The logits go through, in this order: the mask (min_tokens, TokenMask), logit_bias, repetition_penalty,
// frequency_penalty, presence_penalty, then with temperature 0 the largest one is taken (the lowest id among equals), else: temperature,
// min_p, top_k, top_p (over what top_k left), and a draw from what remains. This is the order vLLM documents.
struct SamplingParams {
  float temperature = 1;         // >= 0; 0: greedy
  int top_k = 0;                 // the k likeliest; 0: all
  float top_p = 1;               // in (0, 1]: the smallest set of likeliest tokens whose probabilities reach it
  float min_p = 0;               // in [0, 1]: at least this share of the likeliest token's probability
  float repetition_penalty = 1;  // > 0; tokens of prompt and answer: positive logits are divided by it, negative ones multiplied
  float presence_penalty = 0;    // in [-2, 2]; subtracted from tokens of the answer
  float frequency_penalty = 0;   // in [-2, 2]; subtracted once per occurrence in the answer
  std::unordered_map<int32_t, float> logit_bias;  // token id: added to its logit; -inf forbids it
  // Draws depend on the seed, the choice's index and the token's position alone, never on what else is in the batch. Absent: the
  // engine picks one.
  std::optional<uint64_t> seed;
  int logprobs = -1;  // -1: none; 0: of the chosen token; k: and of the k likeliest. Of the raw logits, before any of the above.
  // The same of the prompt's tokens, each given those before it; such a prompt is computed whole, whatever the prefix cache holds.
  int prompt_logprobs = -1;
  int n = 1;            // independent answers to one prompt
  int max_tokens = 16;  // of the answer, >= 0; 0: the prompt is computed, and nothing more
  int min_tokens = 0;   // eos and stop_token_ids cannot be chosen, and stop strings are not looked for, before this many
  bool ignore_eos = false;
  std::vector<int32_t> stop_token_ids;      // end the answer like the model's own eos ids; part of token_ids, not of the text
  std::vector<std::string> stop;            // end the answer; neither a match nor the beginning of one is ever part of the text
  bool include_stop_str_in_output = false;  // then a match is
  bool skip_special_tokens = true;          // in the text
};

// A constraint on which tokens may come next (a grammar, a choice). One object per answer: `clone` is called before the first token for
// each of `n`. Called from the engine's thread; what it throws ends its request with that error. A request with a mask does not speculate.
class TokenMask {
 public:
  virtual ~TokenMask() = default;
  virtual std::unique_ptr<TokenMask> clone() const = 0;
  // Sets bit `t % 64` of word `t / 64` for every token allowed now; all bits are 0 before. Allowing none ends the request with an error.
  virtual void fill(std::span<uint64_t> allowed) = 0;
  virtual void accept(int32_t token) = 0;
};

using RequestId = uint64_t;

enum class FinishReason {
  None,    // goes on
  Stop,    // eos, a stop token or a stop string
  Length,  // max_tokens or the context length
  Abort,   // cancelled, or the engine shut down
  Error,
};
const char* to_string(FinishReason reason);  // "", "stop", "length", "abort", "error"

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;
};

// Log-probabilities (natural) at one position.
struct Logprobs {
  float logprob = 0;              // of the chosen token
  std::vector<TokenLogprob> top;  // the likeliest, descending
};

// What a request cost, with its last event.
struct Usage {
  int prompt_tokens = 0;
  int completion_tokens = 0;  // of all answers
  int cached_tokens = 0;      // of the prompt, found in the prefix cache
  int num_preemptions = 0;
  double queue_ms = 0;  // from submit to the first step
  double ttft_ms = 0;   // from submit to the first token; 0 when there was none
  double total_ms = 0;
};

// News of one answer. Events of one answer come in order; together their token_ids, text and logprobs are the answer.
struct Event {
  RequestId request = 0;
  int index = 0;                   // which of the n answers
  std::vector<int32_t> token_ids;  // new ones; several after speculation
  std::string text;                // whole characters only; may lag behind the tokens. Empty without a tokenizer.
  std::vector<Logprobs> logprobs;  // one a token when asked for
  // When asked for, with the first event of each answer: one for each token of the prompt but the first.
  std::vector<Logprobs> prompt_logprobs;
  FinishReason finish_reason = FinishReason::None;
  std::string stop_string;                     // the stop string that matched, if one did
  int32_t stop_token_id = -1;                  // or the token that ended the answer
  ErrorCode error_code = ErrorCode::Internal;  // with FinishReason::Error
  std::string error;
  bool is_last = false;  // of the request: all answers have ended
  Usage usage;           // when is_last
};

struct Request {
  std::vector<int32_t> prompt_ids;  // at least one
  SamplingParams sampling;
  // Smaller comes first. One level is worth LlmOptions::priority_aging_ms of waiting, so nothing waits for ever.
  int priority = 0;
  std::shared_ptr<const TokenMask> mask;
  // Called from the engine's thread, one event at a time, holding no lock; it may call submit and cancel, and should be quick. What it
  // throws cancels the request. Null: events are kept for next_event().
  std::function<void(const Event&)> on_event;
};

struct SpeculativeOptions {
  enum class Method { None, Draft, NGram };
  Method method = Method::None;
  int num_tokens = 4;                   // proposed per step and sequence, 1 to 16
  int max_num_seqs = 0;                 // more running sequences than this: no speculation (the batch is then wide enough); 0: no limit
  std::shared_ptr<const Engine> draft;  // Draft: a smaller model with the same vocabulary
  int64_t draft_kv_cache_bytes = 0;     // 0: in proportion to the target's
  int ngram_min = 2, ngram_max = 4;     // NGram: the last ngram_max (then fewer) tokens are looked up in the sequence itself
};

// One step, when its tokens are known.
struct StepReport {
  int num_seqs = 0, num_tokens = 0, num_rows = 0;  // sequences, their new tokens, and those of them that got logits
  double step_ms = 0;                              // on the device, or on the host where the model does not measure it there
  double gap_ms = 0;                               // between the step before and this one on the device; 0 on the host
};

struct LlmOptions {
  int max_num_seqs = 64;             // sequences in one step
  int max_num_batched_tokens = 512;  // new tokens in one step, >= max_num_seqs
  int max_context_length = 0;        // 0: the model's
  int64_t kv_cache_bytes = 0;        // 0: see StepModelOptions
  bool prefix_cache = true;
  // Off: a prompt is computed in one step, alone or beside others while they fit max_num_batched_tokens; a longer one makes a longer step.
  bool chunked_prefill = true;
  // A step is queued before the tokens of the one before are known, so that a GPU need not wait for the host; what ends an answer then
  // shows one step late, which computes a token for nothing. Where the model can (on a GPU), and while no answer needs the host between two
  // steps: speculation, masks, penalties, biases, log-probabilities and withheld ends do.
  bool run_ahead = true;
  int max_waiting = 0;  // requests that may wait; more are refused with ResourceExhausted. 0: no limit
  int priority_aging_ms = 10'000;
  uint64_t seed = 0;    // of requests without one
  int num_threads = 0;  // 0: the engine's own width
  SpeculativeOptions speculative;
  std::function<void(const StepReport&)> on_step;  // called from the engine's thread; it should be quick, and must not throw
  // Called from the engine's thread with what delivers all events of a step, which it must call, once, and must not throw: whoever sends
  // events on can send them together.
  std::function<void(const std::function<void()>& deliver)> around_events;
};

// Totals since the start, and gauges of the moment. Times are of the engine's thread.
struct Statistics {
  int num_running = 0, num_waiting = 0;   // sequences
  int blocks_used = 0, blocks_total = 0;  // used: referenced by a sequence; cached ones that nothing uses are free
  int block_size = 0;                     // tokens of a block
  int64_t requests_submitted = 0, requests_finished = 0, requests_cancelled = 0, requests_failed = 0;
  int64_t prompt_tokens = 0, generated_tokens = 0;         // prompt: of requests that started
  int64_t prefix_query_tokens = 0, prefix_hit_tokens = 0;  // looked up and found in the prefix cache
  int64_t preemptions = 0;
  int64_t speculated_tokens = 0, accepted_tokens = 0;
  int64_t draft_failures = 0;              // steps in which the draft model threw; they went on without proposals
  int64_t num_steps = 0, step_tokens = 0;  // tokens computed in them
  double schedule_s = 0, step_s = 0, sample_s = 0, draft_s = 0;
};

// Everything a server needs. Thread-safe; one worker thread of its own runs the model.
class LlmEngine {
 public:
  // The tokenizer, when the engine carries one (metadata tokenizer.json), gives the text of events and stop strings. Throws as
  // EngineStepModel does, InvalidArgument for options out of range, Corrupt or Unsupported for a tokenizer that cannot be read.
  explicit LlmEngine(std::shared_ptr<const Engine> engine, LlmOptions options = {});
  // Over any model; `draft` only for Method::Draft (options.speculative.draft is not read), `tokenizer` may be null.
  LlmEngine(std::unique_ptr<StepModel> model, LlmOptions options, std::unique_ptr<StepModel> draft = nullptr,
            std::shared_ptr<const Tokenizer> tokenizer = nullptr);
  ~LlmEngine();  // shutdown(false)

  // Queues a request. Throws InvalidArgument (a parameter or a token id out of range), OutOfRange (the prompt fills the context),
  // ResourceExhausted (more KV cache than there is, more answers than max_num_seqs, or max_waiting reached); each says what the limit is.
  RequestId submit(Request request);
  // The same of several, which arrive at the same moment: the next step may compute all of them. None is queued when one is refused.
  std::vector<RequestId> submit(std::vector<Request> requests);
  // The request ends with Abort within one step and its blocks are free. False when it is unknown or has ended.
  bool cancel(RequestId id);

  // The next event of a request without on_event; waits for it at most `timeout` (negative: as long as it takes), nullopt when the time is
  // up. After the event with is_last the id is forgotten. Throws NotFound for an id that is unknown, forgotten or has a callback.
  std::optional<Event> next_event(RequestId id, std::chrono::milliseconds timeout = std::chrono::milliseconds(-1));

  // Refuses new requests; those in flight finish when `drain`, else end with Abort. Returns when the worker has stopped; may be called
  // again. Not from a callback.
  void shutdown(bool drain);

  Statistics statistics() const;
  const ModelConfig& config() const;
  int context_length() const;                                 // most tokens of prompt and answer together, all limits considered
  const std::shared_ptr<const Tokenizer>& tokenizer() const;  // null when there is none

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tokamak::llm
