// softmax and log_softmax over any axis. Floor: one read and one write of x.

#include <algorithm>
#include <bit>

#include "backends/cuda/kernels/row_plan.h"

namespace tokamak::cuda {
namespace {

class Softmax final : public Kernel {
 public:
  Softmax(Function function, Launch launch, int64_t rows) : function_(std::move(function)), launch_(launch), rows_(rows) {}
  bool can_alias(int, int input) const override { return input == 0; }
  void run(const RunArgs& args) const override {
    function_.launch(args.stream, launch_, args.inputs[0].raw(), args.outputs[0].raw(), rows_);
  }

 private:
  Function function_;
  Launch launch_;
  int64_t rows_;
};

class SoftmaxDef final : public CudaKernelDef {
 public:
  SoftmaxDef(std::string name, std::string op) : name_(std::move(name)), op_(std::move(op)) {}
  std::string_view name() const override { return name_; }
  std::string_view op() const override { return op_; }
  Support supports(const NodeView& node) const override {
    const DType dtype = node.input_dtypes[0];
    if (dtype != DType::F32 && dtype != DType::F16 && dtype != DType::BF16) return Support::no("x must be f32, f16 or bf16");
    const Shape& shape = node.input_shapes[0];
    const int64_t size = std::max<int64_t>(shape[axis(node)], 1);
    if (num_elements(shape) / size > INT32_MAX) return Support::no("more rows than a grid has blocks");
    if (size > INT32_MAX / 2) return Support::no("rows too long for 32-bit columns");
    return Support::yes();
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    const Shape& shape = node.input_shapes[0];
    const int64_t a = axis(node), size = shape[a], inner = num_elements(std::span(shape).subspan(a + 1));
    const int64_t rows = num_elements(shape) / std::max<int64_t>(size, 1);
    std::vector<std::string> defines = {"ELEMENT=" + device_type(node.input_dtypes[0]), fmt::format("LOG={:d}", op_ == "log_softmax")};
    if (inner == 1) {
      const RowPlan plan(rows, size, bits_of(node.input_dtypes[0]) == 32 ? 4 : 8, 8);
      for (const std::string& define : plan.defines()) defines.push_back(define);
      return std::make_unique<Softmax>(node.cuda->function(device_source(name_, "softmax_rows.cu", defines), "softmax_rows"),
                                       plan.launch(rows), rows);
    }
    const unsigned y = std::clamp<unsigned>(std::bit_ceil(static_cast<unsigned>(ceil_div(size, 8))), 1, 16);
    defines.push_back(fmt::format("SIZE={}", size));
    defines.push_back(fmt::format("INNER={}", inner));
    defines.push_back(fmt::format("Y_THREADS={}", y));
    return std::make_unique<Softmax>(node.cuda->function(device_source(name_, "softmax.cu", defines), "softmax"),
                                     Launch{.grid = {static_cast<unsigned>(ceil_div(rows, 32))}, .block = {32, y}, .overlap = true}, rows);
  }

 private:
  static int64_t axis(const NodeView& node) {
    const int64_t a = node.attrs().get_int("axis", -1);
    return a < 0 ? a + static_cast<int64_t>(node.input_shapes[0].size()) : a;
  }
  std::string name_, op_;
};

}  // namespace

std::vector<const KernelDef*> softmax_kernels() {
  static const SoftmaxDef softmax("cuda.softmax", "softmax"), log_softmax("cuda.log_softmax", "log_softmax");
  return {&softmax, &log_softmax};
}

}  // namespace tokamak::cuda
