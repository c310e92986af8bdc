// Graphs in 16-bit floats: what narrows, what stays, and where casts stand.

#include "quant/half.h"

#include <gtest/gtest.h>

#include "base/small_float.h"
#include "ir/op.h"
#include "ir/text.h"
#include "passes/evaluate.h"
#include "quant/fp8.h"

namespace tokamak::quant {
namespace {

std::unique_ptr<ir::Graph> narrowed(const char* text, HalfReport* report = nullptr, DType dtype = DType::F16,
                                    const Ranges* ranges = nullptr) {
  auto graph = ir::parse(text);
  ThreadPool pool(2);
  const HalfReport r = floats_to_half(*graph, {.dtype = dtype, .ranges = ranges}, pool);
  if (report) *report = r;
  return graph;
}

std::map<std::string, int> ops(const ir::Graph& graph) {
  std::map<std::string, int> count;
  for (const auto& node : graph.nodes()) ++count[std::string(node->op().name)];
  return count;
}

const ir::Node* find(const ir::Graph& graph, std::string_view op) {
  for (const auto& node : graph.nodes())
    if (node->is(op)) return node.get();
  return nullptr;
}

TEST(Half, CastsStandAtTheEdgesOnly) {
  HalfReport report;
  const auto graph = narrowed(
      "graph g(%x: f32[n,4]) {\n %w = const f32[4,4] {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}\n %b = const f32[4] {1,2,3,4}\n"
      " %y = matmul(%x, %w, %b) {epilogue=\"t0 = add(i0, i1); ret t0\", epilogue_input=2}\n"
      " %z = fused(%y) {expr=\"t0 = relu(i0); t1 = row_sum(t0); t2 = div(t0, t1); ret t2\"}\n"
      " %s = softmax(%z) {axis=-1}\n return %s\n}",
      &report);
  EXPECT_EQ(ops(*graph)["cast"], 2) << ir::print(*graph);
  EXPECT_EQ(graph->inputs()[0]->type.dtype, DType::F32);
  EXPECT_EQ(graph->outputs()[0]->type.dtype, DType::F32);
  EXPECT_EQ(graph->outputs()[0]->name, "s");
  const ir::Node* matmul = find(*graph, "matmul");
  EXPECT_EQ(matmul->input(1)->constant.dtype(), DType::F16);
  EXPECT_EQ(matmul->input(2)->constant.dtype(), DType::F16);
  EXPECT_EQ(find(*graph, "fused")->output(0)->type.dtype, DType::F16);
  EXPECT_EQ(report.nodes, 3);
  EXPECT_TRUE(report.kept.empty());
}

TEST(Half, AFusedRegionWritesAnOutputInItsOwnType) {
  const auto graph = narrowed("graph g(%x: f32[n,4]) { %y = fused(%x) {expr=\"t0 = exp(i0); ret t0\"} return %y }");
  EXPECT_EQ(graph->num_nodes(), 1) << ir::print(*graph);  // reads float32, writes float32: no cast
}

TEST(Half, WhatComesFromIntegersStaysExact) {
  HalfReport report;
  const auto graph = narrowed(
      "graph g(%positions: i64[n], %x: f32[n,4]) {\n %inverse = const f32[1,2] {1, 0.01}\n"
      " %p = cast(%positions) {to=f32}\n %c = reshape(%p) {shape=<n,1>}\n %a = mul(%c, %inverse)\n %s = sin(%a)\n"
      " %w = const f32[4,2] {1,2,3,4,5,6,7,8}\n %y = matmul(%x, %w)\n %z = add(%y, %s)\n return %z\n}",
      &report);
  EXPECT_EQ(find(*graph, "cast")->output(0)->type.dtype, DType::F32) << ir::print(*graph);
  EXPECT_EQ(find(*graph, "sin")->output(0)->type.dtype, DType::F32);
  EXPECT_EQ(find(*graph, "add")->output(0)->type.dtype, DType::F16);
  EXPECT_EQ(report.kept["sin"], 1);
}

TEST(Half, EmbeddingsNarrowThoughTheirIndicesAreIntegers) {
  const auto graph = narrowed(
      "graph g(%ids: i64[n]) {\n %t = const f32[3,2] {1,2,3,4,5,6}\n %x = gather(%t, %ids) {axis=0}\n %y = relu(%x)\n return %y\n}");
  EXPECT_EQ(find(*graph, "gather")->output(0)->type.dtype, DType::F16) << ir::print(*graph);
}

TEST(Half, LargeValuesStayWide) {
  const char* text =
      "graph g(%x: f32[2,2]) {\n %big = const f32[2,2] {60000, 1, 1, 60000}\n %w = const f32[2,2] {1, 0, 0, 1}\n"
      " %y = matmul(%x, %big)\n %z = layer_norm(%y) {axis=-1, epsilon=1e-5}\n %o = matmul(%z, %w)\n return %o\n}";
  auto graph = ir::parse(text);
  ThreadPool pool(2);
  const Ranges ranges = measure_ranges(*graph, {{2, 2}}, pool);
  HalfReport report = floats_to_half(*graph, {.dtype = DType::F16, .ranges = &ranges}, pool);
  const auto nodes = graph->nodes_snapshot();
  EXPECT_EQ(report.kept_for_range.size(), 2u) << ir::print(*graph);
  EXPECT_EQ(nodes[0]->output(0)->type.dtype, DType::F32);  // 60000 x
  EXPECT_EQ(find(*graph, "layer_norm")->output(0)->type.dtype, DType::F32);
  EXPECT_EQ(nodes.back()->input(0)->type.dtype, DType::F16);
  // bfloat16 has the range.
  HalfReport none;
  narrowed(text, &none, DType::BF16, nullptr);
  EXPECT_TRUE(none.kept_for_range.empty());
}

TEST(Half, TinyValuesStayWide) {
  auto graph = ir::parse(
      "graph g(%x: f32[2,2]) {\n %small = const f32[2,2] {1e-5, 0, 0, 1e-5}\n %y = matmul(%x, %small)\n %z = softmax(%y) {axis=-1}\n "
      "return %z\n}");
  ThreadPool pool(2);
  const Ranges ranges = measure_ranges(*graph, {{2, 2}}, pool);
  const HalfReport report = floats_to_half(*graph, {.dtype = DType::F16, .ranges = &ranges}, pool);
  EXPECT_EQ(find(*graph, "matmul")->output(0)->type.dtype, DType::F32) << ir::print(*graph);
  EXPECT_EQ(report.kept_for_range.size(), 1u);
}

TEST(Half, MasksAreLimitedNotInfinite) {
  const auto graph = narrowed(
      "graph g(%q: f32[1,1,2,4], %k: f32[1,1,2,4], %v: f32[1,1,2,4], %m: bool[1,1,2,2]) {\n %low = const f32[] {-3.4e38}\n %zero = const "
      "f32[] {0}\n"
      " %mask = where(%m, %zero, %low)\n %y = attention(%q, %k, %v, %mask) {scale=0.5}\n return %y\n}");
  const ir::Node* attention = find(*graph, "attention");
  EXPECT_EQ(attention->input(3)->type.dtype, DType::F16) << ir::print(*graph);
  EXPECT_TRUE(attention->input(3)->producer()->is("fused"));
  EXPECT_EQ(find(*graph, "where")->output(0)->type.dtype, DType::F32);
}

TEST(Half, SubgraphsKeepFloat32) {
  const auto graph = narrowed(
      "graph g(%x: f32[4], %c: bool[]) {\n %y = exp(%x)\n"
      " %z: f32[4] = if(%c) with graph t() { %a: f32[4] = neg(%y) return %a } with graph e() { return %y }\n return %z\n}");
  ir::verify(*graph);
  const ir::Node* node = find(*graph, "if");
  EXPECT_EQ(node->subgraphs[0]->nodes().front()->input(0)->type.dtype, DType::F32) << ir::print(*graph);
  EXPECT_EQ(node->subgraphs[1]->outputs()[0]->type.dtype, DType::F32);
  EXPECT_EQ(find(*graph, "exp")->output(0)->type.dtype, DType::F16);
}

TEST(Half, ResultsAgreeWithFloat32) {
  const char* text =
      "graph g(%x: f32[3,8]) {\n %w = const f32[8,8] {1,-2,3,4,5,-6,7,8, 9,1,1,1,1,-1,1,1, 1,2,3,4,5,6,7,8, 2,2,2,2,-2,2,2,2, "
      "1,-2,3,4,5,-6,7,8, "
      "9,1,1,1,1,-1,1,1, 1,2,3,4,5,6,7,8, 2,2,2,2,-2,2,2,2}\n %s = const f32[8] {1,2,1,2,1,2,1,2}\n"
      " %y = matmul(%x, %w)\n %n = rms_norm(%y, %s) {axis=-1, epsilon=1e-5}\n"
      " %z = fused(%n, %y) {expr=\"t0 = silu(i0); t1 = mul(t0, i1); ret t1\"}\n return %z\n}";
  auto wide = ir::parse(text), half = ir::parse(text);
  ThreadPool pool(2);
  floats_to_half(*half, {.dtype = DType::F16}, pool);
  Tensor x = Tensor::empty(DType::F32, {3, 8});
  for (int64_t i = 0; i < x.count(); ++i) x.data<float>()[i] = static_cast<float>(i % 7) * 0.25f - 0.6f;
  const Tensor a = passes::evaluate(*wide, {x})[0], b = passes::evaluate(*half, {x})[0];
  for (int64_t i = 0; i < a.count(); ++i) EXPECT_NEAR(a.float_at(i), b.float_at(i), 0.02 + 5e-3 * std::abs(a.float_at(i))) << i;
}

TEST(Fp8, RoundsAsTheFormatSays) {
  for (int i = -4600; i <= 4600; ++i) {
    const float x = static_cast<float>(i) * 0.1f;
    for (float scale : {1.0f, 0.01f, 1e-4f}) EXPECT_EQ(to_e4m3(x * scale), float_to_small_float(DType::F8E4M3FN, x * scale)) << x * scale;
  }
}

}  // namespace
}  // namespace tokamak::quant
