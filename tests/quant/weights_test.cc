// Weights in float32, int8 and int4: what is rewritten, and how far values move.

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "backends/cpu/cpu_features.h"
#include "ir/text.h"
#include "quant/f32.h"
#include "quant/int4.h"
#include "quant/int4_row.h"

namespace tokamak::quant {
namespace {

Tensor random_matrix(int64_t rows, int64_t columns, unsigned seed = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Tensor t = Tensor::empty(DType::F32, {rows, columns});
  for (int64_t i = 0; i < t.count(); ++i) t.data<float>()[i] = normal(random);
  return t;
}

// x @ w^T, then silu as its epilogue, then the head.
std::unique_ptr<ir::Graph> two_products(const Tensor& w, const Tensor& head, bool is_nk = true) {
  auto graph = std::make_unique<ir::Graph>();
  ir::Value* x = graph->add_input("x", ir::TensorType(DType::F32, {ir::Dim::symbol("n"), w.dim(is_nk ? 1 : 0)}));
  const ir::Attrs fused{{"trans_b", int64_t{is_nk}}, {"epilogue", std::string("t0 = silu(i0); ret t0")}, {"epilogue_input", int64_t{2}}};
  ir::Value* y = graph->build("matmul", {x, graph->add_constant(w, "w")}, fused, nullptr, "first");
  y = graph->build("matmul", {y, graph->add_constant(head, "head")}, {{"trans_b", int64_t{1}}}, nullptr, "second");
  graph->set_outputs({graph->build("tanh", {y})});
  return graph;
}

double relative_error(const Quantized& q, const Tensor& w) {
  double error = 0, all = 0;
  for (int64_t i = 0; i < w.count(); ++i) {
    const int64_t row = i / w.dim(1), group = i % w.dim(1) / q.group_size;
    const double value = q.values.int_at(i) * q.scale.float_at(row * q.scale.dim(1) + group);
    error += std::pow(value - w.data<float>()[i], 2);
    all += std::pow(w.data<float>()[i], 2);
  }
  return std::sqrt(error / all);
}

ConstantMatrix matrix_of(ir::Graph& graph) { return constant_matrices(graph).front(); }

TEST(Int8, ChannelsAndGroups) {
  ThreadPool pool(2);
  const Tensor w = random_matrix(33, 96);
  const auto graph = two_products(w, random_matrix(5, 33));
  const Quantized q = quantize_int8(matrix_of(*graph), 0, pool);
  EXPECT_EQ(q.scale.shape(), (Shape{33, 1}));
  EXPECT_EQ(q.group_size, 96);
  EXPECT_LT(relative_error(q, w), 0.008);
  const Quantized grouped = quantize_int8(matrix_of(*graph), 32, pool);
  EXPECT_EQ(grouped.scale.dtype(), DType::F16);
  EXPECT_EQ(grouped.scale.shape(), (Shape{33, 3}));
  EXPECT_LT(relative_error(grouped, w), relative_error(q, w));
}

TEST(Int8, RewritesProductsWithTheirEpilogues) {
  ThreadPool pool(2);
  const auto graph = two_products(random_matrix(64, 33), random_matrix(5, 33), false);
  EXPECT_EQ(weights_to_int8(*graph, 0, pool), 2);
  ir::verify(*graph);
  const ir::Node* first = graph->nodes().front().get();
  ASSERT_TRUE(first->is("quantized_matmul"));
  EXPECT_EQ(first->input(1)->constant.shape(), (Shape{33, 64}));
  EXPECT_EQ(first->attrs.get_int("epilogue_input"), 3);
  EXPECT_EQ(first->name, "first");
  EXPECT_EQ(graph->constants().size(), 4u);  // the float matrices are gone
}

TEST(Int8, LeavesWhatItCannotHold) {
  ThreadPool pool(1);
  Tensor w = random_matrix(4, 32);
  w.data<float>()[7] = NAN;
  const auto graph = two_products(w, random_matrix(3, 4));
  EXPECT_EQ(weights_to_int8(*graph, 0, pool), 1);
  EXPECT_TRUE(graph->nodes().front()->is("matmul"));
}

TEST(Int4, SearchBeatsTheLargestMagnitude) {
  ThreadPool pool(2);
  const Tensor w = random_matrix(40, 80);  // two groups of 32 and a half
  const auto graph = two_products(w, random_matrix(5, 40));
  const Quantized q = quantize_int4(matrix_of(*graph), 32, nullptr, pool);
  EXPECT_EQ(q.values.dtype(), DType::I4);
  EXPECT_EQ(q.scale.shape(), (Shape{40, 3}));
  EXPECT_EQ(q.scale.dtype(), DType::F16);
  double plain = 0, all = 0;  // every group's largest magnitude at -8
  for (int64_t row = 0; row < 40; ++row)
    for (int64_t begin = 0; begin < 80; begin += 32) {
      const float* x = w.data<float>() + row * 80 + begin;
      const int64_t count = std::min<int64_t>(32, 80 - begin);
      float largest = 0;
      for (int64_t i = 0; i < count; ++i) largest = std::abs(x[i]) > std::abs(largest) ? x[i] : largest;
      for (int64_t i = 0; i < count; ++i) {
        const float s = largest / -8, v = std::clamp(std::nearbyint(x[i] / s), -8.0f, 7.0f) * s;
        plain += std::pow(v - x[i], 2), all += x[i] * x[i];
      }
    }
  EXPECT_LT(relative_error(q, w), 0.95 * std::sqrt(plain / all));
}

TEST(Int4, HeadIsInt8) {
  ThreadPool pool(2);
  const auto graph = two_products(random_matrix(64, 32), random_matrix(7, 64));
  EXPECT_EQ(weights_to_int4(*graph, 32, nullptr, pool), 2);
  ir::verify(*graph);
  const auto nodes = graph->nodes_snapshot();
  EXPECT_EQ(nodes[0]->input(1)->type.dtype, DType::I4);
  EXPECT_EQ(nodes[1]->input(1)->type.dtype, DType::I8);
  EXPECT_THROW(weights_to_int4(*graph, 48, nullptr, pool), Error);
}

// Inputs in which every element follows its neighbour: errors that are carried on cancel in the output.
TEST(Int4, FeedbackServesTheInputsThatWereMeasured) {
  ThreadPool pool(2);
  const int64_t k = 128;
  Moments moments{k, std::vector<float>(k * k)};
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = 0; j < k; ++j) moments.mean[i * k + j] = std::pow(0.95f, static_cast<float>(std::abs(i - j)));
  const Tensor w = random_matrix(48, k);
  const auto graph = two_products(w, random_matrix(5, 48));
  const Feedback feedback = make_feedback(moments, pool);
  const auto output_error = [&](const Quantized& q) {
    double sum = 0;
    for (int64_t row = 0; row < 48; ++row) {
      std::vector<double> e(k);
      for (int64_t i = 0; i < k; ++i)
        e[i] = w.data<float>()[row * k + i] - q.values.int_at(row * k + i) * q.scale.float_at(row * q.scale.dim(1) + i / 32);
      for (int64_t i = 0; i < k; ++i)
        for (int64_t j = 0; j < k; ++j) sum += e[i] * moments.mean[i * k + j] * e[j];
    }
    return sum;
  };
  const double plain = output_error(quantize_int4(matrix_of(*graph), 32, nullptr, pool));
  EXPECT_LT(output_error(quantize_int4(matrix_of(*graph), 32, &feedback, pool)), 0.6 * plain);
}

TEST(Int4, InstructionSetsAgree) {
  if (!cpu_features().avx512) GTEST_SKIP() << "no AVX-512";
  const int64_t k = 224;
  const Tensor w = random_matrix(1, k);
  std::vector<float> importance(k), factor(k * k, 0.01f);
  for (int64_t i = 0; i < k; ++i) importance[i] = 1 + static_cast<float>(i % 5);
  for (const float* f : {static_cast<const float*>(nullptr), static_cast<const float*>(factor.data())}) {
    std::vector<int8_t> q[2];
    std::vector<float> scales[2];
    for (int i = 0; i < 2; ++i) {
      q[i].resize(k), scales[i].resize(k / 32);
      std::vector<float> target(32), errors(k);
      (i == 0 ? int4_row : int4_row_avx512)({k, 32, importance.data(), f, true}, w.data<float>(), scales[i].data(), q[i].data(),
                                            target.data(), errors.data());
    }
    int different = 0;  // sums in another order may tip a rounding
    for (int64_t i = 0; i < k; ++i) different += q[0][i] != q[1][i];
    EXPECT_LE(different, 2);
    for (int64_t g = 0; g < k / 32; ++g) EXPECT_NEAR(scales[0][g], scales[1][g], 2e-3 * std::abs(scales[0][g]));
  }
}

TEST(F32, UpcastsOnlyWhatProductsRead) {
  ThreadPool pool(1);
  const auto graph = ir::parse(
      "graph g(%x: f32[n,2], %i: i32[n]) {\n %w = const bf16[2,2] {1, 2, 3, 4}\n %a = matmul(%x, %w) {trans_b=1}\n"
      " %e = gather(%w, %i)\n return %a, %e\n}");
  EXPECT_EQ(weights_to_f32(*graph, pool), 1);
  ir::verify(*graph);
  EXPECT_EQ(graph->nodes().front()->input(1)->type.dtype, DType::F32);
  EXPECT_EQ(graph->nodes().back()->input(0)->type.dtype, DType::BF16);
  EXPECT_EQ(graph->nodes().front()->input(1)->constant.float_at(3), 4);
}

}  // namespace
}  // namespace tokamak::quant
