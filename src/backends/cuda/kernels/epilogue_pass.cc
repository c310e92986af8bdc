#include "backends/cuda/kernels/epilogue_pass.h"

#include "backends/cuda/kernels/common.h"

namespace tokamak::cuda {

EpiloguePass::EpiloguePass(const NodeView& node, const std::string& kernel_name) {
  Epilogue epilogue(node);
  if (epilogue.empty()) return;
  const int64_t cols = epilogue.dims().back(), vec = cols % 8 == 0 ? 8 : 1;
  rows_ = num_elements(epilogue.dims()) / cols;
  blocks_ = static_cast<unsigned>(ceil_div(rows_ * (cols / vec), 256));
  const Source source{kernel_name + "_epilogue",
                      epilogue.code() + device_file("epilogue_pass.cu"),
                      {"ELEMENT=" + device_type(node.output_dtypes[0]), fmt::format("COLS={}", cols), fmt::format("VEC={}", vec)}};
  function_ = node.cuda->function(source, "epilogue_pass");
  epilogue_ = std::move(epilogue);
}

void EpiloguePass::run(const RunArgs& args) const {
  if (!epilogue_) return;
  function_.launch(args.stream, {.grid = {blocks_}, .block = {256}, .overlap = true}, args.outputs[0].raw(), rows_,
                   epilogue_->pointers(args));
}

}  // namespace tokamak::cuda
