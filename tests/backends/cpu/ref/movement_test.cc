#include <cmath>

#include "tests/backends/cpu/ref/run_ref.h"

namespace tokamak {
namespace {

using namespace testing;
using ir::Dims;
using ir::Ints;

TEST(RefMovement, TransposeSmallAndBlocked) {
  expect_values(run_ref("transpose", {f32_ramp({2, 3})}, {{"perm", Ints{1, 0}}})[0], {3, 2}, {0, 3, 1, 4, 2, 5});
  const Tensor x = f32_ramp({3, 67, 45});  // large enough for the blocked path, no multiple of the block
  const Tensor y = run_ref("transpose", {x}, {{"perm", Ints{2, 0, 1}}})[0];
  ASSERT_EQ(y.shape(), (Shape{45, 3, 67}));
  for (int64_t a = 0; a < 3; ++a)
    for (int64_t b = 0; b < 67; ++b)
      for (int64_t c = 0; c < 45; ++c) ASSERT_EQ(y.data<float>()[(c * 3 + a) * 67 + b], x.data<float>()[(a * 67 + b) * 45 + c]);
  Tensor packed = Tensor::zeros(DType::U4, {2, 3});
  packed.data<uint8_t>()[0] = 0x21;  // 1 2
  packed.data<uint8_t>()[1] = 0x43;  // 3 4
  packed.data<uint8_t>()[2] = 0x65;  // 5 6
  expect_values(run_ref("transpose", {packed}, {{"perm", Ints{1, 0}}})[0], {3, 2}, {1, 4, 2, 5, 3, 6});
}

TEST(RefMovement, SlicesJoinsAndRepeats) {
  const Tensor x = f32_ramp({2, 3});
  expect_values(run_ref("slice", {x, i64({1}, {-1}), i64({1}, {-100}), i64({1}, {1}), i64({1}, {-2})})[0], {2, 2}, {2, 0, 5, 3});
  expect_values(run_ref("slice", {x}, {{"starts", Dims{1}}, {"ends", Dims{1000}}, {"axes", Ints{1}}, {"steps", Ints{1}}})[0], {2, 2},
                {1, 2, 4, 5});
  expect_values(run_ref("concat", {x, f32({2, 1}, {8, 9})}, {{"axis", int64_t{1}}})[0], {2, 4}, {0, 1, 2, 8, 3, 4, 5, 9});
  const std::vector<Tensor> parts = run_ref("split", {x}, {{"axis", int64_t{1}}, {"sizes", Dims{1, 2}}}, 2);
  expect_values(parts[0], {2, 1}, {0, 3});
  expect_values(parts[1], {2, 2}, {1, 2, 4, 5});
  expect_values(run_ref("expand", {f32({2, 1}, {1, 2})}, {{"shape", Dims{2, 2}}})[0], {2, 2}, {1, 1, 2, 2});
  expect_values(run_ref("tile", {f32({1, 2}, {1, 2}), i64({2}, {2, 2})})[0], {2, 4}, {1, 2, 1, 2, 1, 2, 1, 2});
  expect_values(run_ref("trilu", {f32_ramp({3, 3}, 1), i64({}, {1})})[0], {3, 3}, {0, 2, 3, 0, 0, 6, 0, 0, 0});
  expect_values(run_ref("trilu", {f32_ramp({2, 3}, 1)}, {{"upper", int64_t{0}}})[0], {2, 3}, {1, 0, 0, 4, 5, 0});
  expect_values(run_ref("reverse_sequence", {f32({3, 2}, {1, 2, 3, 4, 5, 6}), i64({2}, {2, 3})},
                        {{"batch_axis", int64_t{1}}, {"time_axis", int64_t{0}}})[0],
                {3, 2}, {3, 6, 1, 4, 5, 2});
}

TEST(RefMovement, Blocks) {
  const Tensor x = f32_ramp({1, 4, 1, 2});
  expect_values(run_ref("depth_to_space", {x}, {{"blocksize", int64_t{2}}})[0], {1, 1, 2, 4}, {0, 2, 1, 3, 4, 6, 5, 7});
  expect_values(run_ref("space_to_depth", {run_ref("depth_to_space", {x}, {{"blocksize", int64_t{2}}})[0]}, {{"blocksize", int64_t{2}}})[0],
                {1, 4, 1, 2}, {0, 1, 2, 3, 4, 5, 6, 7});
}

TEST(RefPad, Modes) {
  const Tensor x = f32({3}, {1, 2, 3});
  const auto pad = [&](const char* mode, Ints pads) {
    return run_ref("pad", {x}, {{"pads", pads}, {"mode", std::string(mode)}, {"value", 9.0}})[0];
  };
  expect_values(pad("constant", {1, 2}), {6}, {9, 1, 2, 3, 9, 9});
  expect_values(pad("constant", {-1, 1}), {3}, {2, 3, 9});
  expect_values(pad("reflect", {2, 2}), {7}, {3, 2, 1, 2, 3, 2, 1});
  expect_values(pad("edge", {1, 1}), {5}, {1, 1, 2, 3, 3});
  expect_values(pad("wrap", {1, 1}), {5}, {3, 1, 2, 3, 1});
  expect_values(run_ref("pad", {f32({1, 1}, {5}), i64({4}, {0, 1, 1, 0})})[0], {2, 2}, {0, 5, 0, 0});
}

TEST(RefGather, AllForms) {
  const Tensor x = f32({2, 2}, {1, 2, 3, 4});
  expect_values(run_ref("gather", {x, i64({2}, {-1, 0})}, {{"axis", int64_t{1}}})[0], {2, 2}, {2, 1, 4, 3});
  expect_values(run_ref("gather_elements", {x, i64({1, 2}, {1, 0})}, {{"axis", int64_t{0}}})[0], {1, 2}, {3, 2});
  expect_values(run_ref("gather_nd", {x, i64({2, 1}, {1, 0})})[0], {2, 2}, {3, 4, 1, 2});
  expect_values(run_ref("gather_nd", {x, i64({2, 1}, {1, 0})}, {{"batch_dims", int64_t{1}}})[0], {2}, {2, 3});
  try {
    run_ref("gather", {x, i64({1}, {2})}, {{"axis", int64_t{0}}});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::OutOfRange);
    EXPECT_NE(std::string(e.what()).find("[gather \"under test\"] index 2 is outside an axis of 2"), std::string::npos) << e.what();
  }
}

TEST(RefScatter, ReductionsAndBounds) {
  const Tensor x = f32({4}, {1, 2, 3, 4}), at = i64({3}, {1, 1, -1}), u = f32({3}, {10, 20, 30});
  const auto scatter = [&](const char* reduction) {
    return run_ref("scatter_elements", {x, at, u}, {{"axis", int64_t{0}}, {"reduction", std::string(reduction)}})[0];
  };
  expect_values(scatter("none"), {4}, {1, 20, 3, 30});
  expect_values(scatter("add"), {4}, {1, 32, 3, 34});
  expect_values(scatter("mul"), {4}, {1, 400, 3, 120});
  expect_values(scatter("max"), {4}, {1, 20, 3, 30});
  expect_values(scatter("min"), {4}, {1, 2, 3, 4});
  expect_values(run_ref("scatter_nd", {f32({2, 2}, {1, 2, 3, 4}), i64({1, 1}, {1}), f32({1, 2}, {8, 9})})[0], {2, 2}, {1, 2, 8, 9});
  EXPECT_THROW(run_ref("scatter_nd", {x, i64({1, 1}, {4}), f32({1}, {0})}), Error);
}

TEST(RefShape, CreatesTensors) {
  expect_values(run_ref("shape", {f32_ramp({2, 3, 4})}, {{"start", int64_t{1}}, {"end", int64_t{-1}}})[0], {1}, {3});
  expect_values(run_ref("size", {f32_ramp({2, 3})})[0], {}, {6});
  expect_values(run_ref("range", {i64({}, {5}), i64({}, {0}), i64({}, {-2})})[0], {3}, {5, 3, 1});
  expect_values(run_ref("fill", {}, {{"value", i64({1}, {7})}, {"shape", Dims{2, 2}}})[0], {2, 2}, {7, 7, 7, 7});
  expect_values(run_ref("eye_like", {f32_ramp({2, 3})}, {{"k", int64_t{1}}})[0], {2, 3}, {0, 1, 0, 0, 0, 1});
  expect_values(run_ref("onehot", {i64({3}, {1, -1, 9}), i64({}, {3}), f32({2}, {0, 5})}, {{"axis", int64_t{-1}}})[0], {3, 3},
                {0, 5, 0, 0, 0, 5, 0, 0, 0});
}

TEST(RefSearch, TopkAndDataDependentShapes) {
  const std::vector<Tensor> top = run_ref("topk", {f32({1, 4}, {3, 9, 9, 1}), i64({1}, {3})}, {{"axis", int64_t{1}}}, 2);
  expect_values(top[0], {1, 3}, {9, 9, 3});
  expect_values(top[1], {1, 3}, {1, 2, 0});
  expect_values(run_ref("nonzero", {f32({2, 2}, {1, 0, 1, 1})})[0], {2, 3}, {0, 1, 1, 0, 0, 1});
  expect_values(run_ref("compress", {f32({3, 2}, {1, 2, 3, 4, 5, 6}), Tensor::of<bool>({2}, {false, true})}, {{"axis", int64_t{0}}})[0],
                {1, 2}, {3, 4});
  const std::vector<Tensor> u = run_ref("unique", {f32({5}, {2, 1, 1, 3, 2})}, {{"sorted", int64_t{0}}}, 4);
  expect_values(u[0], {3}, {2, 1, 3});
  expect_values(u[1], {3}, {0, 1, 3});
  expect_values(u[2], {5}, {0, 1, 1, 2, 0});
  expect_values(u[3], {3}, {2, 2, 1});
  const Tensor boxes = f32({1, 3, 4}, {0, 0, 1, 1, 0, 0.1f, 1, 1.1f, 0, 10, 1, 11}), scores = f32({1, 1, 3}, {0.9f, 0.75f, 0.95f});
  expect_values(run_ref("nms", {boxes, scores, i64({1}, {3}), f32({1}, {0.5f})})[0], {2, 3}, {0, 0, 2, 0, 0, 0});
}

TEST(RefResize, NearestLinearCubic) {
  const Tensor x = f32({1, 1, 2, 2}, {1, 2, 3, 4}), none;
  const auto resize = [&](const char* mode, std::vector<float> scales, ir::Attrs attrs = {}) {
    attrs.set("mode", std::string(mode));
    return run_ref("resize", {x, none, f32({4}, scales)}, attrs)[0];
  };
  expect_values(resize("nearest", {1, 1, 1, 2}), {1, 1, 2, 4}, {1, 1, 2, 2, 3, 3, 4, 4});
  expect_values(resize("linear", {1, 1, 1, 2}), {1, 1, 2, 4}, {1, 1.25, 1.75, 2, 3, 3.25, 3.75, 4});
  expect_values(resize("linear", {1, 1, 1, 1.5}, {{"coordinate_transformation_mode", std::string("align_corners")}}), {1, 1, 2, 3},
                {1, 1.5, 2, 3, 3.5, 4});
  expect_values(resize("linear", {1, 1, 0.5, 0.5}, {{"antialias", int64_t{1}}}), {1, 1, 1, 1}, {2.5});
  expect_values(run_ref("resize", {f32({4}, {1, 2, 3, 4}), none, f32({1}, {0.5f})}, {{"mode", std::string("cubic")}})[0], {2},
                {1.40625, 3.59375});
}

TEST(RefQuantize, PerTensorAxisAndBlocks) {
  expect_values(run_ref("quantize", {f32({4}, {0, 2.5f, 3.5f, 1000}), f32({}, {1}), Tensor::of<uint8_t>({}, {1})})[0], {4}, {1, 3, 5, 255});
  const Tensor zero = Tensor::of<int8_t>({2}, {0, 1});
  expect_values(run_ref("quantize", {f32({1, 2}, {4, 4}), f32({2}, {2, 4}), zero}, {{"axis", int64_t{1}}})[0], {1, 2}, {2, 2});
  expect_values(run_ref("dequantize", {Tensor::of<int8_t>({1, 2}, {2, 2}), f32({2}, {2, 4}), zero}, {{"axis", int64_t{1}}})[0], {1, 2},
                {4, 4});
  expect_values(run_ref("dequantize", {Tensor::of<int8_t>({1, 4}, {1, 1, 1, 1}), f32({1, 2}, {2, 3})},
                        {{"axis", int64_t{1}}, {"block_size", int64_t{2}}})[0],
                {1, 4}, {2, 2, 3, 3});
  const std::vector<Tensor> d = run_ref("dynamic_quantize", {f32({3}, {0, 2, -1})}, {}, 3);
  expect_values(d[1], {}, {3 / 255.0});
  expect_values(d[2], {}, {85});
  expect_values(d[0], {3}, {85, 255, 0});
}

TEST(RefRecurrent, RnnByHand) {
  // One unit, weight 1, recurrence 1, tanh; two steps, then the reverse direction over the first only.
  const Tensor x = f32({2, 1, 1}, {1, 0.5f}), w = f32({1, 1, 1}, {1}), r = f32({1, 1, 1}, {1});
  const double h1 = std::tanh(1.0), h2 = std::tanh(0.5 + h1);
  const std::vector<Tensor> y = run_ref("rnn", {x, w, r}, {{"hidden_size", int64_t{1}}}, 2);
  expect_values(y[0], {2, 1, 1, 1}, {h1, h2});
  expect_values(y[1], {1, 1, 1}, {h2});
  const Tensor lengths = Tensor::of<int32_t>({1}, {1});
  const std::vector<Tensor> z =
      run_ref("rnn", {x, w, r, Tensor(), lengths}, {{"hidden_size", int64_t{1}}, {"direction", std::string("reverse")}}, 2);
  expect_values(z[0], {2, 1, 1, 1}, {h1, 0});
  expect_values(z[1], {1, 1, 1}, {h1});
}

TEST(RefRecurrent, LstmAndGruByHand) {
  const Tensor x = f32({1, 1, 1}, {1});
  const double half = 1 / (1 + std::exp(-1.0));
  const std::vector<Tensor> l =
      run_ref("lstm", {x, f32({1, 4, 1}, {1, 1, 1, 1}), f32({1, 4, 1}, {0, 0, 0, 0})}, {{"hidden_size", int64_t{1}}}, 3);
  const double c = half * std::tanh(1.0);
  expect_values(l[2], {1, 1, 1}, {c});
  expect_values(l[1], {1, 1, 1}, {half * std::tanh(c)});
  const std::vector<Tensor> g = run_ref("gru", {x, f32({1, 3, 1}, {1, 1, 1}), f32({1, 3, 1}, {0, 0, 0})}, {{"hidden_size", int64_t{1}}}, 2);
  expect_values(g[1], {1, 1, 1}, {(1 - half) * std::tanh(1.0)});
}

TEST(RefRandom, SeededRunsRepeatAndStayInRange) {
  const ir::Attrs attrs{{"shape", Dims{1000}}, {"seed", 3.0}};
  const Tensor a = run_ref("random_uniform", {}, attrs)[0], b = run_ref("random_uniform", {}, attrs)[0];
  EXPECT_TRUE(same_bytes(a, b));
  double sum = 0;
  for (int64_t i = 0; i < a.count(); ++i) {
    EXPECT_GE(a.float_at(i), 0);
    EXPECT_LT(a.float_at(i), 1);
    sum += a.float_at(i);
  }
  EXPECT_NEAR(sum / 1000, 0.5, 0.05);
  EXPECT_FALSE(same_bytes(run_ref("random_normal", {}, {{"shape", Dims{8}}})[0], run_ref("random_normal", {}, {{"shape", Dims{8}}})[0]));
}

}  // namespace
}  // namespace tokamak
