// cached_attention's kernels, fastest first.

#include "backends/cuda/kernels/cached_attention.h"

#include "backends/cuda/kernels/chain.h"

namespace tokamak::cuda {

const KernelDef& cached_attention_decode();

Support RotateInputs::supports() const {
  for (const auto& [a, b] : {std::pair{0, 1}, {2, 3}})
    if (has(a) && has(b) && node_.input_dtypes[first_ + a] != node_.input_dtypes[first_ + b])
      return Support::no(fmt::format("inputs {} and {} differ in dtype", first_ + a, first_ + b));
  return Support::yes();
}

std::vector<std::string> RotateInputs::defines() const {
  const auto type_of = [&](int i) { return has(i) ? device_type(node_.input_dtypes[first_ + i]) : "float"; };
  return {"ANGLE=" + type_of(0),
          "NORM=" + type_of(has(2) ? 2 : 3),
          fmt::format("HALF={}", half()),
          fmt::format("INTERLEAVED={}", node_.attrs().get_bool("interleaved", false) ? 1 : 0),
          fmt::format("HAS_Q_NORM={}", has(2) ? 1 : 0),
          fmt::format("HAS_K_NORM={}", has(3) ? 1 : 0)};
}

namespace {

// Its two parts one after the other: steps with several new tokens of a sequence, and what the fused kernel declines.
class CachedChainDef final : public CudaKernelDef {
 public:
  std::string_view name() const override { return "cuda.cached_attention_chain"; }
  std::string_view op() const override { return "cached_attention"; }
  bool is_fallback() const override { return true; }
  Support supports(const NodeView& node) const override {
    Chain chain(node);
    build(chain, node);
    return chain.supports();
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    Chain chain(node);
    ir::Value* const y = build(chain, node);
    return std::move(chain).make({y});
  }

 private:
  static ir::Value* build(Chain& chain, const NodeView& node) {
    const auto attributes = [&](std::initializer_list<const char*> names) {
      ir::Attrs attrs;
      for (const char* name : names)
        if (const ir::Attr* value = node.attrs().find(name)) attrs.set(name, *value);
      return attrs;
    };
    const auto input = [&](int i) { return chain.input(i); };
    ir::Value* const q =
        chain.graph().build("kv_cache_write", {input(0), input(1), input(2), input(6), input(7), input(8), input(9)},
                            attributes({"num_heads", "num_kv_heads", "head_dim", "epsilon", "interleaved", "k_scale", "v_scale"}));
    return chain.graph().build("paged_attention", {q, input(1), input(3), input(4), input(5)},
                               attributes({"num_heads", "num_kv_heads", "head_dim", "scale", "softcap", "window", "k_scale", "v_scale"}));
  }
};

const KernelDef& cached_attention_chain() {
  static const CachedChainDef def;
  return def;
}

}  // namespace

std::vector<const KernelDef*> cached_attention_kernels() { return {&cached_attention_decode(), &cached_attention_chain()}; }

}  // namespace tokamak::cuda
