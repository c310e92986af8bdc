#include <cmath>

#include "tests/backends/cpu/ref/run_ref.h"

namespace tokamak {
namespace {

using namespace testing;
using ir::Ints;

TEST(RefMatmul, TransposesBroadcastsVectorsAndEpilogue) {
  const Tensor a = f32({2, 3}, {1, 2, 3, 4, 5, 6}), b = f32({3, 2}, {1, 0, 0, 1, 1, 1});
  expect_values(run_ref("matmul", {a, b})[0], {2, 2}, {4, 5, 10, 11});
  expect_values(run_ref("matmul", {a, a}, {{"trans_b", int64_t{1}}, {"alpha", 0.5}})[0], {2, 2}, {7, 16, 16, 38.5});
  expect_values(run_ref("matmul", {f32({3}, {1, 1, 1}), b})[0], {2}, {2, 2});
  expect_values(run_ref("matmul", {f32({2, 1, 1}, {2, 3}), f32({1, 3}, {1, 2, 3})})[0], {2, 1, 3}, {2, 4, 6, 3, 6, 9});
  expect_values(run_ref("matmul", {a, b, f32({2}, {-5, 1})},
                        {{"epilogue", std::string("t0 = add(i0, i1); t1 = relu(t0); ret t1")}, {"epilogue_input", int64_t{2}}})[0],
                {2, 2}, {0, 6, 5, 12});
  expect_values(run_ref("matmul_integer",
                        {Tensor::of<uint8_t>({1, 2}, {10, 20}), Tensor::of<int8_t>({2, 1}, {-1, 2}), Tensor::of<uint8_t>({}, {10})})[0],
                {1, 1}, {20});
  EXPECT_THROW(run_ref("matmul", {a, a}), Error);
}

// Groups of 2 with a shorter last one; two 4-bit weights a byte, the low nibble first.
TEST(RefMatmul, QuantizedWeights) {
  const Tensor a = f32({2, 3}, {1, 2, 3, 4, 5, 6});
  const Tensor scale = f32({2, 2}, {0.5, 10, 1, 100});
  const ir::Attrs attrs = {{"group_size", int64_t{2}}};
  const Tensor i8 = Tensor::of<int8_t>({2, 3}, {1, -2, 3, -128, 127, 0});
  expect_values(run_ref("quantized_matmul", {a, i8, scale}, attrs)[0], {2, 2}, {88.5, 126, 177, 123});
  Tensor i4 = Tensor::empty(DType::I4, {2, 3});  // 1 -2 3 / -8 7 0
  i4.data<uint8_t>()[0] = 0xe1, i4.data<uint8_t>()[1] = 0x83, i4.data<uint8_t>()[2] = 0x07;
  Tensor half = Tensor::empty(DType::F16, {2, 2});
  for (int i = 0; i < 4; ++i) half.data<Half>()[i] = Half(scale.data<float>()[i]);
  expect_values(run_ref("quantized_matmul", {a, i4, half}, attrs)[0], {2, 2}, {88.5, 6, 177, 3});
  ir::Attrs fused = attrs;
  fused.set("epilogue", std::string("t0 = silu(i0); t1 = mul(t0, i1); t2 = add(t1, i2); ret t2"));
  fused.set("epilogue_input", int64_t{3});
  const Tensor gate = f32({2, 2}, {1, 2, 3, 4}), bias = f32({2}, {10, 20});
  expect_values(run_ref("quantized_matmul", {a, i4, half, gate, bias}, fused)[0], {2, 2}, {98.5, 31.9703, 541, 31.4309}, 1e-3);
}

TEST(RefConv, LayoutsGroupsAndPadding) {
  const Tensor x = f32_ramp({1, 1, 3, 3}), ones = f32({1, 1, 2, 2}, {1, 1, 1, 1});
  expect_values(run_ref("conv", {x, ones})[0], {1, 1, 2, 2}, {8, 12, 20, 24});
  expect_values(run_ref("conv", {x, ones}, {{"pads", Ints{1, 0, 0, 1}}, {"strides", Ints{2, 2}}})[0], {1, 1, 2, 2}, {1, 2, 20, 13});
  expect_values(run_ref("conv", {x, ones}, {{"auto_pad", std::string("SAME_UPPER")}})[0], {1, 1, 3, 3}, {8, 12, 7, 20, 24, 13, 13, 15, 8});
  expect_values(run_ref("conv", {x, ones}, {{"dilations", Ints{2, 2}}})[0], {1, 1, 1, 1}, {16});
  // Two groups, channels last: [1, 1, 2 wide, 2 channels], 1x1 weights 10 and 100, bias.
  expect_values(run_ref("conv", {f32({1, 1, 2, 2}, {1, 2, 3, 4}), f32({2, 1, 1, 1}, {10, 100}), f32({2}, {1, 2})},
                        {{"group", int64_t{2}}, {"layout", std::string("NHWC")}})[0],
                {1, 1, 2, 2}, {11, 202, 31, 402});
  // The residual of an epilogue without bias.
  expect_values(run_ref("conv", {x, ones, Tensor(), f32({1, 1, 2, 2}, {1, 2, 3, 4})},
                        {{"epilogue", std::string("t0 = sub(i0, i1); ret t0")}, {"epilogue_input", int64_t{3}}})[0],
                {1, 1, 2, 2}, {7, 10, 17, 20});
  expect_values(run_ref("conv", {f32_ramp({1, 1, 4}), f32({1, 1, 3}, {1, 0, -1})})[0], {1, 1, 2}, {-2, -2});
  expect_values(run_ref("conv_integer", {Tensor::of<uint8_t>({1, 1, 1, 2}, {3, 5}), Tensor::of<uint8_t>({1, 1, 1, 1}, {2}),
                                         Tensor::of<uint8_t>({}, {1})})[0],
                {1, 1, 1, 2}, {4, 8});
}

TEST(RefConvTranspose, StrideAndPads) {
  const Tensor x = f32({1, 1, 2, 2}, {1, 2, 3, 4}), w = f32({1, 1, 2, 2}, {1, 1, 1, 1});
  expect_values(run_ref("conv_transpose", {x, w})[0], {1, 1, 3, 3}, {1, 3, 2, 4, 10, 6, 3, 7, 4});
  expect_values(run_ref("conv_transpose", {x, w}, {{"strides", Ints{2, 2}}, {"pads", Ints{1, 1, 0, 0}}})[0], {1, 1, 3, 3},
                {1, 2, 2, 3, 4, 4, 3, 4, 4});
}

TEST(RefPool, MaxAverageLp) {
  const Tensor x = f32_ramp({1, 1, 3, 3});
  const std::vector<Tensor> y = run_ref("max_pool", {x}, {{"kernel", Ints{2, 2}}, {"strides", Ints{1, 1}}}, 2);
  expect_values(y[0], {1, 1, 2, 2}, {4, 5, 7, 8});
  expect_values(y[1], {1, 1, 2, 2}, {4, 5, 7, 8});
  expect_values(run_ref("max_pool", {x}, {{"kernel", Ints{2, 2}}, {"strides", Ints{2, 2}}, {"ceil_mode", int64_t{1}}})[0], {1, 1, 2, 2},
                {4, 5, 7, 8});
  const ir::Attrs padded{{"kernel", Ints{2, 2}}, {"strides", Ints{2, 2}}, {"pads", Ints{1, 1, 0, 0}}};
  expect_values(run_ref("avg_pool", {x}, padded)[0], {1, 1, 2, 2}, {0, 1.5, 4.5, 6});
  ir::Attrs counted = padded;
  counted.set("count_include_pad", int64_t{1});
  expect_values(run_ref("avg_pool", {x}, counted)[0], {1, 1, 2, 2}, {0, 0.75, 2.25, 6});
  expect_values(run_ref("lp_pool", {f32({1, 1, 2}, {3, 4})}, {{"kernel", Ints{2}}})[0], {1, 1, 1}, {5});
}

TEST(RefNorm, SoftmaxAndNormalisations) {
  expect_values(run_ref("softmax", {f32({2, 2}, {0, 0, 1000, 0})}, {{"axis", int64_t{-1}}})[0], {2, 2}, {0.5, 0.5, 1, 0});
  expect_values(run_ref("softmax", {f32({2, 2}, {0, 5, 0, 5})}, {{"axis", int64_t{0}}})[0], {2, 2}, {0.5, 0.5, 0.5, 0.5});
  expect_values(run_ref("log_softmax", {f32({2}, {0, 0})}, {{"axis", int64_t{0}}})[0], {2}, {-std::log(2.0), -std::log(2.0)});
  const ir::Attrs last{{"axis", int64_t{-1}}, {"epsilon", 0.0}};
  expect_values(run_ref("layer_norm", {f32({1, 2}, {1, 3}), f32({2}, {2, 2}), f32({2}, {1, 1})}, last)[0], {1, 2}, {-1, 3});
  expect_values(run_ref("rms_norm", {f32({1, 2}, {3, 4}), f32({2}, {1, 2})}, last)[0], {1, 2}, {3 / std::sqrt(12.5), 8 / std::sqrt(12.5)});
  const std::vector<Tensor> y = run_ref("add_layer_norm", {f32({1, 2}, {0, 1}), f32({1, 2}, {1, 2})}, last, 2);
  expect_values(y[0], {1, 2}, {-1, 1});
  expect_values(y[1], {1, 2}, {1, 3});
  expect_values(run_ref("batch_norm", {f32({1, 2, 1}, {1, 2}), f32({2}, {1, 2}), f32({2}, {0, 1}), f32({2}, {0, 1}), f32({2}, {1, 4})},
                        {{"epsilon", 0.0}})[0],
                {1, 2, 1}, {1, 2});
  expect_values(run_ref("group_norm", {f32({1, 2, 1}, {1, 3}), f32({2}, {1, 1}), f32({2}, {0, 5})},
                        {{"num_groups", int64_t{1}}, {"epsilon", 0.0}})[0],
                {1, 2, 1}, {-1, 6});
  expect_values(run_ref("lrn", {f32({1, 3, 1, 1}, {1, 2, 3})}, {{"size", int64_t{3}}, {"alpha", 3.0}, {"beta", 1.0}, {"bias", 1.0}})[0],
                {1, 3, 1, 1}, {1 / 6.0, 2 / 15.0, 3 / 14.0});
}

TEST(RefReduce, AxesIdentitiesAndTies) {
  const Tensor x = f32({2, 3}, {1, 2, 3, 4, 5, 6});
  expect_values(run_ref("reduce_sum", {x}, {{"axes", Ints{1}}})[0], {2, 1}, {6, 15});
  expect_values(run_ref("reduce_mean", {x}, {{"axes", Ints{0}}, {"keepdims", int64_t{0}}})[0], {3}, {2.5, 3.5, 4.5});
  expect_values(run_ref("reduce_prod", {x}, {{"axes", Ints{0, 1}}, {"keepdims", int64_t{0}}})[0], {}, {720});
  expect_values(run_ref("reduce_sum", {f32({2, 0}, {})}, {{"axes", Ints{1}}})[0], {2, 1}, {0, 0});
  EXPECT_EQ(run_ref("reduce_max", {f32({1, 0}, {})}, {{"axes", Ints{1}}})[0].float_at(0), -INFINITY);
  expect_values(run_ref("reduce_max", {Tensor::of<bool>({2, 2}, {false, false, true, false})}, {{"axes", Ints{1}}})[0], {2, 1}, {0, 1});
  const Tensor ties = f32({1, 3}, {7, 1, 7});
  expect_values(run_ref("argmax", {ties}, {{"axis", int64_t{1}}})[0], {1, 1}, {0});
  expect_values(run_ref("argmax", {ties}, {{"axis", int64_t{1}}, {"select_last", int64_t{1}}})[0], {1, 1}, {2});
  expect_values(run_ref("cumprod", {f32({2, 3}, {1, 2, 3, 4, 5, 6}), i64({}, {1})})[0], {2, 3}, {1, 2, 6, 4, 20, 120});
  expect_values(run_ref("cumprod", {f32({3}, {2, 3, 4}), i64({}, {0})}, {{"exclusive", int64_t{1}}, {"reverse", int64_t{1}}})[0], {3},
                {12, 4, 1});
  expect_values(run_ref("cumsum", {f32({3}, {1, 2, 3}), i64({}, {0})}, {{"exclusive", int64_t{1}}, {"reverse", int64_t{1}}})[0], {3},
                {5, 3, 0});
}

TEST(RefAttention, CausalGroupedAndMasked) {
  // One batch, two query heads over one kv head, two positions, width 1; values tell which keys were seen.
  const Tensor q = f32({1, 2, 2, 1}, {0, 0, 0, 0}), k = f32({1, 1, 2, 1}, {5, 7}), v = f32({1, 1, 2, 1}, {10, 20});
  expect_values(run_ref("attention", {q, k, v}, {{"scale", 1.0}, {"is_causal", int64_t{1}}})[0], {1, 2, 2, 1}, {10, 15, 10, 15});
  const Tensor mask = Tensor::of<bool>({2, 2}, {false, false, false, true});
  expect_values(run_ref("attention", {q, k, v, mask}, {{"scale", 1.0}})[0], {1, 2, 2, 1}, {0, 20, 0, 20});
  // The same in BSHD.
  expect_values(
      run_ref(
          "attention", {q.reshaped({1, 2, 2, 1}), k.reshaped({1, 2, 1, 1}), v.reshaped({1, 2, 1, 1}), mask},
          {{"scale", 1.0}, {"q_layout", std::string("BSHD")}, {"kv_layout", std::string("BSHD")}, {"out_layout", std::string("BSHD")}})[0],
      {1, 2, 2, 1}, {0, 0, 20, 20});
}

TEST(RefRope, HalvesAndInterleaved) {
  const Tensor x = f32({1, 1, 1, 4}, {1, 2, 3, 4}), c = f32({1, 2}, {0, 1}), s = f32({1, 2}, {1, 0});
  expect_values(run_ref("rope", {x, c, s})[0], {1, 1, 1, 4}, {-3, 2, 1, 4});
  expect_values(run_ref("rope", {x, c, s}, {{"interleaved", int64_t{1}}})[0], {1, 1, 1, 4}, {-2, 1, 3, 4});
}

}  // namespace
}  // namespace tokamak
