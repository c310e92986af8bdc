#ifdef TOKAMAK_CUDA
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "backends/cuda/kernels/common.h"
#include "base/half.h"
#include "quant/fp8.h"
#include "tests/backends/cuda/check_kernels.h"

namespace tokamak::test {
namespace {

using namespace cuda;

struct Fp8Case {
  int64_t m, n, k;
  const char* x = "f16";
  const char* y = "";         // another type of the output
  const char* epilogue = "";  // of i0, a bias i1 [n] and a tensor i2 [m, n]
};

std::string text_of(const Fp8Case& c) {
  const char* y = *c.y ? c.y : c.x;
  std::string inputs = fmt::format("%x: {}[{},{}], %w: f8e4m3fn[{},{}], %ws: f32[{},1]", c.x, c.m, c.k, c.n, c.k, c.n);
  std::string args = "%x, %w, %ws", attrs = fmt::format("group_size={}, activation=\"f8e4m3fn\"", c.k);
  if (*c.y) attrs += fmt::format(", out_dtype={}", c.y);
  if (*c.epilogue) {
    inputs += fmt::format(", %bias: {0}[{2}], %residual: {0}[{1},{2}]", y, c.m, c.n);
    args += ", %bias, %residual";
    attrs += fmt::format(", epilogue=\"{}\", epilogue_input=3", c.epilogue);
  }
  return fmt::format("graph main({}) {{ %y = quantized_matmul({}) {{{}}} return %y }}", inputs, args, attrs);
}

std::mt19937& random_engine() {
  static std::mt19937 engine(std::random_device{}());
  return engine;
}

Tensor narrowed(const std::vector<float>& values, const Shape& shape, const std::string& dtype) {
  Tensor t = Tensor::empty(dtype == "f16" ? DType::F16 : dtype == "bf16" ? DType::BF16 : DType::F32, shape);
  for (int64_t i = 0; i < t.count(); ++i) {
    if (t.dtype() == DType::F32) t.data<float>()[i] = values[i];
    else t.data<uint16_t>()[i] = t.dtype() == DType::F16 ? float_to_half(values[i]) : float_to_bfloat16(values[i]);
  }
  return t;
}

float e4m3_value(uint8_t code) {
  Tensor t = Tensor::empty(DType::F8E4M3FN, {1});
  t.data<uint8_t>()[0] = code;
  return static_cast<float>(t.float_at(0));
}

// Weights of about normal spread; scales that differ by row.
Tensor weights(int64_t n, int64_t k) {
  Tensor w = Tensor::empty(DType::F8E4M3FN, {n, k});
  std::normal_distribution<float> normal(0, 1);
  for (int64_t i = 0; i < w.count(); ++i) w.data<uint8_t>()[i] = quant::to_e4m3(normal(random_engine()));
  return w;
}
Tensor scales(int64_t n) {
  Tensor s = Tensor::empty(DType::F32, {n, 1});
  std::uniform_real_distribution<float> uniform(0.5f, 2.f);
  for (int64_t i = 0; i < n; ++i) s.data<float>()[i] = uniform(random_engine());
  return s;
}

// Rows that rounding leaves as they are: e4m3 codes times a power of two a row, the largest magnitude 448; row 3 is zero.
std::vector<float> exact_rows(int64_t m, int64_t k) {
  std::vector<float> x(static_cast<size_t>(m * k));
  std::normal_distribution<float> normal(0, 100);
  for (int64_t row = 0; row < m; ++row) {
    const float scale = std::ldexp(1.f, static_cast<int>(row % 5) - 9);
    for (int64_t i = 0; i < k; ++i)
      x[row * k + i] = row == 3 ? 0 : scale * e4m3_value(quant::to_e4m3(i == row % k ? -448.f : normal(random_engine())));
  }
  return x;
}

// The sums' rounding: the output's type; and tensor cores keep 13 bits after the first of a running sum, which cuts each of k products by
// about 0.3 units (standard deviation) of those: six of them.
double rounding_of(const Fp8Case& c) {
  const std::string y = *c.y ? c.y : c.x;
  return 2e-3 + (y == "bf16" ? 8e-3 : 1e-3) + 6 * 0.3 / 8192 * std::sqrt(static_cast<double>(c.k));
}

// The library's algorithms, and so the kernels, are only known on a GPU.
#define NEEDS_SM_90() \
  if (!Device::is_available() || Device::get()->target().arch != 90) GTEST_SKIP() << "needs a GPU of sm_90"

// Against weight-only arithmetic, where both are the same but for the sums.
void check_exact(const Fp8Case& c) {
  CudaCase test;
  test.text = text_of(c);
  test.kernel = "cublaslt.fp8_matmul";
  test.inputs = {narrowed(exact_rows(c.m, c.k), {c.m, c.k}, c.x), weights(c.n, c.k), scales(c.n)};
  // Rows of x have a spread of 100 times up to 2^-5.
  test.rtol = rounding_of(c), test.atol = rounding_of(c) * 100.0 / 32 * 2 * std::sqrt(static_cast<double>(c.k));
  check_cuda_kernels(test);
}

// Against the same product of the rounded x, and against the unrounded one within what rounding may do.
void check_rounded(const Fp8Case& c) {
  std::vector<float> x(static_cast<size_t>(c.m * c.k));
  std::normal_distribution<float> normal(0, 1);
  for (float& v : x) v = normal(random_engine());
  const Tensor narrow = narrowed(x, {c.m, c.k}, c.x);
  Tensor rounded = Tensor::empty(DType::F32, {c.m, c.k});
  for (int64_t row = 0; row < c.m; ++row) {
    float largest = 0;
    for (int64_t i = 0; i < c.k; ++i) largest = std::max(largest, std::abs(static_cast<float>(narrow.float_at(row * c.k + i))));
    for (int64_t i = 0; i < c.k; ++i)
      rounded.data<float>()[row * c.k + i] =
          e4m3_value(quant::to_e4m3(static_cast<float>(narrow.float_at(row * c.k + i)) * (448 / largest))) * (largest / 448);
  }
  CudaCase test;
  test.text = text_of(c);
  test.kernel = "cublaslt.fp8_matmul";
  test.inputs = {narrow, weights(c.n, c.k), scales(c.n)};
  const double spread = 2 * std::sqrt(static_cast<double>(c.k));  // of the sums, with the largest scale
  test.rounded = {rounded};
  test.rtol = rounding_of(c), test.atol = rounding_of(c) * spread;
  check_cuda_kernels(test);
  // e4m3 keeps 3 bits after the first: an error uniform in half a step of 1/16 to 1/8 is at most 0.036 of a value (standard deviation).
  // Sums of independent ones stay within six.
  test.rounded = {};
  test.atol += 6 * 0.036 * spread;
  check_cuda_kernels(test);
}

constexpr const char* kResidual = "t0 = add(i0, i2); ret t0";
constexpr const char* kBiasResidual = "t0 = add(i0, i1); t1 = add(t0, i2); ret t1";
constexpr const char* kOther = "t0 = add(i0, i1); t1 = silu(t0); t2 = mul(t1, i2); ret t2";

class CudaFp8Matmul : public ::testing::TestWithParam<int64_t> {};

TEST_P(CudaFp8Matmul, RowsThatRoundingKeeps) {
  NEEDS_SM_90();
  const int64_t m = GetParam();
  check_exact({m, 256, 512, m % 2 ? "f16" : "bf16"});
}
INSTANTIATE_TEST_SUITE_P(Rows, CudaFp8Matmul, ::testing::Values(17, 65, 127, 128, 200, 513));

TEST(CudaFp8MatmulLayers, OddSizes) {
  NEEDS_SM_90();
  check_exact({65, 16, 16, "f16"});
  check_exact({77, 48, 1040, "bf16"});
  check_exact({130, 4112, 256, "f16"});
  check_exact({33, 96, 11008, "f16"});
  check_exact({100, 64, 128, "f32"});
  check_exact({100, 128, 256, "f16", "f32"});
}

TEST(CudaFp8MatmulLayers, Epilogues) {
  NEEDS_SM_90();
  for (const char* epilogue : {kResidual, kBiasResidual, kOther})
    for (const char* dtype : {"f16", "bf16"}) check_exact({129, 128, 256, dtype, "", epilogue});
  check_exact({129, 128, 256, "bf16", "f32", kBiasResidual});
}

TEST(CudaFp8MatmulLayers, RoundsRowsToE4m3) {
  NEEDS_SM_90();
  check_rounded({65, 256, 512, "f16"});
  check_rounded({127, 4096, 4096, "bf16"});
  check_rounded({513, 144, 1040, "f16", "", kResidual});
}

// `linear` of rows that the norm makes plus or minus its weights, which rounding keeps: x has one magnitude, the weights are e4m3 codes.
void check_linear(int64_t m, int64_t n, int64_t k, const char* dtype, bool norm, const char* gate, const char* epilogue = "",
                  const char* out = "", const char* kernel = "cublaslt.fp8_linear") {
  const int64_t cols = *gate ? n / 2 : n;
  std::string inputs = fmt::format("%x: {}[{},{}], %w: f8e4m3fn[{},{}], %ws: f32[{},1], %wn: {}[{}]", dtype, m, k, n, k, n, dtype, k);
  std::string args = norm ? "%x, %w, %ws, %wn" : "%x, %w, %ws, _";
  std::string attrs = fmt::format("group_size={}, activation=\"f8e4m3fn\"", k);
  if (*gate) attrs += fmt::format(", gate=\"{}\"", gate);
  if (norm) attrs += ", epsilon=1e-12";
  if (*out) attrs += fmt::format(", out_dtype={}", out);
  if (*epilogue) {
    inputs += fmt::format(", %bias: {0}[{2}], %residual: {0}[{1},{2}]", dtype, m, cols);
    args += ", %bias, %residual";
    attrs += fmt::format(", epilogue=\"{}\", epilogue_input=4", epilogue);
  }
  std::vector<float> x(static_cast<size_t>(m * k)), weight(static_cast<size_t>(k));
  std::normal_distribution<float> normal(0, 100);
  for (int64_t i = 0; i < k; ++i) weight[i] = std::ldexp(e4m3_value(quant::to_e4m3(i == 1 ? -448.f : normal(random_engine()))), -7);
  for (int64_t row = 0; row < m; ++row)
    for (int64_t i = 0; i < k; ++i) {
      const float value = random_engine()() % 2 ? 1.f : -1.f;
      x[row * k + i] = row == 3 ? 0 : norm ? std::ldexp(value, static_cast<int>(row % 3)) : value * weight[i];
    }
  CudaCase test;
  test.kernel = kernel;
  test.text = fmt::format("graph main({}) {{ %y = linear({}) {{{}}} return %y }}", inputs, args, attrs);
  test.inputs = {narrowed(x, {m, k}, dtype), weights(n, k), scales(n), narrowed(weight, {k}, dtype)};
  // The products' spread, with scales of up to 2; a gate multiplies two, each about three times as large at most where the other is not.
  const double spread = 100.0 / 128 * 2 * std::sqrt(static_cast<double>(k)), rounding = rounding_of({m, n, k, dtype});
  test.rtol = 2 * rounding, test.atol = *gate ? 6 * rounding * spread * spread : rounding * spread;
  check_cuda_kernels(test);
}

TEST(CudaFp8Linear, NormAndGate) {
  NEEDS_SM_90();
  check_linear(65, 96, 256, "f16", true, "");
  check_linear(127, 256, 512, "bf16", true, "silu");
  check_linear(200, 96, 1040, "f16", false, "gelu_tanh");
  check_linear(513, 64, 128, "bf16", true, "gelu", kBiasResidual);
  check_linear(33, 4096, 256, "f16", true, "silu", kResidual);
  check_linear(70, 128, 256, "f16", true, "", kBiasResidual);
}

// Logits of many sequences: from 16 bits to f32.
TEST(CudaFp8Linear, Head) {
  NEEDS_SM_90();
  check_linear(65, 2000, 512, "bf16", true, "", "", "f32");
  check_linear(17, 96, 256, "f16", true, "", "", "f32");
}

// Few rows, our own product: tiles of rows, stages of k and rows of w that end unevenly; layers of a model.
TEST(CudaLinearBulkFp8, EveryTileOfTokens) {
  const auto check = [](int64_t m, int64_t n, int64_t k, const char* dtype, bool norm, const char* gate, const char* epilogue = "",
                        const char* out = "") { check_linear(m, n, k, dtype, norm, gate, epilogue, out, "cuda.linear_bulk_fp8"); };
  check(17, 400, 1152, "bf16", true, "silu");
  check(32, 97, 128, "f16", false, "", kResidual);
  check(33, 400, 1152, "bf16", true, "", kBiasResidual);
  check(64, 208, 640, "f16", true, "gelu_tanh", kResidual);
  check(65, 400, 1152, "f16", false, "silu");
  check(200, 96, 2048, "bf16", true, "", "", "f32");
}
TEST(CudaLinearBulkFp8, LayersOfAModel) {
  check_linear(64, 2752, 4096, "bf16", true, "silu", "", "", "cuda.linear_bulk_fp8");
  check_linear(64, 1376, 11008, "f16", false, "", kResidual, "", "cuda.linear_bulk_fp8");
}

// What runs around the library's product compiles where there is no GPU.
TEST(CudaFp8MatmulLayers, Compiles) {
  CodeCache code;
  const Target target = Target::named("sm_90");
  const auto compile = [&](const char* file, std::vector<std::string> defines, const std::string& before = "") {
    EXPECT_NO_THROW(code.get({file, before + device_file(file), std::move(defines)}, target));
  };
  for (const char* has_norm : {"HAS_NORM=0", "HAS_NORM=1"}) {
    compile("fp8_rows.cu", {"ELEMENT=f16", "NORM_ELEMENT=f16", has_norm, "COLS=4096", "WIDTH=8", "ROW_THREADS=512", "ITEMS=1",
                            "BLOCK_ROWS=1", "IN_REGISTERS=1", "TOKENS=0"});
    compile("fp8_rows.cu", {"ELEMENT=bf16", "NORM_ELEMENT=float", has_norm, "COLS=11008", "WIDTH=8", "ROW_THREADS=512", "ITEMS=3",
                            "BLOCK_ROWS=1", "IN_REGISTERS=1", "TOKENS=64"});
    compile("fp8_rows.cu", {"ELEMENT=float", "NORM_ELEMENT=float", has_norm, "COLS=96", "WIDTH=4", "ROW_THREADS=32", "ITEMS=1",
                            "BLOCK_ROWS=4", "IN_REGISTERS=1", "TOKENS=0"});
  }
  const std::string no_epilogue =
      "#include \"epilogue.cuh\"\nstruct Extras {};\n"
      "template <int kCount> DEVICE void epilogue(float (&)[kCount], int64_t, int64_t, const Extras&) {}\n";
  compile("finish_product.cu", {"SUM=float", "SCALED=1", "ELEMENT=bf16", "COLS=4096"}, no_epilogue);
  compile("finish_product.cu", {"SUM=f16", "SCALED=0", "GATE=gelu_tanh", "ELEMENT=f16", "COLS=11008"}, no_epilogue);
  compile("finish_product.cu", {"SUM=float", "SCALED=1", "GATE=silu", "ELEMENT=bf16", "COLS=14336"}, no_epilogue);
}

}  // namespace
}  // namespace tokamak::test
#endif
