// kv_cache_write: norm and rotary embedding of a step's q and k heads, k and v into the paged cache. Slots of one step must differ: what a
// slot named twice holds afterwards is either of the two.

#include "backends/cpu/kernels/kv_cache_write.h"

#include "backends/cpu/cpu_features.h"
#include "backends/cpu/kernels/parallel.h"

namespace tokamak::cpu {
namespace {

bool has_avx512() { return cpu_features().avx512; }
bool has_avx2() { return cpu_features().avx2; }

struct KvCacheWriteKernel : Kernel {
  const KvCacheWriteFunctions* functions;
  KvCacheWrite problem;  // without pointers
  int64_t tokens = 0;

  void run(const RunArgs& args) const override {
    const auto floats = [&](size_t i) {
      return i < args.inputs.size() && args.inputs[i].defined() ? args.inputs[i].data<float>() : nullptr;
    };
    KvCacheWrite a = problem;
    a.qkv = floats(0), a.cos = floats(3), a.sin = floats(4), a.q_norm = floats(5), a.k_norm = floats(6);
    a.slots = args.inputs[2].data<int32_t>();
    a.cache = writable_cache(args);
    a.q = args.outputs[0].data<float>();
    const int64_t cost = (a.heads + 2 * a.layout.kv_heads) * a.dim();
    parallel(args.pool, tokens, cost, [&](int64_t begin, int64_t end, int) { functions->tokens(a, begin, end); });
  }
};

class KvCacheWriteDef : public KernelDef {
 public:
  KvCacheWriteDef(const char* name, bool (*available)(), const KvCacheWriteFunctions& (*table)())
      : name_(name), available_(available), table_(table) {}
  std::string_view name() const override { return name_; }
  std::string_view op() const override { return "kv_cache_write"; }
  Support supports(const NodeView& node) const override {
    if (!available_()) return Support::no("the CPU lacks the instructions");
    for (int i = 0; i < node.num_inputs(); ++i)
      if (i != 1 && i != 2 && node.has_input(i) && node.input_dtypes[i] != DType::F32)
        return Support::no(fmt::format("input {} of {}", i, to_string(node.input_dtypes[i])));
    const Shape& cache = node.input_shapes[1];
    if (node.input_dtypes[1] != DType::F32 && node.input_dtypes[1] != DType::BF16)
      return Support::no(fmt::format("a cache of {}", to_string(node.input_dtypes[1])));
    if (cache[3] % kFragment != 0) return Support::no(fmt::format("a block size of {}, no multiple of {}", cache[3], kFragment));
    if (cache[4] > kMaxCachedHead) return Support::no(fmt::format("a head size of {}, above {}", cache[4], kMaxCachedHead));
    return Support::yes();
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    auto kernel = std::make_unique<KvCacheWriteKernel>();
    kernel->functions = &table_();
    kernel->tokens = node.input_shapes[0][0];
    KvCacheWrite& a = kernel->problem;
    a.layout = KvCacheLayout::of(node.input_shapes[1], node.input_dtypes[1]);
    a.heads = node.attrs().get_int("num_heads");
    a.half = node.has_input(3) ? node.input_shapes[3][1] : 0;
    a.interleaved = node.attrs().get_bool("interleaved", false);
    a.epsilon = static_cast<float>(node.attrs().get_float("epsilon", 1e-6));
    return kernel;
  }

 private:
  const char* name_;
  bool (*available_)();
  const KvCacheWriteFunctions& (*table_)();
};

}  // namespace

const KernelDef& avx512_kv_cache_write() {
  static const KvCacheWriteDef def("avx512.kv_cache_write", has_avx512, kv_cache_write_avx512);
  return def;
}
const KernelDef& avx2_kv_cache_write() {
  static const KvCacheWriteDef def("avx2.kv_cache_write", has_avx2, kv_cache_write_avx2);
  return def;
}

}  // namespace tokamak::cpu
