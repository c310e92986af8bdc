// GFLOP/s of the matmul kernels for a table of shapes, beside what the multiply-add units of this core can do.
//
//   tokamak_bench_kernels [kernel=avx512.matmul] [tactic=nr64] [threads=1]
//
// Each shape is run for 0.3 s and the fastest run counts, so that a busy machine disturbs little. Small M also shows the speed at which b
// is read.

#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <random>

#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/cpu_features.h"
#include "backends/cpu/thread_pool.h"
#include "ir/graph.h"

namespace tokamak {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

template <class F>
double fastest(double seconds, const F& f) {
  double best = 1e9;
  const double end = now() + seconds;
  do {
    const double begin = now();
    f();
    best = std::min(best, now() - begin);
  } while (now() < end);
  return best;
}

// Twelve independent chains of multiply-adds keep two units of latency 4 busy.
__attribute__((target("avx512f"))) void multiply_add_512(int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    __asm__ volatile(
        "vfmadd231ps %%zmm0,%%zmm1,%%zmm2\nvfmadd231ps %%zmm0,%%zmm1,%%zmm3\nvfmadd231ps %%zmm0,%%zmm1,%%zmm4\nvfmadd231ps "
        "%%zmm0,%%zmm1,%%zmm5\n"
        "vfmadd231ps %%zmm0,%%zmm1,%%zmm6\nvfmadd231ps %%zmm0,%%zmm1,%%zmm7\nvfmadd231ps %%zmm0,%%zmm1,%%zmm8\nvfmadd231ps "
        "%%zmm0,%%zmm1,%%zmm9\n"
        "vfmadd231ps %%zmm0,%%zmm1,%%zmm10\nvfmadd231ps %%zmm0,%%zmm1,%%zmm11\nvfmadd231ps %%zmm0,%%zmm1,%%zmm12\nvfmadd231ps "
        "%%zmm0,%%zmm1,%%zmm13\n" ::
            : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13");
}
__attribute__((target("avx2,fma"))) void multiply_add_256(int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    __asm__ volatile(
        "vfmadd231ps %%ymm0,%%ymm1,%%ymm2\nvfmadd231ps %%ymm0,%%ymm1,%%ymm3\nvfmadd231ps %%ymm0,%%ymm1,%%ymm4\nvfmadd231ps "
        "%%ymm0,%%ymm1,%%ymm5\n"
        "vfmadd231ps %%ymm0,%%ymm1,%%ymm6\nvfmadd231ps %%ymm0,%%ymm1,%%ymm7\nvfmadd231ps %%ymm0,%%ymm1,%%ymm8\nvfmadd231ps "
        "%%ymm0,%%ymm1,%%ymm9\n"
        "vfmadd231ps %%ymm0,%%ymm1,%%ymm10\nvfmadd231ps %%ymm0,%%ymm1,%%ymm11\nvfmadd231ps %%ymm0,%%ymm1,%%ymm12\nvfmadd231ps "
        "%%ymm0,%%ymm1,%%ymm13\n" ::
            : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13");
}

Tensor random_tensor(Shape shape) {
  static std::mt19937 rng(1);
  Tensor t = Tensor::empty(DType::F32, std::move(shape));
  for (int64_t i = 0; i < t.count(); ++i) t.data<float>()[i] = static_cast<float>(rng() % 2001) / 1000 - 1;
  return t;
}

int run(const std::string& kernel_name, const std::string& tactic, int threads) {
  const KernelDef* def = cpu::find_kernel(kernel_name);
  if (def == nullptr || def->op() != "matmul") {
    std::fprintf(stderr, "no matmul kernel \"%s\"\n", kernel_name.c_str());
    return 1;
  }
  const bool wide = kernel_name.starts_with("avx512") && cpu_features().avx512;
  constexpr int64_t kSteps = 2000;
  const double seconds = fastest(0.3, [&] { wide ? multiply_add_512(kSteps) : multiply_add_256(kSteps); });
  const double peak = kSteps * 12 * (wide ? 32 : 16) / seconds / 1e9 * threads;
  std::printf("%s, %s, tactic \"%s\", %d thread(s); peak %.0f GFLOP/s\n", cpu_model_name().c_str(), kernel_name.c_str(), tactic.c_str(),
              threads, peak);

  const int64_t shapes[][3] = {{128, 1200, 312}, {128, 312, 1200}, {3136, 256, 64}, {3136, 64, 256},  {196, 256, 1024},
                               {49, 512, 2048},  {512, 512, 512},  {128, 768, 768}, {128, 3072, 768}, {128, 768, 3072},
                               {1, 1000, 2048},  {1, 768, 3072},   {1, 4096, 4096}, {8, 4096, 4096}};
  std::printf("%6s %6s %6s %10s %9s %8s %8s\n", "M", "N", "K", "us", "GFLOP/s", "of peak", "b GB/s");
  for (const auto& [m, n, k] : shapes) {
    const Tensor a = random_tensor({m, k}), b = random_tensor({k, n});
    Tensor c = Tensor::zeros(DType::F32, {m, n});
    ir::Graph graph;
    NodeView view;
    view.node = graph.add_node("matmul", {graph.add_input("a", ir::TensorType::of(a)), graph.add_input("b", ir::TensorType::of(b))});
    view.num_threads = threads;
    view.input_dtypes = {DType::F32, DType::F32};
    view.input_shapes = {a.shape(), b.shape()};
    view.constants = {nullptr, &b};
    view.output_dtypes = {DType::F32};
    view.output_shapes = {c.shape()};
    const Tensor packed = def->pack(view, tactic, 1);
    view.constants[1] = &packed;
    const auto kernel = def->make(view, tactic);
    Tensor workspace = Tensor::zeros(DType::U8, {kernel->workspace_bytes()});
    ThreadPool pool(threads);
    const Tensor inputs[] = {a, packed};
    const RunArgs args{inputs, {&c, 1}, workspace.raw(), &pool};
    kernel->run(args);
    const double s = fastest(0.3, [&] { kernel->run(args); });
    const double gflops = 2.0 * m * n * k / s / 1e9;
    std::printf("%6ld %6ld %6ld %10.1f %9.1f %7.1f%% %8.1f\n", m, n, k, s * 1e6, gflops, 100 * gflops / peak, 4.0 * n * k / s / 1e9);
  }
  return 0;
}

}  // namespace
}  // namespace tokamak

int main(int argc, char** argv) {
  const std::string kernel = argc > 1 ? argv[1] : "avx512.matmul";
  return tokamak::run(kernel,
                      argc > 2                    ? argv[2]
                      : kernel == "avx512.matmul" ? "nr64"
                                                  : "nr16",
                      argc > 3 ? std::max(1, std::atoi(argv[3])) : 1);
}
