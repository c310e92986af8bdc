#include <algorithm>
#include <numeric>

#include "backends/cpu/cpu_backend.h"
#include "tests/backends/cpu/kernel_tester.h"

namespace tokamak::cpu {
namespace {

// Distinct contents for any element size.
Tensor counted(DType dtype, const Shape& shape, int start = 1) {
  Tensor t = Tensor::zeros(dtype, shape);
  const int64_t bytes = bits_of(dtype) / 8;
  for (int64_t i = 0; i < t.count(); ++i) {
    const int64_t value = i + start;
    std::memcpy(static_cast<char*>(t.raw()) + i * bytes, &value, std::min<int64_t>(bytes, 8));
  }
  return t;
}

bool same_element(const Tensor& a, int64_t i, const Tensor& b, int64_t j) {
  const int64_t bytes = bits_of(a.dtype()) / 8;
  return std::memcmp(static_cast<const char*>(a.raw()) + i * bytes, static_cast<const char*>(b.raw()) + j * bytes, bytes) == 0;
}

// Calls f(index, flat) for every position of `shape`.
template <class F>
void each(const Shape& shape, const F& f) {
  Shape index(shape.size(), 0);
  for (int64_t flat = 0; flat < num_elements(shape); ++flat) {
    f(index, flat);
    for (size_t d = shape.size(); d-- > 0 && ++index[d] == shape[d];) index[d] = 0;
  }
}
int64_t flat_of(const Shape& shape, const Shape& index) {
  int64_t flat = 0;
  for (size_t d = 0; d < shape.size(); ++d) flat = flat * shape[d] + index[d];
  return flat;
}

const DType kSizes[] = {DType::U8, DType::F16, DType::F32, DType::I64, DType::C128};

TEST(Movement, TransposeEveryPermutation) {
  for (DType dtype : kSizes)
    for (const Shape& in : {Shape{3, 5, 2, 7}, Shape{1, 26, 1, 33}, Shape{2, 40, 3, 68}}) {
      ir::Ints perm{0, 1, 2, 3};
      const Tensor x = counted(dtype, in);
      do {
        Shape out;
        for (int64_t p : perm) out.push_back(in[p]);
        KernelTester tester(*find_kernel("cpu.transpose"), {{"perm", perm}}, {x}, {{dtype, out}}, 2);
        const Tensor y = tester.run()[0];
        each(out, [&](const Shape& index, int64_t flat) {
          Shape source(4);
          for (size_t d = 0; d < 4; ++d) source[perm[d]] = index[d];
          ASSERT_TRUE(same_element(y, flat, x, flat_of(in, source)));
        });
      } while (std::next_permutation(perm.begin(), perm.end()));
    }
}

TEST(Movement, LargeTransposeInParallel) {
  const Tensor x = counted(DType::F32, {301, 517});
  KernelTester tester(*find_kernel("cpu.transpose"), {{"perm", ir::Ints{1, 0}}}, {x}, {{DType::F32, {517, 301}}}, 2);
  const Tensor y = tester.run()[0];
  for (int64_t i = 0; i < 517; ++i)
    for (int64_t j = 0; j < 301; ++j) ASSERT_TRUE(same_element(y, i * 301 + j, x, j * 517 + i));
}

TEST(Movement, ConcatAndSplitAreInverse) {
  for (DType dtype : kSizes)
    for (int64_t axis : {0, 1, 2, -1}) {
      const size_t a = axis < 0 ? 2 : axis;
      std::vector<Shape> shapes(3, Shape{4, 3, 5});
      Shape whole{4, 3, 5};
      shapes[0][a] = 1, shapes[1][a] = 6, shapes[2][a] = 0, whole[a] = 7;
      std::vector<Tensor> parts;
      std::vector<OutputSpec> specs;
      for (size_t i = 0; i < 3; ++i)
        parts.push_back(counted(dtype, shapes[i], 1 + static_cast<int>(i) * 100)), specs.push_back({dtype, shapes[i]});
      KernelTester concat(*find_kernel("cpu.concat"), {{"axis", axis}}, parts, {{dtype, whole}});
      const Tensor y = concat.run()[0];
      each(whole, [&](const Shape& index, int64_t flat) {
        Shape source = index;
        const size_t part = index[a] >= 1;
        if (part == 1) source[a] -= 1;
        ASSERT_TRUE(same_element(y, flat, parts[part], flat_of(shapes[part], source)));
      });
      KernelTester split(*find_kernel("cpu.split"), {{"axis", axis}}, {y}, specs);
      const auto& back = split.run();
      for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(same_bytes(back[i], parts[i]));
    }
}

TEST(Movement, SliceWithStepsAndNegatives) {
  struct Case {
    int64_t start, end, step, first, count;
  };
  const Case cases[] = {{0, 9, 1, 0, 9},       {2, 7, 2, 2, 3},   {-3, 100, 1, 6, 3}, {-100, 4, 1, 0, 4},
                        {100, -100, -1, 8, 9}, {-2, 1, -3, 7, 2}, {5, 5, 1, 5, 0}};
  for (DType dtype : kSizes)
    for (const Case& c : cases)
      for (int64_t axis : {0, 1}) {
        const Shape in{9, 9};
        Shape out = in;
        out[axis] = c.count;
        const Tensor x = counted(dtype, in);
        KernelTester tester(
            *find_kernel("cpu.slice"),
            {{"starts", ir::Dims{c.start}}, {"ends", ir::Dims{c.end}}, {"axes", ir::Ints{axis - 2}}, {"steps", ir::Ints{c.step}}}, {x},
            {{dtype, out}});
        ASSERT_TRUE(tester.supported()) << tester.reason();
        const Tensor y = tester.run()[0];
        each(out, [&](const Shape& index, int64_t flat) {
          Shape source = index;
          source[axis] = c.first + index[axis] * c.step;
          ASSERT_TRUE(same_element(y, flat, x, flat_of(in, source)));
        });
      }
}

TEST(Movement, ExpandRepeats) {
  for (DType dtype : kSizes)
    for (const Shape& in : {Shape{1, 4, 1}, Shape{4, 6}, Shape{1}, Shape{3, 1, 6}, Shape{}}) {
      const Shape out{3, 4, 6};
      const Tensor x = counted(dtype, in);
      KernelTester tester(*find_kernel("cpu.expand"), {}, {x}, {{dtype, out}}, 2);
      const Tensor y = tester.run()[0];
      each(out, [&](const Shape& index, int64_t flat) {
        Shape source;
        for (size_t d = 0; d < in.size(); ++d) source.push_back(in[d] == 1 ? 0 : index[3 - in.size() + d]);
        ASSERT_TRUE(same_element(y, flat, x, flat_of(in, source)));
      });
    }
}

TEST(Movement, PadAndCrop) {
  const Shape in{3, 4, 5}, out{6, 3, 5};
  const Tensor x = random_tensor(in, 1);
  KernelTester tester(*find_kernel("cpu.pad"), {{"pads", ir::Ints{1, -1, 0, 2, 0, 0}}, {"value", 2.5}}, {x}, {{DType::F32, out}}, 2);
  ASSERT_TRUE(tester.supported()) << tester.reason();
  const Tensor y = tester.run()[0];
  each(out, [&](const Shape& index, int64_t flat) {
    const int64_t a = index[0] - 1, b = index[1] + 1;
    const bool inside = a >= 0 && a < 3 && b < 4;
    ASSERT_EQ(y.data<float>()[flat], inside ? x.data<float>()[(a * 4 + b) * 5 + index[2]] : 2.5f);
  });
}

TEST(Movement, GatherAnyAxis) {
  for (DType dtype : kSizes)
    for (int64_t axis : {0, 1, -1}) {
      const size_t a = axis < 0 ? 2 : axis;
      const Shape in{5, 6, 7};
      const Tensor x = counted(dtype, in);
      const std::vector<int64_t> at{4, -1, 0, -5, 2, 2};
      const Tensor wide = Tensor::of<int64_t>({2, 3}, at), narrow = Tensor::of<int32_t>({2, 3}, std::vector<int32_t>(at.begin(), at.end()));
      Shape out(in.begin(), in.begin() + a);
      out.insert(out.end(), {2, 3});
      out.insert(out.end(), in.begin() + a + 1, in.end());
      for (const Tensor& indices : {wide, narrow}) {
        KernelTester tester(*find_kernel("cpu.gather"), {{"axis", axis}}, {x, indices}, {{dtype, out}}, 2);
        const Tensor y = tester.run()[0];
        each(out, [&](const Shape& index, int64_t flat) {
          Shape source(index.begin(), index.begin() + a);
          const int64_t i = at[index[a] * 3 + index[a + 1]];
          source.push_back(i < 0 ? i + in[a] : i);
          source.insert(source.end(), index.begin() + a + 2, index.end());
          ASSERT_TRUE(same_element(y, flat, x, flat_of(in, source)));
        });
      }
      KernelTester bad(*find_kernel("cpu.gather"), {{"axis", axis}}, {x, Tensor::of<int64_t>({1}, {9})}, {{dtype, out}});
      EXPECT_THROW(bad.run(), Error);
    }
}

}  // namespace
}  // namespace tokamak::cpu
