#pragma once
// Rows of x, normalised first where the node has a norm, as E4M3 codes with a scale a row: device/fp8_rows.cu.

#include <string>
#include <vector>

#include "backends/cuda/kernels/common.h"
#include "backends/cuda/kernels/linear.h"
#include "backends/cuda/kernels/row_plan.h"

namespace tokamak::cuda {

class Fp8Rows {
 public:
  // Whether a row of the layer's x fits a block's registers.
  static bool fits(const Linear& l) { return plan(l).in_registers; }

  // `tokens`: 0, the codes are [m, k]; else in tiles of so many rows, as device/linear_wgmma.cu reads them.
  Fp8Rows(const NodeView& node, const Linear& l, int tokens, const std::string& name)
      : m_(l.m), has_norm_(l.has_norm), epsilon_(l.epsilon), launch_(plan(l).launch(l.m)) {
    std::vector<std::string> defines = plan(l).defines();
    defines.insert(defines.end(), {"ELEMENT=" + device_type(l.x), "NORM_ELEMENT=" + device_type(l.norm),
                                   fmt::format("HAS_NORM={:d}", l.has_norm), fmt::format("TOKENS={}", tokens)});
    function_ = node.cuda->function(device_source(name, "fp8_rows.cu", std::move(defines)), "fp8_rows");
  }
  // `scales`: one f32 a row.
  void run(const RunArgs& args, void* codes, void* scales) const {
    const void* const norm = has_norm_ ? args.inputs[3].raw() : nullptr;
    function_.launch(args.stream, launch_, args.inputs[0].raw(), norm, codes, scales, m_, epsilon_);
  }

 private:
  static RowPlan plan(const Linear& l) {
    constexpr int64_t kMaxItems = 8;  // vectors a thread holds of a row
    return RowPlan(l.m, l.k, l.x == DType::F32 ? 4 : 8, kMaxItems);
  }

  int64_t m_;
  bool has_norm_;
  float epsilon_;
  Function function_;
  Launch launch_;
};

}  // namespace tokamak::cuda
