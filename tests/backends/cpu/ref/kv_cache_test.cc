// The meaning of kv_cache_write and paged_attention, against attention written out over dense histories.

#include "backends/cpu/kernels/kv_cache.h"

#include <set>

#include "ir/text.h"
#include "passes/pipeline.h"
#include "runtime/execution_context.h"
#include "tests/backends/cpu/paged_batch.h"

namespace tokamak::testing {
namespace {

void check(const PagedCase& c) {
  const PagedBatch batch(c);
  const Tensor cache = batch.filled_cache(false);
  const Tensor q = run_ref("kv_cache_write", batch.write_inputs(cache), c.write_attrs())[0];
  const Tensor y = run_ref("paged_attention", batch.attention_inputs(q, cache), c.attention_attrs())[0];
  ASSERT_EQ(y.shape(), (Shape{batch.tokens, c.heads * c.dim}));
  const float* row = y.data<float>();
  for (size_t s = 0; s < c.sequences.size(); ++s)
    for (int64_t p = c.sequences[s].length - c.sequences[s].count; p < c.sequences[s].length; ++p)
      for (int64_t h = 0; h < c.heads; ++h, row += c.dim) {
        const int64_t kv = h / (c.heads / c.kv_heads);
        const std::vector<double> query = batch.head(s, p, h);
        double total = 0;
        std::vector<double> expected(c.dim);
        for (int64_t j = c.window > 0 ? std::max<int64_t>(0, p - c.window + 1) : 0; j <= p; ++j) {
          const auto key = batch.head(s, j, c.heads + kv), value = batch.head(s, j, c.heads + c.kv_heads + kv);
          double score = std::inner_product(query.begin(), query.end(), key.begin(), 0.0) * c.scale;
          if (c.softcap > 0) score = c.softcap * std::tanh(score / c.softcap);
          const double weight = std::exp(score);
          total += weight;
          for (int64_t d = 0; d < c.dim; ++d) expected[d] += weight * value[d];
        }
        for (int64_t d = 0; d < c.dim; ++d)
          ASSERT_NEAR(row[d], expected[d] / total, c.cache == DType::BF16 ? 2e-3 : 1e-4)
              << "sequence " << s << " position " << p << " head " << h;
      }
  for (; row < y.data<float>() + y.count(); ++row) ASSERT_EQ(*row, 0);  // padding
}

TEST(RefKvCache, PrefillDecodeAndPadding) {
  for (DType dtype : {DType::F32, DType::BF16})
    for (int64_t block_size : {16, 32}) {
      PagedCase c;
      c.cache = dtype, c.block_size = block_size, c.dim = 10, c.sequences = {{5, 5}, {40, 1}, {33, 3}, {17, 17}}, c.padding = 2;
      check(c);
      c.heads = 3, c.kv_heads = 3, c.softcap = 2, c.window = 9;
      check(c);
    }
}

TEST(RefKvCache, NormsAndRope) {
  for (bool interleaved : {false, true})
    for (int64_t half : {8, 5}) {
      PagedCase c;
      c.dim = 16, c.half = half, c.interleaved = interleaved, c.norms = half == 5, c.sequences = {{20, 4}, {3, 3}};
      check(c);
    }
}

// Every element of every plane has its own place.
TEST(RefKvCache, LayoutIsAPermutation) {
  for (bool is_bf16 : {false, true}) {
    const cpu::KvCacheLayout layout{.num_blocks = 2, .kv_heads = 3, .block_size = 48, .head_dim = 10, .is_bf16 = is_bf16};
    std::set<int64_t> seen;
    for (int64_t block = 0; block < 2; ++block)
      for (int64_t head = 0; head < 3; ++head)
        for (int64_t j = 0; j < 48; ++j)
          for (int64_t d = 0; d < 10; ++d) {
            seen.insert(layout.plane(block, 0, head) + layout.key(j, d));
            seen.insert(layout.plane(block, 1, head) + layout.value(j, d));
          }
    EXPECT_EQ(seen.size(), 2u * 2 * 3 * 48 * 10);
    EXPECT_EQ(*seen.begin(), 0);
    EXPECT_EQ(*seen.rbegin(), 2 * 2 * 3 * 48 * 10 - 1);
  }
}

constexpr const char* kStep =
    "graph step(%qkv: f32[tokens,32], %cache: f32[num_blocks,2,1,16,8], %slots: i32[tokens]) {\n"
    "  %unused = kv_cache_write(%qkv, %cache, %slots) {num_heads=2, num_kv_heads=1, head_dim=8}\n"
    "  %q = kv_cache_write(%qkv, %cache, %slots) {num_heads=2, num_kv_heads=1, head_dim=8}\n"
    "  return %q\n}";

TEST(KvCacheWrite, IsNeitherRemovedNorMerged) {
  const auto graph = ir::parse(kStep);
  BuildReport report;
  passes::run_pipeline(*graph, {}, report);
  EXPECT_EQ(graph->num_nodes(), 2);
}

TEST(KvCacheWrite, WritesTheCallersTensor) {
  ExecutionContext context(std::make_shared<const Engine>(ir::parse(kStep), EngineInfo()));
  const Tensor cache = Tensor::zeros(DType::F32, {3, 2, 1, 16, 8});
  Tensor qkv = Tensor::zeros(DType::F32, {2, 32});
  for (int64_t i = 0; i < 64; ++i) qkv.data<float>()[i] = static_cast<float>(i);
  context.set_input("qkv", qkv);
  context.set_input("cache", cache);
  context.set_input("slots", i32({2}, {40, -1}));
  context.run();
  const cpu::KvCacheLayout layout = cpu::KvCacheLayout::of(cache.shape(), DType::F32);
  for (int64_t d = 0; d < 8; ++d) {
    EXPECT_EQ(cache.data<float>()[layout.plane(2, 0, 0) + layout.key(8, d)], static_cast<float>(16 + d));
    EXPECT_EQ(cache.data<float>()[layout.plane(2, 1, 0) + layout.value(8, d)], static_cast<float>(24 + d));
  }
  EXPECT_EQ(std::count(cache.data<float>(), cache.data<float>() + cache.count(), 0.0f), cache.count() - 16);
}

// A file may say anything; what it writes must be the caller's.
TEST(KvCacheWrite, OnlyIntoAnInputOfTheMainGraph) {
  const char* const attrs = "{num_heads=2, num_kv_heads=1, head_dim=8}";
  const std::string inputs = "graph g(%qkv: f32[2,32], %cache: f32[3,2,1,16,8], %slots: i32[2], %c: bool[])";
  for (const std::string& body :
       {fmt::format("%a = abs(%cache)\n %q = kv_cache_write(%qkv, %a, %slots) {}", attrs),
        fmt::format("%a = reshape(%cache) {{shape=<3,2,1,16,8>}}\n %q = kv_cache_write(%qkv, %a, %slots) {}", attrs),
        fmt::format("%z = const f32[1,2,1,16,1] zeros\n %q = kv_cache_write(%qkv, %z, %slots) {}", attrs),
        fmt::format("%q = kv_cache_write(%qkv, _, %slots) {}", attrs)}) {
    EXPECT_THROW(
        {
          const auto graph = ir::parse(inputs + " {\n " + body + "\n return %q\n}", {.infer = false});
          ir::verify(*graph);
        },
        Error)
        << body;
  }
}

// Nonsense in the integers: nothing crashes, nothing outside is touched, sensible rows stay right.
TEST(RefKvCache, NonsenseIsSkipped) {
  PagedCase c;
  c.dim = 8, c.sequences = {{20, 2}, {5, 5}};
  const PagedBatch batch(c);
  Tensor cache = batch.filled_cache(true);
  const Tensor before = cache.clone();
  std::vector<Tensor> in = batch.write_inputs(cache);
  in[2] = i32({batch.tokens}, {-1, -2147483647, 2147483647, static_cast<int32_t>(batch.num_blocks * c.block_size), -7, -1, -1});
  run_ref("kv_cache_write", in, c.write_attrs());
  EXPECT_TRUE(same_bytes(before, cache));

  const Tensor q = run_ref("kv_cache_write", batch.write_inputs(cache), c.write_attrs())[0];
  for (const auto& [lens, starts] : std::vector<std::pair<std::vector<int32_t>, std::vector<int32_t>>>{
           {{20, 5}, {5, 2, 100}}, {{-3, 2147483647}, {0, 2, 7}}, {{1, 0}, {-5, 3, 2}}, {{20, 5}, {2147483647, -2147483647, 7}}}) {
    const Tensor y = run_ref("paged_attention", {q, cache, batch.block_tables, i32({2}, lens), i32({3}, starts)}, c.attention_attrs())[0];
    EXPECT_EQ(y.count(), q.count());
  }
}

}  // namespace
}  // namespace tokamak::testing
