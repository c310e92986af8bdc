#ifdef TOKAMAK_CUDA
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "base/half.h"
#include "tests/backends/cuda/check_kernels.h"

namespace tokamak::test {
namespace {

struct GatedCase {
  int64_t m, rows, k, group;
  const char* x = "f16";
  bool norm = true;
  const char* gate = "silu";
  bool residual = false;
};

// Weights with scales that make the products of normal rows about as large as those rows.
void check(const char* w, const GatedCase& c) {
  const int64_t groups = (c.k - 1) / c.group + 1, columns = *c.gate ? c.rows / 2 : c.rows;
  std::string inputs = fmt::format("%x: {}[{},{}], %w: {}[{},{}], %ws: f32[{},{}]", c.x, c.m, c.k, w, c.rows, c.k, c.rows, groups);
  std::string args = "%x, %w, %ws", attrs = fmt::format("group_size={}", c.group);
  if (c.norm) inputs += fmt::format(", %wn: {}[{}]", c.x, c.k), args += ", %wn", attrs += ", epsilon=1e-5";
  else args += ", _";
  if (*c.gate) attrs += fmt::format(", gate=\"{}\"", c.gate);
  if (c.residual) {
    inputs += fmt::format(", %r: {}[{},{}]", c.x, c.m, columns), args += ", %r";
    attrs += ", epilogue=\"t0 = add(i0, i1); ret t0\", epilogue_input=4";
  }
  CudaCase test;
  test.text = fmt::format("graph main({}) {{ %y = linear({}) {{{}}} return %y }}", inputs, args, attrs);
  const bool is_float = w[0] == 'f';
  std::mt19937 random(std::random_device{}());
  Tensor scale = Tensor::empty(DType::F32, {c.rows, groups});
  const double typical = (is_float ? 110 : w[1] == '8' ? 74 : 4.6) * std::sqrt(static_cast<double>(c.k));
  for (int64_t i = 0; i < scale.count(); ++i) scale.data<float>()[i] = static_cast<float>((0.5 + (random() % 64) / 64.0) / typical);
  test.inputs = {Tensor(), Tensor(), scale};
  if (is_float) test.inputs[1] = random_f8({c.rows, c.k});
  test.rtol = test.atol = std::string(c.x) == "bf16" ? 2.5e-2 : 3e-3;
  check_cuda_kernels(test);
}

class CudaLinearGated : public ::testing::TestWithParam<const char*> {};

TEST_P(CudaLinearGated, NormAndGate) {
  const char* w = GetParam();
  check(w, {.m = 1, .rows = 400, .k = 1024, .group = 128});
  check(w, {.m = 7, .rows = 256, .k = 2048, .group = 2048, .x = "bf16", .gate = "gelu_tanh"});
  check(w, {.m = 16, .rows = 176, .k = 1056, .group = 1056, .residual = true});
  check(w, {.m = 2, .rows = 97, .k = 512, .group = 64, .x = "bf16", .gate = ""});
  check(w, {.m = 12, .rows = 72, .k = 672, .group = 32, .gate = "", .residual = true});
  check(w, {.m = 80, .rows = 208, .k = 512, .group = 128, .norm = false, .gate = "gelu"});
}
INSTANTIATE_TEST_SUITE_P(Formats, CudaLinearGated, ::testing::Values("i8", "i4", "f8e4m3fn"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace tokamak::test
#endif
