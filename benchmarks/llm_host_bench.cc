// What a step costs the host beside the model: LlmCore over a model that computes nothing, many sequences, greedy and endless.
//   tokamak_llm_host_bench [SEQUENCES [PROMPT [STEPS]]]
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>

#include "llm/llm_core.h"

namespace tokamak::llm {
namespace {

class NoModel final : public StepModel {
 public:
  NoModel(int num_blocks, bool asynchronous) : num_blocks_(num_blocks), asynchronous_(asynchronous) {
    config_.architecture = "None";
    config_.vocab_size = 32000;
    config_.context_length = 1 << 17;
    config_.block_size = 16;
    config_.num_layers = config_.num_heads = config_.num_kv_heads = config_.head_dim = config_.hidden_size = 1;
  }
  const ModelConfig& config() const override { return config_; }
  int num_blocks() const override { return num_blocks_; }
  void run(const StepBatch& batch) override { tokens_.assign(batch.logit_rows.size(), 7); }
  std::span<const float> logits(int) const override { return {}; }
  int32_t chosen(int row) const override { return tokens_[row]; }
  void copy_block(int, int) override {}
  bool is_asynchronous() const override { return asynchronous_; }
  void submit(const StepBatch& batch) override { sizes_[num_submitted_++ % sizes_.size()] = batch.logit_rows.size(); }
  std::span<const int32_t> take() override {
    tokens_.assign(sizes_[num_taken_++ % sizes_.size()], 7);
    return tokens_;
  }

 private:
  ModelConfig config_;
  int num_blocks_;
  bool asynchronous_;
  std::vector<int32_t> tokens_;
  std::array<size_t, kMaxInFlight> sizes_{};
  size_t num_submitted_ = 0, num_taken_ = 0;
};

void measure(int sequences, int prompt, int steps, bool asynchronous) {
  LlmCore::Parts parts;
  parts.model = std::make_unique<NoModel>(sequences * ((prompt + steps + 400) / 16 + 2), asynchronous);
  LlmCore core(std::move(parts), {.max_num_seqs = sequences, .max_num_batched_tokens = std::max(8192, sequences), .prefix_cache = false});
  int64_t tokens = 0;
  core.on_event = [&](const ActiveRequest&, Event&& event) { tokens += std::ssize(event.token_ids); };
  for (int i = 0; i < sequences; ++i) {
    Request r;
    r.prompt_ids.assign(prompt, i % 1000);
    r.sampling.temperature = 0;
    r.sampling.ignore_eos = true;
    r.sampling.max_tokens = steps + 400;
    core.add(i + 1, std::move(r));
  }
  const auto ms_since = [](auto start) {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  };
  std::vector<double> admitting, decoding;
  while (core.statistics().num_waiting > 0 || admitting.size() < 3) {
    const auto start = std::chrono::steady_clock::now();
    core.step();
    admitting.push_back(ms_since(start));
  }
  for (int i = 0; i < steps; ++i) {
    const auto start = std::chrono::steady_clock::now();
    core.step();
    decoding.push_back(ms_since(start));
  }
  const Statistics s = core.statistics();
  std::ranges::sort(admitting), std::ranges::sort(decoding);
  fmt::print(
      "{:12} {:5} sequences, prompts of {:5}: admitting {:7.3f} ms a step (largest {:7.3f}), decoding {:7.3f} ms (largest {:7.3f})\n",
      asynchronous ? "run ahead" : "synchronous", s.num_running, prompt, admitting[admitting.size() / 2], admitting.back(),
      decoding[decoding.size() / 2], decoding.back());
}

}  // namespace
}  // namespace tokamak::llm

int main(int argc, char** argv) {
  const auto argument = [&](int i, int otherwise) { return argc > i ? std::atoi(argv[i]) : otherwise; };
  for (const bool asynchronous : {false, true}) tokamak::llm::measure(argument(1, 1000), argument(2, 1000), argument(3, 200), asynchronous);
}
