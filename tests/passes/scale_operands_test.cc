// What the pass claims holds for the rows that reach furthest, and is not far from what they reach.

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "base/half.h"
#include "ir/infer.h"
#include "passes/pipeline.h"
#include "runtime/execution_context.h"

namespace tokamak::passes {
namespace {

TEST(ScaleOperands, TheFurthestRowsStayWithin) {
  constexpr int64_t kK = 64, kRows = 96;
  std::mt19937 random(std::random_device{}());
  std::normal_distribution<float> normal;
  for (const float size : {1e-3F, 1.F, 3e4F}) {
    Tensor norm = Tensor::empty(DType::F32, {kK}), scale = Tensor::empty(DType::F32, {kRows, kK / 32});
    Tensor w = Tensor::empty(DType::I8, {kRows, kK});
    for (int64_t i = 0; i < kK; ++i) norm.data<float>()[i] = normal(random);
    for (int64_t i = 0; i < scale.count(); ++i) scale.data<float>()[i] = size * std::abs(normal(random));
    for (int64_t i = 0; i < w.count(); ++i) w.data<int8_t>()[i] = static_cast<int8_t>(random() % 2 ? 127 : -128);
    // Row r of x lies in the direction of row r of w times the norm's weights.
    Tensor x = Tensor::empty(DType::BF16, {kRows, kK});
    for (int64_t i = 0; i < x.count(); ++i)
      x.data<uint16_t>()[i] =
          float_to_bfloat16(scale.data<float>()[i / 32] / size * static_cast<float>(w.data<int8_t>()[i]) * norm.data<float>()[i % kK]);

    auto graph = std::make_unique<ir::Graph>();
    ir::Value* const in = graph->add_input("x", ir::TensorType(DType::BF16, {kRows, kK}));
    const ir::Attrs attrs{{"group_size", int64_t{32}}};
    ir::Attrs first = attrs;
    first.set("epsilon", 1e-9);
    ir::Value* const h =
        graph->build("linear", {in, graph->add_constant(w, "w"), graph->add_constant(scale, "s"), graph->add_constant(norm, "n")}, first);
    ir::Value* const y = graph->build("linear",
                                      {h, graph->add_constant(Tensor::zeros(DType::I8, {8, kRows}), "z"),
                                       graph->add_constant(Tensor::zeros(DType::F32, {8, kRows / 32}), "t")},
                                      attrs);
    graph->set_outputs({h, y});
    const std::string pass = "scale-operands";
    run_passes(*graph, {&pass, 1});
    const double x_scale = y->producer()->attrs.get_float("x_scale", 0);
    ASSERT_GT(x_scale, 0);
    EXPECT_EQ(std::exp2(std::round(std::log2(x_scale))), x_scale);
    ExecutionContext context(std::make_shared<const Engine>(std::move(graph), EngineInfo{.device = "cpu"}));
    context.set_input("x", x);
    context.run();
    double most = 0;
    for (int64_t i = 0; i < context.output(0).count(); ++i) most = std::max(most, std::abs(context.output(0).float_at(i)));
    EXPECT_LE(most, 65504 * x_scale);
    EXPECT_GE(most, 65504 * x_scale / 64 / 2);  // a scale's step, and the margin
  }
}

}  // namespace
}  // namespace tokamak::passes
