// attention: with tensor cores for f16 and bf16, on the ordinary cores for every type and size. Floor: 4 * batch * heads * q_length *
// k_length * head_dim operations, half of that when causal.

#include "backends/cuda/kernels/attention.h"

#include <cmath>

namespace tokamak::cuda {
namespace {

// Axes of heads and sequence.
std::pair<size_t, size_t> axes_of(const std::string& layout) {
  return layout == "BSHD" ? std::pair<size_t, size_t>{2, 1} : std::pair<size_t, size_t>{1, 2};
}

HeadStrides strides_of(const Shape& shape, const std::string& layout) {
  const auto [heads, rows] = axes_of(layout);
  const int64_t strides[4] = {shape[1] * shape[2] * shape[3], shape[2] * shape[3], shape[3], 1};
  return {strides[0], strides[heads], strides[rows]};
}

int round_up_16(int64_t n) { return static_cast<int>(ceil_div(n, 16) * 16); }

}  // namespace

AttentionShape AttentionShape::of(const NodeView& node) {
  const ir::Attrs& attrs = node.attrs();
  const Shape &q = node.input_shapes[0], &k = node.input_shapes[1], &v = node.input_shapes[2], &y = node.output_shapes[0];
  const std::string q_layout = attrs.get_string("q_layout", "BHSD"), kv_layout = attrs.get_string("kv_layout", "BHSD"),
                    out_layout = attrs.get_string("out_layout", q_layout);
  const auto [q_heads, q_rows] = axes_of(q_layout);
  const auto [kv_heads, kv_rows] = axes_of(kv_layout);
  AttentionShape s{};
  s.batch = q[0], s.heads = q[q_heads], s.kv_heads = k[kv_heads], s.q_length = q[q_rows], s.k_length = k[kv_rows];
  s.head_dim = q[3], s.value_dim = v[3], s.dtype = node.input_dtypes[0];
  if (attrs.has("q_first")) s.heads = attrs.get_int("q_heads");
  if (attrs.has("k_first")) s.kv_heads = attrs.get_int("kv_heads");
  s.has_mask = node.num_inputs() > 3 && node.has_input(3);
  s.mask = s.has_mask ? node.input_dtypes[3] : DType::F32;
  AttentionArgs& a = s.args;
  a.q = strides_of(q, q_layout), a.k = strides_of(k, kv_layout), a.v = strides_of(v, kv_layout), a.y = strides_of(y, out_layout);
  s.first[0] = attrs.get_int("q_first", 0) * a.q.head, s.first[1] = attrs.get_int("k_first", 0) * a.k.head;
  s.first[2] = attrs.get_int("v_first", 0) * a.v.head;
  if (s.has_mask) {
    const Shape& mask = node.input_shapes[3];
    int64_t stride = 1;
    for (size_t i = 0; i < mask.size(); ++i) {
      const int64_t size = mask[mask.size() - 1 - i];
      a.mask[3 - i] = size == 1 ? 0 : stride;
      stride *= size;
    }
  }
  a.heads = static_cast<int>(s.heads), a.group = static_cast<int>(s.kv_heads > 0 ? s.heads / s.kv_heads : 1);
  a.q_length = static_cast<int>(s.q_length), a.k_length = static_cast<int>(s.k_length);
  a.is_causal = attrs.get_bool("is_causal", false);
  a.scale = static_cast<float>(attrs.get_float("scale", 1 / std::sqrt(static_cast<double>(s.head_dim))));
  a.softcap = static_cast<float>(std::max(0.0, attrs.get_float("softcap", 0)));
  return s;
}

Support AttentionShape::check(const NodeView& node) {
  if (node.num_outputs() != 1) return Support::no("one output only");
  for (int i = 0; i < 3; ++i)
    if (node.input_shapes[i].size() != 4) return Support::no(fmt::format("input {} of rank {}", i, node.input_shapes[i].size()));
  const AttentionShape s = of(node);
  if (s.dtype != DType::F32 && s.dtype != DType::F16 && s.dtype != DType::BF16)
    return Support::no(fmt::format("q of {}", to_string(s.dtype)));
  if (node.input_dtypes[1] != s.dtype || node.input_dtypes[2] != s.dtype) return Support::no("q, k and v differ in dtype");
  if (s.has_mask && device_type(s.mask).empty()) return Support::no(fmt::format("a mask of {}", to_string(s.mask)));
  if (s.kv_heads < 1 || s.heads % s.kv_heads != 0) return Support::no("query heads are no multiple of key heads");
  if (s.batch > UINT16_MAX || s.heads > UINT16_MAX || s.q_length > INT32_MAX / 2 || s.k_length > INT32_MAX / 2)
    return Support::no("a batch or length beyond what a launch numbers");
  return Support::yes();
}

std::vector<std::string> AttentionShape::defines() const {
  const int kind = !has_mask ? 0 : mask == DType::Bool ? 1 : 2;
  return {"ELEMENT=" + device_type(dtype), fmt::format("HEAD_DIM={}", head_dim), fmt::format("VALUE_DIM={}", value_dim),
          "MASK=" + device_type(mask), fmt::format("MASK_KIND={}", kind)};
}

FlashTile FlashTile::parse(const std::string& tactic) {
  FlashTile t{};
  size_t first = tactic.find('x'), second = tactic.find('x', first + 1);
  if (first == std::string::npos || second == std::string::npos)
    fail(ErrorCode::InvalidArgument, "attention: \"{}\" is no tactic, expected one as \"4x1x64\"", tactic);
  t.warps_m = std::stoi(tactic.substr(0, first)), t.warps_n = std::stoi(tactic.substr(first + 1, second - first - 1));
  t.keys = std::stoi(tactic.substr(second + 1));
  return t;
}

int FlashTile::shared_bytes(int64_t head_dim, int64_t value_dim) const {
  const int key_stride = round_up_16(head_dim) * 2 + 16, value_stride = round_up_16(value_dim) * 2 + 16;
  const int walk = rows() * key_stride + 2 * keys * (key_stride + value_stride);
  const int merge = warps_n > 1 ? warps_n * rows() * ((round_up_16(value_dim) + 4) * 4 + 8) : 0;
  return std::max(walk, merge);
}

std::vector<std::string> FlashTile::defines() const {
  return {fmt::format("WARPS_M={}", warps_m), fmt::format("WARPS_N={}", warps_n), fmt::format("TILE_K={}", keys)};
}

std::vector<std::string> flash_tactics(const Target& target, int64_t head_dim, int64_t value_dim, int64_t blocks_of_16) {
  std::vector<FlashTile> tiles = {{4, 1, 64}, {4, 1, 32}, {2, 2, 64}, {1, 4, 64}};
  if (std::max(head_dim, value_dim) > 128) std::swap(tiles[0], tiles[1]);  // registers
  if (blocks_of_16 < 2 * target.num_sms) std::swap(tiles[0], tiles[3]);
  else if (blocks_of_16 < 4 * target.num_sms) std::swap(tiles[0], tiles[2]);
  std::vector<std::string> out;
  for (const FlashTile& t : tiles)
    if (t.shared_bytes(head_dim, value_dim) <= target.shared_bytes_per_block) out.push_back(t.text());
  return out;
}

namespace {

class Attention final : public Kernel {
 public:
  Attention(Function function, const AttentionShape& s, const Launch& launch) : function_(std::move(function)), shape_(s), launch_(launch) {
    if (launch.shared_bytes > 0) function_.allow_shared_bytes(launch.shared_bytes);
  }
  void run(const RunArgs& args) const override {
    const void* const mask = args.inputs.size() > 3 && args.inputs[3].defined() ? args.inputs[3].raw() : nullptr;
    function_.launch(args.stream, launch_, shape_.input(args, 0), shape_.input(args, 1), shape_.input(args, 2), mask, args.outputs[0].raw(),
                     shape_.args);
  }

 private:
  Function function_;
  AttentionShape shape_;
  Launch launch_;
};

class FlashDef final : public CudaKernelDef {
 public:
  std::string_view name() const override { return "cuda.attention_flash"; }
  std::string_view op() const override { return "attention"; }
  Support supports(const NodeView& node) const override {
    if (const Support s = AttentionShape::check(node); !s) return s;
    const AttentionShape s = AttentionShape::of(node);
    if (s.dtype == DType::F32) return Support::no("f32: tensor cores would round it");
    if (s.head_dim % 8 != 0 || s.value_dim % 8 != 0) return Support::no("a head size that is no multiple of 8");
    if (s.head_dim > 256 || s.value_dim > 256) return Support::no("a head size above 256");
    if (tactics(node).empty()) return Support::no("no tile fits the GPU's shared memory");
    return Support::yes();
  }
  std::vector<std::string> tactics(const NodeView& node) const override {
    const AttentionShape s = AttentionShape::of(node);
    return flash_tactics(node.cuda->target(), s.head_dim, s.value_dim, ceil_div(s.q_length, 16) * s.heads * s.batch);
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string& tactic) const override {
    const AttentionShape s = AttentionShape::of(node);
    const FlashTile tile = FlashTile::parse(tactic);
    std::vector<std::string> defines = s.defines();
    for (std::string& define : tile.defines()) defines.push_back(std::move(define));
    defines.push_back(fmt::format("NATURAL={}", s.has_mask || s.args.softcap > 0 || !(s.args.scale > 0) ? 1 : 0));
    const Launch launch{
        .grid = {static_cast<unsigned>(ceil_div(s.q_length, tile.rows())), static_cast<unsigned>(s.heads), static_cast<unsigned>(s.batch)},
        .block = {static_cast<unsigned>(tile.threads())},
        .shared_bytes = tile.shared_bytes(s.head_dim, s.value_dim),
        .overlap = true};
    return std::make_unique<Attention>(
        node.cuda->function(device_source(std::string(name()), "attention_flash.cu", std::move(defines)), "attention"), s, launch);
  }
};

class PlainDef final : public CudaKernelDef {
 public:
  std::string_view name() const override { return "cuda.attention"; }
  std::string_view op() const override { return "attention"; }
  Support supports(const NodeView& node) const override {
    if (const Support s = AttentionShape::check(node); !s) return s;
    const AttentionShape s = AttentionShape::of(node);
    if (s.value_dim > kMostValueDim) return Support::no(fmt::format("values of {} elements, above {}", s.value_dim, kMostValueDim));
    if (shared_bytes(s, 1) > node.cuda->target().shared_bytes_per_block)
      return Support::no(fmt::format("heads of {} and {} elements do not fit shared memory", s.head_dim, s.value_dim));
    return Support::yes();
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    const AttentionShape s = AttentionShape::of(node);
    const int rows = s.q_length >= 8 && shared_bytes(s, 4) <= node.cuda->target().shared_bytes_per_block ? 4 : 1;
    std::vector<std::string> defines = s.defines();
    defines.push_back(fmt::format("WARPS={}", kWarps)), defines.push_back(fmt::format("ROWS={}", rows));
    const Launch launch{.grid = {static_cast<unsigned>(ceil_div(s.q_length, kWarps * rows)), static_cast<unsigned>(s.heads),
                                 static_cast<unsigned>(s.batch)},
                        .block = {static_cast<unsigned>(kWarps * 32)},
                        .shared_bytes = shared_bytes(s, rows),
                        .overlap = true};
    return std::make_unique<Attention>(
        node.cuda->function(device_source(std::string(name()), "attention.cu", std::move(defines)), "attention"), s, launch);
  }

 private:
  static constexpr int kWarps = 4, kKeys = 32, kMostValueDim = 1024;
  static int shared_bytes(const AttentionShape& s, int rows) {
    return static_cast<int>(4 * (int64_t{kWarps} * rows * (s.head_dim + kKeys) + kKeys * ((s.head_dim | 1) + s.value_dim)));
  }
};

}  // namespace

const KernelDef& attention_wgmma();

std::vector<const KernelDef*> attention_kernels() {
  static const FlashDef flash;
  static const PlainDef plain;
  return {&attention_wgmma(), &flash, &plain};
}

}  // namespace tokamak::cuda
