#include "server/openai/generation.h"

#include <algorithm>
#include <chrono>
#include <mutex>
#include <numeric>

#include "server/openai/api_error.h"

namespace tokamak::server::openai {
namespace {

int64_t now_ns() { return std::chrono::steady_clock::now().time_since_epoch().count(); }

constexpr const char* kJson = "application/json";

// All events come from the engine's thread, one at a time; whatever else happens only cancels.
class Generation : public std::enable_shared_from_this<Generation> {
 public:
  Generation(GenerationJob job, std::shared_ptr<http::Responder> responder, std::shared_ptr<WorkQueue> queue,
             std::shared_ptr<RequestObserver> observer)
      : job_(std::move(job)),
        responder_(std::move(responder)),
        queue_(std::move(queue)),
        observer_(std::move(observer)),
        model_(std::move(job_.model)),
        model_name_(model_->name()),
        num_answers_(job_.requests.front().sampling.n),
        num_open_(job_.requests.size()),
        last_event_ns_(job_.choices.size(), 0) {
    finished_.num_answers = static_cast<int>(job_.choices.size());
    finished_.max_tokens = job_.requests.front().sampling.max_tokens;
    if (job_.trace) begin_trace(job_.requests.front().sampling);
  }

  void start() {
    if (job_.computes_nothing) {
      answer_without_engine();
      return;
    }
    for (size_t r = 0; r < job_.requests.size(); ++r)
      job_.requests[r].on_event = [self = shared_from_this(), r](const llm::Event& event) { self->on_event(r, event); };
    responder_->on_disconnect([weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->cancel();
    });
    const std::shared_ptr<LlmModel> model = model_;  // the answers may be over, and model_ be gone, before submit() returns
    std::vector<llm::RequestId> ids;
    try {
      ids = model->engine().submit(std::exchange(job_.requests, {}));
    } catch (const std::exception& e) {
      if (job_.trace) job_.trace->end(now_ns(), e.what());
      throw;
    }
    const std::lock_guard lock(mutex_);
    ids_ = std::move(ids);
    if (is_cancelled_) cancel_locked();
  }

 private:
  void on_event(size_t request, const llm::Event& event) {
    try {
      take(request, event);
    } catch (...) {
      fail_all(api_error(std::current_exception()));
    }
    if (event.is_last && --num_open_ == 0) {
      finish();
      release();
    }
  }

  void take(size_t request, const llm::Event& event) {
    const size_t choice = request * num_answers_ + event.index;
    observe(choice, event);
    if (has_failed_) return;
    if (event.finish_reason == llm::FinishReason::Error) {
      fail_all(api_error(event.error_code, event.error));
      return;
    }
    if (event.finish_reason == llm::FinishReason::Abort) {
      fail_all(
          is_cancelled()
              ? ApiError(499, "server_error", "the request was cancelled: the client closed the connection, or its half of it")
              : ApiError(503, "server_error", "the request was cancelled: the model is being unloaded or the server is shutting down"));
      return;
    }
    if (!job_.stream) {
      job_.choices[choice]->collect(event);
      return;
    }
    std::string chunks;
    chunks.reserve(512);
    job_.choices[choice]->stream(event, chunks);
    if (event.is_last && num_open_ == 1) {
      if (job_.include_usage) job_.frame->append_usage_chunk(chunks, total_usage());
      chunks += "data: [DONE]\n\n";
    }
    if (chunks.empty()) return;
    begin();
    responder_->write(std::move(chunks));
    if (responder_->queued_bytes() > kMaxQueuedBytes) fail_all(ApiError(408, "server_error", "the client does not read the answer"));
  }

  // Before fail_all(), so that what a request cost is counted whatever became of it.
  void observe(size_t choice, const llm::Event& event) {
    if (event.is_last) {
      const llm::Usage& usage = event.usage;
      finished_.prompt_tokens += usage.prompt_tokens;
      finished_.completion_tokens += usage.completion_tokens;
      finished_.cached_tokens += usage.cached_tokens;
      finished_.queue_s = std::max(finished_.queue_s, usage.queue_ms * 1e-3);
      if (usage.ttft_ms > 0) {
        finished_.prefill_s = std::max(finished_.prefill_s, (usage.ttft_ms - usage.queue_ms) * 1e-3);
        finished_.decode_s = std::max(finished_.decode_s, (usage.total_ms - usage.ttft_ms) * 1e-3);
      }
    }
    if (event.finish_reason != llm::FinishReason::None) finished_.reason = event.finish_reason;
    if (event.token_ids.empty()) return;
    const int64_t now = now_ns();
    const int64_t before = std::exchange(last_event_ns_[choice], now);
    if (first_token_ns_ == 0) first_token_ns_ = now;
    if (!observer_) return;
    if (before == 0) observer_->on_first_token(model_name_, static_cast<double>(now - job_.received_ns) * 1e-9);
    else observer_->on_inter_token(model_name_, static_cast<double>(now - before) * 1e-9);
  }

  void begin() {
    if (std::exchange(has_begun_, true)) return;
    std::vector<http::Header> headers = std::move(job_.headers);
    headers.emplace_back("Content-Type", "text/event-stream; charset=utf-8");
    headers.emplace_back("Cache-Control", "no-cache");
    headers.emplace_back("X-Accel-Buffering", "no");  // reverse proxies pass chunks on at once
    responder_->begin(200, std::move(headers));
  }

  // Keys are those that vLLM's spans have.
  void begin_trace(const llm::SamplingParams& sampling) {
    queued_ns_ = now_ns();
    job_.trace->set("gen_ai.request.max_tokens", int64_t{sampling.max_tokens});
    job_.trace->set("gen_ai.request.n", int64_t{sampling.n});
    job_.trace->set("gen_ai.request.temperature", double{sampling.temperature});
    job_.trace->set("gen_ai.request.top_p", double{sampling.top_p});
  }

  void end_trace(int64_t now) {
    Trace& trace = *job_.trace;
    const auto queue_ns = static_cast<int64_t>(finished_.queue_s * 1e9);
    trace.mark("QUEUE_START", queued_ns_);
    trace.mark("COMPUTE_START", std::min(queued_ns_ + queue_ns, now));
    if (first_token_ns_ > 0) trace.mark("FIRST_TOKEN", first_token_ns_);
    trace.mark("COMPUTE_END", now);
    trace.set("gen_ai.response.model", model_name_);
    trace.set("gen_ai.response.finish_reason", std::string(llm::to_string(finished_.reason)));
    trace.set("gen_ai.usage.num_sequences", int64_t{finished_.num_answers});
    trace.set("gen_ai.usage.prompt_tokens", finished_.prompt_tokens);
    trace.set("gen_ai.usage.completion_tokens", finished_.completion_tokens);
    trace.set("gen_ai.latency.time_in_queue", finished_.queue_s);
    if (first_token_ns_ > 0)
      trace.set("gen_ai.latency.time_to_first_token", static_cast<double>(first_token_ns_ - job_.received_ns) * 1e-9);
    trace.set("gen_ai.latency.e2e", finished_.e2e_s);
    trace.end(now, error_);
    job_.trace = nullptr;
  }

  void finish() {
    const int64_t now = now_ns();
    finished_.e2e_s = static_cast<double>(now - job_.received_ns) * 1e-9;
    if (observer_) observer_->on_finished(model_name_, finished_);
    if (job_.trace) end_trace(now);
    if (has_failed_) return;
    if (job_.stream) {
      responder_->end();
      return;
    }
    http::Response response{.headers = std::move(job_.headers)};
    response.headers.emplace_back("Content-Type", kJson);
    response.body = whole();
    responder_->send(std::move(response));
  }

  std::string whole() {
    std::string body = job_.frame->head + R"(,"choices":[)";
    const int kept = job_.num_kept > 0 ? job_.num_kept : num_answers_;
    int index = 0;
    for (size_t first = 0; first < job_.choices.size(); first += num_answers_) {
      std::vector<int> order(num_answers_);
      std::iota(order.begin(), order.end(), 0);
      const auto score = [&](int i) { return job_.choices[first + i]->mean_logprob(); };
      if (job_.num_kept > 0) std::ranges::stable_sort(order, std::greater<>(), score);
      for (int i = 0; i < kept; ++i) {
        if (index) body += ',';
        job_.choices[first + order[i]]->append_choice(body, index++);
      }
    }
    body += R"(],"usage":)" + total_usage() + job_.whole_extra + "}";
    return body;
  }

  std::string total_usage() const { return usage_json(finished_.prompt_tokens, finished_.completion_tokens, finished_.cached_tokens); }

  void answer_without_engine() {
    for (size_t r = 0; r < job_.requests.size(); ++r) {
      for (int i = 0; i < num_answers_; ++i) {
        llm::Event event{.index = i, .finish_reason = llm::FinishReason::Length};
        event.is_last = i + 1 == num_answers_;
        event.usage.prompt_tokens = static_cast<int>(job_.requests[r].prompt_ids.size());
        on_event(r, event);
      }
    }
  }

  // The client learns of it, and nothing more of this is computed.
  void fail_all(const ApiError& error) noexcept {
    if (std::exchange(has_failed_, true)) return;
    cancel();
    try {
      if (job_.trace) error_ = error.what();
      if (has_begun_) {
        responder_->write("data: " + error_json(error) + "\n\n");
        responder_->end();
      } else {
        http::Response response = error_response(error);
        for (http::Header& header : job_.headers) response.headers.push_back(std::move(header));
        responder_->send(std::move(response));
      }
    } catch (...) {  // out of memory: the connection closes when the responder goes
    }
  }

  bool is_cancelled() {
    const std::lock_guard lock(mutex_);
    return is_cancelled_;
  }

  void cancel() {
    const std::lock_guard lock(mutex_);
    is_cancelled_ = true;
    cancel_locked();
  }

  void cancel_locked() {
    if (!model_) return;
    for (const llm::RequestId id : ids_) model_->engine().cancel(id);
  }

  void release() {
    std::shared_ptr<LlmModel> model;
    {
      const std::lock_guard lock(mutex_);
      model = std::move(model_);
    }
    queue_->post([model = std::move(model)] {});
    responder_.reset();
    job_.hold.reset();
  }

  GenerationJob job_;
  std::shared_ptr<http::Responder> responder_;
  const std::shared_ptr<WorkQueue> queue_;
  const std::shared_ptr<RequestObserver> observer_;

  std::mutex mutex_;  // guards the next three
  std::shared_ptr<LlmModel> model_;
  std::vector<llm::RequestId> ids_;
  bool is_cancelled_ = false;

  const std::string model_name_;
  const int num_answers_;
  size_t num_open_;
  bool has_begun_ = false, has_failed_ = false;
  std::vector<int64_t> last_event_ns_;  // of each choice
  int64_t queued_ns_ = 0;               // when it is traced
  int64_t first_token_ns_ = 0;          // 0: there was none
  std::string error_;                   // what fail_all() said, when it is traced
  FinishedRequest finished_;
};

}  // namespace

void generate(GenerationJob job, std::shared_ptr<http::Responder> responder, std::shared_ptr<WorkQueue> queue,
              std::shared_ptr<RequestObserver> observer) {
  std::make_shared<Generation>(std::move(job), std::move(responder), std::move(queue), std::move(observer))->start();
}

}  // namespace tokamak::server::openai
