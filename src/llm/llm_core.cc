#include "llm/llm_core.h"

#include <algorithm>
#include <utility>

namespace tokamak::llm {
namespace {

int64_t steady_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double seconds(int64_t from_ns, int64_t to_ns) { return static_cast<double>(to_ns - from_ns) * 1e-9; }

double milliseconds(int64_t ns) { return static_cast<double>(ns) * 1e-6; }

// Calls f; what it throws becomes an Error's code and message.
template <class F, class OnError>
void guard(const F& f, const OnError& on_error) {
  try {
    f();
  } catch (const Error& e) {
    on_error(e.code(), std::string(e.what()));
  } catch (const std::bad_alloc&) {
    on_error(ErrorCode::ResourceExhausted, std::string("out of memory"));
  } catch (const std::exception& e) {
    on_error(ErrorCode::Internal, std::string(e.what()));
  }
}

SchedulerOptions scheduler_options(const LlmOptions& options) {
  return {options.max_num_seqs, options.max_num_batched_tokens, options.chunked_prefill};
}

constexpr int kMaxPromptRows = 256;  // of logits in a step, for log-probabilities of a prompt

}  // namespace

const char* to_string(FinishReason reason) {
  switch (reason) {
    case FinishReason::None: return "";
    case FinishReason::Stop: return "stop";
    case FinishReason::Length: return "length";
    case FinishReason::Abort: return "abort";
    case FinishReason::Error: return "error";
  }
  return "";
}

LlmCore::LlmCore(Parts parts, const LlmOptions& options)
    : parts_(std::move(parts)),
      options_(options),
      blocks_(parts_.model->num_blocks(), parts_.model->config().block_size, options.prefix_cache),
      scheduler_(blocks_, scheduler_options(options)),
      sampler_(parts_.model->config().vocab_size),
      verifier_(sampler_),
      builder_(parts_.model->config().block_size) {
  if (!parts_.now_ns) parts_.now_ns = steady_ns;
  if (options.max_context_length < 0 || options.priority_aging_ms < 0 || options.max_waiting < 0)
    fail(ErrorCode::InvalidArgument, "max_context_length ({}), priority_aging_ms ({}) and max_waiting ({}) must not be negative",
         options.max_context_length, options.priority_aging_ms, options.max_waiting);
  if (parts_.proposer && (options.speculative.num_tokens < 1 || options.speculative.num_tokens > 16))
    fail(ErrorCode::InvalidArgument, "speculative num_tokens is {}, expected 1 to 16", options.speculative.num_tokens);
  const ModelConfig& config = parts_.model->config();
  const int64_t capacity = int64_t{blocks_.num_blocks()} * blocks_.block_size();
  context_length_ = static_cast<int>(std::min<int64_t>(config.context_length, capacity));
  if (options.max_context_length > 0) context_length_ = std::min(context_length_, options.max_context_length);
}

LlmCore::~LlmCore() {
  if (flight_.is_active) guard([&] { parts_.model->take(); }, [](ErrorCode, const std::string&) {});
}

void LlmCore::validate(const Request& request) const {
  const ModelConfig& config = parts_.model->config();
  llm::validate(request.sampling, config.vocab_size);
  if (request.prompt_ids.empty()) fail(ErrorCode::InvalidArgument, "the prompt has no tokens");
  for (const int32_t token : request.prompt_ids)
    if (token < 0 || token >= config.vocab_size)
      fail(ErrorCode::InvalidArgument, "the prompt holds token {}, the model has {} (0 to {})", token, config.vocab_size,
           config.vocab_size - 1);
  const auto size = std::ssize(request.prompt_ids);
  if (size >= config.context_length || (options_.max_context_length > 0 && size >= options_.max_context_length))
    fail(ErrorCode::OutOfRange, "the prompt has {} tokens; the context holds {} with at least one of the answer", size, context_length_);
  if (size >= context_length_)
    fail(ErrorCode::ResourceExhausted, "the prompt has {} tokens, and the KV cache holds {} ({} blocks of {}); give it more memory", size,
         context_length_, blocks_.num_blocks(), blocks_.block_size());
  if (request.sampling.n > options_.max_num_seqs)
    fail(ErrorCode::ResourceExhausted, "n is {}, but at most {} answers are computed at once (max_num_seqs)", request.sampling.n,
         options_.max_num_seqs);
  if (!request.sampling.stop.empty() && !parts_.decoder)
    fail(ErrorCode::InvalidArgument, "stop strings need a tokenizer, and this model came without one; use stop_token_ids");
}

std::unique_ptr<Answer> LlmCore::make_answer(ActiveRequest& active, int index) {
  const Request& request = active.request;
  SamplingState state(request.sampling, parts_.model->config().eos_token_ids, request.prompt_ids, active.seed, index,
                      request.mask ? request.mask->clone() : nullptr);
  auto answer = std::make_unique<Answer>(active, index, std::move(state),
                                         parts_.decoder ? parts_.decoder(request.sampling.skip_special_tokens) : nullptr);
  answer->tokens.reserve(request.prompt_ids.size() + std::min(request.sampling.max_tokens, context_length_));
  answer->tokens = request.prompt_ids;
  answer->order = active.arrival_ns + int64_t{request.priority} * options_.priority_aging_ms * 1'000'000;
  answer->serial = next_serial_++;
  const SamplingParams& p = request.sampling;
  if (p.prompt_logprobs >= 0 && index == 0) answer->skips_prefix = true, answer->max_chunk = kMaxPromptRows;
  if (p.ignore_eos && p.stop_token_ids.empty() && p.stop.empty())
    answer->final_size = static_cast<int>(std::min<int64_t>(std::ssize(request.prompt_ids) + int64_t{p.max_tokens}, context_length_));
  return answer;
}

void LlmCore::add(RequestId id, Request request) {
  auto owned = std::make_unique<ActiveRequest>();
  ActiveRequest& active = *owned;
  active.id = id;
  active.request = std::move(request);
  active.arrival_ns = parts_.now_ns();
  active.num_unfinished = active.request.sampling.n;
  active.usage.prompt_tokens = static_cast<int>(active.request.prompt_ids.size());
  const auto mixed = philox4x32({static_cast<uint32_t>(id), static_cast<uint32_t>(id >> 32), 0, 0},
                                {static_cast<uint32_t>(options_.seed), static_cast<uint32_t>(options_.seed >> 32)});
  active.seed = active.request.sampling.seed.value_or(uint64_t{mixed[0]} << 32 | mixed[1]);
  requests_.emplace(id, std::move(owned));
  ++totals_.requests_submitted;
  guard(
      [&] {
        active.answers.push_back(make_answer(active, 0));
        active.answers[0]->seats = active.request.sampling.n;
        scheduler_.add(active.answers[0].get());
      },
      [&](ErrorCode code, const std::string& message) { end_all(active, FinishReason::Error, code, message); });
  bury();
}

bool LlmCore::cancel(RequestId id) {
  const auto found = requests_.find(id);
  if (found == requests_.end()) return false;
  end_all(*found->second, FinishReason::Abort, ErrorCode::Internal, "");
  bury();
  return true;
}

void LlmCore::cancel_all() {
  while (!requests_.empty()) cancel(requests_.begin()->first);
}

void LlmCore::fail_all(ErrorCode code, const std::string& message) {
  while (!requests_.empty()) end_all(*requests_.begin()->second, FinishReason::Error, code, message);
  land();
  bury();
}

void LlmCore::step() {
  const int64_t begin = parts_.now_ns();
  const SpeculativeOptions& speculative = options_.speculative;
  const bool speculates = parts_.proposer && (speculative.max_num_seqs == 0 || scheduler_.num_running() <= speculative.max_num_seqs);
  schedule(speculates);
  const int64_t scheduled = parts_.now_ns();
  totals_.schedule_s += seconds(begin, scheduled);
  totals_.num_steps += !step_answers_.empty();
  if (can_submit()) {
    submit();
    totals_.step_s += seconds(scheduled, parts_.now_ns());
    land();
    std::swap(flight_, next_flight_);
    return bury();
  }
  land();
  std::erase_if(step_answers_, [](const Answer* answer) { return answer->has_ended; });
  if (!step_answers_.empty()) {
    const int64_t landed = parts_.now_ns();
    if (speculates) propose();
    const int64_t proposed = parts_.now_ns();
    bool is_computed = false;
    guard(
        [&] {
          run();
          is_computed = true;
        },
        [&](ErrorCode code, const std::string& message) {
          for (Answer* answer : step_answers_) end_all(answer->request, FinishReason::Error, code, message);
        });
    const int64_t ran = parts_.now_ns();
    totals_.draft_s += seconds(landed, proposed);
    totals_.step_s += seconds(proposed, ran);
    if (options_.on_step && is_computed) tell(report(), seconds(proposed, ran));
    around_events([&] {
      for (Answer* answer : step_answers_)
        if (!answer->has_ended) process(*answer);
    });
    totals_.sample_s += seconds(ran, parts_.now_ns());
  }
  bury();
}

// Which answers the next step computes, the step in flight taken for done.
void LlmCore::schedule(bool speculates) {
  const Scheduler::Step& step = scheduler_.schedule(speculates ? options_.speculative.num_tokens : 0);
  if (parts_.proposer)
    for (const Sequence* s : step.preempted) parts_.proposer->forget(s);
  step_answers_.clear();
  const int64_t now = parts_.now_ns();
  for (Sequence* s : step.sequences) {
    Answer& answer = *static_cast<Answer*>(s);
    answer.proposal.clear();
    step_answers_.push_back(&answer);
    ActiveRequest& request = answer.request;
    if (request.first_step_ns != 0) continue;
    request.first_step_ns = now;
    request.usage.cached_tokens = answer.num_cached;
    totals_.prompt_tokens += request.usage.prompt_tokens;
  }
}

// --- steps ahead of their tokens ---

bool LlmCore::can_submit() const {
  if (!options_.run_ahead || parts_.proposer || !parts_.model->is_asynchronous() || step_answers_.empty()) return false;
  return std::ranges::all_of(step_answers_, [](const Answer* answer) {
    const bool forks = std::ssize(answer->request.answers) < answer->request.request.sampling.n;
    return !forks && answer->sampling.params().max_tokens > 0 && !answer->request.lacks_prompt_logprobs() &&
           answer->sampling.is_plain(answer->num_unknown);
  });
}

// Queues the scheduled step; its answers go on as if it were computed, with tokens that are not known yet.
void LlmCore::submit() {
  Flight& flight = next_flight_;
  flight.rows.clear();
  builder_.clear();
  for (Answer* answer : step_answers_) {
    const bool has_logits = answer->num_scheduled == answer->remaining();
    const int row = builder_.add(answer->tokens, answer->num_computed, answer->num_scheduled, {}, answer->table.blocks, has_logits);
    if (has_logits) builder_.choose(answer->sampling.choice(answer->num_unknown));
    flight.rows.push_back({answer, has_logits ? row : -1, answer->num_computed + answer->num_scheduled, answer->num_preemptions});
  }
  totals_.step_tokens += builder_.num_tokens();
  flight.report = report();
  guard(
      [&] {
        copy_blocks();
        parts_.model->submit(builder_.finish());
        flight.is_active = true;
      },
      [&](ErrorCode code, const std::string& message) {
        land();
        for (Answer* answer : step_answers_)
          if (!answer->has_ended) end_all(answer->request, FinishReason::Error, code, message);
      });
  if (!flight.is_active) return;
  for (const Flight::Row& row : flight.rows) {
    Answer& answer = *row.answer;
    scheduler_.advance(answer, answer.num_scheduled);
    if (row.logit_row < 0 || answer.is_last(context_length_)) continue;
    answer.tokens.push_back(unknown_token(row.logit_row));
    ++answer.num_unknown;
  }
}

// Takes the step in flight, if there is one: its tokens become known. Rows of answers that have ended since are dropped.
void LlmCore::land() {
  if (!flight_.is_active) return;
  const int64_t begin = parts_.now_ns();
  std::span<const int32_t> tokens;
  flight_.is_active = false;
  bool is_computed = false;
  guard(
      [&] {
        tokens = parts_.model->take();
        is_computed = true;
      },
      [&](ErrorCode code, const std::string& message) {
        for (const Flight::Row& row : flight_.rows)
          if (!row.answer->has_ended) end_all(row.answer->request, FinishReason::Error, code, message);
      });
  const int64_t taken = parts_.now_ns();
  totals_.step_s += seconds(begin, taken);
  if (options_.on_step && is_computed) tell(flight_.report, seconds(begin, taken));
  around_events([&] { settle_flight(tokens); });
  totals_.sample_s += seconds(taken, parts_.now_ns());
}

void LlmCore::settle_flight(std::span<const int32_t> tokens) {
  for (const Flight::Row& row : flight_.rows) {
    Answer& answer = *row.answer;
    if (answer.has_ended) continue;
    if (row.num_preemptions == answer.num_preemptions) scheduler_.settle(answer, row.num_computed);
    if (row.logit_row < 0) continue;
    guard(
        [&] {
          const int32_t token = tokens[row.logit_row];
          if (token < 0) fail(ErrorCode::InvalidArgument, "{}", kBadLogits);
          Event event{.request = answer.request.id, .index = answer.index};
          const FinishReason reason = answer.append(token, context_length_, event);
          conclude(answer, std::move(event), reason);
        },
        [&](ErrorCode code, const std::string& message) { end_all(answer.request, FinishReason::Error, code, message); });
  }
}

void LlmCore::around_events(const std::function<void()>& deliver) const {
  if (options_.around_events) options_.around_events(deliver);
  else deliver();
}

// Of the step that was built last.
StepReport LlmCore::report() const { return {static_cast<int>(step_answers_.size()), builder_.num_tokens(), builder_.num_rows()}; }

void LlmCore::tell(StepReport report, double host_s) const {
  const StepTimes times = parts_.model->last_times();
  report.step_ms = times.step_ms > 0 ? times.step_ms : host_s * 1e3;
  report.gap_ms = times.gap_ms;
  options_.on_step(report);
}

// Frees requests that have ended, unless a step in flight still refers to them.
void LlmCore::bury() {
  flight_.ended.insert(flight_.ended.end(), std::make_move_iterator(done_.begin()), std::make_move_iterator(done_.end()));
  done_.clear();
  next_flight_.ended.clear();
  if (!flight_.is_active) flight_.ended.clear();
}

// --- steps whose tokens are known before the next ---

void LlmCore::propose() {
  slots_.clear();
  for (Answer* answer : step_answers_)
    if (answer->lookahead > 0) slots_.push_back({answer, &answer->sampling, answer->lookahead, &answer->proposal});
  if (slots_.empty()) return;
  guard([&] { parts_.proposer->propose(slots_); },
        [&](ErrorCode, const std::string&) {
          ++totals_.draft_failures;
          for (const Proposer::Slot& slot : slots_) slot.proposal->clear();
        });
  for (const Proposer::Slot& slot : slots_) totals_.speculated_tokens += std::ssize(slot.proposal->tokens);
}

void LlmCore::run() {
  builder_.clear();
  for (Answer* answer : step_answers_) {
    const bool has_logits = answer->num_scheduled == answer->remaining();
    int num_rows = has_logits ? 1 + static_cast<int>(answer->proposal.tokens.size()) : 0;
    answer->num_prompt_rows = 0;
    if (answer->request.lacks_prompt_logprobs()) {
      // Of every token of the prompt but the last, which comes with has_logits.
      const int end = answer->num_computed + answer->num_scheduled - has_logits;
      answer->num_prompt_rows = std::max(0, end - std::max<int>(answer->num_computed, std::ssize(answer->request.prompt_logprobs)));
      num_rows += answer->num_prompt_rows;
    }
    const int row =
        builder_.add(answer->tokens, answer->num_computed, answer->num_scheduled, answer->proposal.tokens, answer->table.blocks, num_rows);
    answer->first_prompt_row = row;
    answer->first_row = has_logits ? row + answer->num_prompt_rows : -1;
    const bool is_plain = answer->proposal.tokens.empty() && answer->sampling.is_plain(0);
    for (int i = 0; i < num_rows; ++i) builder_.choose(is_plain ? answer->sampling.choice(0) : TokenChoice());
  }
  totals_.step_tokens += builder_.num_tokens();
  copy_blocks();
  parts_.model->run(builder_.finish());
}

void LlmCore::copy_blocks() {
  for (const auto [src, dst] : scheduler_.last_step().copies) parts_.model->copy_block(src, dst);
}

void LlmCore::process(Answer& answer) {
  if (answer.num_prompt_rows == 0 && answer.first_row < 0) return scheduler_.commit(answer, answer.num_scheduled);
  ActiveRequest& request = answer.request;
  guard(
      [&] {
        take_prompt_logprobs(answer);
        if (answer.first_row < 0) return scheduler_.commit(answer, answer.num_scheduled);
        if (std::ssize(request.answers) < request.request.sampling.n) return fork(answer);
        generate(answer, answer.num_scheduled);
      },
      [&](ErrorCode code, const std::string& message) { end_all(request, FinishReason::Error, code, message); });
}

void LlmCore::take_prompt_logprobs(Answer& answer) {
  ActiveRequest& request = answer.request;
  const std::vector<int32_t>& prompt = request.request.prompt_ids;
  for (int i = 0; i < answer.num_prompt_rows; ++i)
    request.prompt_logprobs.push_back(sampler_.logprobs(parts_.model->logits(answer.first_prompt_row + i),
                                                        prompt[request.prompt_logprobs.size() + 1],
                                                        request.request.sampling.prompt_logprobs));
  if (!request.lacks_prompt_logprobs()) answer.skips_prefix = false, answer.max_chunk = 0;
}

// The prompt is computed: the other answers begin, from the same logits.
void LlmCore::fork(Answer& first) {
  ActiveRequest& request = first.request;
  scheduler_.commit(first, first.num_scheduled);
  for (int i = 1; i < request.request.sampling.n; ++i) {
    request.answers.push_back(make_answer(request, i));
    request.answers[i]->first_row = first.first_row;
    scheduler_.fork(&first, request.answers[i].get());
  }
  for (const auto& answer : request.answers) generate(*answer, 0);
}

// Tokens from this step's logits: one, and one more for every proposal that is accepted. `num_computed`: tokens the step put into the
// cache, proposals aside.
void LlmCore::generate(Answer& answer, int num_computed) {
  ActiveRequest& request = answer.request;
  const SamplingParams& params = request.request.sampling;
  Event event{.request = request.id, .index = answer.index};
  if (answer.sampling.num_generated() == 0) event.prompt_logprobs = request.prompt_logprobs;
  if (params.max_tokens == 0) return conclude(answer, std::move(event), FinishReason::Length);
  FinishReason reason = FinishReason::None;
  int num_accepted = 0;
  try {
    for (int i = 0;; ++i) {
      const Verdict verdict = choose(answer, i);
      if (params.logprobs >= 0)
        event.logprobs.push_back(sampler_.logprobs(parts_.model->logits(answer.first_row + i), verdict.token, params.logprobs));
      num_accepted += verdict.accepted;
      reason = answer.append(verdict.token, context_length_, event);
      if (!verdict.accepted || reason != FinishReason::None) break;
    }
  } catch (...) {
    if (!event.token_ids.empty()) emit(request, std::move(event));
    throw;
  }
  totals_.accepted_tokens += num_accepted;
  scheduler_.commit(answer, num_computed + num_accepted);
  limit_lookahead(answer);
  conclude(answer, std::move(event), reason);
}

// The event's tokens are the answer's now.
void LlmCore::conclude(Answer& answer, Event event, FinishReason reason) {
  ActiveRequest& request = answer.request;
  if (request.first_token_ns == 0 && !event.token_ids.empty()) request.first_token_ns = parts_.now_ns();
  request.usage.completion_tokens += static_cast<int>(event.token_ids.size());
  totals_.generated_tokens += std::ssize(event.token_ids);
  event.finish_reason = reason;
  if (reason != FinishReason::None) retire(answer);
  emit(request, std::move(event));
}

// The token behind proposal `i` of this step's row. Logits stay on the model's device when the
// token can be chosen there.
Verdict LlmCore::choose(const Answer& answer, int i) {
  const int row = answer.first_row + i;
  const bool is_proposed = i < std::ssize(answer.proposal.tokens);
  // An answer that begins with this step has no row of its own, but that of the first of the request.
  const bool has_choice = answer.num_scheduled > 0 && answer.proposal.tokens.empty() && answer.sampling.is_plain(0);
  if (has_choice || answer.sampling.is_plain_greedy())
    if (const int32_t token = parts_.model->chosen(row); token >= 0) return {token, is_proposed && token == answer.proposal.tokens[i]};
  const auto logits = parts_.model->logits(row);
  if (is_proposed) return verifier_.verify(logits, answer.sampling, answer.proposal, i);
  return {sampler_.sample(logits, answer.sampling), false};
}

void LlmCore::limit_lookahead(Answer& answer) const {
  // A step that accepts everything ends with one token more.
  const int left = std::min(context_length_ - answer.size(), answer.sampling.params().max_tokens - answer.sampling.num_generated());
  answer.max_lookahead = answer.sampling.has_mask() ? 0 : std::max(0, left - 1);
}

void LlmCore::retire(Answer& answer) {
  answer.has_ended = true;
  scheduler_.remove(&answer);
  if (parts_.proposer) parts_.proposer->forget(&answer);
}

void LlmCore::end_all(ActiveRequest& request, FinishReason reason, ErrorCode code, const std::string& message) {
  for (int i = 0; i < request.request.sampling.n; ++i) {
    Answer* answer = i < std::ssize(request.answers) ? request.answers[i].get() : nullptr;
    if (answer && answer->has_ended) continue;
    Event event{.request = request.id, .index = i, .finish_reason = reason, .error_code = code, .error = message};
    if (answer) {
      retire(*answer);
      if (reason == FinishReason::Abort) answer->flush(reason, event);
    }
    emit(request, std::move(event));
  }
}

void LlmCore::emit(ActiveRequest& request, Event event) {
  if (event.finish_reason != FinishReason::None && --request.num_unfinished == 0) {
    event.is_last = true;
    (event.finish_reason == FinishReason::Error   ? totals_.requests_failed
     : event.finish_reason == FinishReason::Abort ? totals_.requests_cancelled
                                                  : totals_.requests_finished)++;
    const int64_t now = parts_.now_ns();
    Usage& usage = request.usage;
    for (const auto& answer : request.answers) usage.num_preemptions += answer->num_preemptions;
    usage.queue_ms = milliseconds((request.first_step_ns ? request.first_step_ns : now) - request.arrival_ns);
    usage.ttft_ms = request.first_token_ns ? milliseconds(request.first_token_ns - request.arrival_ns) : 0;
    usage.total_ms = milliseconds(now - request.arrival_ns);
    event.usage = usage;
  }
  const bool is_last = event.is_last;
  if (on_event) on_event(request, std::move(event));
  if (!is_last) return;
  const auto found = requests_.find(request.id);
  done_.push_back(std::move(found->second));
  requests_.erase(found);
}

Statistics LlmCore::statistics() const {
  Statistics s = totals_;
  s.num_running = scheduler_.num_running();
  s.num_waiting = scheduler_.num_waiting();
  s.blocks_used = blocks_.num_used();
  s.blocks_total = blocks_.num_blocks();
  s.block_size = blocks_.block_size();
  s.prefix_query_tokens = scheduler_.prefix_query_tokens();
  s.prefix_hit_tokens = scheduler_.prefix_hit_tokens();
  s.preemptions = scheduler_.num_preemptions();
  return s;
}

}  // namespace tokamak::llm
