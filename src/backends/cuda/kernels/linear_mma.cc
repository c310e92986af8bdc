// Linear layers on the tensor cores for few tokens (decode of a batch), with weights of 16, 8 and 4 bits; more tokens in tiles of 128.
// Floor: one read of w over the memory's bandwidth up to about 100 tokens (16-bit weights), then 2 m n k operations.

#include <algorithm>
#include <bit>
#include <cmath>

#include "backends/cuda/kernels/common.h"
#include "backends/cuda/kernels/epilogue.h"
#include "backends/cuda/kernels/linear.h"

namespace tokamak::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kMaxStages = 8;
constexpr int64_t kMostWhole = 16;                     // rows of x that fit shared memory as a whole
constexpr int64_t kFewWhole = 1, kShortWhole = 16384;  // up to here that is better than streaming x with w, most of whose tiles are empty

// The geometry of device/linear_mma.cu.
struct Tiling {
  int rows = 0, split = 1, blocks = 1;                     // of w a block; blocks that share k; blocks an SM
  int tiles = 1, row_tiles = 1, warps_n = 1, warps_k = 1;  // see the device code
  int unit = 16, steps = 1, stages = 2;
  int64_t stage_k = 0, stage_bytes = 0, shared_bytes = 0;
  bool whole = false;  // x stays in shared memory as a whole: for few rows, and to be normalised there
  int64_t x_rows = 0;  // of it

  // Fills in what follows from the first three. False when it does not fit the GPU or the problem.
  bool complete(const Linear& l, const Target& target) {
    const int64_t bits = bits_of(l.w);
    const bool grouped = l.groups() > 1;
    tiles = l.m <= 8 ? 1 : l.m <= 16 ? 2 : l.m <= 32 ? 4 : l.m <= 64 ? 8 : 16;
    if (rows < 16 || rows > 128 || (rows & (rows - 1)) != 0) return false;
    // Registers: sums of a warp's rows and tokens, twice with groups.
    row_tiles = rows == 16 || (grouped && tiles >= 8) ? 1 : 2;
    if (blocks > 1 && tiles * row_tiles * (grouped ? 2 : 1) > (blocks > 2 ? 2 : 8)) return false;
    warps_n = rows / 16 / row_tiles;
    warps_k = kWarps / warps_n;
    unit = 16;
    if (grouped)
      while (unit >= 4 && l.group % (4 * unit * 8 / bits) != 0) unit /= 2;
    if (unit < 4 || unit < bits) return false;
    steps = std::max(16 / unit, 32 / (unit * warps_k));  // rows of 128 bytes at least in a stage
    stage_k = warps_k * steps * 4 * unit * 8 / bits;
    stage_bytes = rows * stage_k * bits / 8;
    int64_t whole_bytes = 0;
    if (whole) {
      if (l.m > kMostWhole) return false;
      x_rows = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(l.m, 1))));
      whole_bytes = x_rows * ceil_div(l.k, stage_k) * stage_k * 2 + (l.has_norm ? kWarps * x_rows * 4 : 0);
    } else {
      if (l.has_norm) return false;
      stage_bytes += tiles * 8 * stage_k * 2;
    }
    const int64_t scale_bytes = grouped ? rows * l.groups() * bits_of(l.scale) / 8 : 0;
    const int64_t sum_bytes = int64_t{warps_k} * tiles * 8 * (rows + 4) * 4;
    const int64_t limit = std::min<int64_t>(target.shared_bytes_per_block, (target.shared_bytes_per_block + 1024) / blocks - 1024);
    const int64_t steps_of_block = ceil_div(ceil_div(l.k, stage_k), split);
    stages = static_cast<int>(
        std::min<int64_t>({kMaxStages, (limit - scale_bytes - whole_bytes) / stage_bytes, std::max<int64_t>(steps_of_block + 1, 2)}));
    shared_bytes = std::max(stages * stage_bytes + scale_bytes + whole_bytes, sum_bytes);
    return stages >= 2 && shared_bytes <= limit && (split == 1 || target.arch >= 90);
  }
  int64_t num_blocks(const Linear& l) const { return ceil_div(l.n, rows) * ceil_div(l.m, tiles * 8) * split; }

  // What a launch costs, in bytes from memory: for the order of tactics when nothing is timed. Weighed by times on an H100: two blocks an
  // SM keep the memory busy, a second wave costs little, sums over clusters cost more than their bytes.
  double cost(const Linear& l, const Target& target) const {
    const auto all = static_cast<double>(num_blocks(l)), sms = static_cast<double>(target.num_sms), slots = sms * blocks;
    const double tokens = static_cast<double>(std::min<int64_t>(l.m, tiles * 8));
    const double wanted = tiles <= 2 ? 1.9 * sms : 0.95 * sms;
    const double idle = (all < wanted ? 0.1 * (wanted / all - 1) : 0) + (all < sms ? 0.5 * (sms / all - 1) : 0) +
                        (all > slots ? 0.02 * std::ceil(all / slots) : 0);
    const double weights = static_cast<double>(l.n * l.row_bits() / 8 * ceil_div(l.m, tiles * 8));
    const double x = all / (whole ? 1 : split) * tokens * 2 * static_cast<double>(l.k);
    const double sums = split > 1 ? 0.5e6 * split * split + all * tokens * rows * 4 : 0;
    return weights * (1 + idle) + 0.5 * x + sums;
  }
};

// The likeliest first.
std::vector<Tiling> tilings(const Linear& l, const Target& target) {
  const size_t most = l.m <= kMostWhole ? 12 : 8;
  std::vector<Tiling> found;
  for (int rows : {16, 32, 64, 128})
    for (int split : {1, 2, 4})
      for (int blocks : {2, 1, 3}) {
        Tiling t;
        t.rows = rows, t.split = split, t.blocks = blocks;
        t.whole = l.has_norm || (l.m <= kFewWhole && l.k <= kShortWhole);
        if (rows > 16 && l.n <= rows / 2) continue;
        if (!t.complete(l, target) || t.num_blocks(l) > INT32_MAX) continue;
        // With large blocks nothing of the next kernel comes before this one is nearly done: by themselves they are the fastest for one
        // row, in a step they are slower (int4: 463 against 517 tokens/s of Llama-2-7B).
        if (t.whole && l.is_quantized() && l.m <= kFewWhole && blocks < (bits_of(l.w) == 4 ? 3 : 2)) continue;
        if (split > 1 && (t.num_blocks(l) > 3 * target.num_sms || ceil_div(l.k, t.stage_k) < 2 * split)) continue;
        found.push_back(t);
      }
  std::stable_sort(found.begin(), found.end(), [&](const Tiling& a, const Tiling& b) { return a.cost(l, target) < b.cost(l, target); });
  if (found.size() > most) found.resize(most);
  return found;
}

}  // namespace

std::vector<std::string> linear_mma_tactics(const Linear& l, const Target& target, const std::string& prefix, std::string& reason) {
  if (l.x != DType::F16 && l.x != DType::BF16) reason = fmt::format("a is {}, needs f16 or bf16", to_string(l.x));
  else if (!l.is_quantized() && l.w != l.x) reason = fmt::format("b is {}, a is {}", to_string(l.w), to_string(l.x));
  else if (l.row_bits() % 128 != 0 || l.k % 8 != 0) reason = fmt::format("k is {}: rows of b are not whole 16 bytes", l.k);
  if (!reason.empty()) return {};
  std::vector<std::string> names;
  for (const Tiling& t : tilings(l, target))
    names.push_back(fmt::format("mma,{}rows={},split={},blocks={}{}", prefix, t.rows, t.split, t.blocks, t.whole ? ",whole" : ""));
  if (names.empty()) reason = fmt::format("groups of {} are not whole steps, or do not fit shared memory", l.group);
  return names;
}

std::unique_ptr<Kernel> make_linear_mma(const NodeView& node, const Linear& layer, const std::string& tactic) {
  Linear l = layer;
  Tiling t;
  t.rows = tactic_number(tactic, "rows"), t.split = tactic_number(tactic, "split"), t.blocks = tactic_number(tactic, "blocks");
  t.whole = tactic.ends_with(",whole");
  if (!t.complete(l, node.cuda->target())) return nullptr;
  if (!t.whole) l.keep_x();
  Epilogue epilogue(node);
  std::vector<std::string> defines = l.defines();
  const auto define = [&](const char* key, int64_t value) { defines.push_back(fmt::format("{}={}", key, value)); };
  define("TILES", t.tiles);
  define("ROW_TILES", t.row_tiles);
  define("WARPS_N", t.warps_n);
  define("WARPS_K", t.warps_k);
  define("STEPS", t.steps);
  define("UNIT", t.unit);
  define("STAGES", t.stages);
  define("SPLIT", t.split);
  define("BLOCKS", t.blocks);
  define("XROWS", t.x_rows);
  define("VECTOR", l.columns() % 4 == 0 ? 4 : 1);
  const Source source{"cuda.linear_mma", epilogue.code() + device_file("linear_mma.cu"), std::move(defines)};
  const Function function = node.cuda->function(source, "linear_mma");
  function.allow_shared_bytes(static_cast<int>(t.shared_bytes));
  const Launch launch{.grid = {static_cast<unsigned>(t.num_blocks(l))},
                      .block = {kWarps * 32},
                      .cluster = static_cast<unsigned>(t.split),
                      .shared_bytes = static_cast<int>(t.shared_bytes),
                      .overlap = true};
  return std::make_unique<LinearKernel>(function, l, std::move(epilogue), launch);
}

}  // namespace tokamak::cuda
