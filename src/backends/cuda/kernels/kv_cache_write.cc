// kv_cache_write: norm and rope of a step's q and k heads, k and v into the paged cache. Floor: one read of qkv and one write of as much.

#include "backends/cuda/kernels/cached_attention.h"

namespace tokamak::cuda {
namespace {

constexpr int64_t kWarps = 4, kMostHeadDim = 1024;

class KvCacheWrite final : public Kernel {
 public:
  KvCacheWrite(Function function, const PagedShape& shape, float epsilon, float k_inverse, float v_inverse)
      : function_(std::move(function)), shape_(shape), epsilon_(epsilon), k_inverse_(k_inverse), v_inverse_(v_inverse) {}
  void run(const RunArgs& args) const override {
    const auto pointer = [&](size_t i) -> const void* {
      return i < args.inputs.size() && args.inputs[i].defined() ? args.inputs[i].raw() : nullptr;
    };
    const int64_t items = shape_.rows * (shape_.heads + 2 * shape_.kv_heads);
    function_.launch(
        args.stream,
        {.grid = {static_cast<unsigned>(ceil_div(items, kWarps))}, .block = {static_cast<unsigned>(kWarps * 32)}, .overlap = true},
        pointer(0), pointer(1), pointer(2), pointer(3), pointer(4), pointer(5), pointer(6), args.outputs[0].raw(),
        static_cast<int>(shape_.rows), shape_.num_blocks * shape_.block_size, epsilon_, k_inverse_, v_inverse_);
  }

 private:
  Function function_;
  PagedShape shape_;
  float epsilon_, k_inverse_, v_inverse_;
};

class KvCacheWriteDef final : public CudaKernelDef {
 public:
  std::string_view name() const override { return "cuda.kv_cache_write"; }
  std::string_view op() const override { return "kv_cache_write"; }
  Support supports(const NodeView& node) const override {
    const PagedShape s = PagedShape::of(node);
    if (s.head_dim > kMostHeadDim) return Support::no(fmt::format("a head size of {}, above {}", s.head_dim, kMostHeadDim));
    if (s.rows * (s.heads + 2 * s.kv_heads) > INT32_MAX) return Support::no("more heads of tokens than a grid has blocks");
    return RotateInputs(node, 3).supports();
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    const PagedShape s = PagedShape::of(node);
    std::vector<std::string> defines = s.defines();
    for (std::string& define : RotateInputs(node, 3).defines()) defines.push_back(std::move(define));
    const int64_t vector = load_width(s.head_dim, std::max(bytes_of(s.activation, 1), bytes_of(s.cache, 1)));
    defines.push_back(fmt::format("VECTOR={}", vector));
    defines.push_back(fmt::format("WARPS={}", kWarps));
    return std::make_unique<KvCacheWrite>(
        node.cuda->function(device_source(std::string(name()), "kv_cache_write.cu", std::move(defines)), "kv_cache_write"), s,
        static_cast<float>(node.attrs().get_float("epsilon", 1e-6)), static_cast<float>(1 / node.attrs().get_float("k_scale", 1)),
        static_cast<float>(1 / node.attrs().get_float("v_scale", 1)));
  }
};

}  // namespace

std::vector<const KernelDef*> kv_cache_write_kernels() {
  static const KvCacheWriteDef def;
  return {&def};
}

}  // namespace tokamak::cuda
