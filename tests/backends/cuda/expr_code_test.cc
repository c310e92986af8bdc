#ifdef TOKAMAK_CUDA
#include "backends/cuda/kernels/expr_code.h"

#include <gtest/gtest.h>

#include "backends/cpu/kernels/ref/scalar.h"
#include "backends/cuda/code.h"
#include "base/error.h"

namespace tokamak::cuda {
namespace {

TEST(ExprCode, Text) {
  const ir::Expr expr = ir::Expr::parse("t0 = add(i0, i1); t1 = pow(t0, 2); t2 = and(t1, 0.5); ret t2");
  EXPECT_EQ(device_expression(expr),
            "DEVICE float epilogue(float i0, float i1) {\n"
            "  const float t0 = fn::add(i0, i1);\n"
            "  const float t1 = t0 * t0;\n"
            "  const float t2 = fn::and_(t1, 0x1p-1f);\n"
            "  return t2;\n"
            "}\n");
  EXPECT_NE(device_expression(ir::Expr::parse("ret i0"), "f", 3).find("f(float i0, float i1, float i2)"), std::string::npos);
  EXPECT_THROW(device_expression(ir::Expr::parse("t0 = row_sum(i0); ret t0")), Error);
  EXPECT_THROW(device_expression(ir::Expr::parse("ret i0, i0")), Error);
}

TEST(ExprCode, EveryFunctionCompiles) {
  std::string code = "#include \"math.cuh\"\n", calls;
  int n = 0;
  for (const cpu::ref::Scalar& scalar : cpu::ref::scalars()) {
    const int arity = ir::expr_function_arity(scalar.name);
    ASSERT_GT(arity, 0) << scalar.name;
    std::string text = "t0 = " + std::string(scalar.name) + "(i0", name = fmt::format("f{}", n++);
    for (int i = 1; i < arity; ++i) text += i == 1 ? ", i1" : ", -inf";
    code += device_expression(ir::Expr::parse(text + "); ret t0"), name, 2);
    calls += fmt::format("  y += {}(x, y);\n", name);
  }
  code += "extern \"C\" __global__ void all(float* p) {\n  float x = p[0], y = p[1];\n" + calls + "  p[2] = y;\n}\n";
  CodeCache cache;
  for (const char* arch : {"sm_80", "sm_90"}) EXPECT_NO_THROW(cache.get({"all_functions", code, {}}, Target::named(arch)));
}

}  // namespace
}  // namespace tokamak::cuda
#endif
