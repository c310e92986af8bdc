// softmax and log_softmax over any axis, float32. The last axis works in place in the output; another axis gathers each column first.

#include "backends/cpu/cpu_features.h"
#include "backends/cpu/kernels/parallel.h"
#include "backends/cpu/row_functions.h"
#include "runtime/kernel.h"

namespace tokamak::cpu {
namespace {

struct Softmax : Kernel {
  void (*row)(float*, const float*, int64_t);
  int64_t outer = 1, size = 1, inner = 1;
  int threads = 1;

  int64_t row_bytes() const { return (size * sizeof(float) + 63) / 64 * 64; }
  int64_t workspace_bytes() const override { return inner == 1 ? 0 : threads * row_bytes(); }
  bool can_alias(int, int input) const override { return input == 0; }
  void run(const RunArgs& args) const override {
    const float* const x = args.inputs[0].data<float>();
    float* const y = args.outputs[0].data<float>();
    parallel(args.pool, outer * inner, size * 4, [&](int64_t begin, int64_t end, int worker) {
      float* const column = reinterpret_cast<float*>(static_cast<char*>(args.workspace) + worker * row_bytes());
      for (int64_t r = begin; r < end; ++r) {
        if (inner == 1) {
          row(y + r * size, x + r * size, size);
          continue;
        }
        const int64_t at = r / inner * size * inner + r % inner;
        for (int64_t i = 0; i < size; ++i) column[i] = x[at + i * inner];
        row(column, column, size);
        for (int64_t i = 0; i < size; ++i) y[at + i * inner] = column[i];
      }
    });
  }
};

class SoftmaxDef : public KernelDef {
 public:
  SoftmaxDef(std::string name, std::string op, bool (*available)(), const RowFunctions& (*table)())
      : name_(std::move(name)), op_(std::move(op)), available_(available), table_(table) {}
  std::string_view name() const override { return name_; }
  std::string_view op() const override { return op_; }
  Support supports(const NodeView& node) const override {
    if (!available_()) return Support::no("the CPU lacks the instructions");
    if (node.input_dtypes[0] != DType::F32) return Support::no(fmt::format("dtype {}", to_string(node.input_dtypes[0])));
    if (node.input_shapes[0].empty()) return Support::no("a scalar");
    return Support::yes();
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    auto kernel = std::make_unique<Softmax>();
    const Shape& shape = node.input_shapes[0];
    int64_t axis = node.attrs().get_int("axis", -1);
    if (axis < 0) axis += static_cast<int64_t>(shape.size());
    for (int64_t d = 0; d < static_cast<int64_t>(shape.size()); ++d)
      (d < axis ? kernel->outer : d == axis ? kernel->size : kernel->inner) *= shape[d];
    kernel->row = op_ == "softmax" ? table_().softmax : table_().log_softmax;
    kernel->threads = std::max(1, node.num_threads);
    return kernel;
  }

 private:
  std::string name_, op_;
  bool (*available_)();
  const RowFunctions& (*table_)();
};

bool has_avx512() { return cpu_features().avx512; }
bool has_avx2() { return cpu_features().avx2; }

}  // namespace

const KernelDef& avx512_softmax() {
  static const SoftmaxDef def("avx512.softmax", "softmax", has_avx512, row_functions_avx512);
  return def;
}
const KernelDef& avx2_softmax() {
  static const SoftmaxDef def("avx2.softmax", "softmax", has_avx2, row_functions_avx2);
  return def;
}
const KernelDef& avx512_log_softmax() {
  static const SoftmaxDef def("avx512.log_softmax", "log_softmax", has_avx512, row_functions_avx512);
  return def;
}
const KernelDef& avx2_log_softmax() {
  static const SoftmaxDef def("avx2.log_softmax", "log_softmax", has_avx2, row_functions_avx2);
  return def;
}

}  // namespace tokamak::cpu
