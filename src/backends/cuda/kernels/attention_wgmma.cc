// attention with Hopper's warpgroup products. Floor as in attention.cc.

#include "backends/cuda/kernels/attention.h"
#include "backends/cuda/kernels/wgmma_flash.h"

namespace tokamak::cuda {
namespace {

class AttentionWgmma final : public Kernel {
 public:
  AttentionWgmma(Function function, const Target& target, const AttentionShape& shape, const WgmmaTile& tile, int together)
      : function_(std::move(function)), shape_(shape), keys_(tile.keys), together_(together) {
    launch_ = {.grid = {tile.grid(target, ceil_div(shape.q_length, tile.rows()) * shape.heads * shape.batch)},
               .block = {tile.threads()},
               .shared_bytes = tile.shared_bytes(shape.head_dim, shape.dtype),
               .overlap = true};
    function_.allow_shared_bytes(launch_.shared_bytes);
  }
  void run(const RunArgs& args) const override {
    function_.launch(args.stream, launch_, map_of(shape_.input(args, 1), shape_.args.k), map_of(shape_.input(args, 2), shape_.args.v),
                     shape_.input(args, 0), args.outputs[0].raw(), shape_.args, together_, static_cast<int>(shape_.batch));
  }

 private:
  CUtensorMap map_of(const void* data, const HeadStrides& strides) const {
    return box_map(shape_.dtype, data, {shape_.head_dim, shape_.k_length, shape_.kv_heads, shape_.batch},
                   {strides.row * 2, strides.head * 2, strides.batch * 2}, keys_);
  }

  Function function_;
  AttentionShape shape_;
  int keys_, together_;
  Launch launch_;
};

class AttentionWgmmaDef final : public CudaKernelDef {
 public:
  std::string_view name() const override { return "cuda.attention_wgmma"; }
  std::string_view op() const override { return "attention"; }
  Support supports(const NodeView& node) const override {
    if (const Support s = AttentionShape::check(node); !s) return s;
    const AttentionShape s = AttentionShape::of(node);
    if (const Support support = wgmma_supports(node.cuda->target(), s.dtype, s.dtype, s.head_dim); !support) return support;
    if (s.value_dim != s.head_dim) return Support::no(fmt::format("values of {} elements, keys of {}", s.value_dim, s.head_dim));
    if (s.has_mask) return Support::no("a mask");
    if (s.q_length < kFewestRows) return Support::no(fmt::format("{} queries: a tile would be nearly empty", s.q_length));
    if (s.k_length < 1) return Support::no("no keys");
    if (ceil_div(s.q_length, 64) * s.heads * s.batch > INT32_MAX) return Support::no("more heads than a launch numbers");
    return Support::yes();
  }
  std::vector<std::string> tactics(const NodeView& node) const override {
    const AttentionShape s = AttentionShape::of(node);
    return wgmma_tactics(s.head_dim, s.dtype);
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string& tactic) const override {
    const AttentionShape s = AttentionShape::of(node);
    const WgmmaTile tile = WgmmaTile::parse(tactic);
    std::vector<std::string> defines = {fmt::format("HEAD_DIM={}", s.head_dim), "ELEMENT=" + device_type(s.dtype),
                                        fmt::format("NATURAL={}", s.args.softcap > 0 || !(s.args.scale > 0) ? 1 : 0)};
    for (std::string& define : tile.defines()) defines.push_back(std::move(define));
    const Source source{std::string(name()), tile.code(s.dtype, s.head_dim) + device_file("attention_wgmma.cu"), std::move(defines)};
    const int64_t head_bytes = s.k_length * s.head_dim * 4 / s.args.group;
    return std::make_unique<AttentionWgmma>(node.cuda->function(source, "attention"), node.cuda->target(), s, tile,
                                            heads_together(node.cuda->target(), s.heads, head_bytes));
  }

 private:
  static constexpr int64_t kFewestRows = 32;
};

}  // namespace

const KernelDef& attention_wgmma() {
  static const AttentionWgmmaDef def;
  return def;
}

}  // namespace tokamak::cuda
