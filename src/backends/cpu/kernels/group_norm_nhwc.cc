// group_norm in NHWC: one pass for the sums of every channel (in double, so that E[x^2] - E[x]^2 is exact enough), which combine into one
// scale and shift a channel, and one pass that applies them. The first pass is split into pieces of pixels, each with sums of its own.

#include "backends/cpu/kernels/group_norm_nhwc.h"

#include <algorithm>
#include <cmath>

#include "backends/cpu/cpu_features.h"
#include "backends/cpu/kernels/parallel.h"
#include "runtime/kernel.h"

namespace tokamak::cpu {
namespace {

bool has_avx512() { return cpu_features().avx512; }
bool has_avx2() { return cpu_features().avx2; }

struct GroupNormNhwc : Kernel {
  const GroupNormLoops* loops = nullptr;
  int64_t batch = 1, pixels = 1, channels = 1, groups = 1, pieces = 1;
  double epsilon = 1e-5;

  int64_t workspace_bytes() const override {
    return batch * channels * (pieces * 2 * static_cast<int64_t>(sizeof(double)) + 2 * static_cast<int64_t>(sizeof(float)));
  }
  bool can_alias(int, int input) const override { return input == 0; }
  void run(const RunArgs& args) const override {
    const float* const x = args.inputs[0].data<float>();
    float* const y = args.outputs[0].data<float>();
    double* const sums = static_cast<double*>(args.workspace);                             // [batch, pieces, 2, channels]
    float* const scales = reinterpret_cast<float*>(sums + batch * pieces * 2 * channels);  // [batch, 2, channels]
    const int64_t piece = (pixels + pieces - 1) / pieces;
    parallel(args.pool, batch * pieces, piece * channels, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        double* const sum = sums + i * 2 * channels;
        std::fill(sum, sum + 2 * channels, 0.0);
        const int64_t first = std::min(i % pieces * piece, pixels), count = std::min(piece, pixels - first);
        loops->accumulate(x + (i / pieces * pixels + first) * channels, count, channels, sum, sum + channels);
      }
    });
    for (int64_t n = 0; n < batch; ++n) combine(args, sums + n * pieces * 2 * channels, scales + n * 2 * channels);
    parallel(args.pool, batch * pieces, piece * channels, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first = std::min(i % pieces * piece, pixels), count = std::min(piece, pixels - first);
        const int64_t at = (i / pieces * pixels + first) * channels;
        const float* const scale = scales + i / pieces * 2 * channels;
        loops->apply(y + at, x + at, count, channels, scale, scale + channels);
      }
    });
  }

 private:
  void combine(const RunArgs& args, double* sum, float* scale) const {
    for (int64_t p = 1; p < pieces; ++p)
      for (int64_t c = 0; c < 2 * channels; ++c) sum[c] += sum[p * 2 * channels + c];
    const float *const given = args.inputs[1].data<float>(), *const bias = args.inputs[2].data<float>();
    const int64_t width = channels / groups;
    for (int64_t g = 0; g < groups; ++g) {
      double mean = 0, square = 0;
      for (int64_t c = g * width; c < (g + 1) * width; ++c) {
        mean += sum[c];
        square += sum[channels + c];
      }
      const double count = static_cast<double>(width * pixels);
      mean /= count;
      const double inverse = 1 / std::sqrt(std::max(0.0, square / count - mean * mean) + epsilon);
      for (int64_t c = g * width; c < (g + 1) * width; ++c) {
        scale[c] = static_cast<float>(given[c] * inverse);
        scale[channels + c] = static_cast<float>(bias[c] - mean * inverse * given[c]);
      }
    }
  }
};

class GroupNormNhwcDef : public KernelDef {
 public:
  GroupNormNhwcDef(const char* name, bool (*available)(), const GroupNormLoops& (*loops)())
      : name_(name), available_(available), loops_(loops) {}
  std::string_view name() const override { return name_; }
  std::string_view op() const override { return "group_norm"; }
  Support supports(const NodeView& node) const override {
    if (!available_()) return Support::no("the CPU lacks the instructions");
    if (node.attrs().get_string("layout", "NCHW") != "NHWC") return Support::no("layout is not NHWC");
    const Shape& shape = node.input_shapes[0];
    if (shape.size() < 2 || num_elements(shape) == 0) return Support::no("rank below 2 or empty");
    for (int i = 0; i < 3; ++i)
      if (!node.has_input(i) || node.input_dtypes[i] != DType::F32) return Support::no("needs x, scale and bias in f32");
    for (int i = 1; i < 3; ++i)
      if (num_elements(node.input_shapes[i]) != shape.back()) return Support::no("scale or bias is not one value a channel");
    if (shape.back() % std::max<int64_t>(1, node.attrs().get_int("num_groups")) != 0)
      return Support::no("channels do not divide into the groups");
    return Support::yes();
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    auto kernel = std::make_unique<GroupNormNhwc>();
    const Shape& shape = node.input_shapes[0];
    kernel->loops = &loops_();
    kernel->batch = shape[0];
    kernel->channels = shape.back();
    kernel->pixels = num_elements(shape) / (shape[0] * shape.back());
    kernel->groups = std::max<int64_t>(1, node.attrs().get_int("num_groups"));
    kernel->pieces = std::clamp<int64_t>(kernel->pixels / 64, 1, node.num_threads > 1 ? 4 * node.num_threads : 1);
    kernel->epsilon = node.attrs().get_float("epsilon", 1e-5);
    return kernel;
  }

 private:
  std::string name_;
  bool (*available_)();
  const GroupNormLoops& (*loops_)();
};

}  // namespace

const KernelDef& group_norm_nhwc_avx512() {
  static const GroupNormNhwcDef def("avx512.group_norm_nhwc", has_avx512, group_norm_loops_avx512);
  return def;
}
const KernelDef& group_norm_nhwc_avx2() {
  static const GroupNormNhwcDef def("avx2.group_norm_nhwc", has_avx2, group_norm_loops_avx2);
  return def;
}

}  // namespace tokamak::cpu
