// paged_attention with Hopper's warpgroup products, for prefill. Floor as in paged_flash.cc.

#include <numeric>

#include "backends/cuda/kernels/paged_parts.h"

namespace tokamak::cuda {

PagedBoxes::PagedBoxes(const PagedShape& s, const Target& target, const WgmmaTile& of)
    : tile(of),
      box_rows(static_cast<int>(std::gcd(s.block_size, int64_t{of.keys}))),
      heads_together(cuda::heads_together(target, s.kv_heads, bytes_of(s.cache, 2 * s.rows * s.head_dim))) {}  // a prompt without a prefix

Support PagedBoxes::supports(const PagedShape& s, const Target& target) {
  if (const Support support = wgmma_supports(target, s.activation, s.cache, s.head_dim); !support) return support;
  if (s.block_size % 8 != 0) return Support::no(fmt::format("blocks of {} tokens, no multiple of 8", s.block_size));
  if (s.rows * s.group() > INT32_MAX || s.blocks_per_seq > INT32_MAX || s.cache_rows() > INT32_MAX / 2)
    return Support::no("more rows, heads or blocks than a launch numbers");
  return Support::yes();
}

Source PagedBoxes::source(const PagedShape& s, const std::string& name, const std::string& file) const {
  const DType element = s.cache == DType::F8E4M3FN ? DType::F16 : s.cache;
  std::vector<std::string> defines = s.defines();
  defines.push_back("ELEMENT=" + device_type(element));
  defines.push_back(fmt::format("BOX_ROWS={}", box_rows));
  defines.push_back(fmt::format("NATURAL={}", s.score.softcap > 0 || !(s.score.scale > 0) ? 1 : 0));
  for (std::string& define : tile.defines()) defines.push_back(std::move(define));
  return {name, tile.code(element, s.head_dim) + device_file(file), std::move(defines)};
}

CUtensorMap PagedBoxes::map(const PagedShape& s, const Tensor& cache) const {
  return box_map(s.cache, cache.raw(), {s.head_dim, s.cache_rows()}, {bytes_of(s.cache, s.head_dim)}, box_rows);
}

namespace {

class PagedWgmma final : public Kernel {
 public:
  PagedWgmma(Function attend, const PagedShape& shape, const PagedBoxes& boxes, const Launch& launch)
      : attend_(std::move(attend)), shape_(shape), boxes_(boxes), launch_(launch) {
    attend_.allow_shared_bytes(launch.shared_bytes);
  }
  void run(const RunArgs& args) const override {
    attend_.launch(args.stream, launch_, boxes_.map(shape_, args.inputs[1]), args.inputs[0].raw(), args.inputs[2].raw(),
                   args.inputs[3].raw(), args.inputs[4].raw(), args.outputs[0].raw(), static_cast<int>(shape_.rows),
                   static_cast<int>(shape_.sequences), static_cast<int>(shape_.blocks_per_seq), static_cast<int>(shape_.num_blocks),
                   shape_.score, shape_.window, shape_.v_scale, boxes_.heads_together);
  }

 private:
  Function attend_;
  PagedShape shape_;
  PagedBoxes boxes_;
  Launch launch_;
};

class PagedWgmmaDef final : public CudaKernelDef {
 public:
  std::string_view name() const override { return "cuda.paged_attention_wgmma"; }
  std::string_view op() const override { return "paged_attention"; }
  Support supports(const NodeView& node) const override {
    const PagedShape s = PagedShape::of(node);
    if (const Support support = PagedBoxes::supports(s, node.cuda->target()); !support) return support;
    if (s.rows <= s.sequences || s.rows * s.group() < std::min(s.sequences * kFewestRows, kManyRows))
      return Support::no("few new tokens: tiles would be empty");
    if (grid_of(s, kFewestRows) > INT32_MAX) return Support::no("more tiles than a launch numbers");
    return Support::yes();
  }
  std::vector<std::string> tactics(const NodeView& node) const override {
    const PagedShape s = PagedShape::of(node);
    return wgmma_tactics(s.head_dim, s.cache);
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string& tactic) const override {
    const PagedShape s = PagedShape::of(node);
    const PagedBoxes boxes(s, node.cuda->target(), WgmmaTile::parse(tactic));
    const Launch launch{.grid = {boxes.tile.grid(node.cuda->target(), grid_of(s, boxes.tile.rows()))},
                        .block = {boxes.tile.threads()},
                        .shared_bytes = boxes.tile.shared_bytes(s.head_dim, s.cache),
                        .overlap = true};
    const Source source = boxes.source(s, std::string(name()), "paged_wgmma.cu");
    return std::make_unique<PagedWgmma>(node.cuda->function(source, "paged_attention"), s, boxes, launch);
  }

 private:
  static constexpr int64_t kFewestRows = 32, kManyRows = 512;
  // Tiles of rows, times heads. Sequences may each add a tile that is not full; most rows of a batch's sequences are not in use, so that
  // few are counted, and blocks take a second tile where there are more.
  static int64_t grid_of(const PagedShape& s, int64_t tile_rows) {
    return (ceil_div(s.rows * s.group(), tile_rows) + std::min<int64_t>(s.sequences - 1, 8)) * s.kv_heads;
  }
};

}  // namespace

const KernelDef& paged_attention_wgmma() {
  static const PagedWgmmaDef def;
  return def;
}

}  // namespace tokamak::cuda
