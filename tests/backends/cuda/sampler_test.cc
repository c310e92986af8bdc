#ifdef TOKAMAK_CUDA
#include "backends/cuda/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "llm/sampler.h"

namespace tokamak::cuda {
namespace {

constexpr int kVocab = 5003;

std::vector<float> random_logits(int rows, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> x(static_cast<size_t>(rows) * kVocab);
  for (float& v : x) v = std::round(normal(random) * 16) / 16;  // with many equals
  return x;
}

std::vector<int32_t> sample_on_device(std::vector<float> logits, const std::vector<SampleRow>& rows, const std::vector<TokenEdit>& edits) {
  const auto device = Device::get();
  const Context context(device->target(), std::make_shared<CodeCache>(), device);
  DeviceSampler sampler(context, kVocab, static_cast<int>(rows.size()), static_cast<int>(edits.size()) + 1);
  const Buffer buffer = device->allocate(static_cast<int64_t>(logits.size() * 4), "logits");
  check(driver().cuMemcpyHtoD(buffer.pointer(), logits.data(), logits.size() * 4), "upload");
  check(driver().cuStreamSynchronize(nullptr), "upload");
  const Stream stream(device);
  std::vector<int32_t> first;
  for (int round = 0; round < 2; ++round) {  // the logits are put back
    sampler.run(stream.get(), reinterpret_cast<float*>(buffer.data()), rows, edits);
    stream.synchronize();
    const std::vector<int32_t> tokens(sampler.tokens().begin(), sampler.tokens().end());
    if (round == 0) first = tokens;
    else EXPECT_EQ(tokens, first);
  }
  std::vector<float> after(logits.size());
  check(driver().cuMemcpyDtoH(after.data(), buffer.pointer(), after.size() * 4), "download");
  EXPECT_EQ(std::memcmp(after.data(), logits.data(), after.size() * 4), 0);
  return first;
}

// The device's tokens against the CPU's for the same draws; rounding may decide a few.
void expect_same_draws(const llm::SamplingParams& params, int most_different, int num_rows = 64) {
  const std::vector<float> logits = random_logits(num_rows, std::random_device{}());
  std::vector<SampleRow> rows;
  std::vector<TokenEdit> edits;
  std::vector<int32_t> expected;
  llm::Sampler sampler(kVocab);
  for (int i = 0; i < num_rows; ++i) {
    llm::SamplingState state(params, {}, std::vector<int32_t>{1, 2, 3}, 77, i, nullptr);
    for (const int32_t token : {3, 9, 9}) state.accept(token);
    expected.push_back(sampler.sample(std::span(logits).subspan(static_cast<size_t>(i) * kVocab, kVocab), state));
    SampleRow row{.seed = 77, .position = 3, .index = i, .row = i, .top_k = params.top_k};
    row.temperature = params.temperature, row.top_p = params.top_p, row.min_p = params.min_p;
    row.repetition_penalty = params.repetition_penalty, row.presence_penalty = params.presence_penalty;
    row.frequency_penalty = params.frequency_penalty;
    row.first_edit = static_cast<int32_t>(edits.size());
    const bool penalised = params.repetition_penalty != 1 || params.presence_penalty != 0 || params.frequency_penalty != 0;
    for (const auto& [token, count] : {std::pair{1, 0}, {2, 0}, {3, 1}, {9, 2}}) {
      const auto bias = params.logit_bias.find(token);
      edits.push_back(
          {.token = token, .is_seen = penalised, .in_answer = count, .bias = bias == params.logit_bias.end() ? 0 : bias->second});
    }
    row.num_edits = static_cast<int32_t>(edits.size()) - row.first_edit;
    rows.push_back(row);
  }
  const std::vector<int32_t> tokens = sample_on_device(logits, rows, edits);
  int different = 0;
  for (int i = 0; i < num_rows; ++i) different += tokens[i] != expected[i];
  EXPECT_LE(different, most_different) << fmt::format("temperature {}, top_k {}, top_p {}, min_p {}", params.temperature, params.top_k,
                                                      params.top_p, params.min_p);
}

TEST(CudaSampler, DrawsAsTheCpuDoes) {
  if (!Device::is_available()) GTEST_SKIP() << driver_problem();
  expect_same_draws({.temperature = 0}, 0);
  expect_same_draws({.temperature = 0, .repetition_penalty = 1.5f, .presence_penalty = 1, .logit_bias = {{1, 30.f}, {9, -50.f}}}, 0);
  for (const float temperature : {0.02f, 0.3f, 1.f, 2.f})
    for (const int top_k : {0, 1, 50, 4000})
      for (const float top_p : {1.f, 0.9f, 0.2f})
        for (const float min_p : {0.f, 0.05f})
          expect_same_draws({.temperature = temperature, .top_k = top_k, .top_p = top_p, .min_p = min_p}, 1);
  expect_same_draws({.temperature = 0.8f, .repetition_penalty = 1.3f, .frequency_penalty = 0.5f, .logit_bias = {{2, 12.f}}}, 1);
}

// As little as has every path: compute-sanitizer's racecheck takes a second for a row.
TEST(CudaSampler, FewDraws) {
  if (!Device::is_available()) GTEST_SKIP() << driver_problem();
  expect_same_draws({.temperature = 0, .repetition_penalty = 1.5f, .logit_bias = {{1, 30.f}}}, 0, 2);
  expect_same_draws({.temperature = 1}, 1, 2);
  expect_same_draws({.temperature = 0.3f, .top_k = 50, .top_p = 0.9f}, 1, 2);
  expect_same_draws({.temperature = 2, .top_k = 4000, .top_p = 0.2f, .min_p = 0.05f}, 1, 2);
}

TEST(CudaSampler, SaysWhenThereIsNoToken) {
  if (!Device::is_available()) GTEST_SKIP() << driver_problem();
  std::vector<float> logits = random_logits(4, 1);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  logits[10] = std::numeric_limits<float>::quiet_NaN();
  logits[kVocab + 4000] = kInfinity;
  std::fill_n(logits.begin() + 2 * kVocab, kVocab, -kInfinity);
  std::fill_n(logits.begin() + 3 * kVocab, kVocab, -kInfinity);
  logits[3 * kVocab + 1234] = -5;
  for (const float temperature : {0.f, 1.f}) {
    std::vector<SampleRow> rows(4);
    for (int i = 0; i < 4; ++i) rows[i].row = i, rows[i].temperature = temperature, rows[i].top_p = 0.5f;
    EXPECT_EQ(sample_on_device(logits, rows, {}), (std::vector<int32_t>{-1, -1, -1, 1234}));
  }
}

TEST(CudaSampler, Compiles) {
  for (const char* arch : {"sm_80", "sm_90"})
    EXPECT_NO_THROW(DeviceSampler(Context(Target::named(arch), std::make_shared<CodeCache>(), nullptr), 128256, 1, 1));
}

}  // namespace
}  // namespace tokamak::cuda
#endif
