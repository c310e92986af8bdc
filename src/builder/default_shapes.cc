#include "builder/default_shapes.h"

#include <algorithm>
#include <functional>
#include <map>

namespace tokamak {
namespace {

std::optional<std::vector<Shape>> shapes_with(const ir::Graph& graph, const ir::Dim::Bindings& symbols) {
  std::vector<Shape> shapes;
  for (const ir::Value* v : graph.inputs()) {
    if (!v->type.ranked) return std::nullopt;
    Shape shape;
    for (const ir::Dim& d : v->type.dims) {
      const ir::Dim bound = d.substitute(symbols);
      if (!bound.is_const()) return std::nullopt;
      shape.push_back(bound.value());
    }
    shapes.push_back(std::move(shape));
  }
  return shapes;
}

bool fits(const ir::Graph& graph, const std::vector<Shape>& shapes, int num_threads) {
  try {
    bind_shapes(graph, shapes, num_threads, 1 << 16);
    return true;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

std::vector<std::vector<Shape>> step_shapes(const ir::Graph& graph) {
  if (!graph.metadata.contains("llm.architecture")) return {};
  struct Step {
    int64_t tokens, seqs, rows;
  };
  constexpr Step kSteps[] = {{1, 1, 1},   {8, 8, 8},   {32, 32, 32}, {64, 64, 64}, {256, 256, 256},
                             {128, 2, 1}, {512, 2, 1}, {1024, 2, 1}, {2048, 2, 1}, {4096, 2, 1}};
  std::vector<std::vector<Shape>> all;
  for (const Step& s : kSteps) {
    constexpr int64_t kBlocks = 8;
    const ir::Dim::Bindings symbols{
        {"tokens", s.tokens}, {"seqs", s.seqs}, {"rows", s.rows}, {"blocks_per_seq", kBlocks}, {"num_blocks", kBlocks * s.seqs}};
    if (auto shapes = shapes_with(graph, symbols)) all.push_back(std::move(*shapes));
  }
  return all;
}

std::vector<Tensor> whole_graph_inputs(const ir::Graph& graph, const std::vector<Shape>& shapes) {
  constexpr int64_t kMostSeqs = 64;  // their caches are gigabytes
  std::map<std::string, const Shape*> shape_of;
  for (size_t i = 0; i < shapes.size(); ++i) shape_of[graph.inputs()[i]->name] = &shapes[i];
  if (!graph.metadata.contains("llm.architecture") || !shape_of.contains("kv_cache.0")) return {};
  const int64_t tokens = num_elements(*shape_of.at("token_ids")), seqs = num_elements(*shape_of.at("seq_lens"));
  if (tokens != seqs || seqs > kMostSeqs) return {};
  const int64_t num_blocks = shape_of.at("kv_cache.0")->at(0), block_size = shape_of.at("kv_cache.0")->at(3);
  const int64_t blocks_per_seq = shape_of.at("block_tables")->at(1);
  if (num_blocks == 0 || block_size == 0) return {};
  const int64_t past = blocks_per_seq * block_size * 3 / 4;  // tokens in the cache of each sequence
  const auto block = [&](int64_t seq, int64_t k) { return (seq * blocks_per_seq + k) % num_blocks; };
  const std::map<std::string, std::function<int64_t(int64_t)>> element = {
      {"token_ids", [](int64_t i) { return i; }},
      {"positions", [=](int64_t) { return past; }},
      {"slot_mapping", [=](int64_t i) { return block(i, past / block_size) * block_size + past % block_size; }},
      {"block_tables", [=](int64_t i) { return block(i / blocks_per_seq, i % blocks_per_seq); }},
      {"seq_lens", [=](int64_t) { return past + 1; }},
      {"query_starts", [](int64_t i) { return i; }},
      {"logit_rows", [](int64_t i) { return i; }}};
  std::vector<Tensor> inputs;
  for (size_t i = 0; i < shapes.size(); ++i) {
    const auto made = element.find(graph.inputs()[i]->name);
    Tensor& input = inputs.emplace_back();
    if (made == element.end()) continue;
    input = Tensor::empty(DType::I32, shapes[i]);
    for (int64_t k = 0; k < input.count(); ++k) input.data<int32_t>()[k] = static_cast<int32_t>(made->second(k));
  }
  return inputs;
}

std::vector<Shape> default_shapes(const ir::Graph& graph, int num_threads) {
  std::vector<std::string> free;
  ir::Dim::Bindings symbols;
  for (const ir::Value* v : graph.inputs()) {
    for (int64_t i = 0; i < v->type.rank(); ++i) {
      const auto symbol = v->type.dims[i].as_symbol();
      if (!symbol || symbols.contains(*symbol)) continue;
      symbols[*symbol] = i == 0 ? 1 : 128;
      if (i != 0) free.push_back(*symbol);
    }
  }
  constexpr int64_t kLengths[] = {128, 64, 1, 127, 129, 256};
  constexpr size_t kNum = std::size(kLengths);
  size_t combinations = 1;
  for (size_t i = 0; i < std::min<size_t>(free.size(), 4); ++i) combinations *= kNum;
  for (size_t c = 0; c < combinations; ++c) {
    size_t rest = c;
    for (const std::string& symbol : free) {
      symbols[symbol] = kLengths[rest % kNum];
      rest /= kNum;
    }
    const auto shapes = shapes_with(graph, symbols);
    if (!shapes) return {};
    if (fits(graph, *shapes, num_threads)) return *shapes;
  }
  return {};
}

}  // namespace tokamak
