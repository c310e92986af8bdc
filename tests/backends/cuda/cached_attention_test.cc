#ifdef TOKAMAK_CUDA
#include "tests/backends/cuda/check_kernels.h"
#include "tests/backends/cuda/paged_tester.h"

namespace tokamak::testing {
namespace {

using namespace cuda;

using Sequences = std::vector<PagedCase::Sequence>;

// A new token for sequences of these lengths; `unused`: as many rows and sequences behind them that a padded step has.
PagedCase decoding(const std::vector<int64_t>& lengths, int64_t unused = 0) {
  PagedCase c;
  c.sequences.clear();
  for (int64_t length : lengths) c.sequences.push_back({length, 1});
  for (int64_t i = 0; i < unused; ++i) c.sequences.push_back({0, 0});
  c.padding = unused;
  return c;
}

PagedCase with_heads(PagedCase c, int64_t heads, int64_t kv_heads, int64_t dim, int64_t block_size, DType cache) {
  c.heads = heads, c.kv_heads = kv_heads, c.dim = dim, c.half = dim / 2, c.block_size = block_size, c.cache = cache;
  return c;
}

const std::vector<std::vector<int64_t>> kLengths = {{1}, {2}, {15, 16, 17}, {31, 32, 33, 1}, {200}, {1000, 3, 5}, {5000, 64}};

// Few compilations stand for all where nothing runs.
bool is_wanted(int& count) { return test::wants_all() || count++ % 16 == 0; }

TEST(CudaCachedAttention, LengthsAndGroups) {
  int count = 0;
  for (const auto& lengths : kLengths)
    for (const auto& [heads, kv_heads] : std::vector<std::pair<int64_t, int64_t>>{{4, 4}, {8, 2}, {8, 1}, {7, 1}, {20, 1}})
      for (DType dtype : {DType::F16, DType::BF16})
        if (is_wanted(count)) check_cached_step(with_heads(decoding(lengths), heads, kv_heads, 128, 16, dtype), dtype);
}

TEST(CudaCachedAttention, HeadSizesAndBlocks) {
  int count = 0;
  for (const auto& lengths : {kLengths[2], kLengths[3], kLengths[5]})
    for (int64_t dim : {64, 80, 96, 128, 192, 256})
      for (int64_t block_size : {16, 48, 128})
        if (is_wanted(count)) check_cached_step(with_heads(decoding(lengths), 8, 2, dim, block_size, DType::F16), DType::F16);
}

TEST(CudaCachedAttention, Float8Cache) {
  int count = 0;
  for (const auto& lengths : kLengths)
    for (DType dtype : {DType::F16, DType::BF16})
      for (int64_t dim : {64, 128, 256})
        if (is_wanted(count)) check_cached_step(with_heads(decoding(lengths), 8, 2, dim, 32, DType::F8E4M3FN), dtype);
}

// From one block a head of a row to clusters of them, and rows that no sequence has.
TEST(CudaCachedAttention, Batches) {
  int count = 0;
  for (int64_t batch : {1, 2, 3, 4, 7, 8, 15, 16, 17, 33, 64, 70})
    for (const auto& [heads, kv_heads] : std::vector<std::pair<int64_t, int64_t>>{{32, 32}, {32, 8}}) {
      std::vector<int64_t> lengths;
      for (int64_t i = 0; i < batch; ++i) lengths.push_back(1 + i * 37 % 211);
      PagedCase c = with_heads(decoding(lengths, batch % 2 ? 3 : 0), heads, kv_heads, 128, 16, DType::BF16);
      if (is_wanted(count)) check_cached_step(c, DType::BF16);
    }
}

// Small blocks in clusters: from some of their warps at work to several passes.
TEST(CudaCachedAttention, OneSequence) {
  int count = 0;
  for (int64_t length : {1, 2, 63, 64, 65, 200, 255, 256, 257, 320, 321, 513, 1000, 2048, 5000})
    for (DType cache : {DType::F16, DType::BF16, DType::F8E4M3FN})
      for (int64_t window : {0, 100}) {
        PagedCase c = with_heads(decoding({length}), 32, 32, 128, 32, cache);
        c.window = window;
        if (is_wanted(count)) check_cached_step(c, cache == DType::F8E4M3FN ? DType::BF16 : cache);
      }
}

TEST(CudaCachedAttention, WindowAndSoftcap) {
  int count = 0;
  for (const auto& lengths : kLengths)
    for (const auto& [window, softcap] : std::vector<std::pair<int64_t, double>>{{1, 0}, {9, 0}, {100, 0}, {0, 2}, {130, 5}}) {
      PagedCase c = with_heads(decoding(lengths, 1), 4, 2, 64, 32, DType::F16);
      c.window = window, c.softcap = softcap;
      if (is_wanted(count)) check_cached_step(c, DType::F16);
    }
}

TEST(CudaCachedAttention, NormsAndRope) {
  for (bool interleaved : {false, true})
    for (int64_t half : {0, 13, 16, 32})
      for (DType cache : {DType::BF16, DType::F8E4M3FN}) {
        PagedCase c = with_heads(decoding({20, 3, 100}), 4, 2, 64, 16, cache);
        c.half = half, c.interleaved = interleaved, c.norms = true;
        if (test::wants_all() || cache == DType::BF16) check_cached_step(c, DType::BF16);
      }
}

// Steps with several new tokens of a sequence, and types that are not for tensor cores.
TEST(CudaCachedAttention, MixedSteps) {
  for (const Sequences& sequences : std::vector<Sequences>{{{40, 1}, {129, 17}, {33, 33}, {300, 70}}, {{150, 150}}})
    for (DType dtype : {DType::F32, DType::BF16}) {
      PagedCase c = with_heads({}, 8, 2, 64, 32, dtype);
      c.sequences = sequences, c.padding = 2;
      check_cached_step(c, dtype);
    }
  check_cached_step(with_heads(decoding({17, 40}), 4, 2, 64, 16, DType::F32), DType::F32);
}

TEST(CudaCachedAttention, NonsenseIsSkipped) {
  PagedCase c = with_heads(decoding({20, 5}), 4, 2, 64, 32, DType::F16);
  const PagedBatch batch(c);
  const Tensor cache = reordered_cache(batch.filled_cache(true), true);
  std::vector<Tensor> in = batch.write_inputs(cache);
  in[0] = narrowed(in[0], DType::F16);
  in[2] = i32({2}, {-2147483647, static_cast<int32_t>(batch.num_blocks * c.block_size)});
  in.insert(in.begin() + 3, {batch.block_tables, batch.seq_lens, batch.query_starts});
  ir::Attrs attrs = c.write_attrs();
  for (const auto& [lengths, starts] : std::vector<std::pair<std::vector<int32_t>, std::vector<int32_t>>>{
           {{-3, 2147483647}, {0, 1, 2}}, {{2147483647, 7}, {0, 1, 2}}, {{20, 5}, {-5, 3, 2}}, {{20, 5}, {2147483647, -2147483647, 7}}}) {
    in[4] = i32({2}, lengths), in[5] = i32({3}, starts);
    for (const StepRun& run : run_step("cached_attention", in, attrs)) EXPECT_TRUE(same_bytes(run.cache, cache)) << run.kernel;
  }
}

TEST(CudaCachedAttention, CompilesForEveryArchitecture) {
  for (DType cache : {DType::F16, DType::F8E4M3FN})
    check_cached_step(with_heads(decoding(std::vector<int64_t>(64, 20)), 32, 8, 128, 16, cache), DType::F16,
                      {"sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"});
  check_cached_step(with_heads(decoding({20}), 32, 32, 128, 16, DType::F16), DType::F16, {"sm_90", "sm_100", "sm_120"});
}

}  // namespace
}  // namespace tokamak::testing
#endif
