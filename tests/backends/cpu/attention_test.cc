#include <chrono>
#include <cmath>
#include <cstdio>

#include "backends/cpu/cpu_backend.h"
#include "tests/backends/cpu/kernel_tester.h"

namespace tokamak::cpu {
namespace {

struct Case {
  int64_t batch = 1, heads = 2, kv_heads = 2, queries = 7, keys = 7, depth = 26, value_depth = 26;
  bool causal = false;
  float softcap = 0;
  int mask = 0;  // 0 none, 1 float [Sq, Skv], 2 bool [B, 1, 1, Skv], 3 bool [B, H, Sq, Skv] with a masked row, 4 float [1, H, Sq, Skv]
  const char *q_layout = "BHSD", *kv_layout = "BHSD", *out_layout = "BHSD";
};

Shape shape_of(const char* layout, int64_t b, int64_t h, int64_t s, int64_t d) {
  return layout[1] == 'H' ? Shape{b, h, s, d} : Shape{b, s, h, d};
}
int64_t index_of(const char* layout, const Shape& shape, int64_t b, int64_t h, int64_t s, int64_t d) {
  return layout[1] == 'H' ? ((b * shape[1] + h) * shape[2] + s) * shape[3] + d : ((b * shape[1] + s) * shape[2] + h) * shape[3] + d;
}

void check(const char* isa, const Case& c, int threads) {
  const Tensor q = random_tensor(shape_of(c.q_layout, c.batch, c.heads, c.queries, c.depth), 1);
  const Tensor k = random_tensor(shape_of(c.kv_layout, c.batch, c.kv_heads, c.keys, c.depth), 2);
  const Tensor v = random_tensor(shape_of(c.kv_layout, c.batch, c.kv_heads, c.keys, c.value_depth), 3);
  std::vector<Tensor> inputs{q, k, v};
  Shape mask_shape;
  if (c.mask == 1) mask_shape = {c.queries, c.keys};
  if (c.mask == 2) mask_shape = {c.batch, 1, 1, c.keys};
  if (c.mask == 3) mask_shape = {c.batch, c.heads, c.queries, c.keys};
  if (c.mask == 4) mask_shape = {1, c.heads, c.queries, c.keys};
  if (c.mask == 1 || c.mask == 4) inputs.push_back(random_tensor(mask_shape, 4));
  if (c.mask == 2 || c.mask == 3) {
    Tensor mask = Tensor::empty(DType::Bool, mask_shape);
    const Tensor random = random_tensor(mask_shape, 5);
    for (int64_t i = 0; i < mask.count(); ++i) mask.data<uint8_t>()[i] = random.data<float>()[i] > -1;
    if (c.mask == 3) std::memset(mask.data<uint8_t>(), 0, c.keys);  // the first query of the first head sees nothing
    inputs.push_back(mask);
  }
  const Shape out_shape = shape_of(c.out_layout, c.batch, c.heads, c.queries, c.value_depth);
  const double scale = 0.3;
  KernelTester tester(*find_kernel(std::string(isa) + ".attention"),
                      {{"scale", scale},
                       {"is_causal", int64_t{c.causal}},
                       {"softcap", double(c.softcap)},
                       {"q_layout", std::string(c.q_layout)},
                       {"kv_layout", std::string(c.kv_layout)},
                       {"out_layout", std::string(c.out_layout)}},
                      inputs, {{DType::F32, out_shape}}, threads);
  if (!tester.supported()) GTEST_SKIP() << tester.reason();
  const Tensor out = tester.run()[0];
  std::vector<double> p(c.keys);
  for (int64_t b = 0; b < c.batch; ++b)
    for (int64_t h = 0; h < c.heads; ++h)
      for (int64_t i = 0; i < c.queries; ++i) {
        const int64_t kh = h / (c.heads / c.kv_heads);
        double top = -INFINITY, total = 0;
        for (int64_t j = 0; j < c.keys; ++j) {
          double s = 0;
          for (int64_t d = 0; d < c.depth; ++d)
            s += double(q.data<float>()[index_of(c.q_layout, q.shape(), b, h, i, d)]) *
                 k.data<float>()[index_of(c.kv_layout, k.shape(), b, kh, j, d)];
          s *= scale;
          if (c.softcap > 0) s = c.softcap * std::tanh(s / c.softcap);
          if (c.mask == 1) s += inputs[3].data<float>()[i * c.keys + j];
          if (c.mask == 4) s += inputs[3].data<float>()[(h * c.queries + i) * c.keys + j];
          if (c.mask == 2 && !inputs[3].data<uint8_t>()[b * c.keys + j]) s = -INFINITY;
          if (c.mask == 3 && !inputs[3].data<uint8_t>()[((b * c.heads + h) * c.queries + i) * c.keys + j]) s = -INFINITY;
          if (c.causal && j > i + c.keys - c.queries) s = -INFINITY;
          p[j] = s, top = std::max(top, s);
        }
        for (double& x : p) total += x = top == -INFINITY ? 0 : std::exp(x - top);
        for (int64_t d = 0; d < c.value_depth; ++d) {
          double expected = 0;
          for (int64_t j = 0; j < c.keys; ++j) expected += p[j] * v.data<float>()[index_of(c.kv_layout, v.shape(), b, kh, j, d)];
          if (total > 0) expected /= total;
          ASSERT_NEAR(out.data<float>()[index_of(c.out_layout, out.shape(), b, h, i, d)], expected, 2e-5)
              << isa << " b" << b << " h" << h << " i" << i << " d" << d << " Sq" << c.queries << " Skv" << c.keys << " D" << c.depth
              << " mask " << c.mask;
        }
      }
}

TEST(AttentionKernel, SequenceLengthsAndDepths) {
  for (const char* isa : {"avx512", "avx2"})
    for (int threads : {1, 2})
      for (int64_t s : {1, 2, 5, 7, 16, 17, 33, 128, 197})
        for (int64_t d : {26, 64, 3}) {
          Case c;
          c.queries = c.keys = s, c.depth = d, c.value_depth = d == 3 ? 11 : d;
          check(isa, c, threads);
        }
}

TEST(AttentionKernel, MasksCausalSoftcapGroups) {
  for (const char* isa : {"avx512", "avx2"})
    for (int mask = 0; mask <= 4; ++mask)
      for (bool causal : {false, true})
        for (int64_t queries : {1, 20, 45, 110})
          for (int64_t keys : {45, 110}) {
            Case c;
            c.batch = 2, c.heads = 4, c.kv_heads = mask % 2 ? 1 : 2, c.queries = queries, c.keys = keys, c.mask = mask, c.causal = causal;
            c.softcap = mask == 1 ? 5 : 0;
            check(isa, c, 2);
          }
}

TEST(AttentionKernel, Layouts) {
  for (const char* isa : {"avx512", "avx2"})
    for (const char* q : {"BHSD", "BSHD"})
      for (const char* kv : {"BHSD", "BSHD"})
        for (const char* out : {"BHSD", "BSHD"})
          for (int64_t queries : {1, 40}) {
            Case c;
            c.batch = 2, c.queries = queries, c.keys = 40, c.heads = 6, c.kv_heads = 3, c.q_layout = q, c.kv_layout = kv,
            c.out_layout = out;
            check(isa, c, 1);
          }
}

TEST(AttentionKernel, LongRow) {
  Case c;
  c.queries = 70, c.keys = 1500, c.heads = c.kv_heads = 1, c.depth = c.value_depth = 64;
  for (const char* isa : {"avx512", "avx2"}) check(isa, c, 2);
}

// q, k and v as heads of one packed tensor, against the same heads copied out of it.
TEST(AttentionKernel, ReadsPackedProjections) {
  const int64_t batch = 2, length = 37, heads = 4, kv_heads = 2, depth = 24, all = 9;
  const Tensor x = random_tensor({batch, length, all, depth}, 7);
  const auto copied = [&](int64_t first, int64_t count) {
    Tensor t = Tensor::empty(DType::F32, {batch, length, count, depth});
    for (int64_t row = 0; row < batch * length; ++row)
      std::memcpy(t.data<float>() + row * count * depth, x.data<float>() + (row * all + first) * depth, sizeof(float) * count * depth);
    return t;
  };
  ir::Attrs attrs{{"q_layout", std::string("BSHD")}, {"kv_layout", std::string("BSHD")}, {"scale", 0.3}};
  ir::Attrs packed = attrs;
  packed.set("q_heads", heads), packed.set("kv_heads", kv_heads);
  packed.set("q_first", int64_t{1}), packed.set("k_first", int64_t{5}), packed.set("v_first", int64_t{7});
  const Shape out{batch, length, heads, depth};
  for (const char* name : {"avx512.attention", "avx2.attention", "ref.attention"}) {
    KernelTester whole(*find_kernel(name), packed, {x, x, x}, {{DType::F32, out}}, 2);
    KernelTester parts(*find_kernel(name), attrs, {copied(1, heads), copied(5, kv_heads), copied(7, kv_heads)}, {{DType::F32, out}}, 2);
    if (!whole.supported()) continue;
    const Tensor a = whole.run()[0], b = parts.run()[0];
    for (int64_t i = 0; i < a.count(); ++i) ASSERT_EQ(a.data<float>()[i], b.data<float>()[i]) << name << " at " << i;
  }
}

}  // namespace
}  // namespace tokamak::cpu
