#include "backends/cuda/kernels/mma_tile.h"

#include <algorithm>
#include <cmath>

#include "backends/cuda/kernels/common.h"
#include "base/error.h"

namespace tokamak::cuda {
namespace {

struct Block {
  int m, n, warps_m, warps_n;
};
constexpr Block kBlocks[] = {{128, 256, 2, 4}, {256, 128, 4, 2}, {128, 128, 2, 4}, {128, 64, 2, 2}, {64, 128, 2, 2}, {64, 64, 2, 2},
                             {64, 32, 2, 2},   {32, 64, 2, 2},   {32, 128, 1, 4},  {32, 32, 2, 2},  {16, 64, 1, 4},  {16, 128, 1, 4}};
constexpr int kSplits[] = {1, 2, 4, 8};
constexpr int kMostStages = 4, kFewestStages = 3, kMostTactics = 6, kStepK = 64;

int shared_for(const Block& b, int stages) { return std::max(stages * (b.m + b.n) * kStepK * 2, b.m * (b.n + 8) * 4); }

int stages_for(const Block& b, const Target& target) {
  for (int stages = kMostStages; stages >= kFewestStages; --stages)
    if (shared_for(b, stages) <= target.shared_bytes_per_block) return stages;
  return 0;
}

// Clocks, roughly: what a multiprocessor has to multiply and to load for its blocks, or the latency of one step of a block, whichever is
// longer, plus filling the pipeline and storing the tile. Rates of an H100 (1024 x 0.6 multiply-adds and 48 bytes from L2 a clock).
double estimate(const Target& target, const Block& b, int stages, int split, int64_t m, int64_t n, int64_t k, int64_t batch) {
  const auto blocks = static_cast<double>(ceil_div(m, b.m) * ceil_div(n, b.n) * batch * split);
  const int warps = b.warps_m * b.warps_n;
  const int resident = std::max(1, std::min(target.shared_bytes_per_block / shared_for(b, stages), 16 / warps));
  const double on_one = std::ceil(blocks / target.num_sms), together = std::min<double>(on_one, resident);
  const double steps = std::ceil(static_cast<double>(ceil_div(k, kStepK)) / split);
  const double multiply = double(b.m) * b.n * kStepK / 1200, load = double(b.m + b.n) * kStepK * 2 / 48;
  const double step = std::max({450.0, multiply * together, load * together});
  const double store = 600 + double(b.m) * b.n * together / 100 + (split > 1 ? 900 + 200 * split : 0);
  return std::ceil(on_one / together) * (steps * step + 700 + store);
}

}  // namespace

std::string MmaTile::tactic() const { return fmt::format("{}x{},stages={},split={}", m, n, stages, split); }

int MmaTile::shared_bytes() const { return shared_for({m, n, warps_m, warps_n}, stages); }

MmaTile MmaTile::parse(const std::string& tactic, const Target& target) {
  for (const Block& b : kBlocks)
    for (int stages = kFewestStages; stages <= kMostStages; ++stages)
      for (const int split : kSplits) {
        const MmaTile tile{b.m, b.n, b.warps_m, b.warps_n, stages, split};
        if (tile.tactic() != tactic || (split > 1 && target.arch < 90)) continue;
        if (tile.shared_bytes() <= target.shared_bytes_per_block) return tile;
      }
  fail(ErrorCode::Corrupt, "\"{}\" is no tactic of a matrix kernel for {}; rebuild the engine", tactic, target.device_name);
}

std::vector<std::string> MmaTile::defines() const {
  return {fmt::format("TILE_M={}", m),        fmt::format("TILE_N={}", n),      fmt::format("WARPS_M={}", warps_m),
          fmt::format("WARPS_N={}", warps_n), fmt::format("STAGES={}", stages), fmt::format("SPLIT={}", split)};
}

std::vector<std::string> mma_tactics(const Target& target, int64_t m, int64_t n, int64_t k, int64_t batch) {
  struct Candidate {
    double clocks;
    std::string tactic;
  };
  std::vector<Candidate> candidates;
  for (const Block& b : kBlocks)
    for (const int split : kSplits) {
      const int stages = stages_for(b, target);
      const int64_t blocks = ceil_div(m, b.m) * ceil_div(n, b.n) * batch * split;
      if (stages == 0 || blocks > INT32_MAX) continue;
      if (split > 1 && (target.arch < 90 || ceil_div(k, kStepK) < 2 * split)) continue;
      const MmaTile tile{b.m, b.n, b.warps_m, b.warps_n, stages, split};
      candidates.push_back({estimate(target, b, stages, split, m, n, k, batch), tile.tactic()});
    }
  std::stable_sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) { return a.clocks < b.clocks; });
  std::vector<std::string> tactics;
  for (const Candidate& c : candidates) {
    // Far behind the best: not worth compiling and timing.
    if (tactics.size() >= kMostTactics || (!tactics.empty() && c.clocks > 1.7 * candidates.front().clocks)) break;
    tactics.push_back(c.tactic);
  }
  return tactics;
}

}  // namespace tokamak::cuda
