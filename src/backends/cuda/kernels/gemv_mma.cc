// Linear layers of one to eight rows on the tensor cores, weights straight from memory to registers: device/gemv_mma.cu. Floor: the bytes
// of w over the memory's bandwidth.

#include "backends/cuda/kernels/common.h"
#include "backends/cuda/kernels/epilogue.h"
#include "backends/cuda/kernels/linear.h"

namespace tokamak::cuda {
namespace {

constexpr int kBytesInFlight = 256;  // of weights, a lane
constexpr int kSharedPercent = 20;   // of an SM's memory: the rest holds what is in flight

struct Tiling {
  int warps_n = 1, warps_k = 1, row_tiles = 1;
  int tokens = 1, prefetch = 1;
  int64_t shared_bytes = 0;

  int threads() const { return warps_n * warps_k * 32; }
  int blocks() const { return std::max(1, (row_tiles == 1 ? 512 : 384) / threads()); }  // an SM: 128 or 168 registers a thread
  int rows() const { return warps_n * row_tiles * 16; }                                 // of w a block

  bool complete(const Linear& l, const Target& target) {
    tokens = l.m <= 1 ? 1 : l.m <= 2 ? 2 : l.m <= 4 ? 4 : 8;
    prefetch = std::max(1, kBytesInFlight / (64 * row_tiles));
    const int64_t iteration = 128 * 8 / bits_of(l.w);  // elements of k
    shared_bytes = tokens * (ceil_div(l.k, iteration) * iteration * 2 + 64) + int64_t{warps_k} * tokens * rows() * 4;
    return threads() <= 512 && shared_bytes <= target.shared_bytes_per_block;
  }
};

std::string why_not(const Linear& l) {
  if (l.m > 8) return fmt::format("{} rows are more than 8", l.m);
  if (l.x != DType::F16 && l.x != DType::BF16) return fmt::format("a is {}, needs f16 or bf16", to_string(l.x));
  if (!l.is_quantized() && l.w != l.x) return fmt::format("b is {}, a is {}", to_string(l.w), to_string(l.x));
  if (l.row_bits() % 512 != 0) return fmt::format("k is {}: rows of b are not whole 64 bytes", l.k);
  if (const int64_t step = 512 / bits_of(l.w); l.groups() > 1 && l.group % step != 0)
    return fmt::format("groups of {} are not whole steps of {}", l.group, step);
  return {};
}

}  // namespace

std::vector<std::string> gemv_mma_tactics(const Linear& l, const Target& target, const std::string& prefix) {
  if (!why_not(l).empty()) return {};
  constexpr Tiling kFew[] = {{1, 4, 1}, {1, 8, 1}, {2, 2, 1}, {1, 4, 2}}, kSeveral[] = {{2, 4, 1}, {4, 2, 1}, {1, 8, 1}};
  std::vector<std::string> names;
  for (Tiling t : l.m <= 2 ? std::span<const Tiling>(kFew) : std::span<const Tiling>(kSeveral))
    if (t.complete(l, target)) names.push_back(fmt::format("tile,{}wn={},wk={},rt={}", prefix, t.warps_n, t.warps_k, t.row_tiles));
  return names;
}

std::unique_ptr<Kernel> make_gemv_mma(const NodeView& node, const Linear& l, const std::string& tactic) {
  Tiling t;
  t.warps_n = tactic_number(tactic, "wn"), t.warps_k = tactic_number(tactic, "wk"), t.row_tiles = tactic_number(tactic, "rt");
  if (!why_not(l).empty() || t.row_tiles > 4 || !t.complete(l, node.cuda->target())) return nullptr;
  Epilogue epilogue(node);
  std::vector<std::string> defines = l.defines();
  for (const auto& [key, value] : {std::pair{"TOKENS", t.tokens},
                                   {"ROW_TILES", t.row_tiles},
                                   {"WARPS_N", t.warps_n},
                                   {"WARPS_K", t.warps_k},
                                   {"PREFETCH", t.prefetch},
                                   {"BLOCKS", t.blocks()}})
    defines.push_back(fmt::format("{}={}", key, value));
  const Source source{"cuda.gemv_mma", epilogue.code() + device_file("gemv_mma.cu"), std::move(defines)};
  const Function function = node.cuda->function(source, "gemv_mma");
  function.allow_shared_bytes(static_cast<int>(t.shared_bytes));
  function.prefer_l1(t.shared_bytes + 1024, kSharedPercent);
  const Launch launch{.grid = {static_cast<unsigned>(ceil_div(l.n, t.rows()))},
                      .block = {static_cast<unsigned>(t.threads())},
                      .shared_bytes = static_cast<int>(t.shared_bytes),
                      .overlap = true};
  return std::make_unique<LinearKernel>(function, l, std::move(epilogue), launch);
}

}  // namespace tokamak::cuda
