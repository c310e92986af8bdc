#include "backends/cpu/expr_program.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "backends/cpu/cpu_features.h"
#include "backends/cpu/expr_isa.h"
#include "base/error.h"
#include "base/half.h"

namespace tokamak::cpu {
namespace {

std::vector<const ExprIsa*> all_isas() {
  std::vector<const ExprIsa*> isas;
  if (cpu_features().avx512) isas.push_back(&expr_isa_avx512());
  if (cpu_features().avx2) isas.push_back(&expr_isa_avx2());
  return isas;
}

struct AlignedBytes {
  explicit AlignedBytes(int64_t size) : memory(size + 64 + 256, char(0xFF)) {
    data = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
    end = data + size;
    for (int i = 0; i < 128; ++i) end[i] = 0x5A;
  }
  ~AlignedBytes() {
    for (int i = 0; i < 128; ++i) EXPECT_EQ(end[i], 0x5A) << "scratch overrun at byte " << i;
  }
  std::vector<char> memory;
  char* data;
  char* end;
};

std::vector<float> random_floats(int64_t n, float low, float high, uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> uniform(low, high);
  std::vector<float> v(n);
  for (float& f : v) f = uniform(random);
  return v;
}

// The plain meaning, in double.
double apply(const std::string& f, double x, double y, double z) {
  const auto sigmoid = [](double v) { return 1 / (1 + std::exp(-v)); };
  if (f == "abs") return std::abs(x);
  if (f == "neg") return -x;
  if (f == "exp") return std::exp(x);
  if (f == "log") return std::log(x);
  if (f == "log1p") return std::log1p(x);
  if (f == "expm1") return std::expm1(x);
  if (f == "sqrt") return std::sqrt(x);
  if (f == "rsqrt") return 1 / std::sqrt(x);
  if (f == "reciprocal") return 1 / x;
  if (f == "sin") return std::sin(x);
  if (f == "cos") return std::cos(x);
  if (f == "tan") return std::tan(x);
  if (f == "asin") return std::asin(x);
  if (f == "acos") return std::acos(x);
  if (f == "atan") return std::atan(x);
  if (f == "sinh") return std::sinh(x);
  if (f == "cosh") return std::cosh(x);
  if (f == "tanh") return std::tanh(x);
  if (f == "asinh") return std::asinh(x);
  if (f == "acosh") return std::acosh(x);
  if (f == "atanh") return std::atanh(x);
  if (f == "erf") return std::erf(x);
  if (f == "sigmoid") return sigmoid(x);
  if (f == "relu") return x < 0 ? 0 : x;
  if (f == "gelu") return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
  if (f == "gelu_tanh") return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  if (f == "silu") return x * sigmoid(x);
  if (f == "softplus") return x > 30 ? x : std::log1p(std::exp(x));
  if (f == "softsign") return x / (1 + std::abs(x));
  if (f == "sign") return (x > 0) - (x < 0);
  if (f == "ceil") return std::ceil(x);
  if (f == "floor") return std::floor(x);
  if (f == "round") return std::nearbyint(x);
  if (f == "not") return x == 0;
  if (f == "isnan") return std::isnan(x);
  if (f == "isinf") return std::isinf(x);
  if (f == "hard_swish") return x * std::min(1.0, std::max(0.0, x / 6 + 0.5));
  if (f == "mish") return x * std::tanh(x > 30 ? x : std::log1p(std::exp(x)));
  if (f == "leaky_relu" || f == "prelu") return x < 0 ? x * y : x;
  if (f == "elu") return x < 0 ? y * std::expm1(x) : x;
  if (f == "celu") return std::max(0.0, x) + std::min(0.0, y * std::expm1(x / y));
  if (f == "thresholded_relu") return x > y ? x : 0;
  if (f == "add") return x + y;
  if (f == "sub") return x - y;
  if (f == "mul") return x * y;
  if (f == "div") return x / y;
  if (f == "pow") return std::pow(x, y);
  if (f == "mod") return std::fmod(x, y);
  if (f == "min") return std::min(x, y);
  if (f == "max") return std::max(x, y);
  if (f == "equal") return x == y;
  if (f == "less") return x < y;
  if (f == "less_equal") return x <= y;
  if (f == "greater") return x > y;
  if (f == "greater_equal") return x >= y;
  if (f == "and") return x != 0 && y != 0;
  if (f == "or") return x != 0 || y != 0;
  if (f == "xor") return (x != 0) != (y != 0);
  if (f == "selu") return z * (x > 0 ? x : y * std::expm1(x));
  if (f == "hard_sigmoid") return std::min(1.0, std::max(0.0, x * y + z));
  if (f == "shrink") return x < -z ? x + y : x > z ? x - y : 0;
  if (f == "where") return x != 0 ? y : z;
  if (f == "clip") return std::min(z, std::max(y, x));
  ADD_FAILURE() << "no meaning for " << f;
  return 0;
}

TEST(ExprProgram, EveryFunctionMatchesDouble) {
  const char* const names[] = {
#define UNARY(name) #name,
#define BINARY(name) #name,
#define TERNARY(name) #name,
#define REDUCTION(name)
#include "backends/cpu/expr_functions.inc"
  };
#undef UNARY
#undef BINARY
#undef TERNARY
#undef REDUCTION
  const int64_t n = 777;
  for (const ExprIsa* isa : all_isas())
    for (const std::string name : names) {
      if (name[0] < 'a') continue;  // internal forms have no text
      const int arity = ir::expr_function_arity(name);
      ASSERT_GT(arity, 0) << name;
      std::string call = "t0 = ";
      call += name;
      call += "(i0";
      call += arity == 1 ? "); ret t0" : arity == 2 ? ", i1); ret t0" : ", i1, i2); ret t0";
      ExprProgram program(ir::Expr::parse(call), *isa);
      const bool unit = name == "asin" || name == "acos" || name == "atanh";
      const bool positive = name == "log" || name == "sqrt" || name == "rsqrt" || name == "pow" || name == "log1p";
      const float high = unit ? 0.99f : name == "acosh" ? 50 : 9, low = positive ? 1e-3f : name == "acosh" ? 1 : -high;
      std::vector<std::vector<float>> in;
      for (int i = 0; i < 3; ++i) in.push_back(random_floats(n, low, high, 7 * i + 1));
      if (name == "where" || name == "and" || name == "or" || name == "xor" || name == "not" || name == "equal")
        for (int i = 0; i < n; i += 3) in[0][i] = 0, in[1][i] = i % 2 ? in[1][i] : 0;
      if (name == "celu" || name == "mod")
        for (float& f : in[1]) f = std::abs(f) + 0.1f;
      if (name == "clip")
        for (int i = 0; i < n; ++i) in[1][i] = -std::abs(in[1][i]), in[2][i] = std::abs(in[2][i]);
      TileInput tiles[3];
      for (int i = 0; i < 3; ++i) tiles[i] = {in[i].data(), DType::F32, n, 1};
      std::vector<float> out(n, NAN);
      const TileOutput tile{out.data(), DType::F32, n};
      AlignedBytes scratch(program.scratch_bytes(n));
      program.run(1, n, tiles, &tile, scratch.data);
      for (int64_t i = 0; i < n; ++i) {
        const double expected = apply(name, in[0][i], in[1][i], in[2][i]);
        ASSERT_NEAR(out[i], expected, 4e-7 * std::abs(expected) + 2e-7 * (name[0] == 'm' || name == "tan" ? 20 : 4))
            << name << "(" << in[0][i] << ", " << in[1][i] << ", " << in[2][i] << ")";
      }
    }
}

TEST(ExprProgram, SpecialValues) {
  const float inf = std::numeric_limits<float>::infinity();
  struct Case {
    const char* f;
    float x, expected;
  };
  const Case cases[] = {{"exp", -inf, 0},
                        {"exp", inf, inf},
                        {"exp", 88.7f, 3.3266e38f},
                        {"exp", -100, 3.7835e-44f},
                        {"exp", 200, inf},
                        {"exp", NAN, NAN},
                        {"log", 0, -inf},
                        {"log", inf, inf},
                        {"log", -1, NAN},
                        {"log", 1e-42f, -96.6745f},
                        {"log", NAN, NAN},
                        {"tanh", 50, 1},
                        {"tanh", -inf, -1},
                        {"erf", 30, 1},
                        {"erf", -inf, -1},
                        {"erf", NAN, NAN},
                        {"tanh", NAN, NAN},
                        {"sigmoid", -inf, 0},
                        {"sigmoid", 200, 1},
                        {"relu", NAN, NAN},
                        {"sin", 1e6f, -0.3499935f},
                        {"cos", 100000, -0.9993608f},
                        {"softplus", 100, 100},
                        {"softplus", -200, 0},
                        {"gelu", 30, 30},
                        {"gelu_tanh", -30, -0.f},
                        {"silu", -300, -0.f},
                        {"expm1", 1e-6f, 1.0000005e-6f},
                        {"log1p", 1e-6f, 9.999995e-7f},
                        {"isinf", -inf, 1},
                        {"isnan", NAN, 1},
                        {"round", 2.5f, 2},
                        {"round", -1.5f, -2},
                        {"sign", NAN, NAN},
                        {"gelu", NAN, NAN}};
  for (const ExprIsa* isa : all_isas())
    for (const Case& c : cases) {
      ExprProgram program(ir::Expr::parse(fmt::format("t0 = {}(i0); ret t0", c.f)), *isa);
      for (int64_t n : {1, 16, 21}) {
        std::vector<float> in(n, c.x), out(n, -77);
        const TileInput i{in.data(), DType::F32, n, 1};
        const TileOutput o{out.data(), DType::F32, n};
        AlignedBytes scratch(program.scratch_bytes(n));
        program.run(1, n, &i, &o, scratch.data);
        for (float f : out) {
          if (std::isnan(c.expected)) EXPECT_TRUE(std::isnan(f)) << c.f << "(" << c.x << ") = " << f;
          else if (std::isinf(c.expected)) EXPECT_EQ(f, c.expected) << c.f << "(" << c.x << ")";
          else EXPECT_NEAR(f, c.expected, std::abs(c.expected) * 5e-4) << c.f << "(" << c.x << ")";
        }
      }
    }
}

// Broadcast forms: full, per column, per row, scalar; contiguous and strided; narrow and wide.
TEST(ExprProgram, BroadcastsAndStrides) {
  for (const ExprIsa* isa : all_isas()) {
    ExprProgram program(
        ir::Expr::parse("t0 = mul(i0, i1); t1 = add(t0, i2); t2 = sub(t1, i3); t3 = max(t2, 0.25); t4 = mul(t3, t2); ret t4, t2"), *isa);
    for (int64_t cols : {1, 2, 7, 26, 58, 127, 128, 333, 512, 1025})
      for (int64_t rows : {1, 3, 40})
        for (int64_t pad : {0, 5}) {
          const int64_t stride = cols + pad;
          const auto full = random_floats(rows * stride, -2, 2, 1), column = random_floats(cols, -2, 2, 2),
                     row = random_floats(rows, -2, 2, 3);
          const float scalar = 0.7f;
          const TileInput in[] = {{full.data(), DType::F32, stride, 1},
                                  {column.data(), DType::F32, 0, 1},
                                  {row.data(), DType::F32, 1, 0},
                                  {&scalar, DType::F32, 0, 0}};
          std::vector<float> a(rows * stride, NAN), b(rows * stride, NAN);
          const TileOutput out[] = {{a.data(), DType::F32, stride}, {b.data(), DType::F32, stride}};
          AlignedBytes scratch(program.scratch_bytes(cols));
          program.run(rows, cols, in, out, scratch.data);
          for (int64_t r = 0; r < rows; ++r)
            for (int64_t c = 0; c < stride; ++c) {
              const int64_t at = r * stride + c;
              if (c >= cols) {
                ASSERT_TRUE(std::isnan(a[at]) && std::isnan(b[at])) << "wrote past the columns";
                continue;
              }
              const float t2 = full[at] * column[c] + row[r] - scalar;
              ASSERT_NEAR(b[at], t2, 1e-6) << rows << "x" << cols << " at " << r << "," << c;
              ASSERT_NEAR(a[at], std::max(t2, 0.25f) * t2, 2e-5);
            }
        }
  }
}

TEST(ExprProgram, RowReductionsNormaliseRows) {
  for (const ExprIsa* isa : all_isas()) {
    ExprProgram program(
        ir::Expr::parse("t0 = add(i0, i1); t1 = row_mean(t0); t2 = sub(t0, t1); t3 = mul(t2, t2); t4 = row_mean(t3); t5 = add(t4, 1e-5); "
                        "t6 = rsqrt(t5); "
                        "t7 = mul(t2, t6); t8 = row_max(i0); t9 = row_min(i0); t10 = row_sum(0.5); ret t7, t0, t8, t9, t10"),
        *isa);
    for (int64_t cols : {1, 5, 64, 312, 2051}) {
      const int64_t rows = 4;
      auto x = random_floats(rows * cols, -2, 2, 1);
      const auto y = random_floats(rows * cols, -2, 2, 2), original = x;
      std::vector<float> norm(rows * cols, NAN), high(rows, NAN), low(rows * cols, NAN), half(rows, NAN);
      const TileInput in[] = {{x.data(), DType::F32, cols, 1}, {y.data(), DType::F32, cols, 1}};
      // The sum goes over i0, which row_max still reads.
      const TileOutput out[] = {{norm.data(), DType::F32, cols},
                                {x.data(), DType::F32, cols},
                                {high.data(), DType::F32, 1, true},
                                {low.data(), DType::F32, cols},
                                {half.data(), DType::F32, 1, true}};
      AlignedBytes scratch(program.scratch_bytes(cols));
      program.run(rows, cols, in, out, scratch.data);
      for (int64_t r = 0; r < rows; ++r) {
        double mean = 0, variance = 0;
        float top = -1e9f, bottom = 1e9f;
        for (int64_t c = 0; c < cols; ++c) {
          mean += original[r * cols + c] + y[r * cols + c];
          top = std::max(top, original[r * cols + c]), bottom = std::min(bottom, original[r * cols + c]);
        }
        mean /= cols;
        for (int64_t c = 0; c < cols; ++c) variance += std::pow(original[r * cols + c] + y[r * cols + c] - mean, 2);
        const double scale = 1 / std::sqrt(variance / cols + 1e-5);
        EXPECT_EQ(high[r], top);
        EXPECT_FLOAT_EQ(half[r], 0.5f * cols);
        for (int64_t c = 0; c < cols; ++c) {
          const int64_t at = r * cols + c;
          ASSERT_NEAR(norm[at], (original[at] + y[at] - mean) * scale, 2e-5) << cols;
          ASSERT_NEAR(x[at], original[at] + y[at], 1e-6);
          ASSERT_EQ(low[at], bottom);
        }
      }
    }
  }
}

template <class T>
std::vector<T> cast_all(const std::vector<float>& v) {
  std::vector<T> out;
  for (float f : v) out.push_back(T(f));
  return out;
}

TEST(ExprProgram, ConvertsDtypes) {
  for (const ExprIsa* isa : all_isas())
    for (int64_t cols : {5, 100, 700}) {
      const int64_t rows = 9, n = rows * cols;
      auto values = random_floats(n, -100, 100, 5);
      for (float& f : values) f = std::round(f);
      const auto f16 = cast_all<Half>(values);
      const auto bf16 = cast_all<BFloat16>(values);
      const auto i8 = cast_all<int8_t>(values);
      const auto i32 = cast_all<int32_t>(values);
      const auto i64 = cast_all<int64_t>(values);
      std::vector<uint8_t> u8(n), flag(n);
      for (int64_t i = 0; i < n; ++i) u8[i] = i % 256, flag[i] = i % 3 == 0;
      ExprProgram program(
          ir::Expr::parse(
              "t0 = add(i0, i1); t1 = add(i2, i3); t2 = add(t0, t1); t3 = add(t2, i4); t4 = where(i6, t3, i5); t5 = mul(t4, 0.37); "
              "t6 = greater(t5, 0); ret t4, t5, t5, t6"),
          *isa);
      const TileInput in[] = {{f16.data(), DType::F16, cols, 1},  {bf16.data(), DType::BF16, cols, 1}, {i8.data(), DType::I8, cols, 1},
                              {i32.data(), DType::I32, cols, 1},  {i64.data(), DType::I64, cols, 1},   {u8.data(), DType::U8, cols, 1},
                              {flag.data(), DType::Bool, cols, 1}};
      std::vector<float> a(n, NAN);
      std::vector<Half> b(n);
      std::vector<BFloat16> c(n);
      std::vector<uint8_t> d(n, 9);
      const TileOutput out[] = {
          {a.data(), DType::F32, cols}, {b.data(), DType::F16, cols}, {c.data(), DType::BF16, cols}, {d.data(), DType::Bool, cols}};
      AlignedBytes scratch(program.scratch_bytes(cols));
      program.run(rows, cols, in, out, scratch.data);
      for (int64_t i = 0; i < n; ++i) {
        const float sum = float(f16[i]) + float(bf16[i]) + i8[i] + i32[i] + i64[i];
        const float t4 = flag[i] ? sum : u8[i], t5 = t4 * 0.37f;
        ASSERT_EQ(a[i], t4) << i;
        ASSERT_EQ(b[i].bits, Half(t5).bits) << i;
        ASSERT_EQ(c[i].bits, BFloat16(t5).bits) << i;
        ASSERT_EQ(d[i], t5 > 0) << i;
      }
    }
}

TEST(ExprProgram, RecognisesSimpleForms) {
  using A = ExprProgram::Activation;
  ExprProgram::Simple s;
  const std::vector<bool> column{false, true, false}, full{false, false, true};
  EXPECT_TRUE(ExprProgram(ir::Expr::parse("t0 = add(i0, i1); t1 = relu(t0); t2 = add(i2, t1); ret t2")).as_simple(column, full, s));
  EXPECT_TRUE(s.bias == 1 && s.residual == 2 && s.residual_after && s.activation == A::Relu);
  EXPECT_TRUE(ExprProgram(ir::Expr::parse("t0 = add(i0, i1); t1 = sigmoid(t0); t2 = mul(t0, t1); ret t2")).as_simple(column, full, s));
  EXPECT_TRUE(s.bias == 1 && s.residual == -1 && s.activation == A::Silu);
  EXPECT_TRUE(ExprProgram(ir::Expr::parse("t0 = clip(i0, 0, 6); ret t0")).as_simple(column, full, s));
  EXPECT_EQ(s.activation, A::Relu6);
  for (const char* text : {"t0 = add(i0, i0); ret t0", "t0 = relu(i0); t1 = add(t0, i1); ret t1", "t0 = mul(i0, 2); ret t0",
                           "t0 = relu(i0); ret t0, i0", "t0 = relu(i0); t1 = mul(t0, i0); ret t1", "t0 = relu(i1); ret t0"})
    EXPECT_FALSE(ExprProgram(ir::Expr::parse(text)).as_simple(column, full, s)) << text;
}

}  // namespace
}  // namespace tokamak::cpu
