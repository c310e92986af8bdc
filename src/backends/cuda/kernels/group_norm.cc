// group_norm and instance_norm, channels first or last. Tactic "block": one block a group, which reads it once when it fits its registers.
// Tactic "split": two kernels over the whole GPU, the second of which finds x in L2 when it fits. Floor: one read of x, one write of y.

#include <algorithm>
#include <bit>
#include <numeric>

#include "backends/cuda/kernels/common.h"

namespace tokamak::cuda {
namespace {

constexpr int64_t kMostItems = 8;        // vectors a thread in registers
constexpr int64_t kSharedFloats = 5120;  // a sum of sums and squares a channel and row of threads, in static shared memory

bool is_row_float(DType d) { return d == DType::F32 || d == DType::F16 || d == DType::BF16; }

struct Groups {
  int64_t batch, channels, area, groups, group_channels, width;
  bool last;

  explicit Groups(const NodeView& node) {
    const Shape& x = node.input_shapes[0];
    last = node.attrs().get_string("layout", "NCHW") == "NHWC";
    batch = x[0];
    channels = x.size() > 1 ? x[last ? x.size() - 1 : 1] : 1;
    area = num_elements(x) / std::max<int64_t>(1, batch * channels);
    groups = node.attrs().get_int("num_groups", channels);
    group_channels = channels / groups;
    width = bits_of(node.input_dtypes[0]) == 32 ? 4 : 8;
  }
  int64_t rows() const { return batch * groups; }
  // The largest vector that divides `size`.
  int64_t width_of(int64_t size) const {
    int64_t w = width;
    while (size % w != 0) w /= 2;
    return w;
  }
};

std::vector<std::string> common_defines(const NodeView& node, const Groups& g) {
  return {"ELEMENT=" + device_type(node.input_dtypes[0]),   "SCALE_TYPE=" + device_type(node.input_dtypes[1]),
          "BIAS_TYPE=" + device_type(node.input_dtypes[2]), fmt::format("GROUP_CHANNELS={}", g.group_channels),
          fmt::format("CHANNELS={}", g.channels),           fmt::format("AREA={}", g.area),
          fmt::format("CHANNELS_LAST={:d}", g.last)};
}

class BlockKernel final : public Kernel {
 public:
  BlockKernel(Function function, Launch launch, float epsilon) : function_(std::move(function)), launch_(launch), epsilon_(epsilon) {}
  bool can_alias(int, int input) const override { return input == 0; }
  void run(const RunArgs& args) const override {
    function_.launch(args.stream, launch_, args.inputs[0].raw(), args.inputs[1].raw(), args.inputs[2].raw(), args.outputs[0].raw(),
                     epsilon_);
  }

 private:
  Function function_;
  Launch launch_;
  float epsilon_;
};

class SplitKernel final : public Kernel {
 public:
  SplitKernel(Function sums, Function apply, Launch launch, int64_t workspace_bytes, float epsilon)
      : sums_(std::move(sums)), apply_(std::move(apply)), launch_(launch), workspace_bytes_(workspace_bytes), epsilon_(epsilon) {}
  int64_t workspace_bytes() const override { return workspace_bytes_; }
  bool can_alias(int, int input) const override { return input == 0; }
  void run(const RunArgs& args) const override {
    sums_.launch(args.stream, launch_, args.inputs[0].raw(), args.workspace);
    apply_.launch(args.stream, launch_, args.inputs[0].raw(), args.workspace, args.inputs[1].raw(), args.inputs[2].raw(),
                  args.outputs[0].raw(), epsilon_);
  }

 private:
  Function sums_, apply_;
  Launch launch_;
  int64_t workspace_bytes_;
  float epsilon_;
};

class GroupNormDef final : public CudaKernelDef {
 public:
  explicit GroupNormDef(std::string op) : name_("cuda." + op), op_(std::move(op)) {}
  std::string_view name() const override { return name_; }
  std::string_view op() const override { return op_; }
  Support supports(const NodeView& node) const override {
    for (int i = 0; i < 3; ++i)
      if (!is_row_float(node.input_dtypes[i])) return Support::no("inputs must be f32, f16 or bf16");
    const Groups g(node);
    if (g.groups <= 0 || g.channels % g.groups != 0) return Support::no(fmt::format("{} channels in {} groups", g.channels, g.groups));
    if (g.rows() > INT32_MAX || g.channels > INT32_MAX / 2 || g.group_channels * g.area > (int64_t{1} << 34))
      return Support::no("too large");
    return Support::yes();
  }
  std::vector<std::string> tactics(const NodeView& node) const override {
    const Groups g(node);
    const int64_t parts = parts_of(node, g);
    if (parts < 2) return {"block"};
    const bool small = g.rows() * g.group_channels * g.area < (1 << 16);
    return small ? std::vector<std::string>{"block", "split"} : std::vector<std::string>{"split", "block"};
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string& tactic) const override {
    return tactic == "split" && parts_of(node, Groups(node)) > 1 ? make_split(node) : make_block(node);
  }

 private:
  static float epsilon_of(const NodeView& node) { return static_cast<float>(node.attrs().get_float("epsilon", 1e-5)); }

  // Threads over a pixel's channels and over pixels (channels last).
  struct Threads {
    int64_t x, y;
    explicit Threads(const Groups& g) {
      x = g.channels / g.width_of(g.channels);
      y = std::clamp<int64_t>(std::min(512 / std::max<int64_t>(x, 1), kSharedFloats / g.channels), 1, 64);
    }
  };

  // Blocks an image (channels last) or a group; below 2 there is nothing to split, or no room to.
  static int64_t parts_of(const NodeView& node, const Groups& g) {
    const int64_t blocks = int64_t{node.cuda->target().num_sms} * 2;
    if (g.last) {
      const Threads threads(g);
      if (threads.x > 1024 || g.channels > kSharedFloats || g.batch > UINT16_MAX) return 0;
      return std::clamp<int64_t>(blocks / std::max<int64_t>(g.batch, 1), 1, std::min<int64_t>(256, ceil_div(g.area, threads.y * 2)));
    }
    if (g.rows() > UINT16_MAX) return 0;
    const int64_t size = g.group_channels * g.area;
    return std::clamp<int64_t>(blocks / std::max<int64_t>(g.rows(), 1), 1, std::min<int64_t>(256, ceil_div(size, 256 * 2 * g.width)));
  }

  std::unique_ptr<Kernel> make_block(const NodeView& node) const {
    const Groups g(node);
    const int64_t width = g.width_of(g.last ? std::gcd(g.group_channels, g.channels) : g.area);
    const int64_t vectors = g.group_channels * g.area / width;
    const int64_t threads = std::clamp<int64_t>(static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(ceil_div(vectors, 4)))), 32, 1024);
    const int64_t items = ceil_div(vectors, threads);
    std::vector<std::string> defines = common_defines(node, g);
    for (const std::string& define : {fmt::format("WIDTH={}", width), fmt::format("THREADS={}", threads), fmt::format("ITEMS={}", items),
                                      fmt::format("IN_REGISTERS={:d}", items <= kMostItems)})
      defines.push_back(define);
    return std::make_unique<BlockKernel>(
        node.cuda->function(device_source(name_, "group_norm.cu", defines), "group_norm"),
        Launch{.grid = {static_cast<unsigned>(g.rows())}, .block = {static_cast<unsigned>(threads)}, .overlap = true}, epsilon_of(node));
  }

  std::unique_ptr<Kernel> make_split(const NodeView& node) const {
    const Groups g(node);
    const Threads threads(g);
    const int64_t width = g.width_of(g.last ? g.channels : g.area), whole = g.last ? g.area : g.group_channels * g.area;
    int64_t part = ceil_div(whole, parts_of(node, g));
    if (!g.last) part = ceil_div(part, width) * width;
    const int64_t parts = ceil_div(whole, part);
    std::vector<std::string> defines = common_defines(node, g);
    for (const std::string& define : {fmt::format("WIDTH={}", width), fmt::format("PARTS={}", parts), fmt::format("PART={}", part),
                                      fmt::format("NUM_GROUPS={}", g.rows()), fmt::format("X_THREADS={}", threads.x),
                                      fmt::format("Y_THREADS={}", threads.y), std::string("THREADS=256")})
      defines.push_back(define);
    const Source source = device_source(name_, "group_norm_split.cu", defines);
    Launch launch{
        .grid = {static_cast<unsigned>(parts), static_cast<unsigned>(g.last ? g.batch : g.rows())}, .block = {256}, .overlap = true};
    if (g.last) launch.block = {static_cast<unsigned>(threads.x), static_cast<unsigned>(threads.y)};
    return std::make_unique<SplitKernel>(node.cuda->function(source, "group_sums"), node.cuda->function(source, "group_apply"), launch,
                                         g.rows() * (parts * 8 + 4), epsilon_of(node));
  }

  std::string name_, op_;
};

}  // namespace

std::vector<const KernelDef*> group_norm_kernels() {
  static const GroupNormDef group_norm("group_norm"), instance_norm("instance_norm");
  return {&group_norm, &instance_norm};
}

}  // namespace tokamak::cuda
