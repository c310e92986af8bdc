// softmax and log_softmax over any axis. Floor: one read and one write of x.

#include <bit>

#include "backends/cuda/kernels/common.h"

namespace tokamak::cuda {
namespace {

constexpr int64_t kMostPerThread = 32, kMostThreads = 1024;

class Softmax final : public Kernel {
 public:
  Softmax(Function function, int64_t rows, int64_t inner, unsigned threads)
      : function_(std::move(function)), rows_(rows), inner_(inner), threads_(threads) {}
  bool can_alias(int, int input) const override { return input == 0; }
  void run(const RunArgs& args) const override {
    function_.launch(args.stream, {.grid = {static_cast<unsigned>(rows_)}, .block = {threads_}, .overlap = true}, args.inputs[0].raw(),
                     args.outputs[0].raw(), inner_);
  }

 private:
  Function function_;
  int64_t rows_, inner_;
  unsigned threads_;
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
    const int64_t size = shape[axis(node)];
    if (size > kMostPerThread * kMostThreads)
      return Support::no(fmt::format("a row has {} elements, at most {}", size, kMostPerThread * kMostThreads));
    if (num_elements(shape) / size > INT32_MAX) return Support::no("more rows than a grid has blocks");
    return Support::yes();
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    const Shape& shape = node.input_shapes[0];
    const int64_t a = axis(node), size = shape[a], inner = num_elements(std::span(shape).subspan(a + 1));
    const auto threads =
        std::clamp<int64_t>(static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(ceil_div(size, 4)))), 32, kMostThreads);
    const Source source =
        device_source(name_, "softmax.cu",
                      {"ELEMENT=" + device_type(node.input_dtypes[0]), fmt::format("SIZE={}", size), fmt::format("THREADS={}", threads),
                       fmt::format("PER_THREAD={}", ceil_div(size, threads)), fmt::format("LOG={}", op_ == "log_softmax")});
    return std::make_unique<Softmax>(node.cuda->function(source, "softmax"), num_elements(shape) / size, inner,
                                     static_cast<unsigned>(threads));
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
