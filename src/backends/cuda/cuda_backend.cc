#include "backends/cuda/cuda_backend.h"

namespace tokamak::cuda {

#define TOKAMAK_KERNELS(name) std::vector<const KernelDef*> name();
#include "backends/cuda/kernels/all_kernels.inc"
#undef TOKAMAK_KERNELS

namespace {

const std::vector<const KernelDef*>& all_kernels() {
  static const std::vector<const KernelDef*> kernels = [] {
    std::vector<const KernelDef*> list;
    const auto append = [&](const std::vector<const KernelDef*>& more) { list.insert(list.end(), more.begin(), more.end()); };
#define TOKAMAK_KERNELS(name) append(name());
#include "backends/cuda/kernels/all_kernels.inc"
#undef TOKAMAK_KERNELS
    return list;
  }();
  return kernels;
}

}  // namespace

std::vector<const KernelDef*> kernels_for(std::string_view op) {
  std::vector<const KernelDef*> found;
  for (const KernelDef* kernel : all_kernels())
    if (kernel->op() == op) found.push_back(kernel);
  return found;
}

const KernelDef* find_kernel(std::string_view name) {
  for (const KernelDef* kernel : all_kernels())
    if (kernel->name() == name) return kernel;
  return nullptr;
}

}  // namespace tokamak::cuda
