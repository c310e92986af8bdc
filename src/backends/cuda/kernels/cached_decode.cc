// cached_attention for decoding steps, one kernel: device/cached_decode.cu. Floor: one read of each sequence's keys and values.

#include "backends/cuda/kernels/cached_attention.h"
#include "backends/cuda/kernels/linear.h"

namespace tokamak::cuda {
namespace {

constexpr int64_t kMostCluster = 8;  // that every GPU with clusters takes; some take 16
constexpr int kSharedPercent = 50;   // of an SM's memory; with more, what is left for loads under way is too little

// How a step's heads become blocks.
struct DecodeTile {
  int64_t head_tiles = 1, unroll = 1, cluster = 1, warps = 4, blocks = 1;  // blocks: on an SM, at least
  int64_t heads = 1, groups = 1;                                           // query heads a block; blocks along y

  static DecodeTile of(const PagedShape& s, const Target& target) {
    DecodeTile t;
    t.head_tiles = s.group() > 8 && s.head_dim <= 128 ? 2 : 1;
    t.heads = std::min(s.group(), 8 * t.head_tiles), t.groups = s.kv_heads * ceil_div(s.group(), t.heads);
    t.unroll = s.head_dim * bytes_of(s.cache, 1) <= 128 ? 2 : 1;
    // Clusters until every SM has a block (the sequences' lengths are not known here, so splitting must cost little where they are short),
    // then warps, up to half of what an SM's registers hold: kernels before and behind find room beside.
    const int64_t room = t.room(s), all = s.rows * t.groups;
    if (target.arch >= 90)
      while (t.cluster < kMostCluster && all * t.cluster * 2 <= target.num_sms * 5 / 4) t.cluster *= 2;
    t.warps = room / 2;
    while (t.warps > 4 && all * t.cluster * t.warps > target.num_sms * room) t.warps /= 2;
    // A block on nearly every SM, and 256 tokens a pass with half the warps: those find a place as soon as one block of the kernel before
    // leaves, often beside all of them, and the cache is read before that kernel ends.
    if (all * t.cluster > target.num_sms / 2 && t.cluster * t.warps >= 32) t.warps /= 2;
    t.blocks = std::max<int64_t>(1, room / t.warps);
    return t;
  }
  // Warps on an SM: 96 registers a thread, 128, or all.
  int64_t room(const PagedShape& s) const {
    if (head_tiles > 1 || s.head_dim > 128) return 8;
    return unroll == 1 && s.head_dim * bytes_of(s.cache, 1) <= 128 ? 20 : 16;
  }
  // "" is the choice of of(), whatever the sizes; else "cluster=4,warps=8,unroll=1", for benchmarks.
  static DecodeTile of(const PagedShape& s, const Target& target, const std::string& tactic) {
    DecodeTile t = of(s, target);
    if (tactic.empty()) return t;
    t.cluster = tactic_number(tactic, "cluster"), t.warps = tactic_number(tactic, "warps"), t.unroll = tactic_number(tactic, "unroll");
    t.blocks = std::max<int64_t>(1, t.room(s) / t.warps);
    return t;
  }
  std::string tactic() const { return fmt::format("cluster={},warps={},unroll={}", cluster, warps, unroll); }
  bool fits(const PagedShape& s, const Target& target) const { return shared_bytes(s) + (16 << 10) <= target.shared_bytes_per_block; }
  // Sums and states of the warps, and of the cluster's blocks.
  int64_t shared_bytes(const PagedShape& s) const {
    const int64_t parts = warps + (cluster > 1 ? cluster : 0);
    return parts * heads * ((s.head_dim + 4) * 4 + 8);
  }
  // With the queries, the new token, and what the GPU takes for itself.
  int64_t all_shared_bytes(const PagedShape& s) const { return shared_bytes(s) + (heads * (s.head_dim + 8) + 2 * s.head_dim) * 2 + 1024; }
};

// Whether no kernel of the graph writes the step's integers, nor another one the cache.
bool reads_early(const ir::Node& node) {
  for (int i = 1; i <= 5; ++i)
    if (node.input(i)->producer() != nullptr) return false;
  return node.input(1)->uses().size() == 1;
}

class CachedDecode final : public Kernel {
 public:
  CachedDecode(const PagedShape& shape, Function function, const Launch& launch, float epsilon, float k_inverse, float v_inverse)
      : shape_(shape), function_(std::move(function)), launch_(launch), epsilon_(epsilon), k_inverse_(k_inverse), v_inverse_(v_inverse) {}
  void run(const RunArgs& args) const override {
    const auto pointer = [&](size_t i) -> const void* {
      return i < args.inputs.size() && args.inputs[i].defined() ? args.inputs[i].raw() : nullptr;
    };
    function_.launch(args.stream, launch_, pointer(0), pointer(1), pointer(2), pointer(3), pointer(4), pointer(5), pointer(6), pointer(7),
                     pointer(8), pointer(9), args.outputs[0].raw(), static_cast<int>(shape_.blocks_per_seq),
                     static_cast<int>(shape_.num_blocks), epsilon_, shape_.score, shape_.window, k_inverse_, v_inverse_, shape_.v_scale);
  }

 private:
  PagedShape shape_;
  Function function_;
  Launch launch_;
  float epsilon_, k_inverse_, v_inverse_;
};

class CachedDecodeDef final : public CudaKernelDef {
 public:
  std::string_view name() const override { return "cuda.cached_attention_decode"; }
  std::string_view op() const override { return "cached_attention"; }
  Support supports(const NodeView& node) const override {
    const PagedShape s = PagedShape::of(node);
    if (const Support support = s.for_tensor_cores(); !support) return support;
    if (s.rows != s.sequences) return Support::no("no decoding: as many rows as sequences");
    if (s.blocks_per_seq < 1 || s.num_blocks < 1) return Support::no("no blocks of the cache");
    if (const Support support = RotateInputs(node, 6).supports(); !support) return support;
    const Target& target = node.cuda->target();
    const DecodeTile t = DecodeTile::of(s, target);
    if (s.rows * t.cluster > INT32_MAX || t.groups > UINT16_MAX || s.blocks_per_seq > INT32_MAX || s.num_blocks > INT32_MAX)
      return Support::no("more rows, heads or blocks than a launch numbers");
    if (target.arch < 90 && s.rows * t.groups < target.num_sms)
      return Support::no("few rows: without clusters, most of the GPU would idle");
    if (!t.fits(s, target)) return Support::no("sums of a block that exceed its shared memory");
    return Support::yes();
  }
  std::vector<std::string> tactics(const NodeView& node) const override {
    const PagedShape s = PagedShape::of(node);
    const Target& target = node.cuda->target();
    std::vector<std::string> out{""};
    for (const auto& [clusters, warps] : {std::pair{1.0, 2.0}, {2.0, 1.0}, {2.0, 0.5}, {0.5, 1.0}}) {
      DecodeTile t = DecodeTile::of(s, target);
      t.cluster = static_cast<int64_t>(static_cast<double>(t.cluster) * clusters);
      t.warps = static_cast<int64_t>(static_cast<double>(t.warps) * warps);
      const int64_t most = target.arch == 90 ? 2 * kMostCluster : target.arch > 90 ? kMostCluster : 1;
      if (t.cluster >= 1 && t.cluster <= most && t.warps <= t.room(s) && t.fits(s, target)) out.push_back(t.tactic());
    }
    DecodeTile small = DecodeTile::of(s, target);
    if (small.unroll > 1) {
      small.unroll = 1;
      out.push_back(small.tactic());
    }
    return out;
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string& tactic) const override {
    const PagedShape s = PagedShape::of(node);
    const DecodeTile t = DecodeTile::of(s, node.cuda->target(), tactic);
    std::vector<std::string> defines = s.defines();
    for (std::string& define : RotateInputs(node, 6).defines()) defines.push_back(std::move(define));
    int64_t vector = 8;  // all lanes take part in rotating a head
    while (vector > 2 && (s.head_dim % vector != 0 || s.head_dim / vector < 32)) vector /= 2;
    for (const auto& [name, value] : {std::pair{"VECTOR", vector},
                                      {"HAS_SOFTCAP", int64_t{s.score.softcap > 0}},
                                      {"EARLY", int64_t{reads_early(*node.node)}},
                                      {"HEAD_TILES", t.head_tiles},
                                      {"UNROLL", t.unroll},
                                      {"WARPS", t.warps},
                                      {"CLUSTER", t.cluster},
                                      {"BLOCKS", t.blocks}})
      defines.push_back(fmt::format("{}={}", name, value));
    defines.push_back("ELEMENT=" + (s.cache == DType::F8E4M3FN ? "f16" : device_type(s.cache)));
    const Launch launch{.grid = {static_cast<unsigned>(s.rows * t.cluster), static_cast<unsigned>(t.groups)},
                        .block = {static_cast<unsigned>(t.warps * 32)},
                        .cluster = static_cast<unsigned>(t.cluster),
                        .shared_bytes = static_cast<int>(t.shared_bytes(s)),
                        .overlap = true};
    const Function function =
        node.cuda->function(device_source(std::string(name()), "cached_decode.cu", std::move(defines)), "cached_attention");
    function.allow_shared_bytes(launch.shared_bytes);
    function.prefer_l1(t.blocks * t.all_shared_bytes(s), kSharedPercent);
    if (t.cluster > kMostCluster) function.allow_large_clusters();
    return std::make_unique<CachedDecode>(s, function, launch, static_cast<float>(node.attrs().get_float("epsilon", 1e-6)),
                                          static_cast<float>(1 / node.attrs().get_float("k_scale", 1)),
                                          static_cast<float>(1 / node.attrs().get_float("v_scale", 1)));
  }
};

}  // namespace

const KernelDef& cached_attention_decode() {
  static const CachedDecodeDef def;
  return def;
}

}  // namespace tokamak::cuda
