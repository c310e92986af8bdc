// Steps in which some sequences decode and others prefill: cuda.paged_attention_mixed, alone and behind kv_cache_write.
#ifdef TOKAMAK_CUDA
#include <gtest/gtest.h>

#include "tests/backends/cuda/check_kernels.h"
#include "tests/backends/cuda/paged_tester.h"

namespace tokamak::testing {
namespace {

using Sequences = std::vector<PagedCase::Sequence>;

// Without a GPU cases are only compiled: a few stand for all.
bool few() { return !test::wants_all(); }

PagedCase step_of(const Sequences& sequences, int64_t heads, int64_t kv_heads, int64_t dim, int64_t block_size, DType cache,
                  int64_t padding = 0) {
  PagedCase c;
  c.heads = heads, c.kv_heads = kv_heads, c.dim = dim, c.block_size = block_size, c.cache = cache;
  c.sequences = sequences, c.padding = padding;
  return c;
}
void check(const PagedCase& c, DType dtype) { check_step(c, dtype, {"sm_90"}, "cuda.paged_attention_mixed"); }

// Decoding sequences before, between and behind those that prefill, some with a past; unused ones among them.
const Sequences kBefore = {{1, 1}, {700, 1}, {65, 1}, {200, 200}};
const Sequences kBehind = {{259, 259}, {33, 1}, {1, 1}, {2000, 1}};
const Sequences kBetween = {{5, 1}, {300, 64}, {0, 0}, {16, 1}, {17, 1}, {1000, 130}, {513, 1}, {77, 7}, {2, 2}, {0, 0}, {1500, 1}, {0, 0}};

TEST(CudaMixedAttention, OneHead) {
  check(step_of({{64, 64}, {20, 1}, {64, 64}}, 1, 1, 128, 16, DType::BF16), DType::BF16);
  if (few()) return;
  check(step_of({{200, 1}, {128, 128}}, 1, 1, 64, 16, DType::F16), DType::F16);
}

TEST(CudaMixedAttention, Places) {
  for (const Sequences& sequences : {kBefore, kBehind, kBetween})
    for (const auto& [heads, kv_heads] : std::vector<std::pair<int64_t, int64_t>>{{4, 4}, {8, 2}, {7, 1}, {20, 1}})
      for (DType dtype : {DType::F16, DType::BF16})
        if (!few() || heads == 7) check(step_of(sequences, heads, kv_heads, 128, 16, dtype, 5), dtype);
}

TEST(CudaMixedAttention, HeadSizesAndBlocks) {
  for (int64_t dim : {64, 72, 80, 128})
    for (int64_t block_size : {16, 48, 128})
      if (!few() || dim == 72) check(step_of(kBetween, 8, 2, dim, block_size, DType::BF16, 3), DType::BF16);
}

TEST(CudaMixedAttention, EightBitCache) {
  for (const Sequences& sequences : {kBefore, kBehind, kBetween})
    for (int64_t dim : {64, 128})
      for (DType dtype : {DType::F16, DType::BF16})
        if (!few() || dim == 128) check(step_of(sequences, 8, 2, dim, 16, DType::F8E4M3FN, 3), dtype);
}

TEST(CudaMixedAttention, WindowsAndSoftcap) {
  for (const auto& [window, softcap] : std::vector<std::pair<int64_t, double>>{{9, 0}, {100, 0}, {128, 0}, {300, 5}, {0, 2}, {1, 0}}) {
    PagedCase c = step_of(kBetween, 4, 2, 64, 32, DType::F16, 2);
    c.window = window, c.softcap = softcap;
    if (!few() || softcap > 0) check(c, DType::F16);
  }
}

// Only one of the kinds.
TEST(CudaMixedAttention, OneKind) {
  check(step_of({{200, 200}, {0, 0}, {90, 50}}, 8, 2, 128, 16, DType::BF16, 2), DType::BF16);
  if (few()) return;
  check(step_of({{20, 1}, {300, 1}, {0, 0}, {0, 0}}, 8, 2, 128, 16, DType::BF16, 130), DType::BF16);
  check(step_of({{0, 0}, {0, 0}}, 8, 2, 128, 16, DType::BF16, 130), DType::BF16);
}

// More sequences than the plan looks at together, more tiles than blocks, either kind behind the other.
TEST(CudaMixedAttention, ManySequences) {
  Sequences many;
  for (int64_t s = 0; s < 1500; ++s) many.push_back({1 + s * 37 % 90, s % 9 == 4 ? std::min<int64_t>(1 + s * 37 % 90, 20) : 1});
  many.push_back({700, 600}), many.insert(many.begin() + 700, {900, 300});
  check(step_of(many, 4, 4, 64, 16, DType::BF16, 7), DType::BF16);
  if (few()) return;
  check(step_of(many, 8, 2, 128, 16, DType::F8E4M3FN, 7), DType::F16);
}

// The same with tokens as few as can be, for racecheck.
TEST(CudaMixedAttention, ManyShortSequences) {
  Sequences many;
  for (int64_t s = 0; s < 1100; ++s) many.push_back({1 + s % 3, s % 90 == 4 ? 1 + s % 3 : 1});
  many.push_back({150, 130}), many.insert(many.begin() + 700, {90, 70});
  check(step_of(many, 1, 1, 64, 16, DType::BF16, 7), DType::BF16);
}

// What kv_cache_write has just written is what both kernels read.
TEST(CudaMixedAttention, BehindTheWrite) {
  for (const Sequences& sequences : {kBefore, kBehind, kBetween})
    for (DType cache : {DType::F16, DType::F8E4M3FN}) {
      PagedCase c = step_of(sequences, 32, 8, 128, 16, cache, 4);
      c.half = 64, c.norms = cache == DType::F16;
      if (!few() || sequences.size() == kBetween.size()) check_cached_step(c, DType::F16);
    }
}

// What the integers name is clamped; nothing outside is read or written (compute-sanitizer sees that).
TEST(CudaMixedAttention, NonsenseIsSkipped) {
  PagedCase c = step_of({{20, 1}, {150, 150}, {5, 5}}, 4, 2, 64, 16, DType::F16);
  const PagedBatch batch(c);
  const Tensor cache = reordered_cache(batch.filled_cache(true), true);
  const Tensor q = narrowed(Tensor::zeros(DType::F32, {batch.tokens, c.heads * c.dim}), DType::F16);
  constexpr int32_t kMost = 2147483647;
  for (const auto& [lens, starts] : std::vector<std::pair<std::vector<int32_t>, std::vector<int32_t>>>{{{20, 5, 9}, {5, 2, 100, 156}},
                                                                                                       {{-3, kMost, 7}, {0, 2, 7, kMost}},
                                                                                                       {{1, 0, kMost}, {-5, 3, 2, 1}},
                                                                                                       {{20, 5, 5}, {kMost, -kMost, 7, 8}},
                                                                                                       {{150, 150, 150}, {0, 156, 0, 156}}})
    for (const StepRun& run : run_step("paged_attention", {q, cache, batch.block_tables, i32({3}, lens), i32({4}, starts)},
                                       c.attention_attrs(), {"sm_90"}, "cuda.paged_attention_mixed"))
      EXPECT_TRUE(same_bytes(run.cache, cache)) << run.kernel;
}

}  // namespace
}  // namespace tokamak::testing
#endif
