#include "backends/cpu/cpu_backend.h"
#include "tests/backends/cpu/kernel_tester.h"

namespace tokamak::cpu {
namespace {

TEST(RopeKernel, LayoutsTablesAndPartialRotation) {
  const int64_t B = 2, H = 3, S = 5, D = 14, half = 6;
  for (bool bshd : {false, true})
    for (bool interleaved : {false, true})
      for (const Shape& table :
           {Shape{S, half}, Shape{B, S, half}, Shape{1, 1, S, half}, bshd ? Shape{B, S, 1, half} : Shape{B, 1, S, half}}) {
        const Shape shape = bshd ? Shape{B, S, H, D} : Shape{B, H, S, D};
        const Tensor x = random_tensor(shape, 1), cos = random_tensor(table, 2), sin = random_tensor(table, 3);
        const bool per_batch = table[0] == B && table.size() > 2;
        KernelTester tester(*find_kernel("cpu.rope"),
                            {{"layout", std::string(bshd ? "BSHD" : "BHSD")}, {"interleaved", int64_t{interleaved}}}, {x, cos, sin},
                            {{DType::F32, shape}}, 2);
        ASSERT_TRUE(tester.supported()) << tester.reason();
        const Tensor y = tester.run()[0];
        for (int64_t b = 0; b < B; ++b)
          for (int64_t h = 0; h < H; ++h)
            for (int64_t s = 0; s < S; ++s) {
              const int64_t row = (bshd ? (b * S + s) * H + h : (b * H + h) * S + s) * D, at = ((per_batch ? b * S : 0) + s) * half;
              const float *in = x.data<float>() + row, *out = y.data<float>() + row;
              for (int64_t i = 0; i < half; ++i) {
                const int64_t p = interleaved ? 2 * i : i, q = interleaved ? 2 * i + 1 : i + half;
                const float c = cos.data<float>()[at + i], n = sin.data<float>()[at + i];
                ASSERT_NEAR(out[p], in[p] * c - in[q] * n, 1e-6);
                ASSERT_NEAR(out[q], in[p] * n + in[q] * c, 1e-6);
              }
              for (int64_t i = 2 * half; i < D; ++i) ASSERT_EQ(out[i], in[i]);
            }
      }
}

}  // namespace
}  // namespace tokamak::cpu
