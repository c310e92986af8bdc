#pragma once
// The CPU backend's list of kernels.

#include <span>
#include <string_view>
#include <vector>

#include "runtime/kernel.h"

namespace tokamak::cpu {

// Kernels for an op, the likeliest fastest first, `ref` last.
std::vector<const KernelDef*> kernels_for(std::string_view op);
// By full name; null when unknown.
const KernelDef* find_kernel(std::string_view name);

}  // namespace tokamak::cpu
