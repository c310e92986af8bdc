// Kernels of attention and paged_attention with warpgroup products, over lengths around their tiles: small ones first.
#ifdef TOKAMAK_CUDA
#include <gtest/gtest.h>

#include "tests/backends/cuda/check_kernels.h"
#include "tests/backends/cuda/paged_tester.h"

namespace tokamak::testing {
namespace {

// Without a GPU cases are only compiled: a few of each kind then.
bool few() { return !test::wants_all(); }

struct Sizes {
  int64_t heads, kv_heads, q, k, dim, batch = 1;
};

void check_dense(const Sizes& s, const std::string& dtype, const std::string& attrs, bool heads_first = false) {
  const auto type = [&](int64_t heads, int64_t length) {
    return heads_first ? fmt::format("{}[{},{},{},{}]", dtype, s.batch, heads, length, s.dim)
                       : fmt::format("{}[{},{},{},{}]", dtype, s.batch, length, heads, s.dim);
  };
  const std::string layout = heads_first ? "BHSD" : "BSHD";
  test::CudaCase c;
  c.text = fmt::format(
      "graph main(%q: {0}, %k: {1}, %v: {1}) {{ %y = attention(%q, %k, %v) {{{2}, q_layout=\"{3}\", kv_layout=\"{3}\"}} return %y }}",
      type(s.heads, s.q), type(s.kv_heads, s.k), attrs, layout);
  c.rtol = c.atol = dtype == "f16" ? 2e-3 : 1e-2;  // weights are rounded before they meet the values
  c.kernel = "cuda.attention_wgmma";
  test::check_cuda_kernels(c);
}

void check_paged(std::vector<PagedCase::Sequence> sequences, int64_t heads, int64_t kv_heads, int64_t dim, int64_t block_size, DType dtype,
                 int64_t window = 0, double softcap = 0, int64_t padding = 0, DType cache = DType::F32) {
  PagedCase c;
  c.heads = heads, c.kv_heads = kv_heads, c.dim = dim, c.block_size = block_size, c.cache = cache == DType::F32 ? dtype : cache,
  c.window = window, c.softcap = softcap;
  c.sequences = std::move(sequences), c.padding = padding;
  check_step(c, dtype, {"sm_90"}, "cuda.paged_attention_wgmma");
}

TEST(CudaAttentionWgmma, DenseOneTile) {
  check_dense({1, 1, 64, 64, 128}, "bf16", "is_causal=0");
  check_dense({1, 1, 64, 64, 64}, "f16", "is_causal=0");
  if (few()) return;
  check_dense({1, 1, 128, 128, 128}, "bf16", "is_causal=0");
  check_dense({1, 1, 64, 64, 128}, "bf16", "is_causal=1");
}

TEST(CudaAttentionWgmma, DenseTwoTiles) {
  if (few()) return;
  check_dense({1, 1, 64, 256, 64}, "f16", "is_causal=0");
  check_dense({1, 1, 64, 256, 128}, "bf16", "is_causal=0");
  check_dense({1, 1, 128, 512, 128}, "bf16", "is_causal=1");
}

TEST(CudaAttentionWgmma, DenseLengths) {
  for (const std::string dtype : {"f16", "bf16"})
    for (int64_t dim : {64, 128})
      for (const auto& [q, k] : std::vector<std::pair<int64_t, int64_t>>{
               {63, 63}, {65, 65}, {127, 129}, {129, 127}, {200, 200}, {513, 513}, {1000, 1000}, {33, 700}, {700, 33}, {40, 1}}) {
        if (few()) continue;
        for (const char* attrs : {"is_causal=0", "is_causal=1"}) check_dense({2, 1, q, k, dim}, dtype, attrs);
      }
}

TEST(CudaAttentionWgmma, DenseHeadsLayoutsAndScores) {
  for (int64_t dim : {8, 40, 72, 96, 120}) {
    if (few() && dim != 72) continue;
    check_dense({4, 2, 150, 150, dim, 3}, "f16", "is_causal=1");
    check_dense({4, 4, 150, 150, dim, 3}, "f16", "is_causal=0", true);
  }
  check_dense({4, 2, 150, 290, 64, 2}, "f16", "is_causal=1, softcap=3.0", true);
  if (few()) return;
  check_dense({4, 1, 300, 300, 128, 2}, "bf16", "is_causal=0, scale=0.3");
  check_dense({2, 2, 300, 300, 128, 2}, "bf16", "is_causal=0, scale=-0.3");
}

TEST(CudaAttentionWgmma, PagedOneTile) {
  check_paged({{64, 64}}, 1, 1, 128, 16, DType::BF16);
  check_paged({{64, 64}}, 1, 1, 64, 16, DType::F16);
  if (few()) return;
  check_paged({{1, 1}, {63, 63}}, 1, 1, 128, 16, DType::BF16);
  check_paged({{128, 128}}, 1, 1, 128, 32, DType::BF16);
}

TEST(CudaAttentionWgmma, PagedLengths) {
  for (DType dtype : {DType::F16, DType::BF16})
    for (int64_t dim : {64, 128})
      for (int64_t length : {65, 127, 129, 200, 513, 1000})
        if (!few()) check_paged({{length, length}}, 2, 1, dim, length % 2 ? 16 : 64, dtype);
}

// Prefixes, sequences of every length together, rows that no sequence owns; ends within a block of the cache, which is NaN behind them.
TEST(CudaAttentionWgmma, PagedRagged) {
  const std::vector<PagedCase::Sequence> mixed = {{1000, 600}, {259, 259}, {1, 1}, {384, 128}, {0, 0}, {700, 1}, {300, 64}, {77, 63}};
  check_paged(mixed, 4, 2, 128, 48, DType::BF16, 0, 0, 5);
  if (few()) return;
  for (DType dtype : {DType::F16, DType::BF16})
    for (int64_t dim : {64, 80, 128})
      for (int64_t kv_heads : {1, 2, 4}) check_paged(mixed, 4, kv_heads, dim, kv_heads == 4 ? 128 : 16 * kv_heads, dtype, 0, 0, 3);
  check_paged(mixed, 14, 2, 64, 16, DType::F16);
}

TEST(CudaAttentionWgmma, PagedWindowsAndSoftcap) {
  const std::vector<PagedCase::Sequence> mixed = {{1000, 600}, {259, 259}, {1, 1}, {384, 128}};
  check_paged(mixed, 4, 2, 64, 16, DType::F16, 100, 5);
  if (few()) return;
  for (int64_t dim : {64, 128})
    for (const auto& [window, softcap] : std::vector<std::pair<int64_t, double>>{{9, 0}, {100, 0}, {128, 0}, {300, 5}, {0, 2}, {1, 0}})
      check_paged(mixed, 4, 2, dim, 32, DType::BF16, window, softcap);
}

// More tiles than multiprocessors, or than blocks: a block works on several.
TEST(CudaAttentionWgmma, SeveralTilesABlock) {
  if (few()) return;
  check_dense({64, 16, 300, 300, 64}, "f16", "is_causal=1");
  check_dense({96, 96, 200, 450, 128}, "bf16", "is_causal=1");
  check_paged({{300, 300}}, 64, 64, 64, 16, DType::BF16);
  check_paged(std::vector<PagedCase::Sequence>(20, {41, 40}), 2, 2, 128, 16, DType::F16);
  std::vector<PagedCase::Sequence> many(40, {30, 3});
  many.push_back({500, 400}), many.insert(many.begin() + 7, {0, 0});
  check_paged(many, 16, 16, 128, 32, DType::BF16, 0, 0, 2);
  check_paged(many, 16, 16, 128, 32, DType::BF16, 0, 0, 2, DType::F8E4M3FN);
}

TEST(CudaAttentionWgmma, PagedEightBitCache) {
  constexpr DType kCache = DType::F8E4M3FN;
  check_paged({{64, 64}}, 1, 1, 128, 16, DType::BF16, 0, 0, 0, kCache);
  if (few()) return;
  check_paged({{200, 200}}, 2, 1, 64, 32, DType::F16, 0, 0, 0, kCache);
  const std::vector<PagedCase::Sequence> mixed = {{1000, 600}, {259, 259}, {1, 1}, {384, 128}, {0, 0}, {700, 1}, {77, 63}};
  for (DType dtype : {DType::F16, DType::BF16})
    for (int64_t dim : {64, 128}) check_paged(mixed, 4, 2, dim, 16, dtype, dim == 64 ? 100 : 0, 0, 3, kCache);
}

}  // namespace
}  // namespace tokamak::testing
#endif
