#include "ir/expr.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "base/error.h"

namespace tokamak::ir {
namespace {

TEST(Expr, PrintsWhatItParses) {
  for (const char* text : {"t0 = add(i0, i1); t1 = gelu(t0); t2 = mul(t1, 0.5); ret t2", "ret i0", "t0 = clip(i2, -inf, 6); ret t0, i1",
                           "t0 = row_sum(i0); t1 = div(i0, t0); ret t1", "t0 = where(i0, i1, nan); ret t0"})
    EXPECT_EQ(Expr::parse(text).to_string(), text);
}

TEST(Expr, ReadsFreeSpacing) {
  const Expr expr = Expr::parse("  t0=mul( i0 ,1e-5 ) ;\n ret t0 ;");
  EXPECT_EQ(expr.num_inputs(), 1);
  EXPECT_FLOAT_EQ(expr.code[0].operands[1].literal, 1e-5f);
  EXPECT_FALSE(expr.has_row_reduction());
}

TEST(Expr, LiteralsKeepTheirBits) {
  for (float f : {0.1f, 1.f / 3, 3.4028235e38f, 1.4e-45f, -0.0f, 1e-30f, std::numeric_limits<float>::infinity()}) {
    Expr expr;
    expr.results.push_back({ExprOperand::Literal, 0, f});
    const float back = Expr::parse(expr.to_string()).results[0].literal;
    EXPECT_EQ(std::signbit(back), std::signbit(f));
    EXPECT_EQ(back, f) << expr.to_string();
  }
  EXPECT_TRUE(std::isinf(Expr::parse("ret 1e99").results[0].literal));
}

TEST(Expr, RefusesBadText) {
  std::string deep;
  for (int i = 0; i < 257; ++i) deep += "t" + std::to_string(i) + " = neg(i0); ";
  for (const std::string& text :
       {std::string(""), std::string("ret"), std::string("t0 = add(i0); ret t0"), std::string("t0 = nope(i0); ret t0"),
        std::string("t0 = neg(t0); ret t0"), std::string("t1 = neg(i0); ret t1"), std::string("ret t0"), std::string("ret i0 i1"),
        std::string("ret i999"), std::string("ret i99999999999999"), std::string("t0 = neg(i0) ret t0"), std::string("ret 1x"),
        deep + "ret t0"})
    try {
      Expr::parse(text);
      FAIL() << "accepted " << text;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::Corrupt);
    }
}

}  // namespace
}  // namespace tokamak::ir
