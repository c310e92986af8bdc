#include "cli/profile_llm.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>

#include "ir/op.h"
#include "runtime/execution_context.h"
#include "runtime/size_choices.h"

namespace tokamak::cli {

namespace {

// Sums of node times by operator and kernel.
class KindCollector final : public Profiler {
 public:
  struct Kind {
    int64_t count = 0, ns = 0;
  };
  // A step of so many sequences and new tokens.
  KindCollector(int64_t seqs, int64_t tokens) : sizes_{{"tokens", tokens}, {"seqs", seqs}, {"rows", seqs}} {}
  void on_node(const ir::Node& node, int64_t start_ns, int64_t end_ns) override {
    Kind& kind = kinds[{std::string(node.op().name), kernel_of(node)}];
    ++kind.count;
    kind.ns += end_ns - start_ns;
  }
  std::map<std::pair<std::string, std::string>, Kind> kinds;

 private:
  std::string kernel_of(const ir::Node& node) const {
    std::string kernel = node.kernel, tactic = node.tactic;
    if (kernel == kBySize) {  // which of them, for this step
      std::vector<SizeChoice> table = parse_size_choices(tactic);
      const ir::Dim size = node.output()->type.num_elements().substitute(sizes_);
      if (size.is_const()) sort_by_nearness(table, size.value());
      kernel = table.front().kernel;
      tactic = table.front().tactic;
    }
    return tactic.empty() ? kernel : kernel + " " + tactic;
  }
  ir::Dim::Bindings sizes_;
};

// `num_seqs` sequences, each on blocks of its own, that get `tokens` new tokens after `past`; logits of the last one.
llm::StepBatch make_batch(const llm::ModelConfig& config, int num_seqs, int past, int tokens, int blocks_per_seq) {
  llm::StepBatch b;
  b.num_seqs = num_seqs;
  b.blocks_per_seq = blocks_per_seq;
  b.query_starts.push_back(0);
  for (int s = 0; s < num_seqs; ++s) {
    for (int t = past; t < past + tokens; ++t) {
      b.token_ids.push_back((s * 7919 + t * 104729) % config.vocab_size);
      b.positions.push_back(t);
      b.slot_mapping.push_back((s * blocks_per_seq + t / config.block_size) * config.block_size + t % config.block_size);
    }
    for (int k = 0; k < blocks_per_seq; ++k) b.block_tables.push_back(s * blocks_per_seq + k);
    b.seq_lens.push_back(past + tokens);
    b.query_starts.push_back(static_cast<int32_t>(b.token_ids.size()));
    b.logit_rows.push_back(static_cast<int32_t>(b.token_ids.size()) - 1);
  }
  return b;
}

void report(const char* what, int batch, int tokens, const KindCollector& collector, double step_ms, int64_t steps, FILE* out, Json& json) {
  std::vector<std::pair<std::pair<std::string, std::string>, KindCollector::Kind>> kinds(collector.kinds.begin(), collector.kinds.end());
  std::sort(kinds.begin(), kinds.end(), [](const auto& a, const auto& b) { return a.second.ns > b.second.ns; });
  fmt::print(out, "\n{} step, batch {}, {} new tokens: {:.3f} ms\n{:>10}{:>7}{:>7}  {:20}{}\n", what, batch, tokens, step_ms, "ms", "%",
             "nodes", "op", "kernel");
  Json rows = Json::array();
  double sum_ms = 0;
  const auto row = [&](double ms, double nodes, const std::string& op, const std::string& kernel) {
    fmt::print(out, "{:10.3f}{:7.1f}{:7.0f}  {:20}{}\n", ms, ms / step_ms * 100, nodes, op, kernel);
    rows.push_back({{"op", op}, {"kernel", kernel}, {"nodes", nodes}, {"ms", ms}});
  };
  for (const auto& [name, kind] : kinds) {
    const double ms = static_cast<double>(kind.ns) * 1e-6 / static_cast<double>(steps);
    sum_ms += ms;
    row(ms, static_cast<double>(kind.count) / static_cast<double>(steps), name.first, name.second);
  }
  row(step_ms - sum_ms, 0, "(between nodes)", "");
  json.push_back({{"step", what}, {"batch", batch}, {"tokens", tokens}, {"step_ms", step_ms}, {"kinds", std::move(rows)}});
}

}  // namespace

void profile_llm(const std::shared_ptr<const Engine>& engine, const llm::StepModelOptions& options, int batch, int prompt_tokens, FILE* out,
                 Json& json) {
  using Clock = std::chrono::steady_clock;
  const auto step_model = llm::make_step_model(engine, options);
  llm::StepModel& model = *step_model;
  const llm::ModelConfig& config = model.config();
  const int blocks_per_seq = (options.max_context_length + config.block_size - 1) / config.block_size;
  if (batch * blocks_per_seq > model.num_blocks())
    fail(ErrorCode::ResourceExhausted, "{} sequences of {} blocks: the KV cache has {}", batch, blocks_per_seq, model.num_blocks());
  const auto profile = [&](const char* what, int seqs, int tokens, const llm::StepBatch& step) {
    for (int i = 0; i < 2; ++i) model.run(step);
    KindCollector collector(seqs, tokens);
    model.set_profiler(&collector);
    const auto start = Clock::now();
    int64_t steps = 0;
    for (; steps < 3 || Clock::now() - start < std::chrono::seconds(1); ++steps) model.run(step);
    const double step_ms = std::chrono::duration<double, std::milli>(Clock::now() - start).count() / static_cast<double>(steps);
    model.set_profiler(nullptr);
    report(what, seqs, tokens, collector, step_ms, steps, out, json);
  };
  const int chunk = std::min(prompt_tokens, options.max_num_batched_tokens);
  profile("prefill", 1, chunk, make_batch(config, 1, 0, chunk, blocks_per_seq));
  profile("decode", batch, batch, make_batch(config, batch, prompt_tokens, 1, blocks_per_seq));
}

}  // namespace tokamak::cli
