#ifdef TOKAMAK_CUDA
#include <gtest/gtest.h>

#include <cmath>

#include "backends/cpu/kernels/ref/scalar.h"
#include "tests/backends/cuda/check_kernels.h"

namespace tokamak::test {
namespace {

void check(const std::string& text, double scale = 1, int64_t max_int = 100) {
  CudaCase c{.text = text, .inputs = {}, .scale = scale, .max_int = max_int};
  check_cuda_kernels(c);
}

TEST(CudaPointwise, EveryUnaryFloat) {
  for (const cpu::ref::Scalar& scalar : cpu::ref::scalars()) {
    if (scalar.inputs != 1 || scalar.name == "not") continue;
    check(fmt::format("graph main(%x: f32[1037]) {{ %y = {}(%x) return %y }}", scalar.name), 3);
  }
  for (const char* op : {"sigmoid", "gelu", "erf", "tanh", "isnan", "round", "mish"})
    for (const char* dtype : {"f16", "bf16", "f64"})
      check(fmt::format("graph main(%x: {}[3,7,5]) {{ %y = {}(%x) return %y }}", dtype, op), 3);
  for (const char* op : {"exp", "log", "sin", "softplus", "softsign", "hard_swish", "elu", "selu", "celu", "shrink", "thresholded_relu"})
    check(fmt::format("graph main(%x: f64[33]) {{ %y = {}(%x) return %y }}", op), 3);
}

TEST(CudaPointwise, UnaryIntegersAndBool) {
  for (const char* dtype : {"i64", "i32", "i8", "u8"})
    for (const char* op : {"abs", "neg", "sign", "relu", "bitwise_not"})
      check(fmt::format("graph main(%x: {}[41]) {{ %y = {}(%x) return %y }}", dtype, op));
  check("graph main(%x: bool[41]) { %y = not(%x) return %y }");
}

TEST(CudaPointwise, SpecialValues) {
  const float inf = INFINITY, nan = NAN;
  const Tensor x = Tensor::of<float>({12}, {0.f, -0.f, 1.f, -1.f, inf, -inf, nan, 88.f, -88.f, 1e-30f, -3e38f, 0.5f});
  for (const char* op :
       {"exp", "sigmoid", "silu", "gelu", "gelu_tanh", "relu", "softplus", "isinf", "isnan", "sign", "tanh", "mish", "clip"})
    check_cuda_kernels({.text = fmt::format("graph main(%x: f32[12]) {{ %y = {}(%x) return %y }}", op), .inputs = {x}});
  check_cuda_kernels({.text = "graph main(%x: f32[12]) { %y = isinf(%x) {detect_negative=0} return %y }", .inputs = {x}});
  const Tensor y = Tensor::of<float>({12}, {nan, 0.f, nan, 2.f, nan, inf, 1.f, 0.f, -inf, nan, 3.f, 0.5f});
  for (const char* op : {"min", "max", "equal", "less", "greater_equal", "div", "mod"})
    check_cuda_kernels({.text = fmt::format("graph main(%x: f32[12], %y: f32[12]) {{ %z = {}(%x, %y) return %z }}", op), .inputs = {x, y}});
}

TEST(CudaPointwise, BinaryFloat) {
  for (const char* op : {"add", "sub", "mul", "div", "mod", "min", "max", "prelu", "equal", "less_equal"})
    check(fmt::format("graph main(%a: f32[5,33], %b: f32[5,33]) {{ %y = {}(%a, %b) return %y }}", op));
  for (const char* dtype : {"f16", "bf16", "f64"})
    for (const char* op : {"sub", "less", "mod", "prelu"})
      check(fmt::format("graph main(%a: {0}[3,40], %b: {0}[40]) {{ %y = {1}(%a, %b) return %y }}", dtype, op));
  check("graph main(%a: f32[70], %b: f32[70]) { %y = mod(%a, %b) {fmod=1} return %y }", 5);
}

TEST(CudaPointwise, Broadcasting) {
  const char* shapes[][2] = {{"2,3,4,8", "8"},
                             {"2,3,4,8", "3,1,1"},
                             {"2,3,7,7", "3,1,1"},
                             {"2,3,4,8", "2,1,4,1"},
                             {"5,1", "1,9"},
                             {"1", "13"},
                             {"6,1,16", "6,5,16"},
                             {"", "17"},
                             {"1,1,1", "2,3,4"},
                             {"3,1,5,1,2", "2,1,4,1"},
                             {"4099", "1"},
                             {"1,4096", "64,1"},
                             {"1", "1"},
                             {"", ""},
                             {"2,1,3,8", "1,4,1,8"}};
  for (const char* dtype : {"f32", "f16"})
    for (const auto& s : shapes)
      check(fmt::format("graph main(%a: {0}[{1}], %b: {0}[{2}]) {{ %y = sub(%a, %b) return %y }}", dtype, s[0], s[1]));
  check("graph main(%a: f32[300,1,1000], %b: f32[7,1]) { %y = mul(%a, %b) return %y }");
}

TEST(CudaPointwise, BinaryIntegers) {
  for (const char* op : {"add", "sub", "mul", "div", "mod", "min", "max", "equal", "less", "bitwise_and", "bitwise_or", "bitwise_xor",
                         "shift_left", "shift_right", "pow"}) {
    check(fmt::format("graph main(%a: i64[9,11], %b: i64[11]) {{ %y = {}(%a, %b) return %y }}", op), 1, 20);
    check(fmt::format("graph main(%a: i8[257], %b: i8[257]) {{ %y = {}(%a, %b) return %y }}", op));
  }
  const int64_t big = INT64_MAX, low = INT64_MIN;
  const Tensor a = Tensor::of<int64_t>({8}, {big, low, low, -7, 7, -7, 5, (int64_t{1} << 53) + 1});
  const Tensor b = Tensor::of<int64_t>({8}, {2, -1, 0, 3, -3, -3, 0, 1});
  for (const char* op : {"add", "sub", "mul", "div", "mod", "max", "shift_right", "shift_left"})
    check_cuda_kernels({.text = fmt::format("graph main(%a: i64[8], %b: i64[8]) {{ %y = {}(%a, %b) return %y }}", op), .inputs = {a, b}});
  check_cuda_kernels({.text = "graph main(%a: i64[8], %b: i64[8]) { %y = mod(%a, %b) {fmod=1} return %y }", .inputs = {a, b}});
  check("graph main(%a: i32[65], %b: i32[65]) { %y = div(%a, %b) return %y }");
  check("graph main(%a: u8[65], %b: u8[65]) { %y = shift_right(%a, %b) return %y }");
  for (const char* op : {"and", "or", "xor", "equal"})
    check(fmt::format("graph main(%a: bool[3,33], %b: bool[33]) {{ %y = {}(%a, %b) return %y }}", op));
}

TEST(CudaPointwise, Power) {
  check_cuda_kernels({.text = "graph main(%a: f32[50], %b: f32[50]) { %y = pow(%a, %b) return %y }",
                      .inputs = {Tensor::of<float>({50}, std::vector<float>(50, 1.7f))}});
  for (float exponent : {2.f, 3.f, 0.5f})
    for (const char* dtype : {"f32", "f16"})
      check_cuda_kernels({.text = fmt::format("graph main(%a: {}[50], %w: f32[]) {{ %y = pow(%a, %w) return %y }}", dtype),
                          .inputs = {{}, Tensor::scalar<float>(exponent)}});
  check("graph main(%a: f32[50], %b: i64[50]) { %y = pow(%a, %b) return %y }", 1, 6);
  check_cuda_kernels({.text = "graph main(%a: i64[5], %b: f32[5]) { %y = pow(%a, %b) return %y }",
                      .inputs = {Tensor::of<int64_t>({5}, {1, 2, 9, 7, 3}), Tensor::of<float>({5}, {-1.5f, 10, 0.5f, 1.7f, 2.1f})}});
  check("graph main(%a: i32[50], %b: i64[50]) { %y = pow(%a, %b) return %y }", 1, 6);
}

TEST(CudaPointwise, WhereAndClip) {
  for (const char* dtype : {"f32", "f16", "i64", "i8", "bool"})
    check(fmt::format("graph main(%c: bool[3,1,8], %a: {0}[4,8], %b: {0}[]) {{ %y = where(%c, %a, %b) return %y }}", dtype));
  check("graph main(%c: bool[31], %a: bf16[31], %b: bf16[31]) { %y = where(%c, %a, %b) return %y }");
  for (const char* dtype : {"f32", "bf16", "f64"}) {
    check(fmt::format("graph main(%x: {}[77]) {{ %y = clip(%x) {{min=-0.5, max=0.75}} return %y }}", dtype));
    check(fmt::format("graph main(%x: {0}[77], %l: {0}[]) {{ %y = clip(%x, %l) {{max=0.75}} return %y }}", dtype));
  }
  check("graph main(%x: i64[77], %l: i64[], %h: i64[1]) { %y = clip(%x, %l, %h) return %y }");
  check("graph main(%x: i32[77]) { %y = clip(%x) {min=10.0, max=40.0} return %y }");
}

TEST(CudaPointwise, CastBetweenAllTypes) {
  const char* types[] = {"f32", "f16", "bf16", "f64", "i8", "u8", "i32", "i64", "bool"};
  for (const char* from : types)
    for (const char* to : types) check(fmt::format("graph main(%x: {}[45]) {{ %y = cast(%x) {{to={}}} return %y }}", from, to), 50);
  for (const char* to : {"i16", "u16", "u32", "u64", "f8e4m3fn", "f8e5m2", "f8e4m3fnuz", "f8e5m2fnuz"})
    check(fmt::format("graph main(%x: f32[45]) {{ %y = cast(%x) {{to={}}} return %y }}", to), 50);
}

TEST(CudaPointwise, CastSpecialValues) {
  const float inf = INFINITY, nan = NAN;
  const Tensor x =
      Tensor::of<float>({16}, {0.f, -0.f, 1.5f, -1.5f, inf, -inf, nan, 3e9f, -3e9f, 1e19f, -1e19f, 2e19f, 448.f, 480.f, -0.7f, 1e-9f});
  for (const char* to : {"i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64", "bool", "f8e4m3fn", "f8e5m2", "f8e4m3fnuz", "f8e5m2fnuz"})
    check_cuda_kernels({.text = fmt::format("graph main(%x: f32[16]) {{ %y = cast(%x) {{to={}}} return %y }}", to), .inputs = {x}});
  for (const char* to : {"f8e4m3fn", "f8e5m2", "f8e4m3fnuz", "f8e5m2fnuz"})
    check_cuda_kernels(
        {.text = fmt::format("graph main(%x: f32[16]) {{ %y = cast(%x) {{to={}, saturate=0}} return %y }}", to), .inputs = {x}});
  Tensor codes = Tensor::empty(DType::U8, {256});
  for (int i = 0; i < 256; ++i) codes.data<uint8_t>()[i] = static_cast<uint8_t>(i);
  for (const auto& [dtype, name] : {std::pair{DType::F8E4M3FN, "f8e4m3fn"},
                                    {DType::F8E5M2, "f8e5m2"},
                                    {DType::F8E4M3FNUZ, "f8e4m3fnuz"},
                                    {DType::F8E5M2FNUZ, "f8e5m2fnuz"}})
    check_cuda_kernels({.text = fmt::format("graph main(%x: {}[256]) {{ %y = cast(%x) {{to=f32}} return %y }}", name),
                        .inputs = {Tensor::view(dtype, {256}, codes.raw())}});
}

TEST(CudaPointwise, Views) {
  for (const char* dtype : {"f32", "f16", "i8"}) {
    check(fmt::format("graph main(%x: {}[3,5,7]) {{ %y = reshape(%x) {{shape=[105]}} return %y }}", dtype));
    check(fmt::format("graph main(%x: {}[1027]) {{ %y = identity(%x) return %y }}", dtype));
  }
  check("graph main(%x: i32[31]) { %y = bitcast(%x) {to=f32} return %y }");
}

TEST(CudaPointwise, CompilesForEveryArchitecture) {
  check_cuda_kernels({"graph main(%a: bf16[4,40], %b: bf16[40]) { %y = max(%a, %b) return %y }"},
                     {"sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"});
}

}  // namespace
}  // namespace tokamak::test
#endif
