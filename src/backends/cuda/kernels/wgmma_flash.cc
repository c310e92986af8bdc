#include "backends/cuda/kernels/wgmma_flash.h"

namespace tokamak::cuda {
namespace {

constexpr int kStages = 2, kNarrowSlots = 4, kMostHeadDim = 128;

int64_t columns(int64_t head_dim) { return ceil_div(head_dim, 64) * 64; }

// d[64, n] += a b for 16 of k. a: a descriptor of shared memory, or registers; then b is across k.
std::string product(const char* name, const std::string& element, int64_t n, bool a_in_registers) {
  const int64_t sums = n / 2;
  std::string names, operands;
  for (int64_t i = 0; i < sums; ++i) {
    names += fmt::format("{}%{}", i ? ", " : "", i);
    operands += fmt::format("{}\"+f\"(d[{}])", i ? ", " : "", i);
  }
  const std::string head = fmt::format("wgmma.mma_async.sync.aligned.m64n{0}k16.f32.{1}.{1} {{{2}}}, ", n, element, names);
  if (a_in_registers)
    return fmt::format(
        "DEVICE void {}(float (&d)[{}], const uint32_t (&a)[4], uint64_t b) {{\n"
        "  asm volatile(\"{{.reg .pred p; setp.eq.u32 p, 1, 1; {}{{%{}, %{}, %{}, %{}}}, %{}, p, 1, 1, 1;}}\"\n"
        "    : {} : \"r\"(a[0]), \"r\"(a[1]), \"r\"(a[2]), \"r\"(a[3]), \"l\"(b) : \"memory\");\n}}\n",
        name, sums, head, sums, sums + 1, sums + 2, sums + 3, sums + 4, operands);
  return fmt::format(
      "DEVICE void {}(float (&d)[{}], uint64_t a, uint64_t b, bool add) {{\n"
      "  asm volatile(\"{{.reg .pred p; setp.ne.b32 p, %{}, 0; {}%{}, %{}, p, 1, 1, 0, 0;}}\"\n"
      "    : {} : \"l\"(a), \"l\"(b), \"r\"(int(add)) : \"memory\");\n}}\n",
      name, sums, sums + 2, head, sums, sums + 1, operands);
}

}  // namespace

WgmmaTile WgmmaTile::parse(const std::string& tactic) {
  WgmmaTile t{};
  std::string tile = tactic;
  const auto take = [&](std::string_view word) {
    if (!tile.starts_with(word)) return false;
    tile.erase(0, word.size());
    return true;
  };
  t.pipelined = !take("simple "), t.persistent = take("persistent ");
  const size_t at = tile.find('x');
  if (at != 1) fail(ErrorCode::InvalidArgument, "attention: \"{}\" is no tactic, expected one as \"2x128\"", tactic);
  t.warpgroups = std::stoi(tile.substr(0, at)), t.keys = std::stoi(tile.substr(at + 1));
  return t;
}

int WgmmaTile::shared_bytes(int64_t head_dim, DType source) const {
  const int64_t narrow = source == DType::F8E4M3FN ? kNarrowSlots * keys * head_dim : 0;
  return static_cast<int>(1024 + columns(head_dim) * 2 * (rows() + kStages * 2 * keys) + narrow);  // 1,024: for alignment
}

std::vector<std::string> WgmmaTile::defines() const {
  return {fmt::format("WARPGROUPS={}", warpgroups), fmt::format("TILE_K={}", keys), fmt::format("PIPELINED={}", pipelined ? 1 : 0)};
}

std::string WgmmaTile::code(DType element, int64_t head_dim) const {
  const std::string type = device_type(element);
  return "#include \"prelude.cuh\"\n" + product("product_scores", type, keys, false) +
         product("product_values", type, columns(head_dim), true);
}

std::vector<std::string> wgmma_tactics(int64_t head_dim, DType source) {
  if (source == DType::F8E4M3FN) return {"2x128", "simple 2x128", "persistent 2x128"};
  if (head_dim <= 64) return {"3x128", "2x128", "simple 2x128", "persistent 3x128"};
  return {"2x128", "2x176", "simple 2x128", "persistent 2x128", "persistent 2x176"};
}

Support wgmma_supports(const Target& target, DType activation, DType source, int64_t head_dim) {
  if (!target.has_wgmma()) return Support::no("the GPU has no warpgroup products");
  if (activation != DType::F16 && activation != DType::BF16) return Support::no(fmt::format("q of {}", to_string(activation)));
  if (source != activation && source != DType::F8E4M3FN) return Support::no(fmt::format("keys of {}", to_string(source)));
  if (source == DType::F8E4M3FN && head_dim % 64 != 0) return Support::no(fmt::format("f8e4m3fn and a head size of {}", head_dim));
  if (head_dim % 8 != 0 || head_dim > kMostHeadDim)
    return Support::no(fmt::format("a head size of {}: no multiple of 8 up to {}", head_dim, kMostHeadDim));
  return Support::yes();
}

int heads_together(const Target& target, int64_t heads, int64_t head_bytes) {
  const int64_t most = std::max<int64_t>(1, target.l2_bytes * 2 / 3 / std::max<int64_t>(1, head_bytes));
  int64_t together = std::min(heads, most);
  while (heads % together != 0) --together;
  return static_cast<int>(together);
}

CUtensorMap box_map(DType dtype, const void* data, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides, int box_rows) {
  std::vector<cuuint64_t> extents(sizes.begin(), sizes.end()), steps(strides.begin(), strides.end());
  std::vector<cuuint32_t> box(sizes.size(), 1), every(sizes.size(), 1);
  const bool narrow = dtype == DType::F8E4M3FN;
  box[0] = narrow ? static_cast<cuuint32_t>(sizes[0]) : 64, box[1] = static_cast<cuuint32_t>(box_rows);
  const CUtensorMapDataType type = narrow                ? CU_TENSOR_MAP_DATA_TYPE_UINT8
                                   : dtype == DType::F16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                                         : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  CUtensorMap map;
  check(driver().cuTensorMapEncodeTiled(&map, type, static_cast<cuuint32_t>(sizes.size()), const_cast<void*>(data), extents.data(),
                                        steps.data(), box.data(), every.data(), CU_TENSOR_MAP_INTERLEAVE_NONE,
                                        narrow ? CU_TENSOR_MAP_SWIZZLE_NONE : CU_TENSOR_MAP_SWIZZLE_128B,
                                        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
        "cuTensorMapEncodeTiled");
  return map;
}

}  // namespace tokamak::cuda
