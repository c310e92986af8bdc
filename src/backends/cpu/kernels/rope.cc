// Rotary position embedding on float32 (RoFormer, arXiv:2104.09864): pairs of the last axis turn by the angle of their position.

#include <cstring>

#include "backends/cpu/kernels/parallel.h"
#include "runtime/kernel.h"

namespace tokamak::cpu {
namespace {

struct Rope : Kernel {
  int64_t outer = 1, heads_or_rows[2] = {1, 1}, width = 1, half = 0;  // the two middle axes in storage order
  int64_t batch_stride = 0, middle_stride[2] = {0, 0};                // of cos and sin
  bool interleaved = false;

  bool can_alias(int, int input) const override { return input == 0; }
  void run(const RunArgs& args) const override {
    const float *const x = args.inputs[0].data<float>(), *const cos = args.inputs[1].data<float>(),
                       *const sin = args.inputs[2].data<float>();
    float* const y = args.outputs[0].data<float>();
    parallel(args.pool, outer * heads_or_rows[0] * heads_or_rows[1], width * 2, [&](int64_t begin, int64_t end, int) {
      for (int64_t r = begin; r < end; ++r) {
        const int64_t second = r % heads_or_rows[1], first = r / heads_or_rows[1] % heads_or_rows[0],
                      b = r / heads_or_rows[1] / heads_or_rows[0];
        const int64_t at = b * batch_stride + first * middle_stride[0] + second * middle_stride[1];
        row(y + r * width, x + r * width, cos + at, sin + at);
      }
    });
  }
  void row(float* y, const float* x, const float* cos, const float* sin) const {
    if (interleaved) {
      for (int64_t i = 0; i < half; ++i) {
        const float a = x[2 * i], b = x[2 * i + 1];
        y[2 * i] = a * cos[i] - b * sin[i];
        y[2 * i + 1] = a * sin[i] + b * cos[i];
      }
    } else {
      for (int64_t i = 0; i < half; ++i) {
        const float a = x[i], b = x[i + half];
        y[i] = a * cos[i] - b * sin[i];
        y[i + half] = a * sin[i] + b * cos[i];
      }
    }
    if (y != x && width > 2 * half) std::memcpy(y + 2 * half, x + 2 * half, (width - 2 * half) * sizeof(float));
  }
};

class RopeDef : public KernelDef {
 public:
  std::string_view name() const override { return "cpu.rope"; }
  std::string_view op() const override { return "rope"; }
  Support supports(const NodeView& node) const override {
    for (int i = 0; i < 3; ++i)
      if (node.input_dtypes[i] != DType::F32) return Support::no(fmt::format("dtype {}", to_string(node.input_dtypes[i])));
    Rope probe;
    return plan(node, probe) ? Support::yes() : Support::no("cos and sin do not fit x");
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    auto kernel = std::make_unique<Rope>();
    plan(node, *kernel);
    return kernel;
  }

 private:
  // cos and sin are [S, D/2], [B, S, D/2], or of rank 4 with the axes of x or with heads before the sequence; sizes of 1 repeat.
  static bool plan(const NodeView& node, Rope& rope) {
    const Shape &x = node.input_shapes[0], &table = node.input_shapes[1];
    const size_t rank = table.size();
    if (x.size() != 4 || rank < 2 || rank > 4 || node.input_shapes[2] != table || 2 * table.back() > x[3]) return false;
    const bool bshd = node.attrs().get_string("layout", "BHSD") == "BSHD";
    const int length_axis = bshd ? 1 : 2, head_axis = 3 - length_axis;  // of x
    rope.outer = x[0], rope.heads_or_rows[0] = x[1], rope.heads_or_rows[1] = x[2], rope.width = x[3], rope.half = table.back();
    rope.interleaved = node.attrs().get_bool("interleaved", false);
    int table_length = static_cast<int>(rank) - 2, table_head = -1;
    if (rank == 4) {
      const bool length_last = !bshd || (table[1] == 1 && table[2] == x[length_axis]);
      table_length = length_last ? 2 : 1, table_head = 3 - table_length;
    }
    const auto stride_of = [&](int axis, int64_t size, int64_t& stride) {
      stride = 0;
      if (axis < 0 || table[axis] == 1) return true;
      stride = 1;
      for (size_t d = axis + 1; d < rank; ++d) stride *= table[d];
      return table[axis] == size;
    };
    return stride_of(rank > 2 ? 0 : -1, x[0], rope.batch_stride) &&
           stride_of(table_length, x[length_axis], rope.middle_stride[length_axis - 1]) &&
           stride_of(table_head, x[head_axis], rope.middle_stride[head_axis - 1]);
  }
};

}  // namespace

const KernelDef& cpu_rope() {
  static const RopeDef def;
  return def;
}

}  // namespace tokamak::cpu
