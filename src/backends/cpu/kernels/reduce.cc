// Reductions over one contiguous run of axes (leading, middle or trailing) of a float32 tensor seen as [outer, size, inner].

#include "backends/cpu/cpu_features.h"
#include "backends/cpu/kernels/parallel.h"
#include "backends/cpu/row_functions.h"
#include "runtime/kernel.h"

namespace tokamak::cpu {
namespace {

bool has_avx512() { return cpu_features().avx512; }
bool has_avx2() { return cpu_features().avx2; }

struct Reduce : Kernel {
  const RowFunctions* rows_functions;
  ReduceOp kind = ReduceOp::Sum;
  int64_t outer = 1, size = 1, inner = 1;

  void run(const RunArgs& args) const override {
    const float* const x = args.inputs[0].data<float>();
    float* const y = args.outputs[0].data<float>();
    if (inner == 1) {
      parallel(args.pool, outer, size, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) y[i] = rows_functions->reduce(kind, x + i * size, size);
      });
      return;
    }
    constexpr int64_t kColumns = 256;  // of a task: whole cache lines, so that threads share none
    const int64_t pieces = (inner + kColumns - 1) / kColumns;
    parallel(args.pool, outer * pieces, size * std::min(inner, kColumns), [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t o = i / pieces, c = i % pieces * kColumns;
        rows_functions->reduce_rows(kind, y + o * inner + c, x + o * size * inner + c, size, inner, std::min(kColumns, inner - c));
      }
    });
  }
};

class ReduceDef : public KernelDef {
 public:
  ReduceDef(const char* isa, const char* op, ReduceOp kind, bool (*available)(), const RowFunctions& (*table)())
      : name_(std::string(isa) + "." + op), op_(op), kind_(kind), available_(available), table_(table) {}
  std::string_view name() const override { return name_; }
  std::string_view op() const override { return op_; }
  Support supports(const NodeView& node) const override {
    if (!available_()) return Support::no("the CPU lacks the instructions");
    if (node.input_dtypes[0] != DType::F32) return Support::no(fmt::format("dtype {}", to_string(node.input_dtypes[0])));
    if (!node.attrs().has("axes")) return Support::no("axes are not constant");
    if (num_elements(node.input_shapes[0]) == 0) return Support::no("an empty input");
    Reduce probe;
    return split(node, probe) ? Support::yes() : Support::no("the axes are not adjacent");
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    auto kernel = std::make_unique<Reduce>();
    split(node, *kernel);
    kernel->rows_functions = &table_();
    kernel->kind = kind_;
    return kernel;
  }

 private:
  static bool split(const NodeView& node, Reduce& reduce) {
    const Shape& shape = node.input_shapes[0];
    const int64_t rank = static_cast<int64_t>(shape.size());
    std::vector<bool> reduced(rank, false);
    const ir::Ints axes = node.attrs().get_ints("axes");
    for (int64_t axis : axes) reduced[axis < 0 ? axis + rank : axis] = true;
    if (axes.empty()) return false;
    int stage = 0;  // before, within, after the run
    for (int64_t d = 0; d < rank; ++d) {
      if (shape[d] == 1) continue;
      if (reduced[d] && stage == 0) stage = 1;
      if (!reduced[d] && stage == 1) stage = 2;
      if (reduced[d] && stage == 2) return false;
      (stage == 0 ? reduce.outer : stage == 1 ? reduce.size : reduce.inner) *= shape[d];
    }
    return true;
  }
  std::string name_, op_;
  ReduceOp kind_;
  bool (*available_)();
  const RowFunctions& (*table_)();
};

}  // namespace

#define REDUCE(op, kind)                                                                         \
  const KernelDef& avx512_##op() {                                                               \
    static const ReduceDef def("avx512", #op, ReduceOp::kind, has_avx512, row_functions_avx512); \
    return def;                                                                                  \
  }                                                                                              \
  const KernelDef& avx2_##op() {                                                                 \
    static const ReduceDef def("avx2", #op, ReduceOp::kind, has_avx2, row_functions_avx2);       \
    return def;                                                                                  \
  }
REDUCE(reduce_sum, Sum)
REDUCE(reduce_mean, Mean)
REDUCE(reduce_max, Max)
REDUCE(reduce_min, Min)
REDUCE(reduce_prod, Prod)
#undef REDUCE

}  // namespace tokamak::cpu
