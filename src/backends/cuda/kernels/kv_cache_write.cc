// kv_cache_write: norm and rope of a step's q and k heads, k and v into the paged cache. Floor: one read of qkv and one write of as much.

#include <bit>

#include "backends/cuda/kernels/cached_attention.h"

namespace tokamak::cuda {
namespace {

constexpr int64_t kWarps = 4, kMostHeadDim = 1024;

class KvCacheWrite final : public Kernel {
 public:
  KvCacheWrite(Function function, const NodeView& node, int64_t warps)
      : function_(std::move(function)),
        shape_(PagedShape::of(node)),
        warps_(warps),
        epsilon_(static_cast<float>(node.attrs().get_float("epsilon", 1e-6))),
        k_inverse_(static_cast<float>(1 / node.attrs().get_float("k_scale", 1))),
        v_inverse_(static_cast<float>(1 / node.attrs().get_float("v_scale", 1))) {}
  void run(const RunArgs& args) const override {
    const auto pointer = [&](size_t i) -> const void* {
      return i < args.inputs.size() && args.inputs[i].defined() ? args.inputs[i].raw() : nullptr;
    };
    function_.launch(
        args.stream,
        {.grid = {static_cast<unsigned>(ceil_div(warps_, kWarps))}, .block = {static_cast<unsigned>(kWarps * 32)}, .overlap = true},
        pointer(0), pointer(1), pointer(2), pointer(3), pointer(4), pointer(5), pointer(6), args.outputs[0].raw(),
        static_cast<int>(shape_.rows), shape_.num_blocks * shape_.block_size, epsilon_, k_inverse_, v_inverse_);
  }

 private:
  Function function_;
  PagedShape shape_;
  int64_t warps_;
  float epsilon_, k_inverse_, v_inverse_;
};

int64_t rows_of_token(const PagedShape& s) { return s.heads + 2 * s.kv_heads; }

// Heads whose rotated pairs are in one lane's two vectors.
class KvCacheWriteVectorsDef final : public CudaKernelDef {
 public:
  std::string_view name() const override { return "cuda.kv_cache_write_vectors"; }
  std::string_view op() const override { return "kv_cache_write"; }
  Support supports(const NodeView& node) const override {
    const PagedShape s = PagedShape::of(node);
    if (s.activation == DType::F32) return Support::no("f32: two vectors of 16 bytes are not eight elements");
    if (s.head_dim % 16 != 0 || !std::has_single_bit(static_cast<uint64_t>(s.head_dim)) || s.head_dim > 512)
      return Support::no(fmt::format("a head size of {}: no power of two from 16 to 512", s.head_dim));
    const RotateInputs rotate(node, 3);
    if (rotate.half() != 0 && rotate.half() * 2 != s.head_dim)
      return Support::no(fmt::format("{} of {} elements are rotated", 2 * rotate.half(), s.head_dim));
    if (s.rows * rows_of_token(s) > INT32_MAX) return Support::no("more heads of tokens than a grid has blocks");
    return rotate.supports();
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    const PagedShape s = PagedShape::of(node);
    // Several rounds a warp keep more loads under way, and share what rotates, where there are warps enough.
    const int64_t at_once = 32 / (s.head_dim / 16), warps = s.rows * ceil_div(rows_of_token(s), at_once);
    const int64_t rounds = warps >= int64_t{64} * node.cuda->target().num_sms ? 4 : 1;
    std::vector<std::string> defines = s.defines();
    for (std::string& define : RotateInputs(node, 3).defines()) defines.push_back(std::move(define));
    defines.push_back(fmt::format("ROUNDS={}", rounds));
    defines.push_back(fmt::format("WARPS={}", kWarps));
    return std::make_unique<KvCacheWrite>(
        node.cuda->function(device_source(std::string(name()), "kv_cache_write_vectors.cu", std::move(defines)), "kv_cache_write"), node,
        s.rows * ceil_div(rows_of_token(s), at_once * rounds));
  }
};

class KvCacheWriteDef final : public CudaKernelDef {
 public:
  std::string_view name() const override { return "cuda.kv_cache_write"; }
  std::string_view op() const override { return "kv_cache_write"; }
  bool is_fallback() const override { return true; }
  Support supports(const NodeView& node) const override {
    const PagedShape s = PagedShape::of(node);
    if (s.head_dim > kMostHeadDim) return Support::no(fmt::format("a head size of {}, above {}", s.head_dim, kMostHeadDim));
    if (s.rows * rows_of_token(s) > INT32_MAX) return Support::no("more heads of tokens than a grid has blocks");
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
        node.cuda->function(device_source(std::string(name()), "kv_cache_write.cu", std::move(defines)), "kv_cache_write"), node,
        s.rows * rows_of_token(s));
  }
};

}  // namespace

std::vector<const KernelDef*> kv_cache_write_kernels() {
  static const KvCacheWriteVectorsDef vectors;
  static const KvCacheWriteDef any;
  return {&vectors, &any};
}

}  // namespace tokamak::cuda
