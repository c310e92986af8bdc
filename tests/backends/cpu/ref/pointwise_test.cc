#include <cmath>
#include <limits>

#include "tests/backends/cpu/ref/run_ref.h"

namespace tokamak {
namespace {

using namespace testing;
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(RefUnary, Floats) {
  const Tensor x = f32({4}, {-2, -0.5, 0.5, 2});
  expect_values(run_ref("relu", {x})[0], {4}, {0, 0, 0.5, 2});
  expect_values(run_ref("round", {f32({4}, {0.5, 1.5, 2.5, -0.5})})[0], {4}, {0, 2, 2, 0});
  expect_values(run_ref("gelu", {x})[0], {4}, {-0.0455003, -0.1542688, 0.3457312, 1.9544997});
  expect_values(run_ref("gelu_tanh", {f32({1}, {1})})[0], {1}, {0.8411920});
  expect_values(run_ref("silu", {f32({1}, {1})})[0], {1}, {0.7310586});
  expect_values(run_ref("softplus", {f32({3}, {-100, 0, 100})})[0], {3}, {0, std::log(2.0), 100});
  expect_values(run_ref("leaky_relu", {x}, {{"alpha", 0.1}})[0], {4}, {-0.2, -0.05, 0.5, 2});
  expect_values(run_ref("hard_sigmoid", {x}, {{"alpha", 0.5}, {"beta", 0.5}})[0], {4}, {0, 0.25, 0.75, 1});
  expect_values(run_ref("shrink", {x}, {{"lambd", 1.0}, {"bias", 0.5}})[0], {4}, {-1.5, 0, 0, 1.5});
  expect_values(run_ref("isinf", {f32({3}, {kInf, -kInf, kNaN})}, {{"detect_negative", int64_t{0}}})[0], {3}, {1, 0, 0});
  EXPECT_TRUE(std::isnan(run_ref("relu", {f32({1}, {kNaN})})[0].float_at(0)));
  Tensor half = Tensor::empty(DType::F16, {2});
  half.data<Half>()[0] = Half(1.5f);
  half.data<Half>()[1] = Half(-4.0f);
  expect_values(run_ref("abs", {half})[0], {2}, {1.5, 4});
}

TEST(RefUnary, IntegersAndBooleans) {
  expect_values(run_ref("abs", {Tensor::of<int8_t>({3}, {-128, -1, 5})})[0], {3}, {-128, 1, 5});
  expect_values(run_ref("bitwise_not", {Tensor::of<uint8_t>({2}, {0, 0xf0})})[0], {2}, {255, 15});
  expect_values(run_ref("not", {Tensor::of<bool>({2}, {true, false})})[0], {2}, {0, 1});
  EXPECT_THROW(run_ref("exp", {i64({1}, {1})}), Error);
}

TEST(RefBinary, BroadcastsAndKeepsIntegerRules) {
  expect_values(run_ref("add", {f32({2, 1}, {1, 2}), f32({3}, {10, 20, 30})})[0], {2, 3}, {11, 21, 31, 12, 22, 32});
  expect_values(run_ref("div", {i64({4}, {7, -7, 7, 1}), i64({4}, {2, 2, -2, 0})})[0], {4}, {3, -3, -3, 0});
  expect_values(run_ref("mod", {i64({3}, {-7, 7, 5}), i64({3}, {3, -3, 8})})[0], {3}, {2, -2, 5});
  expect_values(run_ref("mod", {i64({2}, {-7, 7}), i64({2}, {3, -3})}, {{"fmod", int64_t{1}}})[0], {2}, {-1, 1});
  expect_values(run_ref("pow", {i64({2}, {2, -3}), i64({2}, {10, 3})})[0], {2}, {1024, -27});
  expect_values(run_ref("pow", {f32({2}, {2, 9}), i64({1}, {2})})[0], {2}, {4, 81});
  expect_values(run_ref("shift_right", {Tensor::of<uint8_t>({2}, {16, 255}), Tensor::of<uint8_t>({2}, {2, 9})})[0], {2}, {4, 0});
  expect_values(run_ref("add", {Tensor::of<uint8_t>({1}, {250}), Tensor::of<uint8_t>({1}, {10})})[0], {1}, {4});
  EXPECT_TRUE(std::isnan(run_ref("max", {f32({1}, {kNaN}), f32({1}, {1})})[0].float_at(0)));
  expect_values(run_ref("less", {f32({3}, {1, 2, kNaN}), f32({3}, {2, 1, 1})})[0], {3}, {1, 0, 0});
  Tensor a = Tensor::empty(DType::String, {2}), b = Tensor::empty(DType::String, {1});
  a.strings() = {"x", "y"};
  b.strings() = {"y"};
  expect_values(run_ref("equal", {a, b})[0], {2}, {0, 1});
}

TEST(RefSelect, WhereAndClip) {
  expect_values(run_ref("where", {Tensor::of<bool>({2, 1}, {true, false}), f32({2}, {1, 2}), f32({}, {9})})[0], {2, 2}, {1, 2, 9, 9});
  expect_values(run_ref("clip", {f32({3}, {-5, 0, 5}), f32({}, {-1}), f32({}, {1})})[0], {3}, {-1, 0, 1});
  expect_values(run_ref("clip", {i64({3}, {-5, 0, 5})}, {{"min", 0.0}})[0], {3}, {0, 0, 5});
}

TEST(RefCast, BetweenKinds) {
  const auto cast = [](const Tensor& x, DType to, int64_t saturate = 1) {
    return run_ref("cast", {x}, {{"to", to}, {"saturate", saturate}})[0];
  };
  expect_values(cast(f32({4}, {1.9f, -1.9f, 3e9f, kNaN}), DType::I32), {4}, {1, -1, 2147483647, 0});
  expect_values(cast(f32({3}, {0, -0.5f, 2}), DType::Bool), {3}, {0, 1, 1});
  expect_values(cast(i64({2}, {300, -1}), DType::U8), {2}, {44, 255});
  expect_values(cast(f32({2}, {3, -8}), DType::I4), {2}, {3, -8});
  expect_values(cast(f32({2}, {1000, 0.3f}), DType::F8E4M3FN), {2}, {448, 0.3125});
  EXPECT_TRUE(std::isnan(cast(f32({1}, {1000}), DType::F8E4M3FN, 0).float_at(0)));
  Tensor text = Tensor::empty(DType::String, {3});
  text.strings() = {"1.5", "-INF", "7"};
  expect_values(cast(text, DType::F32), {3}, {1.5, -kInf, 7});
  EXPECT_EQ(cast(f32({2}, {0.1f, kNaN}), DType::String).strings(), (std::vector<std::string>{"0.1", "NaN"}));
  text.strings()[0] = "one";
  EXPECT_THROW(cast(text, DType::F32), Error);
}

TEST(RefFused, RowReductionAndReducedOutput) {
  const std::vector<Tensor> y =
      run_ref("fused", {f32({2, 3}, {1, 2, 3, 4, 5, 6}), f32({3}, {1, 1, 2})},
              {{"expr", std::string("t0 = mul(i0, i1); t1 = row_sum(t0); t2 = div(t0, t1); ret t2, t1")}, {"reduced", ir::Ints{0, 1}}}, 2);
  expect_values(y[0], {2, 3}, {1 / 9.0, 2 / 9.0, 6 / 9.0, 4 / 21.0, 5 / 21.0, 12 / 21.0});
  expect_values(y[1], {2, 1}, {9, 21});
}

}  // namespace
}  // namespace tokamak
