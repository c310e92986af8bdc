// The 8-bit matrix product against `ref`, on random bytes of the whole range.
#include <gtest/gtest.h>

#include <random>

#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/cpu_features.h"
#include "backends/cpu/thread_pool.h"
#include "ir/graph.h"
#include "runtime/kernel.h"

namespace tokamak::cpu {
namespace {

Tensor random_bytes(DType dtype, Shape shape, std::mt19937& random) {
  Tensor t = Tensor::empty(dtype, std::move(shape));
  for (int64_t i = 0; i < t.count(); ++i) t.data<uint8_t>()[i] = static_cast<uint8_t>(random());
  return t;
}

std::vector<int32_t> run(const KernelDef& def, std::vector<Tensor> tensors, const Shape& output, bool constant_b, int threads) {
  ir::Graph graph;
  NodeView view;
  std::vector<ir::Value*> values;
  for (const Tensor& t : tensors) {
    values.push_back(t.defined() ? graph.add_input("x" + std::to_string(values.size()), ir::TensorType::of(t)) : nullptr);
    view.input_dtypes.push_back(t.dtype());
    view.input_shapes.push_back(t.shape());
    view.constants.push_back(nullptr);
  }
  view.node = graph.add_node("matmul_integer", values);
  view.output_dtypes = {DType::I32};
  view.output_shapes = {output};
  view.num_threads = threads;
  if (constant_b) {
    view.constants[1] = &tensors[1];
    if (Tensor packed = def.pack(view, "", 1); packed.defined()) tensors[1] = packed;
    EXPECT_FALSE(def.pack(view, "", 1).defined()) << "packing is idempotent";
  }
  const Support support = def.supports(view);
  EXPECT_TRUE(static_cast<bool>(support)) << support.reason();
  const auto kernel = def.make(view, "");
  constexpr int64_t kGuard = 64;
  Tensor out = Tensor::empty(DType::I32, output), workspace = Tensor::empty(DType::U8, {kernel->workspace_bytes() + kGuard});
  for (int64_t i = 0; i < out.count(); ++i) out.data<int32_t>()[i] = 0x55555555;
  for (int64_t i = 0; i < workspace.count(); ++i) workspace.data<uint8_t>()[i] = 0xa5;
  ThreadPool pool(threads);
  for (int i = 0; i < 2; ++i) kernel->run(RunArgs{tensors, {&out, 1}, workspace.raw(), &pool});
  for (int64_t i = 1; i <= kGuard; ++i) EXPECT_EQ(workspace.data<uint8_t>()[workspace.count() - i], 0xa5);
  return {out.data<int32_t>(), out.data<int32_t>() + out.count()};
}

class MatmulInteger : public testing::Test {
 protected:
  void SetUp() override {
    if (!cpu_features().avx512_vnni) GTEST_SKIP() << "needs a CPU with AVX-512 VNNI";
  }
  void check(const Shape& a_shape, const Shape& b_shape, const Shape& output, int zeros, std::mt19937& random) {
    const DType a_dtype = random() % 2 ? DType::U8 : DType::I8, b_dtype = random() % 2 ? DType::U8 : DType::I8;
    const int64_t n = b_shape.size() == 1 ? 1 : b_shape.back();
    std::vector<Tensor> tensors = {random_bytes(a_dtype, a_shape, random), random_bytes(b_dtype, b_shape, random)};
    if (zeros > 0) tensors.push_back(zeros == 3 ? Tensor() : random_bytes(a_dtype, {}, random));
    if (zeros > 1) tensors.push_back(random_bytes(b_dtype, zeros == 2 ? Shape{} : Shape{n}, random));
    const std::vector<int32_t> expected = run(*find_kernel("ref.matmul_integer"), tensors, output, false, 1);
    for (bool constant : {false, true})
      for (int threads : {1, 2})
        ASSERT_EQ(run(*find_kernel("avx512vnni.matmul_integer"), tensors, output, constant, threads), expected)
            << to_string(a_shape) << to_string(b_shape) << " zeros " << zeros << " constant " << constant << " threads " << threads << " "
            << to_string(a_dtype) << " " << to_string(b_dtype);
  }
};

TEST_F(MatmulInteger, OddShapes) {
  std::mt19937 random(1);
  const int64_t sizes[] = {1, 2, 3, 5, 6, 7, 13, 16, 17, 49, 64, 65, 97, 130};
  for (int i = 0; i < 120; ++i) {
    const int64_t m = sizes[random() % std::size(sizes)], k = sizes[random() % std::size(sizes)], n = sizes[random() % std::size(sizes)];
    check({m, k}, {k, n}, {m, n}, i % 5, random);
  }
  check({128, 312}, {312, 300}, {128, 300}, 2, random);
}

TEST_F(MatmulInteger, BatchesAndVectors) {
  std::mt19937 random(2);
  for (int zeros = 0; zeros < 5; ++zeros) {
    check({3, 5, 7}, {7, 9}, {3, 5, 9}, zeros, random);
    check({2, 3, 20, 8}, {2, 3, 8, 9}, {2, 3, 20, 9}, zeros, random);
    check({2, 1, 20, 7}, {3, 7, 9}, {2, 3, 20, 9}, zeros, random);
    check({20, 7}, {4, 7, 33}, {4, 20, 33}, zeros, random);
    check({7}, {7, 9}, {9}, zeros, random);
    check({5, 7}, {7}, {5}, zeros, random);
    check({0, 7}, {7, 9}, {0, 9}, zeros, random);
    check({6, 0}, {0, 9}, {6, 9}, zeros, random);
  }
}

TEST_F(MatmulInteger, SaysWhyNot) {
  ir::Graph graph;
  NodeView view;
  view.node = graph.add_node(
      "matmul_integer", {graph.add_input("a", ir::TensorType(DType::U8, {2, 3})), graph.add_input("b", ir::TensorType(DType::U8, {3, 4})),
                         graph.add_input("z", ir::TensorType(DType::U8, {2}))});
  view.input_dtypes = {DType::U8, DType::U8, DType::U8};
  view.input_shapes = {{2, 3}, {3, 4}, {2}};
  view.constants = {nullptr, nullptr, nullptr};
  view.output_dtypes = {DType::I32};
  view.output_shapes = {{2, 4}};
  EXPECT_EQ(find_kernel("avx512vnni.matmul_integer")->supports(view).reason(), "a has several zero points");
}

}  // namespace
}  // namespace tokamak::cpu
