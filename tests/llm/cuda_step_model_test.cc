// The language model of examples/ on a GPU, through LlmEngine.
#ifdef TOKAMAK_CUDA
#include "llm/cuda_step_model.h"

#include <gtest/gtest.h>

#include <cstdio>

#include "backends/cuda/device.h"
#include "builder/builder.h"
#include "tests/support/gpu_memory.h"
#include "tokamak/llm.h"

namespace tokamak::llm {
namespace {

std::shared_ptr<const Engine> example_engine() {
  static const std::shared_ptr<const Engine> engine = [] {
    BuildOptions options;
    options.device = "cuda";
    options.opt_level = 0;
    return build_engine(std::string(TOKAMAK_SOURCE_DIR) + "/examples/models/llama3-docs-6m", options);
  }();
  return engine;
}

struct Text {
  std::vector<int32_t> tokens;
  FinishReason reason = FinishReason::None;
  bool operator==(const Text&) const = default;
};

// All at once; requests[i]'s answers in order.
std::vector<Text> answers(LlmEngine& engine, const std::vector<Request>& requests) {
  std::vector<RequestId> ids;
  for (const Request& r : requests) ids.push_back(engine.submit(r));
  std::vector<Text> out;
  for (size_t i = 0; i < ids.size(); ++i) {
    const size_t first = out.size();
    out.resize(first + static_cast<size_t>(requests[i].sampling.n));
    for (bool is_last = false; !is_last;) {
      const auto event = engine.next_event(ids[i]);
      Text& text = out[first + static_cast<size_t>(event->index)];
      text.tokens.insert(text.tokens.end(), event->token_ids.begin(), event->token_ids.end());
      if (event->finish_reason != FinishReason::None) text.reason = event->finish_reason;
      EXPECT_EQ(event->error, "");
      is_last = event->is_last;
    }
  }
  return out;
}

std::vector<Request> requests(const ModelConfig& config) {
  std::vector<Request> out;
  for (int i = 0; i < 24; ++i) {
    Request r;
    for (int t = 0; t < 3 + 11 * i % 90; ++t) r.prompt_ids.push_back((i * 7919 + t * 104729) % config.vocab_size);
    r.sampling.max_tokens = 5 + i * 3 % 40;
    r.sampling.temperature = i % 2 == 0 ? 0 : 0.8f;
    r.sampling.top_k = i % 3 == 0 ? 20 : 0;
    r.sampling.top_p = i % 4 == 1 ? 0.9f : 1;
    r.sampling.seed = i;
    r.sampling.ignore_eos = i % 3 != 1;
    if (i % 10 == 3) r.sampling.n = 3;
    out.push_back(std::move(r));
  }
  return out;
}

TEST(CudaStepModel, RunningAheadGivesTheSameAnswers) {
  if (!cuda::Device::is_available()) GTEST_SKIP() << cuda::driver_problem();
  const auto engine = example_engine();
  LlmOptions options{.max_num_seqs = 16, .max_num_batched_tokens = 128, .max_context_length = 256};
  LlmEngine ahead(engine, options);
  options.run_ahead = false;
  LlmEngine behind(engine, options);
  const auto all = requests(ahead.config());
  const auto a = answers(ahead, all), b = answers(behind, all);
  // Batches differ, so that a product's rounding may: nearly all answers are the same to the end.
  ASSERT_EQ(a.size(), b.size());
  int different = 0;
  for (size_t i = 0; i < a.size(); ++i) different += a[i] != b[i];
  EXPECT_LE(different, 3);
  EXPECT_EQ(ahead.statistics().requests_finished, 24);
  EXPECT_EQ(ahead.statistics().blocks_used, 0);
  // Alone, a request is computed in the same steps both ways; random choices are made on the device or on the host.
  for (size_t i = 0; i < all.size(); i += 5) {
    if (all[i].sampling.n > 1 || all[i].sampling.temperature > 0) continue;
    EXPECT_EQ(answers(ahead, {all[i]}), answers(behind, {all[i]})) << i;
  }
}

TEST(CudaStepModel, WhatDoesNotFitIsNamedBeforeAnythingIsAllocated) {
  if (!cuda::Device::is_available()) GTEST_SKIP() << cuda::driver_problem();
  const auto engine = example_engine();
  const auto device = cuda::Device::get();
  CudaStepModel(engine, {.max_num_seqs = 2, .max_context_length = 64, .kv_cache_bytes = 16 << 20});  // loads code
  const int64_t before = device->free_bytes();
  try {
    CudaStepModel(engine, {.max_num_seqs = 2, .max_context_length = 64, .kv_cache_bytes = before + (1 << 20)});
    ADD_FAILURE() << "accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::ResourceExhausted);
    EXPECT_NE(std::string_view(e.what()).find("of activations and workspace"), std::string_view::npos) << e.what();
  }
  EXPECT_GE(device->free_bytes(), before - (4 << 20));
  const CudaStepModel model(engine, {.max_num_seqs = 2, .max_context_length = 64, .kv_cache_bytes = 16 << 20});
  EXPECT_LE(model.memory().kv_cache_bytes, 17 << 20);
  EXPECT_GT(model.memory().arena_bytes, 0);
  EXPECT_GT(model.memory().used_bytes, 0);
}

TEST(CudaStepModel, LoadingAndUnloadingLeavesNothingBehind) {
  if (!cuda::Device::is_available()) GTEST_SKIP() << cuda::driver_problem();
  const auto device = cuda::Device::get();
  const std::string file = testing::TempDir() + "cuda_step_model_test.engine";
  const auto run = [](std::shared_ptr<const Engine> engine) {
    LlmEngine llm(std::move(engine), {.max_num_seqs = 4, .max_num_batched_tokens = 64, .max_context_length = 128});
    answers(llm, {requests(llm.config())[0]});
  };
  run(example_engine());  // compiles what the file is to carry
  example_engine()->save(file);
  const std::shared_ptr<void> guard(nullptr, [&](void*) { std::remove(file.c_str()); });
  const auto load_and_run = [&] { run(Engine::load(file)); };
  EXPECT_LE(test::bytes_left_behind(*device, load_and_run), 4 << 20);
}

}  // namespace
}  // namespace tokamak::llm
#endif
