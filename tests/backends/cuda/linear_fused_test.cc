#ifdef TOKAMAK_CUDA
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "base/half.h"
#include "tests/backends/cuda/check_kernels.h"

namespace tokamak::test {
namespace {

struct LayerCase {
  int64_t m, rows, k;  // w is [rows, k]
  const char* x = "f16";
  const char* w = "f16";
  int64_t group = 0;
  const char* norm = "";  // the type of its weights
  const char* gate = "";
  bool residual = false;
  const char* scale = "f32";
  const char* out = "";
  const char* kernel = "";  // this one alone
  double norm_size = 1;     // of its weights
  double x_size = 1;        // of x and the residual
  double x_scale = 0;       // what is said of x; 0: nothing
};

bool is(const char* a, const char* b) { return std::string(a) == b; }

// Weights whose products with numbers of ordinary size are of ordinary size, so that activations are not all in one of their ends.
Tensor small(DType dtype, const Shape& shape, double size) {
  std::mt19937 random(std::random_device{}());
  std::normal_distribution<float> normal(0, static_cast<float>(size));
  Tensor f = Tensor::empty(DType::F32, shape);
  for (int64_t i = 0; i < f.count(); ++i) f.data<float>()[i] = normal(random);
  if (dtype == DType::F32) return f;
  Tensor t = Tensor::empty(dtype, shape);
  for (int64_t i = 0; i < f.count(); ++i)
    t.data<uint16_t>()[i] = dtype == DType::F16 ? float_to_half(f.data<float>()[i]) : float_to_bfloat16(f.data<float>()[i]);
  return t;
}

DType dtype_of(const char* name) { return is(name, "f32") ? DType::F32 : is(name, "f16") ? DType::F16 : DType::BF16; }

void check(const LayerCase& c, const std::vector<std::string>& archs = {}) {
  const char* y = *c.out ? c.out : c.x;
  const int64_t columns = *c.gate ? c.rows / 2 : c.rows, groups = c.group ? (c.k - 1) / c.group + 1 : 0;
  std::string inputs = fmt::format("%x: {}[{},{}], %w: {}[{},{}]", c.x, c.m, c.k, c.w, c.rows, c.k), args = "%x, %w", attrs;
  const auto attr = [&](const std::string& text) { attrs += (attrs.empty() ? "" : ", ") + text; };
  if (c.group)
    inputs += fmt::format(", %ws: {}[{},{}]", c.scale, c.rows, groups), args += ", %ws", attr(fmt::format("group_size={}", c.group));
  else args += ", _";
  if (*c.norm) inputs += fmt::format(", %wn: {}[{}]", c.norm, c.k), args += ", %wn", attr("epsilon=1e-5");
  else args += ", _";
  if (*c.gate) attr(fmt::format("gate=\"{}\"", c.gate));
  if (*c.out) attr(fmt::format("out_dtype={}", c.out));
  if (c.x_scale > 0) attr(fmt::format("x_scale={:.17e}", c.x_scale));
  if (c.residual) {
    inputs += fmt::format(", %r: {}[{},{}]", y, c.m, columns), args += ", %r";
    attr("epilogue=\"t0 = add(i0, i1); ret t0\", epilogue_input=4");
  }
  CudaCase test;
  test.kernel = c.kernel;
  test.text = fmt::format("graph main({}) {{ %y = linear({}) {{{}}} return %y }}", inputs, args, attrs);
  // Products are of order 1: quantized weights have the spread of their integers, which the scales take away.
  const bool is_f8 = is(c.w, "f8e4m3fn"), is_float = c.group == 0;
  const double weight = is_f8 ? 110 : is(c.w, "i8") ? 74 : 4.6, wanted = 1 / std::sqrt(static_cast<double>(c.k));
  test.inputs = {Tensor(), is_float ? small(dtype_of(c.w), {c.rows, c.k}, wanted) : is_f8 ? random_f8({c.rows, c.k}) : Tensor()};
  if (c.group) test.inputs.push_back(small(dtype_of(c.scale), {c.rows, groups}, wanted / weight));
  if (*c.norm) test.inputs.push_back(small(dtype_of(c.norm), {c.k}, c.norm_size));
  // x' is rounded, and so is what a gate reads when it has a kernel of its own.
  const double rounding = is(c.x, "f32") ? 1e-5 : is(c.x, "f16") ? 1e-3 : 8e-3;
  test.rtol = 2 * rounding, test.atol = 6 * rounding * c.norm_size * c.x_size;
  test.scale = c.x_size;
  check_cuda_kernels(test, archs);
}

class CudaLinearFused : public ::testing::TestWithParam<std::tuple<const char*, int64_t>> {};

TEST_P(CudaLinearFused, NormAndGate) {
  const auto& [w, m] = GetParam();
  const bool is_float = is(w, "f16") || is(w, "bf16") || is(w, "f32");
  const char* x = is_float ? w : m % 2 ? "bf16" : "f16";
  check({m, 96, 512, x, w, is_float ? 0 : 128, x, "silu"});
}
INSTANTIATE_TEST_SUITE_P(Formats, CudaLinearFused,
                         ::testing::Combine(::testing::Values("f32", "f16", "bf16", "i8", "i4", "f8e4m3fn"),
                                            ::testing::Values(1, 2, 3, 5, 8, 11, 16, 17, 64, 65, 300)),
                         [](const auto& info) { return fmt::format("{}_{}", std::get<0>(info.param), std::get<1>(info.param)); });

TEST(CudaLinearFusedLayers, NormAlone) {
  check({1, 97, 328, "f16", "f16", 0, "f16", "", true});
  check({1, 97, 328, "bf16", "bf16", 0, "f32", "", true});
  check({7, 98, 640, "bf16", "bf16", 0, "f32", "", true, "f32", "f32"});
  check({1, 5, 77, "f16", "f16", 0, "f32"});
  check({3, 33, 129, "f32", "f16", 0, "f32", "", true});
  check({2, 100, 640, "f16", "i8", 640, "f16"});
  check({16, 40, 352, "bf16", "i4", 32, "bf16", "", true, "f16"});
  check({40, 48, 256, "f16", "f8e4m3fn", 256, "f16"});
}

// What the norm makes is multiplied in f16 where it fits: neither of these does.
TEST(CudaLinearFusedLayers, NormsBeyondF16) {
  for (const double size : {4e3, 1e-5}) {
    check({1, 96, 512, "bf16", "i4", 128, "bf16", "", false, "f32", "", "", size});
    check({8, 96, 512, "bf16", "i8", 512, "f32", "", false, "f32", "", "", size});
    check({40, 96, 512, "bf16", "i4", 128, "bf16", "", false, "f32", "", "", size});
  }
}

// Without a norm x may have any size that bf16 has.
TEST(CudaLinearFusedLayers, SmallAndLargeRows) {
  for (const double size : {1e30, 1e4, 1e-4, 1e-30})
    for (const int64_t m : {1, 2, 8}) {
      check({m, 96, 512, "bf16", "i4", 128, "", "", true, "f32", "", "", 1, size});
      check({m, 96, 11008, "bf16", "f8e4m3fn", 11008, "", "", true, "f32", "", "", 1, size});
    }
}

// Where it is known how far x reaches, it is multiplied in f16 at any size. `reach`: of 8 times the usual size over x_scale.
TEST(CudaLinearFusedLayers, RowsOfKnownReach) {
  struct {
    double size, reach;
  } const sizes[] = {{0x1p-80, 0x1p14}, {1, 0x1p4}, {0x1p96, 0x1p14}};
  for (const auto& [size, reach] : sizes) {
    const double x_scale = 8 * size / reach;
    check({1, 97, 512, "bf16", "i4", 128, "", "", true, "f32", "", "", 1, size, x_scale});
    check({8, 96, 11008, "bf16", "f8e4m3fn", 11008, "", "", true, "f32", "", "", 1, size, x_scale});
    check({40, 96, 640, "bf16", "i4", 128, "", "", true, "f16", "", "", 1, size, x_scale});
  }
  check({7, 208, 512, "bf16", "i8", 512, "", "silu", false, "f32", "f32", "", 1, 1, 0x1p-4});
  check({40, 208, 512, "bf16", "i8", 512, "", "", false, "f32", "", "", 1, 1, 0x1p-4});
}

TEST(CudaLinearFusedLayers, GateAlone) {
  for (const char* gate : {"silu", "gelu", "gelu_tanh"}) check({5, 48, 256, "f16", "f16", 0, "", gate});
  check({1, 48, 256, "bf16", "i8", 256, "", "silu", true});
  check({33, 144, 256, "f16", "i4", 64, "", "gelu_tanh", true, "f16"});
  check({70, 144, 256, "bf16", "bf16", 0, "", "silu", true});
  check({1, 32, 40, "f32", "f32", 0, "", "gelu"});
}

TEST(CudaLinearFusedLayers, NothingButTheProduct) {
  check({1, 100, 256, "f16", "f16", 0, "", "", true});
  check({1, 100, 256, "bf16", "i4", 128, "", "", true});
  check({9, 100, 256, "f16", "i8", 256, "", "", true});
  check({100, 100, 256, "f16", "f16", 0, "", "", true});
}

// Whole layers of a model: many blocks, rows of x that a thread holds in part, sizes that do not divide.
TEST(CudaLinearFusedLayers, LargeLayers) {
  check({1, 2752, 4096, "f16", "f16", 0, "f16", "silu"});
  check({1, 1376, 11008, "bf16", "i4", 128, "bf16", "", true, "f16"});
  check({8, 1376, 4096, "f16", "i8", 4096, "f32", "gelu_tanh"});
  check({16, 272, 14336, "bf16", "bf16", 0, "bf16"});
}

// More tokens than producers copy one by one: tiles, stages, groups and rows of w that end unevenly.
class CudaLinearBulk : public ::testing::TestWithParam<const char*> {};

TEST_P(CudaLinearBulk, EveryTileOfTokens) {
  const char* w = GetParam();
  for (const int64_t m : {17, 32, 33, 64, 65, 200}) {
    const char* x = m % 2 ? "bf16" : "f16";
    const bool norm = m != 33, gate = m % 3 == 2;  // 17, 32, 65, 200
    check({m, 400, 1056, x, w, 1056, norm ? m % 4 ? x : "f32" : "", gate ? "silu" : "", m > 33, "f16", "", "cuda.linear_bulk"});
  }
}
TEST_P(CudaLinearBulk, GroupsAndOddSizes) {
  const char* w = GetParam();
  for (const int64_t group : {32, 64, 128})
    check(
        {group == 64 ? 40 : 64, 200, 1216, "bf16", w, group, group == 32 ? "" : "bf16", "", group == 128, "bf16", "", "cuda.linear_bulk"});
  check({50, 97, 416, "f16", w, 416, "f16", "", true, "f32", "f32", "cuda.linear_bulk"});
  check({18, 8, 32, "f16", w, 32, "", "", false, "f32", "", "cuda.linear_bulk"});
  check({70, 33, 4128, "bf16", w, 4128, "f32", "", true, "f16", "", "cuda.linear_bulk"});
}
TEST_P(CudaLinearBulk, LayersOfAModel) {
  const char* w = GetParam();
  const bool grouped = is(w, "i4");
  check({64, 2752, 4096, "bf16", w, grouped ? 128 : 4096, "bf16", "silu", false, grouped ? "bf16" : "f32", "", "cuda.linear_bulk"});
  check({64, 1376, 11008, "f16", w, grouped ? 128 : 11008, "", "", true, grouped ? "f16" : "f32", "", "cuda.linear_bulk"});
  check({33, 264, 28672, "bf16", w, grouped ? 128 : 28672, "bf16", "", true, "f32", "", "cuda.linear_bulk"});
}
TEST(CudaLinearBulk16, WeightsOfXsType) {
  for (const char* x : {"f16", "bf16"}) {
    check({17, 400, 1056, x, x, 0, x, "silu", true, "f32", "", "cuda.linear_bulk"});
    check({33, 200, 1064, x, x, 0, "", "", true, "f32", "f32", "cuda.linear_bulk"});
    check({64, 97, 72, x, x, 0, "f32", "", false, "f32", "", "cuda.linear_bulk"});
    check({70, 1376, 4096, x, x, 0, x, "gelu_tanh", false, "f32", "", "cuda.linear_bulk"});
  }
  check({64, 1376, 11008, "f16", "f16", 0, "", "", true, "f32", "", "cuda.linear_bulk"});
}
INSTANTIATE_TEST_SUITE_P(Formats, CudaLinearBulk, ::testing::Values("i8", "i4", "f8e4m3fn"),
                         [](const auto& info) { return std::string(info.param); });

TEST(CudaLinearFusedLayers, CompilesForEveryArchitecture) {
  for (const char* arch : {"sm_80", "sm_89", "sm_90", "sm_100", "sm_120"}) check({1, 96, 512, "bf16", "i4", 128, "bf16", "silu"}, {arch});
}

}  // namespace
}  // namespace tokamak::test
#endif
