#pragma once
// A KernelDef whose kernel is one or more IndexedCode (indexed.h).

#include <functional>

#include "backends/cuda/kernels/indexed.h"

namespace tokamak::cuda {

class IndexedDef final : public CudaKernelDef {
 public:
  using Supports = std::function<Support(const NodeView&)>;
  using Describe = std::function<std::vector<IndexedCode>(const NodeView&)>;
  // `writes_into_copy`: the first code copies input 0 to output 0, which may then share its memory.
  IndexedDef(std::string op, Supports supports, Describe describe, bool writes_into_copy = false)
      : name_("cuda." + op),
        op_(std::move(op)),
        supports_(std::move(supports)),
        describe_(std::move(describe)),
        writes_into_copy_(writes_into_copy) {}
  std::string_view name() const override { return name_; }
  std::string_view op() const override { return op_; }
  Support supports(const NodeView& node) const override { return supports_(node); }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    std::vector<IndexedCode> codes = describe_(node);
    for (IndexedCode& code : codes) code.name = name_;
    auto kernel = std::make_unique<IndexedKernel>(node, codes);
    if (writes_into_copy_) kernel->alias_first_input(1);
    return kernel;
  }

 private:
  std::string name_, op_;
  Supports supports_;
  Describe describe_;
  bool writes_into_copy_;
};

// Whether input `input` has elements that can be moved.
Support supports_moving(const NodeView& node, int input = 0);

}  // namespace tokamak::cuda
