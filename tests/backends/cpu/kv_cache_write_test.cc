// The fast kv_cache_write kernels against the reference.

#include "tests/backends/cpu/kernel_tester.h"
#include "tests/backends/cpu/paged_batch.h"

namespace tokamak::cpu {
namespace {

using tokamak::testing::PagedBatch;
using tokamak::testing::PagedCase;
using tokamak::testing::run_ref;

// NaN (what nobody wrote) equals NaN.
void expect_near(const Tensor& found, const Tensor& expected, double relative, const std::string& what) {
  ASSERT_EQ(found.count(), expected.count());
  for (int64_t i = 0; i < found.count(); ++i) {
    const double a = found.float_at(i), e = expected.float_at(i);
    if (std::isnan(a) && std::isnan(e)) continue;
    ASSERT_NEAR(a, e, 1e-6 + relative * std::abs(e)) << what << " element " << i << " of " << to_string(found.shape());
  }
}

void check(const PagedCase& c) {
  const PagedBatch batch(c);
  const Tensor expected_cache = batch.filled_cache(false);
  const Tensor expected = run_ref("kv_cache_write", batch.write_inputs(expected_cache), c.write_attrs())[0];
  for (const char* isa : {"avx512", "avx2"})
    for (int threads : {1, 3}) {
      const Tensor cache = batch.filled_cache(false);
      KernelTester tester(*find_kernel(std::string(isa) + ".kv_cache_write"), c.write_attrs(), batch.write_inputs(cache),
                          {{DType::F32, expected.shape()}}, threads);
      if (!tester.supported()) continue;
      const Tensor q = tester.run()[0];
      const std::string what = fmt::format("{} dim {} half {} threads {}", isa, c.dim, c.half, threads);
      expect_near(q, expected, 1e-5, what + " q");
      // float32 arithmetic here, double in the reference: now and then a sum lands on the other side of a bf16 rounding.
      expect_near(cache, expected_cache, c.cache == DType::BF16 ? 0x1p-8 : 1e-5, what + " cache");
    }
}

TEST(KvCacheWriteKernel, HeadSizesBlockSizesAndDtypes) {
  for (DType dtype : {DType::F32, DType::BF16})
    for (int64_t dim : {2, 10, 32, 64, 80, 96, 128, 256, 512})
      for (int64_t block_size : {16, 32, 64}) {
        PagedCase c;
        c.cache = dtype, c.dim = dim, c.block_size = block_size, c.half = dim / 2, c.sequences = {{1, 1}, {40, 1}, {70, 33}}, c.padding = 2;
        check(c);
      }
}

TEST(KvCacheWriteKernel, NormsAndRopes) {
  for (DType dtype : {DType::F32, DType::BF16})
    for (bool interleaved : {false, true})
      for (bool norms : {false, true})
        for (int64_t half : {0, 5, 16, 20, 48}) {
          PagedCase c;
          c.cache = dtype, c.interleaved = interleaved, c.norms = norms, c.half = half, c.dim = 96, c.heads = 7, c.kv_heads = 1;
          c.sequences = {{20, 4}, {3, 3}};
          check(c);
        }
}

// Enough tokens that threads share fragments and bf16 pairs.
TEST(KvCacheWriteKernel, ManyTokens) {
  for (DType dtype : {DType::F32, DType::BF16}) {
    PagedCase c;
    c.cache = dtype, c.heads = 8, c.half = 32, c.sequences = {{300, 300}, {35, 7}};
    check(c);
  }
}

TEST(KvCacheWriteKernel, SlotsOutsideAreSkipped) {
  PagedCase c;
  c.dim = 32, c.sequences = {{5, 5}};
  const PagedBatch batch(c);
  for (const char* isa : {"avx512", "avx2"}) {
    const Tensor cache = batch.filled_cache(true), before = cache.clone();
    std::vector<Tensor> in = batch.write_inputs(cache);
    in[2] = tokamak::testing::i32({5}, {-1, -2147483647 - 1, 2147483647, static_cast<int32_t>(batch.num_blocks * c.block_size), -7});
    KernelTester tester(*find_kernel(std::string(isa) + ".kv_cache_write"), c.write_attrs(), in, {{DType::F32, {5, c.heads * c.dim}}});
    if (!tester.supported()) continue;
    tester.run();
    EXPECT_TRUE(same_bytes(before, cache)) << isa;
  }
}

}  // namespace
}  // namespace tokamak::cpu
