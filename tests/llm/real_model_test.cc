// The trained checkpoints in ../shared, through LlmEngine: greedy answers against what the reference implementation gave, and against
// themselves under load, preemption and speculation.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "builder/builder.h"
#include "import/hf/hf.h"
#include "llm/batch_builder.h"
#include "llm/engine_step_model.h"
#include "llm/sampler.h"
#include "llm/tokenizer/tokenizer.h"
#include "tests/support/allocations.h"
#include "tokamak/llm.h"

namespace tokamak::llm {
namespace {

namespace fs = std::filesystem;
const fs::path kModels = fs::path(TOKAMAK_SOURCE_DIR) / "../shared/models/llm";

// Built once a process; rotary frequencies in bf16, as the reference had them (tests/import/hf/reference_logits_test.cc).
std::shared_ptr<const Engine> engine_of(const std::string& model) {
  static std::map<std::string, std::shared_ptr<const Engine>> engines;
  auto& engine = engines[model];
  if (!engine) {
    hf::HfOptions import;
    import.kv_dtype = DType::F32;
    import.rope_dtype = DType::BF16;
    BuildOptions options;
    options.opt_level = 0;
    engine = build_engine(hf::import_checkpoint((kModels / model).string(), import), options);
  }
  return engine;
}

// The reference's greedy answers: prompt, prompt_ids, new_ids, smallest_top2_margin.
nlohmann::json reference_of(const std::string& model) {
  return nlohmann::json::parse(std::ifstream(kModels / model / "reference.json"))["greedy"];
}

bool is_missing(const std::string& model) { return !fs::exists(kModels / model / "config.json"); }

Request greedy(std::vector<int32_t> prompt, int max_tokens) {
  Request r;
  r.prompt_ids = std::move(prompt);
  r.sampling.temperature = 0;
  r.sampling.max_tokens = max_tokens;
  return r;
}

struct Answer {
  std::vector<int32_t> tokens;
  std::string text;
  FinishReason reason = FinishReason::None;
  bool operator==(const Answer&) const = default;
};

std::vector<Answer> answers_of(LlmEngine& llm, const std::vector<Request>& requests) {
  std::vector<RequestId> ids;
  for (const Request& r : requests) ids.push_back(llm.submit(r));
  std::vector<Answer> answers;
  for (const RequestId id : ids) {
    Answer& answer = answers.emplace_back();
    for (bool is_last = false; !is_last;) {
      const auto event = llm.next_event(id);
      answer.tokens.insert(answer.tokens.end(), event->token_ids.begin(), event->token_ids.end());
      answer.text += event->text;
      EXPECT_EQ(event->error, "");
      if (event->finish_reason != FinishReason::None) answer.reason = event->finish_reason;
      is_last = event->is_last;
    }
  }
  return answers;
}

class RealModel : public testing::TestWithParam<const char*> {};

TEST_P(RealModel, GreedyEqualsTheReference) {
  if (is_missing(GetParam())) GTEST_SKIP() << kModels / GetParam() << " is not there";
  const auto reference = reference_of(GetParam());
  LlmEngine llm(engine_of(GetParam()), {});
  std::vector<Request> requests;
  for (const auto& g : reference) requests.push_back(greedy(g["prompt_ids"], static_cast<int>(g["new_ids"].size())));
  const auto answers = answers_of(llm, requests);
  for (size_t i = 0; i < answers.size(); ++i) {
    const std::vector<int32_t> expected = reference[i]["new_ids"];
    EXPECT_EQ(llm.tokenizer()->encode(reference[i]["prompt"].get<std::string>()), requests[i].prompt_ids);
    if (answers[i].tokens != expected && reference[i]["smallest_top2_margin"] < 1e-2) {
      std::cout << "differs where two tokens are within 1e-2: " << reference[i]["prompt"] << "\n";
      continue;
    }
    EXPECT_EQ(answers[i].tokens, expected) << reference[i]["prompt"];
    EXPECT_EQ(answers[i].text, llm.tokenizer()->decode(expected));
  }
}

INSTANTIATE_TEST_SUITE_P(Models, RealModel, testing::Values("llama3-docs-6m", "llama2-docs-27m", "llama2-docs-draft-4m"));

// Prompts of 3 to 120 tokens cut from the reference texts, some with a common beginning; answers of 4 to 40.
std::vector<Request> mixed_requests(const std::string& model, int count) {
  std::vector<int32_t> text;
  const auto reference = reference_of(model);
  for (const auto& g : reference)
    for (const char* part : {"prompt_ids", "new_ids"})
      for (const int32_t id : g[part]) text.push_back(id);
  std::vector<Request> requests;
  for (int i = 0; i < count; ++i) {
    const size_t length = 3 + static_cast<size_t>(i * 37 % 118), start = i % 3 == 0 ? 0 : static_cast<size_t>(i * 61 % 200);
    requests.push_back(greedy({text.begin() + start, text.begin() + std::min(text.size(), start + length)}, 4 + i * 11 % 37));
  }
  return requests;
}

TEST(RealModels, SixtyFourAtOnceEqualAlone) {
  const std::string model = "llama3-docs-6m";
  if (is_missing(model)) GTEST_SKIP() << kModels / model << " is not there";
  const auto requests = mixed_requests(model, 64);
  std::vector<Answer> alone;
  {
    LlmEngine llm(engine_of(model), {.max_num_seqs = 1, .prefix_cache = false, .chunked_prefill = false});
    alone = answers_of(llm, requests);
  }
  const int64_t block_bytes = ModelConfig::from_metadata(engine_of(model)->graph().metadata).kv_block_bytes();
  for (const bool prefix_cache : {false, true})
    for (const bool chunked_prefill : {false, true})
      for (const int64_t num_blocks : {1024, 16}) {
        LlmEngine llm(engine_of(model), {.max_num_seqs = 64,
                                         .max_num_batched_tokens = 128,
                                         .max_context_length = 200,
                                         .kv_cache_bytes = num_blocks * block_bytes,
                                         .prefix_cache = prefix_cache,
                                         .chunked_prefill = chunked_prefill});
        EXPECT_EQ(answers_of(llm, requests), alone) << prefix_cache << chunked_prefill << num_blocks;
        const Statistics s = llm.statistics();
        EXPECT_EQ(s.blocks_used, 0);
        EXPECT_EQ(s.preemptions > 0, num_blocks == 16) << s.preemptions;
        EXPECT_EQ(s.prefix_hit_tokens > 0, prefix_cache);
      }
}

// Copies of blocks, over the real layout: the log-probabilities of answers that forked from one prompt equal those of the whole text
// computed in one step.
TEST(RealModels, ForkedAnswersSeeTheirOwnText) {
  const std::string model = "llama3-docs-6m";
  if (is_missing(model)) GTEST_SKIP() << kModels / model << " is not there";
  Request r = mixed_requests(model, 8)[5];
  r.sampling.temperature = 0.8f;
  r.sampling.seed = 3;
  r.sampling.n = 4;
  r.sampling.logprobs = 0;
  r.sampling.max_tokens = 40;
  LlmEngine llm(engine_of(model), {.prefix_cache = false});
  std::map<int, std::pair<std::vector<int32_t>, std::vector<float>>> answers;
  const RequestId id = llm.submit(r);
  for (bool is_last = false; !is_last;) {
    const auto event = llm.next_event(id);
    auto& [tokens, logprobs] = answers[event->index];
    tokens.insert(tokens.end(), event->token_ids.begin(), event->token_ids.end());
    for (const Logprobs& l : event->logprobs) logprobs.push_back(l.logprob);
    is_last = event->is_last;
  }
  ASSERT_EQ(answers.size(), 4u);
  EXPECT_NE(answers[0].first, answers[1].first);
  EngineStepModel step(engine_of(model));
  BatchBuilder builder(step.config().block_size);
  Sampler sampler(step.config().vocab_size);
  std::vector<int32_t> blocks(step.config().context_length / step.config().block_size);
  std::iota(blocks.begin(), blocks.end(), 3);
  for (const auto& [index, answer] : answers) {
    auto text = r.prompt_ids;
    text.insert(text.end(), answer.first.begin(), answer.first.end());
    const int size = static_cast<int>(text.size());
    builder.clear();
    builder.add(text, 0, size, {}, blocks, size);
    step.run(builder.finish());
    for (size_t i = 0; i < answer.first.size(); ++i) {
      const int row = static_cast<int>(r.prompt_ids.size() + i) - 1;
      EXPECT_NEAR(answer.second[i], sampler.logprobs(step.logits(row), answer.first[i], 0).logprob, 1e-4) << index << " " << i;
    }
  }
}

TEST(RealModels, SpeculationGivesTheSameText) {
  const std::string model = "llama2-docs-27m", draft = "llama2-docs-draft-4m";
  if (is_missing(model) || is_missing(draft)) GTEST_SKIP() << kModels / model << " or its draft is not there";
  std::vector<Request> requests;
  const auto reference = reference_of(model);
  for (size_t i = 0; i < 6; ++i) requests.push_back(greedy(reference[i]["prompt_ids"], 64));
  std::vector<Answer> plain;
  double plain_s = 0;
  using Method = SpeculativeOptions::Method;
  for (const Method method : {Method::None, Method::Draft, Method::NGram})
    for (const int max_num_seqs : {1, 4}) {
      LlmOptions options{.max_num_seqs = max_num_seqs, .max_num_batched_tokens = 256, .speculative = {.method = method, .num_tokens = 4}};
      if (method == Method::Draft) options.speculative.draft = engine_of(draft);
      LlmEngine llm(engine_of(model), options);
      const auto answers = answers_of(llm, requests);
      const Statistics s = llm.statistics();
      if (method == Method::None && max_num_seqs == 1) plain = answers;
      EXPECT_EQ(answers, plain);
      const double seconds = s.step_s + s.draft_s + s.sample_s + s.schedule_s;
      if (method == Method::None) {
        plain_s = seconds;
      } else {
        EXPECT_GT(s.accepted_tokens, 0);
      }
      std::cout << (method == Method::None    ? "plain "
                    : method == Method::Draft ? "draft "
                                              : "n-gram")
                << " sequences " << max_num_seqs << ": " << s.num_steps << " steps, " << seconds << " s, accepted " << s.accepted_tokens
                << " of " << s.speculated_tokens << "\n";
    }
  EXPECT_GT(plain_s, 0);
}

TEST(RealModels, RepeatedStepsAllocateNothing) {
  const std::string model = "llama3-docs-6m";
  if (is_missing(model)) GTEST_SKIP() << kModels / model << " is not there";
  if (test::allocations() < 0) GTEST_SKIP() << "a sanitizer owns the allocator";
  EngineStepModel step(engine_of(model));
  BatchBuilder builder(step.config().block_size);
  const std::vector<int32_t> tokens(100, 7), blocks = {1, 2, 3, 4};
  const auto run = [&](int position) {
    builder.clear();
    for (int s = 0; s < 5; ++s) builder.add(tokens, position, 1, {}, blocks, 1);
    step.run(builder.finish());
  };
  for (int position = 0; position < 3; ++position) run(position);
  const int64_t before = test::allocations();
  for (int position = 3; position < 60; ++position) run(position);
  EXPECT_EQ(test::allocations(), before);
}

TEST(RealModels, WhatIsNoLanguageModelIsRefused) {
  const std::string model = "llama3-docs-6m";
  if (is_missing(model)) GTEST_SKIP() << kModels / model << " is not there";
  const auto engine = engine_of(model);
  const auto altered = [&](auto change) {
    auto graph = engine->graph().clone();
    change(*graph);
    return std::make_shared<const Engine>(std::move(graph), engine->info());
  };
  EXPECT_THROW(LlmEngine(altered([](ir::Graph& g) { g.metadata.clear(); })), Error);
  EXPECT_THROW(LlmEngine(altered([](ir::Graph& g) { g.metadata["llm.num_layers"] = "99"; })), Error);
  EXPECT_THROW(LlmEngine(altered([](ir::Graph& g) {
                 g.metadata["llm.vocab_size"] = "99";
                 g.metadata["llm.eos_token_ids"] = "";
               })),
               Error);
  EXPECT_THROW(LlmEngine(altered([](ir::Graph& g) { g.metadata["tokenizer.json"] = "{"; })), Error);
  try {
    LlmEngine(engine, {.kv_cache_bytes = 1000});
    ADD_FAILURE() << "1000 bytes hold no sequence";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::ResourceExhausted);
    EXPECT_NE(std::string(e.what()).find("would do"), std::string::npos);
  }
}

}  // namespace
}  // namespace tokamak::llm
