#include "backends/cpu/cpu_backend.h"

namespace tokamak::cpu {

#define TOKAMAK_KERNEL(name) const KernelDef& name();
#include "backends/cpu/kernels/all_kernels.inc"
#undef TOKAMAK_KERNEL
namespace ref {
#define TOKAMAK_KERNEL(name) std::vector<const KernelDef*> name();
#include "backends/cpu/kernels/ref/all_kernels.inc"
#undef TOKAMAK_KERNEL
}  // namespace ref

namespace {

const std::vector<const KernelDef*>& all_kernels() {
  static const std::vector<const KernelDef*> kernels = [] {
    std::vector<const KernelDef*> list = {
#define TOKAMAK_KERNEL(name) &name(),
#include "backends/cpu/kernels/all_kernels.inc"
#undef TOKAMAK_KERNEL
    };
#define TOKAMAK_KERNEL(name) \
  for (const KernelDef* kernel : ref::name()) list.push_back(kernel);
#include "backends/cpu/kernels/ref/all_kernels.inc"
#undef TOKAMAK_KERNEL
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

}  // namespace tokamak::cpu
