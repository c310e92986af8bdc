// paged_attention on the ordinary cores: every dtype and head size, decoding or not. Floor: one read of the keys and values of each
// sequence; several rows of a sequence read them again, from L2.

#include "backends/cuda/kernels/paged_attention.h"

#include <bit>
#include <cmath>

#include "ir/op.h"

namespace tokamak::cuda {

std::string cache_type(DType dtype) { return dtype == DType::F8E4M3FN ? "f8e4m3" : is_activation(dtype) ? device_type(dtype) : ""; }

int64_t load_width(int64_t size, int64_t element_bytes) {
  int64_t width = 16 / element_bytes;
  while (size % width != 0) width /= 2;
  return width;
}

PagedShape PagedShape::of(const NodeView& node) {
  const Shape& cache = node.input_shapes[1];
  PagedShape s;
  s.heads = node.attrs().get_int("num_heads"), s.kv_heads = cache[2], s.head_dim = cache[4];
  s.block_size = cache[3], s.num_blocks = cache[0];
  s.activation = node.input_dtypes[0], s.cache = node.input_dtypes[1];
  s.rows = node.input_shapes[0][0];
  if (node.node->op().name != "kv_cache_write") {
    const Shape& tables = node.input_shapes[node.node->op().name == "paged_attention" ? 2 : 3];
    s.sequences = tables[0], s.blocks_per_seq = tables[1];
    const double scale = node.attrs().get_float("scale", 1 / std::sqrt(static_cast<double>(s.head_dim)));
    s.score = {static_cast<float>(scale * node.attrs().get_float("k_scale", 1)),
               static_cast<float>(std::max(0.0, node.attrs().get_float("softcap", 0)))};
    s.window = static_cast<int>(std::min<int64_t>(node.attrs().get_int("window", 0), INT32_MAX));
    s.v_scale = static_cast<float>(node.attrs().get_float("v_scale", 1));
  }
  return s;
}

Support PagedShape::for_tensor_cores() const {
  if (activation == DType::F32) return Support::no("f32: tensor cores would round it");
  if (cache != activation && cache != DType::F8E4M3FN)
    return Support::no(fmt::format("q of {} and a cache of {}", to_string(activation), to_string(cache)));
  if (head_dim % 8 != 0 || head_dim > 256) return Support::no(fmt::format("a head size of {}: no multiple of 8 up to 256", head_dim));
  return Support::yes();
}

std::vector<std::string> PagedShape::defines() const {
  return {fmt::format("HEADS={}", heads),           fmt::format("KV_HEADS={}", kv_heads),    fmt::format("HEAD_DIM={}", head_dim),
          fmt::format("BLOCK_SIZE={}", block_size), "ACTIVATION=" + device_type(activation), "CACHE=" + cache_type(cache)};
}

int choose_splits(const PagedShape& shape, const Target& target, int64_t blocks, int blocks_per_sm, int64_t tile) {
  const int64_t places = int64_t{target.num_sms} * blocks_per_sm, longest = shape.blocks_per_seq * shape.block_size;
  const int64_t most = std::min<int64_t>(kMostSplits, std::max<int64_t>(1, ceil_div(longest, tile)));
  return static_cast<int>(std::clamp<int64_t>(places / std::max<int64_t>(blocks, 1), 1, most));
}

void PagedAttention::run(const RunArgs& args) const {
  const auto &q = args.inputs[0], &cache = args.inputs[1], &tables = args.inputs[2], &lengths = args.inputs[3], &starts = args.inputs[4];
  attend_.launch(args.stream, launch_, q.raw(), cache.raw(), tables.raw(), lengths.raw(), starts.raw(), args.outputs[0].raw(),
                 args.workspace, static_cast<int>(shape_.rows), static_cast<int>(shape_.sequences), static_cast<int>(shape_.blocks_per_seq),
                 static_cast<int>(shape_.num_blocks), splits_, shape_.score, shape_.window, shape_.v_scale);
  if (splits_ > 1)
    combine_.launch(args.stream,
                    {.grid = {static_cast<unsigned>(ceil_div(shape_.rows * shape_.heads, 4))}, .block = {128}, .overlap = true},
                    args.workspace, args.outputs[0].raw(), static_cast<int>(shape_.rows), splits_, shape_.v_scale);
}

namespace {

constexpr int64_t kMostHeadDim = 512, kWarps = 4;

class PagedRowsDef final : public CudaKernelDef {
 public:
  std::string_view name() const override { return "cuda.paged_attention"; }
  std::string_view op() const override { return "paged_attention"; }
  bool is_fallback() const override { return true; }
  Support supports(const NodeView& node) const override {
    const PagedShape s = PagedShape::of(node);
    if (s.head_dim > kMostHeadDim) return Support::no(fmt::format("a head size of {}, above {}", s.head_dim, kMostHeadDim));
    if (s.rows * kMostSplits > INT32_MAX || s.heads > UINT16_MAX || s.blocks_per_seq > INT32_MAX || s.num_blocks > INT32_MAX)
      return Support::no("more rows, heads or blocks than a launch numbers");
    return Support::yes();
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    const PagedShape s = PagedShape::of(node);
    const int64_t bytes = std::max(bytes_of(s.activation, 1), bytes_of(s.cache, 1));
    const int64_t vector = load_width(s.head_dim, bytes);
    const auto lanes = std::min<int64_t>(32, static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(s.head_dim / vector))));
    const int64_t group = std::min<int64_t>(s.group(), s.head_dim > 256 ? 2 : 4), groups = s.kv_heads * ceil_div(s.group(), group);
    const int splits = choose_splits(s, node.cuda->target(), s.rows * groups, 3, kWarps * 64);
    std::vector<std::string> defines = s.defines();
    for (const auto& [name, value] : {std::pair{"VECTOR", vector}, {"LANES", lanes}, {"GROUP", group}, {"WARPS", kWarps}})
      defines.push_back(fmt::format("{}={}", name, value));
    const Source source = device_source(std::string(name()), "paged_rows.cu", std::move(defines));
    const Launch launch{.grid = {static_cast<unsigned>(s.rows * splits), static_cast<unsigned>(groups)},
                        .block = {static_cast<unsigned>(kWarps * 32)},
                        .overlap = true};
    return std::make_unique<PagedAttention>(s, splits, node.cuda->function(source, "paged_attention"), launch,
                                            splits > 1 ? node.cuda->function(source, "paged_combine") : Function());
  }
};

}  // namespace

const KernelDef& paged_attention_rows() {
  static const PagedRowsDef def;
  return def;
}

}  // namespace tokamak::cuda
