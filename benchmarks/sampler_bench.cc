// Microseconds of sampling per token, on the host, for rows of logits as language models give them.
//
//   tokamak_bench_sampler
//
// The rows are normal with deviation 3 and a few likely tokens, 64 of them, so that they come from the last cache level or memory as after
// a step. The mean over 0.3 s counts.

#include <chrono>
#include <cstdio>
#include <random>

#include "llm/sampler.h"

namespace tokamak::llm {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::vector<float> row(std::mt19937& random, int n) {
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> x(n);
  for (auto& v : x) v = normal(random);
  for (int i = 0; i < 20; ++i) x[random() % n] += 12;
  return x;
}

struct Case {
  const char* name;
  SamplingParams params;
};

void run() {
  std::vector<Case> cases = {{"greedy", {.temperature = 0}},
                             {"temperature", {.temperature = 0.8f}},
                             {"top_k 50", {.temperature = 0.8f, .top_k = 50}},
                             {"top_p 0.95", {.temperature = 0.8f, .top_p = 0.95f}},
                             {"top_k 50, top_p 0.95", {.temperature = 0.8f, .top_k = 50, .top_p = 0.95f}},
                             {"min_p 0.05", {.temperature = 0.8f, .min_p = 0.05f}},
                             {"greedy, penalties", {.temperature = 0, .repetition_penalty = 1.1f, .presence_penalty = 0.5f}},
                             {"greedy, 20 logprobs", {.temperature = 0, .logprobs = 20}}};
  std::printf("%-24s", "us per token, vocab");
  constexpr int kVocabs[] = {32000, 128256, 262144};
  for (const int vocab : kVocabs) std::printf("%10d", vocab);
  std::printf("\n");
  std::mt19937 random(1);
  for (const Case& c : cases) {
    std::printf("%-24s", c.name);
    for (const int vocab : kVocabs) {
      std::vector<std::vector<float>> rows;
      for (int i = 0; i < 64; ++i) rows.push_back(row(random, vocab));
      std::vector<int32_t> prompt(1000);
      for (auto& t : prompt) t = static_cast<int32_t>(random() % vocab);
      Sampler sampler(vocab);
      SamplingState state(c.params, {}, prompt, 1, 0, nullptr);
      int count = 0;
      const double begin = now();
      do {
        const auto& logits = rows[count % 64];
        const int32_t token = sampler.sample(logits, state);
        if (c.params.logprobs >= 0) sampler.logprobs(logits, token, c.params.logprobs);
        state.accept(token);
        ++count;
      } while (now() - begin < 0.3);
      std::printf("%10.1f", (now() - begin) / count * 1e6);
    }
    std::printf("\n");
  }
}

}  // namespace
}  // namespace tokamak::llm

int main() { tokamak::llm::run(); }
