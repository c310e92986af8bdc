// paged_attention's kernels, fastest first.

#include "backends/cuda/kernels/paged_attention.h"

namespace tokamak::cuda {

const KernelDef& paged_attention_decode();
const KernelDef& paged_attention_mixed();
const KernelDef& paged_attention_wgmma();
const KernelDef& paged_attention_prefill();
const KernelDef& paged_attention_rows();

std::vector<const KernelDef*> paged_attention_kernels() {
  return {&paged_attention_mixed(), &paged_attention_decode(), &paged_attention_wgmma(), &paged_attention_prefill(),
          &paged_attention_rows()};
}

}  // namespace tokamak::cuda
