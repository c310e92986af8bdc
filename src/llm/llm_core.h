#pragma once
// LlmEngine without its thread: requests in, one step at a time, events out. Everything but the model is here, and time is a function, so
// that tests run it with a fake model and a fake clock.

#include <unordered_map>

#include "llm/answer.h"
#include "llm/batch_builder.h"
#include "llm/verify.h"

namespace tokamak::llm {

class LlmCore {
 public:
  struct Parts {
    std::unique_ptr<StepModel> model;
    std::unique_ptr<Proposer> proposer;  // null: no speculation
    TextDecoderFactory decoder;          // null: no text
    std::function<int64_t()> now_ns;     // null: the steady clock
  };
  // Throws InvalidArgument when options are out of range. `options.speculative` counts only when there is a proposer.
  LlmCore(Parts parts, const LlmOptions& options);
  ~LlmCore();

  // Throws what LlmEngine::submit documents. May be called from any thread at any time.
  void validate(const Request& request) const;
  // A validated request joins the queue. `id` is new.
  void add(RequestId id, Request request);
  // False when there is no such request.
  bool cancel(RequestId id);
  void cancel_all();
  void fail_all(ErrorCode code, const std::string& message);

  bool has_work() const { return !requests_.empty(); }
  // Computes one step and reports what came of it. Needs has_work(). An Error of the model ends the requests of that step, no others.
  void step();

  // Events go here, in order, from within step(), add() and cancel(); it must not call back.
  std::function<void(const ActiveRequest&, Event&&)> on_event;

  Statistics statistics() const;
  int context_length() const { return context_length_; }
  const StepModel& model() const { return *parts_.model; }
  const BlockManager& blocks() const { return blocks_; }

 private:
  std::unique_ptr<Answer> make_answer(ActiveRequest& request, int index);
  Verdict choose(const Answer& answer, int i);
  void limit_lookahead(Answer& answer) const;
  void propose();
  void run();
  void process(Answer& answer);
  void fork(Answer& first);
  void generate(Answer& answer, int num_computed);
  void end_all(ActiveRequest& request, FinishReason reason, ErrorCode code, const std::string& message);
  void retire(Answer& answer);
  void emit(ActiveRequest& request, Event event);

  Parts parts_;
  LlmOptions options_;
  BlockManager blocks_;
  Scheduler scheduler_;
  Sampler sampler_;
  Verifier verifier_;
  BatchBuilder builder_;
  int context_length_;
  uint64_t next_serial_ = 0;
  std::unordered_map<RequestId, std::unique_ptr<ActiveRequest>> requests_;
  std::vector<Answer*> step_answers_;
  std::vector<Proposer::Slot> slots_;
  std::vector<std::unique_ptr<ActiveRequest>> done_;  // freed at the end of the step
  Statistics totals_;
};

}  // namespace tokamak::llm
