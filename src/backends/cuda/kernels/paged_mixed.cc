// paged_attention for steps of several sequences of which some prefill and some decode: device/paged_mixed.cu. Floor: the larger of one
// read of the keys and values of each sequence, and 4 * heads * head_dim operations for every pair of a new token and one it sees.

#include "backends/cuda/kernels/paged_parts.h"

namespace tokamak::cuda {
namespace {

constexpr int64_t kFewestRows = 128, kPlanThreads = 1024, kPlanBytes = 32;  // of the plan, and of a tile in it

class PagedMixed final : public Kernel {
 public:
  PagedMixed(const PagedShape& shape, const PagedBoxes& boxes, int64_t most_tiles, bool side_by_side, Function plan, Function prefill,
             const Launch& prefill_launch, Function decode, const Launch& decode_launch)
      : shape_(shape),
        boxes_(boxes),
        most_tiles_(most_tiles),
        side_by_side_(side_by_side),
        plan_(std::move(plan)),
        prefill_(std::move(prefill)),
        decode_(std::move(decode)),
        prefill_launch_(prefill_launch),
        decode_launch_(decode_launch) {
    prefill_.allow_shared_bytes(prefill_launch.shared_bytes);
    decode_.allow_shared_bytes(decode_launch.shared_bytes);
  }
  int64_t workspace_bytes() const override { return (1 + most_tiles_) * kPlanBytes; }
  void run(const RunArgs& args) const override {
    const void *const q = args.inputs[0].raw(), *const cache = args.inputs[1].raw(), *const tables = args.inputs[2].raw();
    const void *const lengths = args.inputs[3].raw(), *const starts = args.inputs[4].raw(), *const y = args.outputs[0].raw();
    const auto rows = static_cast<int>(shape_.rows), sequences = static_cast<int>(shape_.sequences);
    const auto blocks_per_seq = static_cast<int>(shape_.blocks_per_seq), num_blocks = static_cast<int>(shape_.num_blocks);
    plan_.launch(args.stream, {.block = {kPlanThreads}, .overlap = true}, lengths, starts, args.workspace, rows, sequences, blocks_per_seq,
                 shape_.window, static_cast<int>(most_tiles_), static_cast<int>(prefill_launch_.grid.x), int{side_by_side_});
    prefill_.launch(args.stream, prefill_launch_, boxes_.map(shape_, args.inputs[1]), q, tables, lengths, starts, y, rows, sequences,
                    blocks_per_seq, num_blocks, shape_.score, shape_.window, shape_.v_scale, boxes_.heads_together, args.workspace);
    decode_.launch(args.stream, decode_launch_, q, cache, tables, lengths, starts, y, static_cast<void*>(nullptr), rows, sequences,
                   blocks_per_seq, num_blocks, 1, shape_.score, shape_.window, shape_.v_scale);
  }

 private:
  PagedShape shape_;
  PagedBoxes boxes_;
  int64_t most_tiles_;
  bool side_by_side_;
  Function plan_, prefill_, decode_;
  Launch prefill_launch_, decode_launch_;
};

class PagedMixedDef final : public CudaKernelDef {
 public:
  std::string_view name() const override { return "cuda.paged_attention_mixed"; }
  std::string_view op() const override { return "paged_attention"; }
  Support supports(const NodeView& node) const override {
    const PagedShape s = PagedShape::of(node);
    const Target& target = node.cuda->target();
    if (s.sequences < 2 || s.rows == s.sequences) return Support::no("one sequence, or a row a sequence");
    if (s.rows < kFewestRows) return Support::no("few rows: one kernel does");
    if (const Support support = PagedBoxes::supports(s, target); !support) return support;
    const PagedDecodeTile decode(s);
    if (decode.shared_bytes(s, decode_warps(s, target)) > target.shared_bytes_per_block)
      return Support::no("sums of a block that exceed its shared memory");
    if (decode.groups > UINT16_MAX || most_tiles(s, WgmmaTile::parse(tactics(node).front())) > INT32_MAX / kPlanThreads)
      return Support::no("more rows or heads than a launch numbers");
    return Support::yes();
  }
  // "in turns": decoding waits for prefill, for comparison.
  std::vector<std::string> tactics(const NodeView& node) const override {
    const PagedShape s = PagedShape::of(node);
    const std::string tile = wgmma_tactics(s.head_dim, s.cache).front();
    return {tile, kInTurns + tile};
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string& tactic) const override {
    const PagedShape s = PagedShape::of(node);
    const Target& target = node.cuda->target();
    const bool side_by_side = !tactic.starts_with(kInTurns);
    const PagedBoxes boxes(s, target, WgmmaTile::parse(side_by_side ? tactic : tactic.substr(kInTurns.size())));
    const PagedDecodeTile decode(s);
    const int64_t warps = decode_warps(s, target);
    const Source prefill_source = boxes.source(s, std::string(name()), "paged_mixed.cu");
    const Source decode_source = device_source(std::string(name()), "paged_decode.cu", decode.defines(s, warps, true, side_by_side));
    const Launch prefill_launch{.grid = {static_cast<unsigned>(target.num_sms)},
                                .block = {boxes.tile.threads()},
                                .shared_bytes = boxes.tile.shared_bytes(s.head_dim, s.cache),
                                .overlap = true};
    const Launch decode_launch{.grid = {static_cast<unsigned>(s.sequences + 1), static_cast<unsigned>(decode.groups)},
                               .block = {static_cast<unsigned>(warps * 32)},
                               .shared_bytes = decode.shared_bytes(s, warps),
                               .overlap = true};
    return std::make_unique<PagedMixed>(s, boxes, most_tiles(s, boxes.tile), side_by_side, node.cuda->function(prefill_source, "plan_step"),
                                        node.cuda->function(prefill_source, "paged_attention"), prefill_launch,
                                        node.cuda->function(decode_source, "paged_attention"), decode_launch);
  }

 private:
  inline static const std::string kInTurns = "in turns ";
  // Each sequence may have a tile that is not full.
  static int64_t most_tiles(const PagedShape& s, const WgmmaTile& tile) { return ceil_div(s.rows * s.group(), tile.rows()) + s.sequences; }
  // Few sequences: more warps each, since they are not split.
  static int64_t decode_warps(const PagedShape& s, const Target& target) {
    return s.sequences * PagedDecodeTile(s).groups < int64_t{2} * target.num_sms ? 8 : 4;
  }
};

}  // namespace

const KernelDef& paged_attention_mixed() {
  static const PagedMixedDef def;
  return def;
}

}  // namespace tokamak::cuda
