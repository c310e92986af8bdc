#pragma once
// LlmEngine without its thread: requests in, one step at a time, events out. Everything but the model is here, and time is a function, so
// that tests run it with a fake model and a fake clock.

#include <functional>
#include <span>
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

  bool has_work() const { return !requests_.empty() || flight_.is_active; }
  // Computes one step and reports what came of it. Needs has_work(). An Error of the model ends the requests of that step, no others. With
  // an asynchronous model: queues a step and reports what came of the one before.
  void step();

  // Events go here, in order, from within step(), add() and cancel(); it must not call back.
  std::function<void(const ActiveRequest&, Event&&)> on_event;

  Statistics statistics() const;
  int context_length() const { return context_length_; }
  const StepModel& model() const { return *parts_.model; }
  const BlockManager& blocks() const { return blocks_; }

 private:
  // A step that was submitted and not taken.
  struct Flight {
    struct Row {
      Answer* answer;
      int logit_row;        // -1: none
      int num_computed;     // tokens in the cache after it
      int num_preemptions;  // when it was submitted: if there was another since, the blocks are no longer the answer's
    };
    bool is_active = false;
    std::vector<Row> rows;
    StepReport report;
    std::vector<std::unique_ptr<ActiveRequest>> ended;  // of those rows
  };

  std::unique_ptr<Answer> make_answer(ActiveRequest& request, int index);
  Verdict choose(const Answer& answer, int i);
  void limit_lookahead(Answer& answer) const;
  void schedule(bool speculates);
  bool can_submit() const;
  void submit();
  void land();
  void settle_flight(std::span<const int32_t> tokens);
  void around_events(const std::function<void()>& deliver) const;
  void copy_blocks();
  void propose();
  void run();
  void process(Answer& answer);
  void take_prompt_logprobs(Answer& answer);
  void fork(Answer& first);
  void generate(Answer& answer, int num_computed);
  void conclude(Answer& answer, Event event, FinishReason reason);
  void end_all(ActiveRequest& request, FinishReason reason, ErrorCode code, const std::string& message);
  void retire(Answer& answer);
  void bury();
  StepReport report() const;
  void tell(StepReport report, double host_s) const;
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
  Flight flight_, next_flight_;
  std::vector<std::unique_ptr<ActiveRequest>> done_;  // freed at the end of the step, or when the step in flight has landed
  Statistics totals_;
};

}  // namespace tokamak::llm
