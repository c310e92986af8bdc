#pragma once
// An epilogue behind a library's product or convolution, in a pass of its own over the output.

#include <optional>
#include <string>

#include "backends/cuda/device.h"
#include "backends/cuda/kernels/epilogue.h"

namespace tokamak::cuda {

class EpiloguePass {
 public:
  EpiloguePass() = default;  // nothing to do
  EpiloguePass(const NodeView& node, const std::string& kernel_name);
  // Rewrites args.outputs[0].
  void run(const RunArgs& args) const;

 private:
  Function function_;
  std::optional<Epilogue> epilogue_;
  int64_t rows_ = 0;
  unsigned blocks_ = 0;
};

}  // namespace tokamak::cuda
