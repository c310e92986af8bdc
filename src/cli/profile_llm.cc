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

// Each sequence on blocks of its own, as far as the cache goes; logits of the last token of each.
llm::StepBatch make_batch(const llm::StepModel& model, const StepMix& mix) {
  const llm::ModelConfig& config = model.config();
  llm::StepBatch b;
  b.num_seqs = mix.num_decoding + mix.num_prompts;
  const int longest = std::max(mix.num_decoding > 0 ? mix.past + 1 : 0, mix.num_prompts > 0 ? mix.prompt_tokens : 0);
  b.blocks_per_seq = (longest + config.block_size - 1) / config.block_size;
  b.query_starts.push_back(0);
  int next_block = 0;
  for (int s = 0; s < b.num_seqs; ++s) {
    const bool decodes = s < mix.num_decoding;
    const int past = decodes ? mix.past : 0, size = past + (decodes ? 1 : mix.prompt_tokens);
    const auto table = static_cast<size_t>(b.block_tables.size());
    const int blocks = (size + config.block_size - 1) / config.block_size;
    for (int k = 0; k < b.blocks_per_seq; ++k) b.block_tables.push_back(k < blocks ? next_block++ % model.num_blocks() : 0);
    for (int t = past; t < size; ++t) {
      b.token_ids.push_back(static_cast<int32_t>((s * int64_t{7919} + t * int64_t{104729}) % config.vocab_size));
      b.positions.push_back(t);
      b.slot_mapping.push_back(b.block_tables[table + t / config.block_size] * config.block_size + t % config.block_size);
    }
    b.seq_lens.push_back(size);
    b.query_starts.push_back(static_cast<int32_t>(b.token_ids.size()));
    b.logit_rows.push_back(static_cast<int32_t>(b.token_ids.size()) - 1);
  }
  return b;
}

void report(const std::string& what, int batch, int tokens, const KindCollector& collector, double step_ms, int64_t steps, FILE* out,
            Json& json) {
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

KindTimes profile_step(llm::StepModel& model, const std::string& what, const StepMix& mix, FILE* out, Json& json) {
  using Clock = std::chrono::steady_clock;
  const llm::StepBatch step = make_batch(model, mix);
  const int num_tokens = static_cast<int>(step.token_ids.size());
  for (int i = 0; i < 2; ++i) model.run(step);
  KindCollector collector(step.num_seqs, num_tokens);
  model.set_profiler(&collector);
  const auto start = Clock::now();
  int64_t steps = 0;
  for (; steps < 3 || Clock::now() - start < std::chrono::seconds(1); ++steps) model.run(step);
  const double step_ms = std::chrono::duration<double, std::milli>(Clock::now() - start).count() / static_cast<double>(steps);
  model.set_profiler(nullptr);
  report(what, step.num_seqs, num_tokens, collector, step_ms, steps, out, json);
  KindTimes times;
  for (const auto& [name, kind] : collector.kinds) {
    const std::string& op = name.first;
    const bool is_product = op.find("matmul") != op.npos || op == "linear";
    const bool is_attention = op.find("attention") != op.npos || op == "kv_cache_write";
    (is_product     ? times.products
     : is_attention ? times.attention
                    : times.other) += static_cast<double>(kind.ns) * 1e-6 / static_cast<double>(steps);
  }
  return times;
}

void profile_llm(const std::shared_ptr<const Engine>& engine, const llm::StepModelOptions& options, int batch, int prompt_tokens, FILE* out,
                 Json& json) {
  const auto model = llm::make_step_model(engine, options);
  const int block_size = model->config().block_size, blocks_per_seq = (options.max_context_length + block_size - 1) / block_size;
  if (batch * blocks_per_seq > model->num_blocks())
    fail(ErrorCode::ResourceExhausted, "{} sequences of {} blocks: the KV cache has {}", batch, blocks_per_seq, model->num_blocks());
  const int chunk = std::min(prompt_tokens, options.max_num_batched_tokens);
  profile_step(*model, "prefill", {.num_prompts = 1, .prompt_tokens = chunk}, out, json);
  profile_step(*model, "decode", {.num_decoding = batch, .past = prompt_tokens}, out, json);
}

}  // namespace tokamak::cli
