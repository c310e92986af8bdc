#include "builder/default_shapes.h"

#include <algorithm>

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
  constexpr Step kSteps[] = {{8, 8, 8},   {32, 32, 32}, {64, 64, 64}, {256, 256, 256}, {128, 2, 1},
                             {512, 2, 1}, {1024, 2, 1}, {2048, 2, 1}, {4096, 2, 1}};
  std::vector<std::vector<Shape>> all;
  for (const Step& s : kSteps) {
    constexpr int64_t kBlocks = 8;
    const ir::Dim::Bindings symbols{
        {"tokens", s.tokens}, {"seqs", s.seqs}, {"rows", s.rows}, {"blocks_per_seq", kBlocks}, {"num_blocks", kBlocks * s.seqs}};
    if (auto shapes = shapes_with(graph, symbols)) all.push_back(std::move(*shapes));
  }
  return all;
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
