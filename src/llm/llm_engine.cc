#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <unordered_set>

#include "llm/llm_core.h"
#include "llm/step_model.h"
#include "llm/tokenizer/tokenizer.h"

namespace tokamak::llm {
namespace {

// Events of one request that nobody has asked for yet.
struct Mailbox {
  std::deque<Event> events;
  std::condition_variable arrived;
  bool is_forgotten = false;
};

class TokenizerDecoder final : public TextDecoder {
 public:
  TokenizerDecoder(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special_tokens)
      : stream_(std::move(tokenizer), skip_special_tokens) {}
  std::string push(int32_t token) override { return stream_.push(token); }
  std::string finish() override { return stream_.finish(); }

 private:
  StreamDecoder stream_;
};

std::unique_ptr<StepModel> target_model(std::shared_ptr<const Engine> engine, const LlmOptions& options) {
  return make_step_model(std::move(engine), StepModelOptions{.max_num_seqs = options.max_num_seqs,
                                                             .max_num_batched_tokens = options.max_num_batched_tokens,
                                                             .max_context_length = options.max_context_length,
                                                             .kv_cache_bytes = options.kv_cache_bytes,
                                                             .num_threads = options.num_threads});
}

// With room for as many tokens as the target has.
std::unique_ptr<StepModel> draft_model(const StepModel& target, const LlmOptions& options) {
  const auto& engine = options.speculative.draft;
  if (options.speculative.method != SpeculativeOptions::Method::Draft || !engine) return nullptr;
  const ModelConfig config = ModelConfig::from_metadata(engine->graph().metadata);
  int64_t bytes = options.speculative.draft_kv_cache_bytes;
  const int64_t tokens = int64_t{target.num_blocks()} * target.config().block_size;
  if (bytes == 0) bytes = (tokens + config.block_size - 1) / config.block_size * config.kv_block_bytes();
  const int context_length = options.max_context_length > 0 ? options.max_context_length : target.config().context_length;
  return make_step_model(engine, StepModelOptions{.max_num_seqs = options.max_num_seqs,
                                                  .max_num_batched_tokens = options.max_num_batched_tokens,
                                                  .max_context_length = context_length,
                                                  .kv_cache_bytes = bytes,
                                                  .num_threads = options.num_threads});
}

std::shared_ptr<const Tokenizer> tokenizer_of(const Engine& engine) {
  const auto found = engine.graph().metadata.find("tokenizer.json");
  return found == engine.graph().metadata.end() || found->second.empty() ? nullptr : Tokenizer::from_json(found->second);
}

}  // namespace

struct LlmEngine::Impl {
  Impl(std::unique_ptr<StepModel> model, const LlmOptions& llm_options, std::unique_ptr<StepModel> draft,
       std::shared_ptr<const Tokenizer> tok)
      : options(llm_options), tokenizer(std::move(tok)), core(make_parts(std::move(model), std::move(draft)), options) {
    core.on_event = [this](const ActiveRequest& request, Event&& event) { deliver(request, std::move(event)); };
    snapshot = core.statistics();
    worker = std::thread([this] { work(); });
    worker_id = worker.get_id();
  }

  LlmCore::Parts make_parts(std::unique_ptr<StepModel> model, std::unique_ptr<StepModel> draft) const {
    LlmCore::Parts parts;
    const SpeculativeOptions& speculative = options.speculative;
    switch (speculative.method) {
      case SpeculativeOptions::Method::None: break;
      case SpeculativeOptions::Method::NGram:
        parts.proposer = std::make_unique<NGramProposer>(speculative.ngram_min, speculative.ngram_max);
        break;
      case SpeculativeOptions::Method::Draft:
        if (!draft) fail(ErrorCode::InvalidArgument, "speculation with a draft model, but no draft model was given");
        parts.proposer = std::make_unique<DraftProposer>(std::move(draft), model->config().vocab_size, options.max_num_batched_tokens,
                                                         options.prefix_cache);
    }
    parts.model = std::move(model);
    if (tokenizer)
      parts.decoder = [this](bool skip_special_tokens) { return std::make_unique<TokenizerDecoder>(tokenizer, skip_special_tokens); };
    return parts;
  }

  // The worker: takes what arrived, computes a step, again.
  void work() {
    std::vector<std::pair<RequestId, Request>> requests;
    std::vector<RequestId> cancels;
    for (;;) {
      bool stops, drains;
      {
        std::unique_lock lock(mutex);
        snapshot = core.statistics();
        num_taken = 0;
        has_work.wait(lock, [&] { return is_stopping || !inbox.empty() || !to_cancel.empty() || core.has_work(); });
        std::swap(requests, inbox);
        std::swap(cancels, to_cancel);
        num_taken = static_cast<int>(requests.size());
        stops = is_stopping, drains = is_draining;
      }
      for (auto& [id, request] : requests) core.add(id, std::move(request));
      for (const RequestId id : cancels) core.cancel(id);
      requests.clear();
      cancels.clear();
      if (stops && !drains) core.cancel_all();
      if (!core.has_work()) {
        if (stops) break;
        continue;
      }
      try {
        core.step();
      } catch (const std::exception& e) {  // a bug: no request can be trusted to go on
        core.fail_all(ErrorCode::Internal, e.what());
      }
    }
    const std::lock_guard lock(mutex);
    snapshot = core.statistics();
  }

  // Whoever sees the last event sees statistics that know of it.
  void deliver(const ActiveRequest& request, Event&& event) {
    const RequestId id = request.id;
    const bool is_last = event.is_last;
    {
      const std::lock_guard lock(mutex);
      if (is_last) {
        live.erase(id);
        snapshot = core.statistics();
        num_taken = 0;
      }
      if (const auto found = mailboxes.find(id); found != mailboxes.end()) {
        found->second->events.push_back(std::move(event));
        found->second->arrived.notify_one();
        return;
      }
    }
    try {
      request.request.on_event(event);
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!is_last) to_cancel.push_back(id);
    }
  }

  const LlmOptions options;
  const std::shared_ptr<const Tokenizer> tokenizer;
  LlmCore core;  // the worker's, but for validate() and what is constant

  mutable std::mutex mutex;  // guards everything below
  std::condition_variable has_work;
  std::vector<std::pair<RequestId, Request>> inbox;
  std::vector<RequestId> to_cancel;
  std::unordered_set<RequestId> live;
  std::unordered_map<RequestId, std::shared_ptr<Mailbox>> mailboxes;
  Statistics snapshot;
  int num_taken = 0;  // requests that left the inbox and are not in the snapshot yet
  RequestId last_id = 0;
  bool is_stopping = false, is_draining = false;

  std::mutex join_mutex;
  std::thread worker;
  std::thread::id worker_id;
};

LlmEngine::LlmEngine(std::unique_ptr<StepModel> model, LlmOptions options, std::unique_ptr<StepModel> draft,
                     std::shared_ptr<const Tokenizer> tokenizer)
    : impl_(std::make_unique<Impl>(std::move(model), options, std::move(draft), std::move(tokenizer))) {}

LlmEngine::LlmEngine(std::shared_ptr<const Engine> engine, LlmOptions options) {
  auto tokenizer = tokenizer_of(*engine);
  auto model = target_model(std::move(engine), options);
  auto draft = draft_model(*model, options);
  options.speculative.draft.reset();
  impl_ = std::make_unique<Impl>(std::move(model), options, std::move(draft), std::move(tokenizer));
}

LlmEngine::~LlmEngine() { shutdown(false); }

RequestId LlmEngine::submit(Request request) {
  std::vector<Request> one;
  one.push_back(std::move(request));
  return submit(std::move(one)).front();
}

std::vector<RequestId> LlmEngine::submit(std::vector<Request> requests) {
  Impl& impl = *impl_;
  for (const Request& request : requests) impl.core.validate(request);
  std::vector<RequestId> ids;
  const std::lock_guard lock(impl.mutex);
  if (impl.is_stopping) fail(ErrorCode::InvalidArgument, "the engine is shutting down and takes no new requests");
  const int num_waiting = impl.snapshot.num_waiting + impl.num_taken + static_cast<int>(impl.inbox.size());
  const auto count = static_cast<int>(requests.size());
  if (impl.options.max_waiting > 0 && num_waiting + count > impl.options.max_waiting)
    fail(ErrorCode::ResourceExhausted, "{} requests wait already, the limit (max_waiting) is {}; try again later", num_waiting,
         impl.options.max_waiting);
  for (Request& request : requests) {
    const RequestId id = ++impl.last_id;
    if (!request.on_event) impl.mailboxes.emplace(id, std::make_shared<Mailbox>());
    impl.live.insert(id);
    impl.inbox.emplace_back(id, std::move(request));
    ids.push_back(id);
  }
  impl.has_work.notify_one();
  return ids;
}

bool LlmEngine::cancel(RequestId id) {
  const std::lock_guard lock(impl_->mutex);
  if (!impl_->live.contains(id)) return false;
  impl_->to_cancel.push_back(id);
  impl_->has_work.notify_one();
  return true;
}

std::optional<Event> LlmEngine::next_event(RequestId id, std::chrono::milliseconds timeout) {
  std::unique_lock lock(impl_->mutex);
  const auto found = impl_->mailboxes.find(id);
  if (found == impl_->mailboxes.end()) fail(ErrorCode::NotFound, "there is no request {} with events to fetch", id);
  const std::shared_ptr<Mailbox> mailbox = found->second;
  const auto ready = [&] { return mailbox->is_forgotten || !mailbox->events.empty(); };
  if (timeout.count() < 0) mailbox->arrived.wait(lock, ready);
  else if (!mailbox->arrived.wait_for(lock, timeout, ready)) return std::nullopt;
  if (mailbox->events.empty()) fail(ErrorCode::NotFound, "another thread has fetched the last event of request {}", id);
  Event event = std::move(mailbox->events.front());
  mailbox->events.pop_front();
  if (event.is_last) {
    mailbox->is_forgotten = true;
    mailbox->arrived.notify_all();
    impl_->mailboxes.erase(id);
  }
  return event;
}

void LlmEngine::shutdown(bool drain) {
  Impl& impl = *impl_;
  if (impl.worker_id == std::this_thread::get_id())
    fail(ErrorCode::InvalidArgument, "LlmEngine::shutdown was called from a callback, and would wait for itself");
  {
    const std::lock_guard lock(impl.mutex);
    impl.is_draining = drain && (!impl.is_stopping || impl.is_draining);
    impl.is_stopping = true;
    impl.has_work.notify_one();
  }
  const std::lock_guard lock(impl.join_mutex);
  if (impl.worker.joinable()) impl.worker.join();
}

Statistics LlmEngine::statistics() const {
  const std::lock_guard lock(impl_->mutex);
  Statistics s = impl_->snapshot;
  const int pending = impl_->num_taken + static_cast<int>(impl_->inbox.size());
  s.num_waiting += pending;
  s.requests_submitted += pending;
  return s;
}

const ModelConfig& LlmEngine::config() const { return impl_->core.model().config(); }

int LlmEngine::context_length() const { return impl_->core.context_length(); }

const std::shared_ptr<const Tokenizer>& LlmEngine::tokenizer() const { return impl_->tokenizer; }

}  // namespace tokamak::llm
