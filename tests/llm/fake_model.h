#pragma once
// A model whose cache holds the tokens themselves: logits are a hash of the tokens that the block table gives back, so a wrong slot, a
// wrong table, a missed copy or a stale block gives wrong tokens, or is reported at once.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>

#include "llm/llm_core.h"

namespace tokamak::llm {

inline uint64_t mix(uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

struct FakeModelOptions {
  int vocab_size = 61;
  int context_length = 512;
  int block_size = 4;
  int num_blocks = 1024;
  int wrong_percent = 0;             // of contexts in which it disagrees with the model that has 0: a draft
  float sharpness = 6;               // spread of the logits
  float eos_bias = 0;                // added to token 2, the end of sequence
  int32_t nan_token = -1;            // a context that holds it gives NaN
  int32_t throw_token = -1;          // a batch that holds it throws
  bool asynchronous = false;         // has submit() and take(); nothing is computed before it is taken
  int32_t refuse_token = INT32_MIN;  // a batch that holds it is not submitted
};

class FakeModel final : public StepModel {
 public:
  explicit FakeModel(const FakeModelOptions& options = {}) : options_(options) {
    config_.architecture = "Fake";
    config_.vocab_size = options.vocab_size;
    config_.context_length = options.context_length;
    config_.block_size = options.block_size;
    config_.num_layers = config_.num_heads = config_.num_kv_heads = config_.head_dim = config_.hidden_size = 1;
    config_.eos_token_ids = {2};
    cache_.assign(size_t(options.num_blocks) * options.block_size, -1);
  }

  const ModelConfig& config() const override { return config_; }
  int num_blocks() const override { return options_.num_blocks; }

  void run(const StepBatch& b) override {
    expect(queue_.empty(), "run() while a step is in flight");
    expect(b.choices.empty() || b.choices.size() == b.logit_rows.size(), "choices");
    compute(b);
    tokens_.clear();
    if (!options_.asynchronous) return;
    for (size_t r = 0; r < b.logit_rows.size(); ++r)
      tokens_.push_back(choose(logits(static_cast<int>(r)), b.choices.empty() ? TokenChoice() : b.choices[r]));
  }
  // Where the steps are asynchronous, tokens are chosen by the model.
  int32_t chosen(int row) const override { return tokens_.empty() ? -1 : tokens_[row]; }

  bool is_asynchronous() const override { return options_.asynchronous; }

  void submit(const StepBatch& b) override {
    expect(num_in_flight_ < kMaxInFlight, "too many steps in flight");
    expect(b.choices.size() == b.logit_rows.size(), "choices");
    if (std::ranges::find(b.token_ids, options_.refuse_token) != b.token_ids.end())
      fail(ErrorCode::Internal, "the fake model was asked to refuse");
    queue_.push_back({b, {}});
    ++num_in_flight_;
    ++num_submitted;
  }

  std::span<const int32_t> take() override {
    for (;;) {
      const Queued next = std::move(queue_.front());
      queue_.erase(queue_.begin());
      if (next.copy) {
        copy_now(next.copy->src, next.copy->dst);
        continue;
      }
      --num_in_flight_;
      StepBatch b = next.batch;
      for (int32_t& token : b.token_ids) {
        if (token >= 0) continue;
        expect(-1 - token < std::ssize(chosen_), "a row that the step before did not have");
        token = std::max(chosen_[-1 - token], 0);
      }
      chosen_.assign(b.logit_rows.size(), 3);  // of a step that fails
      compute(b);
      for (size_t r = 0; r < chosen_.size(); ++r) chosen_[r] = choose(logits(static_cast<int>(r)), b.choices[r]);
      tokens_ = chosen_;
      return tokens_;
    }
  }

  void compute(const StepBatch& b) {
    ++num_steps;
    const auto num_tokens = static_cast<int32_t>(b.token_ids.size());
    max_batch = std::max(max_batch, num_tokens);
    max_seqs = std::max(max_seqs, b.num_seqs);
    expect(num_tokens > 0 && std::ssize(b.positions) == num_tokens && std::ssize(b.slot_mapping) == num_tokens, "array sizes");
    expect(std::ssize(b.seq_lens) == b.num_seqs && std::ssize(b.query_starts) == b.num_seqs + 1, "sequence arrays");
    expect(std::ssize(b.block_tables) == int64_t{b.num_seqs} * b.blocks_per_seq, "block tables");
    expect(b.query_starts.front() == 0 && b.query_starts.back() == num_tokens, "query_starts");
    if (std::ranges::find(b.token_ids, options_.throw_token) != b.token_ids.end())
      fail(ErrorCode::Internal, "the fake model was asked to throw");
    for (int s = 0; s < b.num_seqs; ++s) {
      const int count = b.query_starts[s + 1] - b.query_starts[s];
      expect(count > 0, "a sequence without tokens");
      for (int i = 0; i < count; ++i) {
        const int t = b.query_starts[s] + i;
        expect(b.positions[t] == b.seq_lens[s] - count + i, "positions");
        expect(b.slot_mapping[t] == slot(b, s, b.positions[t]), "slot_mapping");
        cache_[b.slot_mapping[t]] = b.token_ids[t];
      }
    }
    logits_.resize(b.logit_rows.size() * config_.vocab_size);
    for (size_t r = 0; r < b.logit_rows.size(); ++r) {
      expect(r == 0 || b.logit_rows[r] > b.logit_rows[r - 1], "logit_rows ascend");
      const int s = static_cast<int>(std::ranges::upper_bound(b.query_starts, b.logit_rows[r]) - b.query_starts.begin()) - 1;
      context_.clear();
      for (int p = 0; p <= b.positions[b.logit_rows[r]]; ++p) context_.push_back(cache_[slot(b, s, p)]);
      logits_of(context_, {logits_.data() + r * config_.vocab_size, size_t(config_.vocab_size)});
    }
  }

  std::span<const float> logits(int row) const override {
    return {logits_.data() + size_t(row) * config_.vocab_size, size_t(config_.vocab_size)};
  }

  void copy_block(int src, int dst) override {
    if (queue_.empty()) copy_now(src, dst);
    else queue_.push_back({{}, BlockManager::Copy{src, dst}});
  }

  void copy_now(int src, int dst) {
    std::copy_n(cache_.begin() + int64_t{src} * options_.block_size, options_.block_size,
                cache_.begin() + int64_t{dst} * options_.block_size);
    ++num_copies;
  }

  // What follows `context`.
  void logits_of(std::span<const int32_t> context, std::span<float> out) const {
    uint64_t h = 1;
    bool poisoned = false;
    for (const int32_t token : context) {
      expect(token >= 0, "an unwritten slot was read");
      h = mix(h ^ static_cast<uint64_t>(token));
      poisoned |= token == options_.nan_token;
    }
    if (static_cast<int>(h % 100) < options_.wrong_percent) h = mix(h + 1);
    for (int32_t t = 0; t < config_.vocab_size; ++t)
      out[t] = options_.sharpness * static_cast<float>(mix(h + static_cast<uint64_t>(t) * 7919) >> 40) * 0x1p-24f;
    out[2] += options_.eos_bias;
    if (poisoned) out[5] = std::numeric_limits<float>::quiet_NaN();
  }

  int num_steps = 0, num_submitted = 0, num_copies = 0, max_batch = 0, max_seqs = 0;

 private:
  struct Queued {
    StepBatch batch;
    std::optional<BlockManager::Copy> copy;  // instead
  };
  int32_t choose(std::span<const float> row, const TokenChoice& choice) {
    if (std::ranges::any_of(row, [](float x) { return !std::isfinite(x); })) return -1;
    if (choice.temperature == 0) return static_cast<int32_t>(std::ranges::max_element(row) - row.begin());
    SamplingParams params;
    params.temperature = choice.temperature, params.top_k = choice.top_k, params.top_p = choice.top_p, params.min_p = choice.min_p;
    sampler_.distribution(row, SamplingState(params, {}, {}, 0, 0, nullptr), distribution_);
    return sampler_.draw(distribution_, uniform(choice.seed, choice.index, choice.position, Draw::Token));
  }
  static void expect(bool ok, const char* what) {
    if (!ok) fail(ErrorCode::InvalidArgument, "fake model: bad batch: {}", what);
  }
  int32_t slot(const StepBatch& b, int s, int position) const {
    return b.block_tables[int64_t{s} * b.blocks_per_seq + position / options_.block_size] * options_.block_size +
           position % options_.block_size;
  }

  FakeModelOptions options_;
  ModelConfig config_;
  std::vector<Queued> queue_;
  int num_in_flight_ = 0;
  std::vector<int32_t> chosen_, tokens_;
  Sampler sampler_{options_.vocab_size};
  Distribution distribution_;
  std::vector<int32_t> cache_;  // token of each slot, -1: never written
  std::vector<int32_t> context_;
  std::vector<float> logits_;
};

// Token t is written "a".."z" by t % 26, followed by a space for the rest; tokens 40 to 43 are the four bytes of one emoji.
class FakeTextDecoder final : public TextDecoder {
 public:
  std::string push(int32_t token) override {
    static constexpr std::string_view kEmoji = "\xF0\x9F\x98\x80";
    if (token >= 40 && token < 44) {
      held_ += kEmoji[token - 40];
      return held_.size() < 4 ? "" : std::exchange(held_, {});
    }
    std::string text = std::exchange(held_, {}).empty() ? "" : "\xEF\xBF\xBD";
    text += static_cast<char>('a' + token % 26);
    if (token >= 26) text += ' ';
    return text;
  }
  std::string finish() override { return std::exchange(held_, {}).empty() ? "" : "\xEF\xBF\xBD"; }

 private:
  std::string held_;
};

struct Result {
  std::vector<int32_t> tokens;
  std::string text;
  std::vector<Logprobs> logprobs, prompt_logprobs;
  FinishReason reason = FinishReason::None;
  std::string error, stop_string;
  bool operator==(const Result& o) const { return tokens == o.tokens && text == o.text && reason == o.reason; }
};

// A core over fake models that collects every answer; time passes by a millisecond whenever somebody looks.
struct Rig {
  explicit Rig(const FakeModelOptions& model_options = {}, LlmOptions options = {}, std::unique_ptr<Proposer> proposer = nullptr,
               bool with_text = true) {
    auto owned = std::make_unique<FakeModel>(model_options);
    model = owned.get();
    LlmCore::Parts parts;
    parts.model = std::move(owned);
    parts.proposer = std::move(proposer);
    parts.now_ns = [this] { return time_ns += 1'000'000; };
    if (with_text) parts.decoder = [](bool) { return std::make_unique<FakeTextDecoder>(); };
    core = std::make_unique<LlmCore>(std::move(parts), options);
    core->on_event = [this](const ActiveRequest&, Event&& e) {
      Result& r = results[{e.request, e.index}];
      r.tokens.insert(r.tokens.end(), e.token_ids.begin(), e.token_ids.end());
      r.text += e.text;
      r.logprobs.insert(r.logprobs.end(), e.logprobs.begin(), e.logprobs.end());
      r.prompt_logprobs.insert(r.prompt_logprobs.end(), e.prompt_logprobs.begin(), e.prompt_logprobs.end());
      if (e.finish_reason != FinishReason::None) {
        if (r.reason != FinishReason::None) fail(ErrorCode::Internal, "an answer ended twice");
        r.reason = e.finish_reason, r.error = e.error, r.stop_string = e.stop_string;
      }
      if (e.is_last) usage[e.request] = e.usage;
    };
  }

  RequestId add(Request request) {
    core->validate(request);
    core->add(++last_id, std::move(request));
    return last_id;
  }
  void run() {
    while (core->has_work()) core->step();
  }
  const Result& result(RequestId id, int index = 0) { return results.at({id, index}); }
  void expect_idle() {
    core->blocks().check();
    if (core->blocks().num_used() != 0) fail(ErrorCode::Internal, "{} blocks are still used", core->blocks().num_used());
  }

  FakeModel* model;
  std::unique_ptr<LlmCore> core;
  std::map<std::pair<RequestId, int>, Result> results;
  std::map<RequestId, Usage> usage;
  RequestId last_id = 0;
  int64_t time_ns = 1'000'000'000;
};

// The answers to a request with nothing beside it: plenty of blocks, no cache, whole prompts, no speculation. Seeded requests only.
inline std::vector<Result> alone(const Request& request, FakeModelOptions model_options = {}) {
  model_options.num_blocks = 4096;
  model_options.asynchronous = false;
  Rig rig(model_options, {.max_num_seqs = 64, .max_num_batched_tokens = 4096, .prefix_cache = false, .chunked_prefill = false});
  const RequestId id = rig.add(request);
  rig.run();
  std::vector<Result> results;
  for (int i = 0; i < request.sampling.n; ++i) results.push_back(rig.result(id, i));
  return results;
}

inline std::vector<int32_t> random_tokens(std::mt19937& random, int count, int vocab_size = 61) {
  std::vector<int32_t> tokens(count);
  for (auto& t : tokens) t = static_cast<int32_t>(3 + random() % (vocab_size - 3));
  return tokens;
}

inline Request greedy(std::vector<int32_t> prompt, int max_tokens) {
  Request r;
  r.prompt_ids = std::move(prompt);
  r.sampling.temperature = 0;
  r.sampling.max_tokens = max_tokens;
  return r;
}

// Mixed requests: lengths, shared prefixes, sampling and greedy, stop strings, several answers, priorities.
inline std::vector<Request> mixed_requests(int count, int max_length, uint32_t seed) {
  std::mt19937 random(seed);
  const auto system_prompt = random_tokens(random, 23);
  std::vector<Request> requests;
  for (int i = 0; i < count; ++i) {
    Request r = greedy(random_tokens(random, 1 + static_cast<int>(random() % max_length)), 1 + static_cast<int>(random() % max_length));
    if (i % 3 == 0) r.prompt_ids.insert(r.prompt_ids.begin(), system_prompt.begin(), system_prompt.end());
    if (i % 4 == 1) {
      r.sampling.temperature = 0.8f;
      r.sampling.top_k = 20;
      r.sampling.top_p = 0.9f;
      r.sampling.repetition_penalty = 1.1f;
      r.sampling.seed = i;
    }
    if (i % 5 == 2) r.sampling.stop = {"ab", "q z"};
    if (i % 7 == 3) r.sampling.n = 3, r.sampling.temperature = 1, r.sampling.seed = i;
    if (i % 6 == 4) r.sampling.presence_penalty = 0.5f, r.sampling.frequency_penalty = 0.3f;
    if (i % 8 == 5) r.sampling.min_tokens = 3, r.sampling.max_tokens += 3;
    if (i % 9 == 6) r.sampling.stop_token_ids = {17, 18};
    r.priority = static_cast<int>(random() % 3);
    requests.push_back(std::move(r));
  }
  return requests;
}

// Runs all at once, requests joining over the first steps, and compares with each alone.
inline void expect_as_alone(Rig& rig, const std::vector<Request>& requests, bool exact_sampling = true,
                            const FakeModelOptions& model = {}) {
  std::vector<RequestId> ids;
  for (size_t i = 0; i < requests.size(); ++i) {
    ids.push_back(rig.add(requests[i]));
    if (i % 4 == 3) rig.core->step();
  }
  rig.run();
  for (size_t i = 0; i < requests.size(); ++i) {
    if (!exact_sampling && requests[i].sampling.temperature > 0) continue;
    const auto expected = alone(requests[i], model);
    for (int k = 0; k < requests[i].sampling.n; ++k) {
      EXPECT_EQ(rig.result(ids[i], k).tokens, expected[k].tokens) << "request " << i << " answer " << k;
      EXPECT_EQ(rig.result(ids[i], k).text, expected[k].text);
      EXPECT_EQ(rig.result(ids[i], k).reason, expected[k].reason);
    }
  }
  EXPECT_NO_THROW(rig.expect_idle());
}

// As mixed_requests, but of those that an asynchronous model can decide by itself; some with several answers.
inline std::vector<Request> plain_requests(int count, int max_length, uint32_t seed) {
  auto requests = mixed_requests(count, max_length, seed);
  for (size_t i = 0; i < requests.size(); ++i) {
    SamplingParams& p = requests[i].sampling;
    p.repetition_penalty = 1, p.presence_penalty = p.frequency_penalty = 0, p.min_tokens = 0;
    if (i % 11 != 5) p.n = 1;
    if (i % 3 == 1) p.ignore_eos = true;
  }
  return requests;
}

}  // namespace tokamak::llm
