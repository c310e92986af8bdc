// The fast paged attention kernels against the reference.

#include "backends/cpu/kernels/paged_attention.h"

#include "tests/backends/cpu/kernel_tester.h"
#include "tests/backends/cpu/paged_batch.h"

namespace tokamak::cpu {
namespace {

using tokamak::testing::i32;
using tokamak::testing::PagedBatch;
using tokamak::testing::PagedCase;
using tokamak::testing::run_ref;

constexpr const char* kKernels[] = {"amx", "avx512_bf16", "avx512", "avx2"};

struct Prepared {
  PagedBatch batch;
  Tensor cache, q, expected;
  explicit Prepared(const PagedCase& c) : batch(c) {
    cache = batch.filled_cache(false);
    q = run_ref("kv_cache_write", batch.write_inputs(cache), c.write_attrs())[0];
    for (float *x = q.data<float>(), *const end = x + q.count(); x < end; ++x)
      if (std::isnan(*x)) *x = 1;  // the padding's
    expected = run_ref("paged_attention", batch.attention_inputs(q, cache), c.attention_attrs())[0];
  }
};

// The output, or an undefined tensor where the kernel declines.
Tensor run(const Prepared& p, const std::string& isa, int threads) {
  KernelTester tester(*find_kernel(isa + ".paged_attention"), p.batch.c.attention_attrs(), p.batch.attention_inputs(p.q, p.cache),
                      {{DType::F32, p.expected.shape()}}, threads);
  return tester.supported() ? tester.run()[0].clone() : Tensor();
}

// Weights and queries rounded to bf16 err by 2^-9 of a value; the rest is float32 arithmetic.
bool rounds(const std::string& isa) { return isa == "amx" || isa == "avx512_bf16"; }

void check(const PagedCase& c) {
  const Prepared p(c);
  for (const std::string isa : kKernels)
    for (int threads : {1, 2, 3}) {
      const Tensor y = run(p, isa, threads);
      if (!y.defined()) continue;
      const double tolerance = rounds(isa) ? 3e-2 : 2e-5;
      for (int64_t i = 0; i < y.count(); ++i)
        ASSERT_NEAR(y.data<float>()[i], p.expected.data<float>()[i], tolerance)
            << isa << " threads " << threads << " row " << i / (c.heads * c.dim) << " head " << i / c.dim % c.heads << " d " << i % c.dim
            << " dim " << c.dim << " block size " << c.block_size << " heads " << c.heads << "/" << c.kv_heads << " " << to_string(c.cache)
            << " window " << c.window;
    }
}

void check_both(PagedCase c) {
  for (DType dtype : {DType::F32, DType::BF16}) {
    c.cache = dtype;
    check(c);
  }
}

TEST(PagedAttention, HeadSizesAndBlockSizes) {
  for (int64_t dim : {2, 10, 32, 64, 80, 96, 128, 256})
    for (int64_t block_size : {16, 32, 48}) {
      if (dim > 128 && block_size == 48) continue;
      PagedCase c;
      c.heads = 2, c.kv_heads = dim % 32 == 0 ? 1 : 2;
      c.dim = dim, c.block_size = block_size, c.scale = 1 / std::sqrt(double(dim));
      c.sequences = {{1, 1}, {300, 1}, {37, 37}, {256, 1}, {257, 5}}, c.padding = 3;
      check_both(c);
    }
}

TEST(PagedAttention, Groups) {
  for (const auto& [heads, kv_heads] : {std::pair{1, 1}, {3, 3}, {4, 2}, {4, 1}, {7, 1}, {14, 2}, {8, 1}, {32, 4}, {13, 1}, {40, 1}}) {
    PagedCase c;
    c.heads = heads, c.kv_heads = kv_heads, c.dim = 32, c.sequences = {{50, 1}, {30, 9}, {600, 2}};
    check_both(c);
  }
}

TEST(PagedAttention, WindowAndSoftcap) {
  for (int64_t window : {0, 1, 16, 100, 257})
    for (double softcap : {0.0, 3.0}) {
      PagedCase c;
      c.window = window, c.softcap = softcap, c.dim = 64, c.sequences = {{700, 1}, {40, 40}, {530, 70}, {3, 1}};
      check_both(c);
    }
}

TEST(PagedAttention, RandomBatches) {
  std::mt19937 random(3);
  const auto pick = [&](std::initializer_list<int64_t> from) { return *(from.begin() + random() % from.size()); };
  for (unsigned i = 0; i < 40; ++i) {
    PagedCase c;
    c.seed = i + 1, c.kv_heads = pick({1, 2, 3}), c.heads = c.kv_heads * pick({1, 2, 4, 7, 8});
    c.dim = pick({32, 64, 80, 96, 128}), c.block_size = pick({16, 32, 64}), c.padding = pick({0, 0, 5});
    c.window = pick({0, 0, 33, 300}), c.softcap = static_cast<double>(pick({0, 0, 20})), c.scale = 1 / std::sqrt(double(c.dim));
    c.sequences.clear();
    for (int64_t n = pick({1, 2, 9}); n > 0; --n) {
      const int64_t length = 1 + static_cast<int64_t>(random() % pick({5, 100, 600}));
      c.sequences.push_back({length, random() % 2 ? 1 : 1 + static_cast<int64_t>(random() % std::min<int64_t>(length, 90))});
    }
    check_both(c);
  }
}

// The same tokens alone, in company, as one prompt or in pieces, on one thread or several: the same bits.
TEST(PagedAttention, RowsDependOnTheirSequenceAlone) {
  for (DType dtype : {DType::F32, DType::BF16})
    for (int64_t window : {0, 300}) {
      PagedCase c;
      c.cache = dtype, c.window = window, c.heads = 8, c.kv_heads = 2, c.sequences = {{700, 700}};
      const Prepared whole(c);
      for (const std::string isa : kKernels) {
        const Tensor expected = run(whole, isa, 1);
        if (!expected.defined()) continue;
        const int64_t row = c.heads * c.dim;
        for (int threads : {1, 2})
          for (const auto& [length, count] : {std::pair<int64_t, int64_t>{700, 1}, {600, 3}, {257, 1}, {513, 64}, {700, 650}}) {
            Tensor q = Tensor::empty(DType::F32, {count, row});
            std::memcpy(q.raw(), whole.q.data<float>() + (length - count) * row, q.size_bytes());
            KernelTester tester(*find_kernel(isa + ".paged_attention"), c.attention_attrs(),
                                {q, whole.cache, whole.batch.block_tables, i32({1}, {int32_t(length)}), i32({2}, {0, int32_t(count)})},
                                {{DType::F32, q.shape()}}, threads);
            const Tensor y = tester.run()[0];
            for (int64_t i = 0; i < y.count(); ++i)
              ASSERT_EQ(y.data<float>()[i], expected.data<float>()[(length - count) * row + i])
                  << isa << " threads " << threads << " length " << length << " count " << count << " at " << i;
          }
      }
    }
}

// One plan, many lengths: what the integers say changes from run to run.
TEST(PagedAttention, LengthsChangeUnderOneKernel) {
  PagedCase c;
  c.sequences = {{600, 2}, {600, 2}};
  const Prepared p(c);
  for (const std::string isa : kKernels) {
    Tensor lens = i32({2}, {0, 0}), starts = i32({3}, {0, 0, 0});
    KernelTester tester(*find_kernel(isa + ".paged_attention"), c.attention_attrs(), {p.q, p.cache, p.batch.block_tables, lens, starts},
                        {{DType::F32, p.q.shape()}}, 2);
    if (!tester.supported()) continue;
    for (int32_t length : {600, 3, 256, 40, 599}) {
      lens.data<int32_t>()[0] = length, lens.data<int32_t>()[1] = 2;
      starts.data<int32_t>()[1] = 2, starts.data<int32_t>()[2] = length % 2 == 0 ? 4 : 3;
      const Tensor y = tester.run()[0];
      const Tensor expected = run_ref("paged_attention", {p.q, p.cache, p.batch.block_tables, lens, starts}, c.attention_attrs())[0];
      for (int64_t i = 0; i < y.count(); ++i) ASSERT_NEAR(y.data<float>()[i], expected.data<float>()[i], 2e-5) << isa << " " << length;
    }
  }
}

TEST(PagedAttention, NonsenseIsSkippedAsTheReferenceDoes) {
  PagedCase c;
  c.dim = 32, c.sequences = {{80, 4}, {40, 40}};
  for (DType dtype : {DType::F32, DType::BF16}) {
    c.cache = dtype;
    const Prepared p(c);
    Tensor tables = p.batch.block_tables.clone();
    tables.data<int32_t>()[1] = -5;  // a hole
    tables.data<int32_t>()[p.batch.blocks_per_seq] = static_cast<int32_t>(p.batch.num_blocks);
    for (const auto& [lens, starts] : std::vector<std::pair<std::vector<int32_t>, std::vector<int32_t>>>{{{80, 40}, {0, 4, 44}},
                                                                                                         {{-3, 2}, {0, 4, 2147483647}},
                                                                                                         {{2, 0}, {-5, 4, 3}},
                                                                                                         {{80, 40}, {10, -2147483647, 12}},
                                                                                                         {{1, 40}, {3, 6, 44}}})
      for (const std::string isa : kKernels)
        for (int threads : {1, 2}) {
          const std::vector<Tensor> in{p.q, p.cache, tables, i32({2}, lens), i32({3}, starts)};
          const Tensor expected = run_ref("paged_attention", in, c.attention_attrs())[0];
          KernelTester tester(*find_kernel(isa + ".paged_attention"), c.attention_attrs(), in, {{DType::F32, p.q.shape()}}, threads);
          if (!tester.supported()) continue;
          const Tensor y = tester.run()[0];
          for (int64_t i = 0; i < y.count(); ++i)
            ASSERT_NEAR(y.data<float>()[i], expected.data<float>()[i], rounds(isa) ? 3e-2 : 2e-5)
                << isa << " at " << i << " lens " << lens[0];
        }
  }
}

}  // namespace
}  // namespace tokamak::cpu
