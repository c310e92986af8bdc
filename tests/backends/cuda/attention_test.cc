#ifdef TOKAMAK_CUDA
#include <gtest/gtest.h>

#include "backends/cuda/device.h"
#include "tests/backends/cuda/check_kernels.h"

namespace tokamak::test {
namespace {

// batch, heads, kv heads, queries, keys, head size, value size.
struct Sizes {
  int64_t batch, heads, kv_heads, q, k, dim, value_dim;
};

std::string shape_of(bool heads_first, int64_t batch, int64_t heads, int64_t length, int64_t dim) {
  return heads_first ? fmt::format("[{},{},{},{}]", batch, heads, length, dim) : fmt::format("[{},{},{},{}]", batch, length, heads, dim);
}

CudaCase attention_case(const Sizes& s, const std::string& dtype, const std::string& attrs, const std::string& mask = "",
                        bool heads_first = true) {
  const std::string layouts = heads_first ? "" : ", q_layout=\"BSHD\", kv_layout=\"BSHD\"";
  CudaCase c;
  c.text = fmt::format("graph main(%q: {0}{1}, %k: {0}{2}, %v: {0}{3}{4}) {{ %y = attention(%q, %k, %v{5}) {{{6}{7}}} return %y }}", dtype,
                       shape_of(heads_first, s.batch, s.heads, s.q, s.dim), shape_of(heads_first, s.batch, s.kv_heads, s.k, s.dim),
                       shape_of(heads_first, s.batch, s.kv_heads, s.k, s.value_dim), mask.empty() ? "" : ", %mask: " + mask,
                       mask.empty() ? "" : ", %mask", attrs, layouts);
  if (dtype == "f16") c.rtol = 2e-3, c.atol = 2e-3;  // weights are rounded to f16 before they meet the values
  if (dtype == "bf16") c.rtol = 1e-2, c.atol = 1e-2;
  return c;
}

const Sizes kSmall{2, 4, 4, 20, 20, 64, 64};

// Without a GPU cases are only compiled: a few of each kind then.
bool few() { return !wants_all(); }

TEST(CudaAttention, SizesAndDtypes) {
  std::vector<Sizes> sizes = {{1, 12, 12, 128, 128, 64, 64}, {1, 4, 1, 33, 70, 80, 40}, {1, 2, 2, 65, 65, 256, 256}};
  if (!few())
    for (const Sizes& more : std::vector<Sizes>{{2, 3, 3, 197, 197, 64, 64},
                                                {1, 8, 2, 100, 300, 128, 128},
                                                {1, 2, 2, 1, 500, 128, 128},
                                                {1, 2, 2, 17, 64, 96, 96},
                                                {3, 2, 2, 5, 3, 8, 8},
                                                {1, 2, 1, 77, 77, 40, 40},
                                                {1, 3, 3, 9, 9, 36, 7},
                                                {1, 1, 1, 70, 70, 512, 512},
                                                {9, 16, 16, 128, 128, 64, 64}})
      sizes.push_back(more);
  for (const Sizes& s : sizes)
    for (const char* dtype : {"f32", "f16", "bf16"}) check_cuda_kernels(attention_case(s, dtype, "is_causal=0"));
}

TEST(CudaAttention, CausalSoftcapScaleAndLayouts) {
  for (const std::string dtype : {"f16", "f32", "bf16"})
    for (const char* attrs : {"is_causal=1", "is_causal=1, softcap=3.0", "scale=0.3, is_causal=0"})
      for (const Sizes& s : {Sizes{1, 4, 2, 150, 150, 64, 64}, Sizes{2, 2, 2, 20, 90, 64, 64}, Sizes{1, 2, 2, 90, 20, 64, 64}}) {
        if (few() && (dtype != "f16" || s.k != 150)) continue;
        check_cuda_kernels(attention_case(s, dtype, attrs));
        check_cuda_kernels(attention_case(s, dtype, attrs, "", false));
      }
}

// q, k and v as heads of one packed tensor, and k and v of another with fewer heads.
TEST(CudaAttention, PackedProjections) {
  for (const char* dtype : {"f16", "bf16", "f32"})
    for (const auto& [batch, length, heads, dim] :
         std::vector<std::array<int, 4>>{{2, 197, 12, 64}, {1, 128, 12, 64}, {3, 33, 2, 40}, {1, 7, 3, 128}}) {
      if (few() && (length == 33 || length == 7)) continue;
      CudaCase c;
      c.text = fmt::format(
          "graph main(%x: {0}[{1},{2},{4},{5}]) {{ %y = attention(%x, %x, %x) {{q_layout=\"BSHD\", kv_layout=\"BSHD\", q_heads={3}, "
          "kv_heads={3}, q_first=0, k_first={3}, v_first={6}}} return %y }}",
          dtype, batch, length, heads, 3 * heads, dim, 2 * heads);
      c.rtol = c.atol = std::string(dtype) == "f16" ? 2e-3 : std::string(dtype) == "bf16" ? 1e-2 : 1e-4;
      check_cuda_kernels(c);
    }
  CudaCase c;
  c.text =
      "graph main(%q: f16[2,20,8,64], %x: f16[2,70,5,64]) { %y = attention(%q, %x, %x) {q_layout=\"BSHD\", kv_layout=\"BSHD\", "
      "out_layout=\"BHSD\", q_heads=4, kv_heads=2, q_first=3, k_first=1, v_first=3, is_causal=1} return %y }";
  c.rtol = c.atol = 2e-3;
  check_cuda_kernels(c);
  // One query of each image.
  c.text =
      "graph main(%q: f16[2,1,9,64], %x: f16[2,197,9,64]) { %y = attention(%q, %x, %x) {q_layout=\"BSHD\", kv_layout=\"BSHD\", "
      "q_heads=3, kv_heads=3, q_first=0, k_first=3, v_first=6} return %y }";
  check_cuda_kernels(c);
}

TEST(CudaAttention, Masks) {
  for (const char* dtype : {"f32", "f16", "bf16"})
    for (const char* mask : {"bool[2,1,20,20]", "bool[20]", "f32[2,4,20,20]", "f32[1,1,1,20]"})
      if (!few() || std::string(dtype) == "f16") check_cuda_kernels(attention_case(kSmall, dtype, "is_causal=0", mask));
  check_cuda_kernels(attention_case({2, 4, 4, 130, 130, 64, 64}, "f16", "is_causal=1", "f16[2,1,1,130]"));
  check_cuda_kernels(attention_case({2, 4, 4, 130, 130, 64, 64}, "bf16", "is_causal=0", "bool[2,1,1,130]"));
}

// What padding looks like: the lowest float, and whole rows of it.
TEST(CudaAttention, LowestFloatAsMask) {
  Tensor mask = Tensor::zeros(DType::F32, {2, 1, 20, 20});
  for (int64_t i = 0; i < mask.count(); ++i)
    if (i % 20 >= 13 || i / 20 % 20 == 5) mask.data<float>()[i] = std::numeric_limits<float>::lowest();
  for (const char* dtype : {"f32", "f16", "bf16"}) {
    CudaCase c = attention_case(kSmall, dtype, "is_causal=0", "f32[2,1,20,20]");
    c.inputs.resize(4);
    c.inputs[3] = mask;
    check_cuda_kernels(c);
  }
}

TEST(CudaAttention, CompilesForEveryArchitecture) {
  for (const char* dtype : {"f32", "f16", "bf16"})
    check_cuda_kernels(attention_case({1, 4, 4, 256, 256, 128, 128}, dtype, "is_causal=1"),
                       {"sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"});
}

TEST(CudaRope, LayoutsAndTables) {
  for (const char* dtype : {"f32", "f16", "bf16"})
    for (const char* interleaved : {"0", "1"})
      for (const auto& [x, table, layout] : std::vector<std::array<const char*, 3>>{{"[2,3,5,16]", "[5,8]", "BHSD"},
                                                                                    {"[2,5,3,16]", "[5,6]", "BSHD"},
                                                                                    {"[2,3,5,16]", "[2,5,8]", "BHSD"},
                                                                                    {"[2,5,3,16]", "[2,5,1,8]", "BSHD"},
                                                                                    {"[2,3,5,16]", "[1,1,5,4]", "BHSD"}})
        check_cuda_kernels(
            {fmt::format("graph main(%x: {0}{1}, %cos: {0}{2}, %sin: {0}{2}) {{ %y = rope(%x, %cos, %sin) {{interleaved={3}, "
                         "layout=\"{4}\"}} return %y }}",
                         dtype, x, table, interleaved, layout)});
}

}  // namespace
}  // namespace tokamak::test
#endif
