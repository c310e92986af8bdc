// paged_attention with tensor cores for a new token a sequence. Floor: one read of each sequence's keys and values.

#include "backends/cuda/kernels/paged_parts.h"

namespace tokamak::cuda {

PagedDecodeTile::PagedDecodeTile(const PagedShape& s)
    : head_tiles(s.group() > 8 && s.head_dim <= 128 ? 2 : 1),
      heads(std::min(s.group(), 8 * head_tiles)),
      unroll(s.head_dim * bytes_of(s.cache, 1) <= 128 ? 2 : 1),
      groups(s.kv_heads * ceil_div(s.group(), heads)) {}

std::vector<std::string> PagedDecodeTile::defines(const PagedShape& s, int64_t warps, bool singles, bool side_by_side) const {
  std::vector<std::string> out = s.defines();
  for (const auto& [name, value] : {std::pair{"HEAD_TILES", head_tiles},
                                    {"UNROLL", unroll},
                                    {"WARPS", warps},
                                    {"SINGLES", int64_t{singles}},
                                    {"SIDE_BY_SIDE", int64_t{side_by_side}}})
    out.push_back(fmt::format("{}={}", name, value));
  out.push_back("ELEMENT=" + (s.cache == DType::F8E4M3FN ? "f16" : device_type(s.cache)));
  return out;
}

namespace {

constexpr int kWarps = 4;

class PagedDecodeDef final : public CudaKernelDef {
 public:
  std::string_view name() const override { return "cuda.paged_attention_decode"; }
  std::string_view op() const override { return "paged_attention"; }
  Support supports(const NodeView& node) const override {
    const PagedShape s = PagedShape::of(node);
    if (const Support support = s.for_tensor_cores(); !support) return support;
    if (s.rows > s.sequences) return Support::no("more rows than sequences");
    if (s.rows * kMostSplits > INT32_MAX || s.heads > UINT16_MAX || s.blocks_per_seq > INT32_MAX || s.num_blocks > INT32_MAX)
      return Support::no("more rows, heads or blocks than a launch numbers");
    return Support::yes();
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    const PagedShape s = PagedShape::of(node);
    const PagedDecodeTile t(s);
    const int splits =
        choose_splits(s, node.cuda->target(), s.rows * t.groups, t.head_tiles == 1 && s.head_dim <= 128 ? 3 : 2, kWarps * 16 * t.unroll);
    const Source source = device_source(std::string(name()), "paged_decode.cu", t.defines(s, kWarps, false, false));
    const Launch launch{.grid = {static_cast<unsigned>(s.rows * splits), static_cast<unsigned>(t.groups)},
                        .block = {kWarps * 32},
                        .shared_bytes = t.shared_bytes(s, kWarps),
                        .overlap = true};
    const Function attend = node.cuda->function(source, "paged_attention");
    attend.allow_shared_bytes(launch.shared_bytes);
    return std::make_unique<PagedAttention>(s, splits, attend, launch,
                                            splits > 1 ? node.cuda->function(source, "paged_combine") : Function());
  }
};

}  // namespace

const KernelDef& paged_attention_decode() {
  static const PagedDecodeDef def;
  return def;
}

}  // namespace tokamak::cuda
