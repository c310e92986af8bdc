#include "quant/bf16.h"

#include <gtest/gtest.h>

#include "ir/text.h"

namespace tokamak::quant {
namespace {

TEST(Bf16, ConvertsSharedWeightsOnceAndLeavesTheRest) {
  const auto graph = ir::parse(
      "graph g(%x: f32[n,2], %d: f32[2,2]) {\n %w = const f32[2,2] {1, 2.00390625, 3, 4}\n %huge = const f32[2,2] {3.4e38, 1, 1, 1}\n"
      " %a = matmul(%x, %w)\n %b = matmul(%a, %w)\n %c = matmul(%b, %d)\n %e = matmul(%c, %huge)\n return %e\n}");
  ThreadPool pool(2);
  EXPECT_EQ(weights_to_bf16(*graph, pool), 2);
  const auto nodes = graph->nodes_snapshot();
  EXPECT_EQ(nodes[0]->input(1), nodes[1]->input(1));
  const Tensor& w = nodes[0]->input(1)->constant;
  EXPECT_EQ(w.dtype(), DType::BF16);
  EXPECT_EQ(w.float_at(1), 2.0);  // a tie goes to the even neighbour
  EXPECT_EQ(nodes[3]->input(1)->constant.dtype(), DType::F32);
  ir::verify(*graph);
}

}  // namespace
}  // namespace tokamak::quant
