// Register tiles and packing, tile by tile, against a loop in double precision: the ways that convolutions call them.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "backends/cpu/cpu_features.h"
#include "backends/cpu/kernels/gemm_driver.h"
#include "backends/cpu/kernels/gemm_microkernel.h"
#include "base/tensor.h"

namespace tokamak::cpu {
namespace {

const float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<const GemmIsa*> isas() {
  std::vector<const GemmIsa*> found;
  if (cpu_features().avx512) found.push_back(&gemm_avx512());
  if (cpu_features().avx2) found.push_back(&gemm_avx2());
  return found;
}

std::vector<float> random_floats(int64_t n, std::mt19937& rng) {
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> v(n);
  for (float& x : v) x = uniform(rng);
  return v;
}

// Every tile, over several runs (as the rows of a convolution kernel), columns ending anywhere, written twice to test accumulation.
TEST(GemmTile, EveryShapeAndKind) {
  std::mt19937 rng(1);
  const int64_t runs = 3, length = 5, run_stride = 41, a_stride = 7, k = runs * length;
  for (const GemmIsa* isa : isas())
    for (int vectors = 1; vectors <= isa->max_vectors; ++vectors)
      for (int rows = 1; rows <= isa->max_rows(vectors); ++rows)
        for (GemmTileKind kind : {GemmTileKind::Strided, GemmTileKind::Pointers, GemmTileKind::DirectB})
          for (int missing : {0, 1, isa->lanes - 1}) {
            const int width = vectors * isa->lanes, cols = width - missing;
            const bool direct = kind == GemmTileKind::DirectB;
            const std::vector<float> a = random_floats(rows * a_stride + runs * run_stride, rng);
            std::vector<const float*> pointers;
            for (int i = 0; i < rows; ++i) pointers.push_back(a.data() + (rows - 1 - i) * a_stride);
            Tensor b = Tensor::empty(DType::F32, {k, width});
            for (int64_t i = 0; i < b.count(); ++i)
              b.data<float>()[i] = i % width < cols ? static_cast<float>(rng() % 2001) / 1000 - 1 : direct ? kNan : 0.0f;
            const int64_t c_stride = width + 3;
            std::vector<float> c(rows * c_stride, kNan);
            GemmTile t;
            t.a = a.data(), t.a_stride = a_stride, t.a_rows = pointers.data();
            t.num_runs = runs, t.run_length = length, t.run_stride = run_stride;
            t.b = b.data<float>(), t.b_stride = width;
            t.c = c.data(), t.c_stride = c_stride, t.cols = cols;
            const GemmTileFunction tile = isa->tile(kind, rows, vectors);
            ASSERT_NE(tile, nullptr);
            tile(t);
            t.accumulate = true;
            tile(t);
            for (int i = 0; i < rows; ++i)
              for (int64_t j = 0; j < c_stride; ++j) {
                const float actual = c[i * c_stride + j];
                if (j >= cols) {
                  ASSERT_TRUE(std::isnan(actual)) << "written past the tile at column " << j << " of " << cols;
                  continue;
                }
                double sum = 0;
                for (int64_t r = 0; r < runs; ++r)
                  for (int64_t x = 0; x < length; ++x) {
                    const float* row = kind == GemmTileKind::Pointers ? pointers[i] : a.data() + i * a_stride;
                    sum += double{row[r * run_stride + x]} * b.data<float>()[(r * length + x) * width + j];
                  }
                ASSERT_NEAR(actual, 2 * sum, 2e-5) << rows << "x" << vectors << " kind " << static_cast<int>(kind) << " cols " << cols;
              }
          }
  EXPECT_EQ(isas().empty() ? nullptr : isas()[0]->tile(GemmTileKind::Strided, 99, 1), nullptr);
}

TEST(GemmPack, PanelsHoldEveryElementAndZeros) {
  std::mt19937 rng(2);
  for (int64_t k : {1, 15, 16, 40})
    for (int64_t n : {1, 16, 63, 64, 65, 150})
      for (int nr : {16, 48, 64})
        for (bool transposed : {false, true}) {
          const std::vector<float> b = random_floats(k * n, rng);
          const GemmPanels panels{k, n, nr};
          std::vector<float> packed(panels.size(), kNan);
          gemm_pack_b(panels, b.data(), transposed ? 1 : n, transposed ? k : 1, packed.data(), 0, panels.count());
          int64_t seen = 0;
          for (int64_t p = 0; p < panels.count(); ++p)
            for (int64_t x = 0; x < k; ++x)
              for (int j = 0; j < panels.width(p); ++j, ++seen) {
                const int64_t col = p * nr + j;
                const float expected = col >= n ? 0.0f : transposed ? b[col * k + x] : b[x * n + col];
                ASSERT_EQ(packed[panels.offset(p) + x * panels.width(p) + j], expected);
              }
          EXPECT_EQ(seen, panels.size());
        }
}

TEST(GemmSplit, CoversRowsAndFeedsThreads) {
  for (const GemmIsa* isa : isas())
    for (int64_t m : {1, 7, 49, 3136, 100000})
      for (int64_t n : {1, 64, 1000})
        for (int threads : {1, 2, 8}) {
          const GemmSplit split = gemm_split(*isa, m, n, 512, 64, 1, threads);
          EXPECT_EQ(split.begin(0), 0);
          EXPECT_EQ(split.begin(split.row_blocks), m);
          EXPECT_LE(split.row_blocks, m);
          if (threads > 1 && m >= 49 * 14) {
            EXPECT_GE(split.units(), 4 * threads);
          }
        }
}

}  // namespace
}  // namespace tokamak::cpu
