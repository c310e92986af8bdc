#include "quant/moments.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <unordered_map>

#include "runtime/execution_context.h"

namespace tokamak::quant {
namespace {

int64_t number(const ir::Graph& graph, const char* key) {
  const auto found = graph.metadata.find(key);
  return found == graph.metadata.end() || found->second.empty() ? -1 : std::strtoll(found->second.c_str(), nullptr, 10);
}

// One sequence from its first token on, every row with logits.
void set_step(ExecutionContext& context, const std::vector<int32_t>& ids, int64_t block_size) {
  const auto n = static_cast<int64_t>(ids.size()), blocks = (n + block_size - 1) / block_size;
  const auto set = [&](const char* name, Shape shape, const std::vector<int32_t>& values) {
    context.set_input(name, Tensor::of<int32_t>(std::move(shape), values));
  };
  std::vector<int32_t> count(n), table(blocks);
  for (int64_t i = 0; i < n; ++i) count[i] = static_cast<int32_t>(i);
  for (int64_t i = 0; i < blocks; ++i) table[i] = static_cast<int32_t>(i);
  set("token_ids", {n}, ids);
  for (const char* name : {"positions", "slot_mapping", "logit_rows"}) set(name, {n}, count);
  set("block_tables", {1, blocks}, table);
  set("seq_lens", {1}, {static_cast<int32_t>(n)});
  set("query_starts", {2}, {0, static_cast<int32_t>(n)});
}

void set_caches(ExecutionContext& context, int64_t length) {
  for (const TensorInfo& input : context.engine().inputs()) {
    if (!input.name.starts_with("kv_cache.")) continue;
    Shape shape{(length + input.type.dims[3].value() - 1) / input.type.dims[3].value()};
    for (int d = 1; d < 5; ++d) shape.push_back(input.type.dims[d].value());
    context.set_input(input.name, Tensor::zeros(input.dtype, shape));
  }
}

// Every token but the first, from the distribution that the one before it gives.
void rewrite(std::vector<int32_t>& ids, const Tensor& logits, std::mt19937_64& random, ThreadPool& pool) {
  const int64_t vocabulary = logits.dim(1);
  std::vector<double> draws(ids.size());
  for (double& d : draws) d = static_cast<double>(random() >> 11) * 0x1p-53;
  pool.parallel_for(static_cast<int64_t>(ids.size()) - 1, 16, [&](int64_t begin, int64_t end, int) {
    std::vector<float> weights(vocabulary);
    for (int64_t i = begin; i < end; ++i) {
      const float* row = logits.data<float>() + i * vocabulary;
      const float top = *std::max_element(row, row + vocabulary);
      double sum = 0;
      for (int64_t v = 0; v < vocabulary; ++v) sum += weights[v] = std::exp(row[v] - top);
      double left = draws[i] * sum;
      int64_t v = 0;
      while (v + 1 < vocabulary && (left -= weights[v]) >= 0) ++v;
      ids[i + 1] = static_cast<int32_t>(v);
    }
  });
}

// mean += x^T x, the upper triangle.
void accumulate(Moments& m, const Tensor& x, ThreadPool& pool) {
  const int64_t k = m.k, rows = x.count() / k;
  constexpr int64_t kTile = 8;
  pool.parallel_for((k + kTile - 1) / kTile, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t tile = begin; tile < end; ++tile)
      for (int64_t r = 0; r < rows; ++r) {
        const float* row = x.data<float>() + r * k;
        for (int64_t i = tile * kTile; i < std::min(k, (tile + 1) * kTile); ++i) {
          const float a = row[i];
          float* to = m.mean.data() + i * k;
          for (int64_t j = i; j < k; ++j) to[j] += a * row[j];
        }
      }
  });
}

}  // namespace

bool is_step_graph(const ir::Graph& graph) {
  return graph.metadata.contains("llm.architecture") && number(graph, "llm.vocab_size") > 0 && number(graph, "llm.block_size") > 0;
}

MeasuredMoments measure_moments(const ir::Graph& graph, const MomentOptions& options, ThreadPool& pool) {
  MeasuredMoments measured;
  auto observed = graph.clone();
  const size_t num_outputs = observed->outputs().size();
  std::vector<ir::Value*> outputs(observed->outputs().begin(), observed->outputs().end());
  std::unordered_map<const ir::Value*, int> known;
  for (const ConstantMatrix& m : constant_matrices(*observed)) {
    ir::Value* x = m.products.front()->input(0);
    const auto [found, fresh] = known.emplace(x, static_cast<int>(measured.inputs.size()));
    measured.of_matrix.push_back(found->second);
    if (!fresh) continue;
    measured.inputs.push_back({m.k, std::vector<float>(m.k * m.k)});
    x->name = fmt::format("calibrated.{}", found->second);
    outputs.push_back(x);
  }
  observed->set_outputs(outputs);
  const auto shared_pool = std::shared_ptr<ThreadPool>(&pool, [](ThreadPool*) {});
  EngineInfo info;
  info.num_threads = pool.width();
  ExecutionContext context(std::make_shared<Engine>(std::move(observed), info), {.pool = shared_pool});

  const int64_t vocabulary = number(graph, "llm.vocab_size"), bos = number(graph, "llm.bos_token_id");
  const int64_t length = std::max<int64_t>(2, std::min<int64_t>(options.length, number(graph, "llm.context_length")));
  set_caches(context, length);
  std::mt19937_64 random(options.seed);
  int64_t rows = 0;
  for (int s = 0; s < options.sequences; ++s) {
    std::vector<int32_t> ids(length);
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % static_cast<uint64_t>(vocabulary));
    if (bos >= 0) ids[0] = static_cast<int32_t>(bos);
    for (int round = 0; round <= options.rounds; ++round) {
      set_step(context, ids, number(graph, "llm.block_size"));
      context.run();
      if (round < options.rounds) rewrite(ids, context.output(0), random, pool);
    }
    for (size_t i = 0; i < measured.inputs.size(); ++i)
      accumulate(measured.inputs[i], context.output(static_cast<int>(num_outputs + i)), pool);
    rows += length;
  }
  for (Moments& m : measured.inputs)
    for (int64_t i = 0; i < m.k; ++i)
      for (int64_t j = i; j < m.k; ++j) m.mean[j * m.k + i] = m.mean[i * m.k + j] /= static_cast<float>(rows);
  return measured;
}

}  // namespace tokamak::quant
