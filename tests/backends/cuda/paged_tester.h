#pragma once
// Runs the CUDA kernels of kv_cache_write and paged_attention on a step (tests/backends/cpu/paged_batch.h) and holds them against `ref`.
// The CPU's caches have their own order inside a plane; CUDA's are plain. Without a GPU the kernels are compiled and nothing is run.

#include "backends/cpu/kernels/kv_cache.h"
#include "backends/cuda/cuda_backend.h"
#include "base/small_float.h"
#include "tests/backends/cpu/paged_batch.h"

namespace tokamak::testing {

// [num_blocks, 2, kv_heads, block_size, head_dim] from the CPU's order to plain, or back.
inline Tensor reordered_cache(const Tensor& cache, bool to_plain) {
  const auto layout = cpu::KvCacheLayout::of(cache.shape(), cache.dtype());
  const int64_t bytes = bytes_of(cache.dtype(), 1);
  Tensor out = Tensor::empty(cache.dtype(), cache.shape());
  const auto* from = static_cast<const std::byte*>(cache.raw());
  auto* to = static_cast<std::byte*>(out.raw());
  for (int64_t block = 0; block < layout.num_blocks; ++block)
    for (int64_t which = 0; which < 2; ++which)
      for (int64_t head = 0; head < layout.kv_heads; ++head)
        for (int64_t j = 0; j < layout.block_size; ++j)
          for (int64_t d = 0; d < layout.head_dim; ++d) {
            const int64_t plane = layout.plane(block, which, head), plain = plane + j * layout.head_dim + d;
            const int64_t own = plane + (which == 0 ? layout.key(j, d) : layout.value(j, d));
            std::memcpy(to + (to_plain ? plain : own) * bytes, from + (to_plain ? own : plain) * bytes, static_cast<size_t>(bytes));
          }
  return out;
}

// A float tensor in another float dtype, and as f32.
inline Tensor narrowed(const Tensor& x, DType dtype) {
  if (!x.defined() || dtype == DType::F32) return x;
  Tensor y = Tensor::empty(dtype, x.shape());
  for (int64_t i = 0; i < x.count(); ++i)
    y.data<uint16_t>()[i] = dtype == DType::F16 ? float_to_half(x.data<float>()[i]) : float_to_bfloat16(x.data<float>()[i]);
  return y;
}
inline Tensor widened(const Tensor& x) {
  if (!x.defined() || x.dtype() == DType::F32) return x;
  Tensor y = Tensor::empty(DType::F32, x.shape());
  for (int64_t i = 0; i < x.count(); ++i) y.data<float>()[i] = static_cast<float>(x.float_at(i));
  return y;
}

struct StepRun {
  std::string kernel;  // and tactic
  Tensor output, cache;
};

// Every kernel that accepts the op on these inputs (1 is the cache, plain), or only the one named `kernel`, with every tactic; twice each,
// from poisoned outputs and workspace. Outside a GPU: an empty list, after compiling for `archs`.
std::vector<StepRun> run_step(const std::string& op, const std::vector<Tensor>& inputs, const ir::Attrs& attrs,
                              const std::vector<std::string>& archs = {"sm_90"}, const std::string& kernel = "");

// Both ops on one step: `activation` is the dtype of qkv, q and the output. `kernel`: of paged_attention, to hold that one alone.
void check_step(PagedCase c, DType activation, const std::vector<std::string>& archs = {"sm_90"}, const std::string& kernel = "");
// Both as one: cached_attention.
void check_cached_step(PagedCase c, DType activation, const std::vector<std::string>& archs = {"sm_90"});

}  // namespace tokamak::testing
