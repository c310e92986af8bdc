// paged_attention with tensor cores for steps with several new tokens a sequence. Floor: 4 * heads * head_dim operations for every pair of
// a new token and one it sees.

#include "backends/cuda/kernels/attention.h"
#include "backends/cuda/kernels/paged_attention.h"

namespace tokamak::cuda {
namespace {

class PagedFlashDef final : public CudaKernelDef {
 public:
  std::string_view name() const override { return "cuda.paged_attention_prefill"; }
  std::string_view op() const override { return "paged_attention"; }
  Support supports(const NodeView& node) const override {
    const PagedShape s = PagedShape::of(node);
    if (const Support support = s.for_tensor_cores(); !support) return support;
    if (s.rows <= s.sequences) return Support::no("a row a sequence: decoding");
    if (s.rows * s.group() > INT32_MAX || s.heads > UINT16_MAX || s.blocks_per_seq > INT32_MAX || s.num_blocks > INT32_MAX)
      return Support::no("more rows, heads or blocks than a launch numbers");
    if (tactics(node).empty()) return Support::no("no tile fits the GPU's shared memory");
    return Support::yes();
  }
  std::vector<std::string> tactics(const NodeView& node) const override {
    const PagedShape s = PagedShape::of(node);
    return flash_tactics(node.cuda->target(), s.head_dim, s.head_dim, ceil_div(s.rows * s.group(), 16) * s.kv_heads);
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string& tactic) const override {
    const PagedShape s = PagedShape::of(node);
    const FlashTile tile = FlashTile::parse(tactic);
    std::vector<std::string> defines = s.defines();
    for (std::string& define : tile.defines()) defines.push_back(std::move(define));
    defines.push_back("ELEMENT=" + (s.cache == DType::F8E4M3FN ? "f16" : device_type(s.cache)));
    defines.push_back(fmt::format("NATURAL={}", s.score.softcap > 0 || !(s.score.scale > 0) ? 1 : 0));
    const Function attend =
        node.cuda->function(device_source(std::string(name()), "paged_flash.cu", std::move(defines)), "paged_attention");
    const Launch launch{
        .grid = {static_cast<unsigned>(ceil_div(s.rows * s.group(), tile.rows()) + s.sequences), static_cast<unsigned>(s.kv_heads)},
        .block = {static_cast<unsigned>(tile.threads())},
        .shared_bytes = tile.shared_bytes(s.head_dim, s.head_dim),
        .overlap = true};
    attend.allow_shared_bytes(launch.shared_bytes);
    return std::make_unique<PagedAttention>(s, 1, attend, launch, Function());
  }
};

}  // namespace

const KernelDef& paged_attention_prefill() {
  static const PagedFlashDef def;
  return def;
}

}  // namespace tokamak::cuda
