#pragma once
// The CUDA backend's list of kernels.

#include <string_view>
#include <vector>

#include "backends/cuda/device.h"
#include "runtime/kernel.h"

namespace tokamak::cuda {

// Base of the backend's kernels: they run on the device. Tensors given to run() have device pointers; args.stream orders the work.
class CudaKernelDef : public KernelDef {
 public:
  Place place() const final { return Place::Device; }
};

// Kernels for an op, the likeliest fastest first. supports(), tactics() and make() may read view.cuda, which is never null for them.
std::vector<const KernelDef*> kernels_for(std::string_view op);
// By full name; null when unknown.
const KernelDef* find_kernel(std::string_view name);

}  // namespace tokamak::cuda
