// rope on its own (kv_cache_write has its own). Floor: one read and one write of x.

#include "backends/cuda/kernels/common.h"

namespace tokamak::cuda {
namespace {

// As in device/rope.cu.
struct RopeArgs {
  int64_t count;
  int sizes[3];
  int64_t angle_strides[3];
};

class Rope final : public Kernel {
 public:
  Rope(Function function, const RopeArgs& rope, int64_t width) : function_(std::move(function)), rope_(rope), width_(width) {}
  void run(const RunArgs& args) const override {
    function_.launch(args.stream, {.grid = {static_cast<unsigned>(ceil_div(rope_.count * width_, 256))}, .block = {256}, .overlap = true},
                     args.inputs[0].raw(), args.inputs[1].raw(), args.inputs[2].raw(), args.outputs[0].raw(), rope_);
  }

 private:
  Function function_;
  RopeArgs rope_;
  int64_t width_;
};

// cos and sin are [S, D/2], [B, S, D/2], or of rank 4 with the axes of x or with heads before the sequence; sizes of 1 repeat.
Support plan(const NodeView& node, RopeArgs& rope) {
  const Shape &x = node.input_shapes[0], &table = node.input_shapes[1];
  if (x.size() != 4) return Support::no("x must have 4 dimensions");
  if (table.size() < 2 || table != node.input_shapes[2] || 2 * table.back() > x[3]) return Support::no("cos and sin do not fit x");
  const bool heads_first = node.attrs().get_string("layout", "BHSD") == "BHSD";
  const size_t x_heads = heads_first ? 1 : 2, x_rows = heads_first ? 2 : 1, rank = table.size();
  if (num_elements(x) / 256 > INT32_MAX) return Support::no("more elements than a grid has threads");
  rope = {x[0] * x[1] * x[2], {static_cast<int>(x[0]), static_cast<int>(x[1]), static_cast<int>(x[2])}, {0, 0, 0}};
  size_t row_axis = rank - 2, head_axis = rank;
  if (rank == 4) {
    const bool rows_last = heads_first || (table[1] == 1 && table[2] == x[x_rows]);
    row_axis = rows_last ? 2 : 1, head_axis = rows_last ? 1 : 2;
  }
  bool fits = true;
  const auto stride_of = [&](size_t axis, int64_t size) -> int64_t {
    if (axis >= rank || table[axis] == 1) return 0;
    fits &= table[axis] == size;
    return num_elements(std::span(table).subspan(axis + 1));
  };
  rope.angle_strides[0] = rank > 2 ? stride_of(0, x[0]) : 0;
  rope.angle_strides[x_heads] = stride_of(head_axis, x[x_heads]);
  rope.angle_strides[x_rows] = stride_of(row_axis, x[x_rows]);
  return fits ? Support::yes() : Support::no("cos and sin do not fit x");
}

class RopeDef final : public CudaKernelDef {
 public:
  std::string_view name() const override { return "cuda.rope"; }
  std::string_view op() const override { return "rope"; }
  Support supports(const NodeView& node) const override {
    for (int i = 0; i < 3; ++i) {
      const DType dtype = node.input_dtypes[i];
      if (dtype != DType::F32 && dtype != DType::F16 && dtype != DType::BF16)
        return Support::no(fmt::format("input {} of {}", i, to_string(dtype)));
    }
    if (node.input_dtypes[1] != node.input_dtypes[2]) return Support::no("cos and sin differ in dtype");
    RopeArgs rope;
    return plan(node, rope);
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    RopeArgs rope;
    plan(node, rope);
    const int64_t width = node.input_shapes[0][3];
    const Source source = device_source("cuda.rope", "rope.cu",
                                        {"ELEMENT=" + device_type(node.input_dtypes[0]), "ANGLE=" + device_type(node.input_dtypes[1]),
                                         fmt::format("WIDTH={}", width), fmt::format("HALF={}", node.input_shapes[1].back()),
                                         fmt::format("INTERLEAVED={}", node.attrs().get_bool("interleaved", false) ? 1 : 0)});
    return std::make_unique<Rope>(node.cuda->function(source, "rope"), rope, width);
  }
};

}  // namespace

std::vector<const KernelDef*> rope_kernels() {
  static const RopeDef def;
  return {&def};
}

}  // namespace tokamak::cuda
