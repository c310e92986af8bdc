#include "backends/cuda/kernels/mma_tile.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string_view>

#include "backends/cuda/kernels/common.h"
#include "base/error.h"

namespace tokamak::cuda {
namespace {

struct Block {
  int m, n, warps_m, warps_n;
  bool wgmma = false;
};
constexpr Block kBlocks[] = {{128, 256, 2, 4},       {256, 128, 4, 2},        {128, 128, 2, 4},       {128, 64, 2, 2},
                             {64, 128, 2, 2},        {64, 64, 2, 2},          {64, 32, 2, 2},         {32, 64, 2, 2},
                             {32, 128, 1, 4},        {32, 32, 2, 2},          {16, 64, 1, 4},         {16, 128, 1, 4},
                             {128, 256, 8, 1, true}, {256, 128, 16, 1, true}, {128, 128, 8, 1, true}, {128, 64, 8, 1, true},
                             {64, 128, 4, 1, true},  {64, 64, 4, 1, true},    {256, 64, 16, 1, true}, {64, 32, 4, 1, true},
                             {128, 192, 8, 1, true}, {128, 96, 8, 1, true},   {64, 96, 4, 1, true}};
constexpr std::string_view kRows = ",rows=";
constexpr int kSplits[] = {1, 2, 4, 8};
constexpr int kFewestStages = 3, kMostStages = 6, kMostTactics = 8, kStepK = 64;

int shared_for(const Block& b, int stages) { return std::max(stages * (b.m + b.n) * kStepK * 2, b.m * (b.n + 8) * 4); }

// As many as fit, up to 4; a product by warpgroups holds one more buffer.
int stages_for(const Block& b, const Target& target) {
  for (int stages = b.wgmma ? 5 : 4; stages >= kFewestStages + b.wgmma; --stages)
    if (shared_for(b, stages) <= target.shared_bytes_per_block) return stages;
  return 0;
}

// Clocks, roughly: what a multiprocessor has to multiply and to load for its blocks, or the latency of one step of a block, whichever is
// longer, plus filling the pipeline and storing the tile. Rates of an H100: multiply-adds (of 2100 by the data sheet) and 48 bytes from L2
// a clock.
double estimate(const Target& target, const Block& b, int stages, int split, const MmaProduct& p) {
  const auto blocks = static_cast<double>(ceil_div(p.m, b.m) * ceil_div(p.n, b.n) * p.batch * split);
  const int warps = b.warps_m * b.warps_n;
  const int resident = std::max(1, std::min(target.shared_bytes_per_block / shared_for(b, stages), 16 / warps));
  const double on_one = std::ceil(blocks / target.num_sms), together = std::min<double>(on_one, resident);
  const double steps = std::ceil(static_cast<double>(ceil_div(p.k, kStepK)) / split);
  const double multiply = double(b.m) * b.n * kStepK / (b.wgmma ? 1700 : 1200), load = double(b.m + b.n) * kStepK * 2 / 48;
  const double step = std::max({b.wgmma ? 420.0 : 450.0, multiply * together, load * together});
  const double store = 600 + double(b.m) * b.n * together / 100 + (split > 1 ? 900 + 200 * split : 0);
  return std::ceil(on_one / together) * (steps * step + 700 + store);
}

bool takes(const Target& target, const Block& b, int split) {
  return (!b.wgmma || target.has_wgmma()) && (split == 1 || target.arch >= 90);
}

MmaTile parse(const std::string& name, const Target& target) {
  for (const Block& b : kBlocks)
    for (int stages = kFewestStages + b.wgmma; stages <= kMostStages; ++stages)
      for (const int split : kSplits) {
        const MmaTile tile{b.m, b.n, b.warps_m, b.warps_n, stages, split, b.wgmma};
        if (tile.name() == name && takes(target, b, split) && tile.shared_bytes() <= target.shared_bytes_per_block) return tile;
      }
  fail(ErrorCode::Corrupt, "\"{}\" is no tactic of a matrix kernel for {}; rebuild the engine", name, target.device_name);
}

// Names of tiles, the best by the model first.
std::vector<std::string> rank(const Target& target, const MmaProduct& p) {
  struct Candidate {
    double clocks;
    std::string name;
  };
  std::vector<Candidate> candidates;
  for (const Block& b : kBlocks)
    for (const int split : kSplits) {
      const int stages = stages_for(b, target);
      const int64_t blocks = ceil_div(p.m, b.m) * ceil_div(p.n, b.n) * p.batch * split;
      if (stages == 0 || blocks > INT32_MAX || !takes(target, b, split) || (b.wgmma && !p.along_k)) continue;
      if (split > 1 && ceil_div(p.k, kStepK) < 2 * split) continue;
      const MmaTile tile{b.m, b.n, b.warps_m, b.warps_n, stages, split, b.wgmma};
      candidates.push_back({estimate(target, b, stages, split, p), tile.name()});
    }
  std::stable_sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) { return a.clocks < b.clocks; });
  std::vector<std::string> names;
  for (const Candidate& c : candidates) {
    // Far behind the best: not worth compiling and timing.
    if (names.size() >= kMostTactics || (!names.empty() && c.clocks > 1.7 * candidates.front().clocks)) break;
    names.push_back(c.name);
  }
  return names;
}

}  // namespace

std::string MmaTile::name() const { return fmt::format("{}{}x{},stages={},split={}", wgmma ? "w" : "", m, n, stages, split); }

int MmaTile::shared_bytes() const { return shared_for({m, n, warps_m, warps_n, wgmma}, stages); }

std::vector<std::string> MmaTile::defines() const {
  return {fmt::format("TILE_M={}", m),           fmt::format("TILE_N={}", n),      fmt::format("WARPS_M={}", warps_m),
          fmt::format("WARPS_N={}", warps_n),    fmt::format("STAGES={}", stages), fmt::format("SPLIT={}", split),
          fmt::format("WGMMA={}", wgmma ? 1 : 0)};
}

std::string MmaTile::code(const std::string& element) const {
  if (!wgmma) return {};
  const int registers = n / 2;
  std::string names, operands;
  for (int i = 0; i < registers; ++i) {
    names += fmt::format("{}%{}", i ? ", " : "", i);
    operands += fmt::format("{}\"+f\"(d[{}][{}])", i ? ", " : "", i / 4, i % 4);
  }
  return fmt::format(
      "// d[64, {0}] += a b^T of 16 of k.\n"
      "DEVICE void wgmma_tile(float (&d)[{1}][4], uint64_t a, uint64_t b) {{\n"
      "  asm volatile(\"{{.reg .pred p; setp.eq.u32 p, 1, 1; \"\n"
      "    \"wgmma.mma_async.sync.aligned.m64n{0}k16.f32.{2}.{2} {{{3}}}, %{4}, %{5}, p, 1, 1, 0, 0;}}\"\n"
      "    : {6} : \"l\"(a), \"l\"(b) : \"memory\");\n}}\n",
      n, n / 8, element, names, registers, registers + 1, operands);
}

std::vector<std::string> mma_tactics(const Target& target, const MmaProduct& product) {
  std::vector<std::string> tactics;
  for (const std::string& name : rank(target, product)) tactics.push_back(fmt::format("{}{}{}", name, kRows, product.m));
  return tactics;
}

MmaTile mma_tile(const std::string& tactic, const Target& target, const MmaProduct& product) {
  const size_t at = tactic.find(kRows);
  const std::string number = at == std::string::npos ? "" : tactic.substr(at + kRows.size());
  const char* const end = number.data() + number.size();
  int64_t rows = 0;
  if (std::from_chars(number.data(), end, rows).ptr != end || rows < 1)
    fail(ErrorCode::Corrupt, "\"{}\" is no tactic of a matrix kernel; rebuild the engine", tactic);
  MmaTile tile = parse(tactic.substr(0, at), target);
  if (is_near(rows, product.m)) return tile;
  const std::vector<std::string> names = rank(target, product);
  return names.empty() ? tile : parse(names.front(), target);
}

}  // namespace tokamak::cuda
