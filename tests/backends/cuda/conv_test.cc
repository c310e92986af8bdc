#ifdef TOKAMAK_CUDA
#include <gtest/gtest.h>

#include "tests/backends/cuda/check_kernels.h"

namespace tokamak::test {
namespace {

// x and w are shapes, `attrs` what follows.
void check(const char* dtype, const std::string& x, const std::string& w, const std::string& attrs, double k, const char* op = "conv") {
  check_cuda_kernels(
      sum_case(fmt::format("graph main(%x: {0}[{1}], %w: {0}[{2}]) {{ %y = {4}(%x, %w) {{{3}}} return %y }}", dtype, x, w, attrs, op), k));
}

TEST(CudaConv, ChannelsLast) {
  for (const char* t : float_types()) {
    check(t, "2,9,11,16", "24,16,3,3", "pads=[1,1,1,1], layout=\"NHWC\"", 144);
    check(t, "1,14,14,64", "64,64,3,3", "pads=[1,1,1,1], layout=\"NHWC\"", 576);
    check(t, "1,7,7,256", "128,256,1,1", "layout=\"NHWC\"", 256);
    check(t, "3,8,8,64", "72,64,1,1", "strides=[2,2], layout=\"NHWC\"", 64);
    check(t, "1,17,19,3", "40,3,7,7", "strides=[2,2], pads=[3,3,3,3], layout=\"NHWC\"", 147);
    check(t, "1,15,17,12", "40,12,4,4", "pads=[2,2,1,1], layout=\"NHWC\"", 192);
    check(t, "2,9,10,4", "16,4,3,5", "strides=[2,1], pads=[1,2,1,2], layout=\"NHWC\"", 60);
    check(t, "2,13,10,8", "16,8,3,2", "strides=[2,3], pads=[0,1,2,1], dilations=[2,1], layout=\"NHWC\"", 48);
    check(t, "1,10,10,5", "7,5,3,3", "pads=[1,1,1,1], layout=\"NHWC\"", 45);
    check(t, "2,10,6,32", "32,8,3,3", "group=4, pads=[1,1,1,1], layout=\"NHWC\"", 72);
    check(t, "2,10,6,12", "24,3,3,3", "group=4, pads=[1,1,1,1], layout=\"NHWC\"", 27);
    check(t, "2,9,9,8", "16,8,3,3", "auto_pad=\"SAME_UPPER\", strides=[2,2], layout=\"NHWC\"", 72);
    check(t, "2,9,10,8", "16,8,4,4", "auto_pad=\"SAME_LOWER\", strides=[2,2], layout=\"NHWC\"", 128);
    check(t, "2,33,16", "24,16,5", "pads=[2,2], layout=\"NHWC\"", 80);
    check(t, "1,5,6,7,8", "16,8,3,3,3", "pads=[1,1,1,1,1,1], layout=\"NHWC\"", 216);
  }
}

TEST(CudaConv, Depthwise) {
  for (const char* t : float_types()) {
    check(t, "2,9,11,32", "32,1,3,3", "group=32, pads=[1,1,1,1], layout=\"NHWC\"", 9);
    check(t, "2,9,11,24", "24,1,5,5", "group=24, strides=[2,2], pads=[2,1,2,3], layout=\"NHWC\"", 25);
    check(t, "2,9,11,6", "6,1,3,3", "group=6, pads=[1,1,1,1], layout=\"NHWC\"", 9);
    check(t, "2,9,11,6", "12,1,3,3", "group=6, pads=[1,1,1,1], layout=\"NHWC\"", 9);
  }
}

TEST(CudaConv, ChannelsFirst) {
  for (const char* t : float_types()) {
    check(t, "2,6,9,11", "8,6,3,3", "pads=[1,1,1,1]", 54);
    check(t, "2,6,9,11", "8,3,3,2", "group=2, strides=[2,1], dilations=[1,2], pads=[1,0,2,1]", 18);
    check(t, "2,6,33", "4,6,5", "pads=[2,2]", 30);
    check(t, "1,4,5,6,7", "6,4,3,3,3", "pads=[1,1,1,1,1,1]", 108);
  }
  check("f64", "2,6,9,11", "8,6,3,3", "pads=[1,1,1,1]", 54);
}

TEST(CudaConv, WeightsThatAreNotConstant) {
  for (const char* t : {"f32", "f16"})
    for (const char* rest : {"%x: {0}[1,6,6,8], %k: {0}[16,8,3,3]) {{ %y = conv(%x, %k) {{layout=\"NHWC\"}} return %y }}",
                             "%x: {0}[1,8,6,6], %k: {0}[16,8,3,3]) {{ %y = conv(%x, %k) return %y }}"})
      check_cuda_kernels(sum_case("graph main(" + fmt::format(fmt::runtime(rest), t), 72));
}

TEST(CudaConv, BiasAndEpilogues) {
  for (const char* t : float_types()) {
    const auto with = [&](const std::string& extras, const std::string& names, const std::string& attrs) {
      check_cuda_kernels(sum_case(fmt::format("graph main(%x: {0}[2,7,9,16], %w: {0}[24,16,3,3]{1}) {{ %y = conv(%x, %w{2}) "
                                              "{{pads=[1,1,1,1], layout=\"NHWC\"{3}}} return %y }}",
                                              t, fmt::format(fmt::runtime(extras), t), names, attrs),
                                  144));
    };
    with(", %wb: {0}[24]", ", %wb", "");
    with(", %wb: {0}[24]", ", %wb", ", epilogue=\"t0 = relu(i0); ret t0\", epilogue_input=3");
    with(", %wb: {0}[24], %d: {0}[2,7,9,24]", ", %wb, %d", ", epilogue=\"t0 = add(i0, i1); t1 = relu(t0); ret t1\", epilogue_input=3");
    with(", %d: {0}[2,7,9,24]", ", _, %d", ", epilogue=\"t0 = add(i0, i1); t1 = relu(t0); ret t1\", epilogue_input=3");
    with(", %d: f32[24]", ", _, %d", ", epilogue=\"t0 = mul(i0, i1); t1 = hard_swish(t0); ret t1\", epilogue_input=3");
    with(", %d: {0}[2,1,1,24]", ", _, %d", ", epilogue=\"t0 = sigmoid(i0); t1 = mul(t0, i1); ret t1\", epilogue_input=3");
  }
  check_cuda_kernels(
      sum_case("graph main(%x: f32[2,5,7,9], %w: f32[6,5,3,3], %wb: f32[6], %d: f32[2,6,7,9]) { %y = conv(%x, %w, %wb, %d) "
               "{pads=[1,1,1,1], epilogue=\"t0 = add(i0, i1); t1 = relu(t0); ret t1\", epilogue_input=3} return %y }",
               45));
}

TEST(CudaConvTranspose, MatchesRef) {
  for (const char* t : float_types())
    for (const bool last : {false, true}) {
      const std::string layout = last ? "layout=\"NHWC\"" : "layout=\"NCHW\"";
      const std::string image = last ? "2,7,6,8" : "2,8,7,6";
      check(t, image, "8,16,3,3", "strides=[2,2], pads=[1,1,1,1], output_padding=[1,1], " + layout, 72, "conv_transpose");
      check(t, image, "8,4,2,3", "strides=[2,1], dilations=[1,2], group=2, " + layout, 24, "conv_transpose");
      check(t, image, "8,5,4,4", "strides=[2,2], auto_pad=\"SAME_UPPER\", " + layout, 128, "conv_transpose");
      check(t, image, "8,5,3,3", "strides=[3,2], output_shape=[20,12], " + layout, 72, "conv_transpose");
    }
  check_cuda_kernels(
      sum_case("graph main(%x: f32[2,4,9], %w: f32[4,6,3], %wb: f32[6]) { %y = conv_transpose(%x, %w, %wb) {strides=[2]} return %y }", 12));
}

TEST(CudaConvInteger, MatchesRef) {
  check_cuda_kernels({"graph main(%x: u8[2,6,9,11], %w: i8[8,6,3,3]) { %y = conv_integer(%x, %w) {pads=[1,1,1,1]} return %y }"});
  check_cuda_kernels(
      {"graph main(%x: u8[2,6,9,11], %w: u8[8,6,3,3], %c: u8[], %d: u8[8]) { %y = conv_integer(%x, %w, %c, %d) {pads=[1,1,1,1]} return %y "
       "}"});
}

TEST(CudaConv, CompilesForEveryArchitecture) {
  check_cuda_kernels(sum_case("graph main(%x: f16[1,14,14,64], %w: f16[64,64,3,3], %wb: f16[64]) { %y = conv(%x, %w, %wb) "
                              "{pads=[1,1,1,1], layout=\"NHWC\", epilogue=\"t0 = relu(i0); ret t0\", epilogue_input=3} return %y }",
                              576),
                     {"sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"});
}

}  // namespace
}  // namespace tokamak::test
#endif
