#include "backends/cpu/kernels/gemm_driver.h"

#include <algorithm>

namespace tokamak::cpu {
namespace {

constexpr int64_t kBlockABytes = 512 << 10;  // half of a usual second-level cache
constexpr int64_t kBlockBBytes = 320 << 10;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Blocks of K that keep a block of a panel of B in cache while all tiles of rows read it.
int64_t k_blocks_of(int64_t k, int64_t panel_cols) { return std::max<int64_t>(ceil_div(k * panel_cols * 4, kBlockBBytes), 1); }

}  // namespace

void gemm_block(const GemmIsa& isa, const Gemm& g, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end) {
  const int64_t rows = row_end - row_begin;
  if (rows <= 0) return;
  const GemmPanels panels{g.k, g.n, g.nr};
  const int tile_cols = isa.max_vectors * isa.lanes;
  for (int64_t p = panel_begin; p < panel_end; ++p) {
    const int panel_cols = panels.cols(p);
    const float* b_panel = g.direct ? g.b + p * g.nr : g.b + panels.offset(p);
    GemmTile tile;
    tile.a_stride = g.a_stride;
    tile.b_stride = g.direct ? g.b_stride : panels.width(p);
    tile.c_stride = g.c_stride;
    tile.alpha = g.alpha;
    const int64_t k_blocks = rows > isa.max_rows(isa.max_vectors) ? k_blocks_of(g.k, panel_cols) : 1;
    for (int64_t kb = 0; kb < k_blocks; ++kb) {
      const int64_t k0 = g.k * kb / k_blocks, k1 = g.k * (kb + 1) / k_blocks;
      const bool last = kb == k_blocks - 1;
      tile.run_length = k1 - k0;
      tile.accumulate = kb > 0;
      tile.alpha = last ? g.alpha : 1.0f;
      for (int n0 = 0; n0 < panel_cols; n0 += tile_cols) {
        tile.cols = std::min(tile_cols, panel_cols - n0);
        tile.b = b_panel + k0 * tile.b_stride + n0;
        const int vectors = (tile.cols + isa.lanes - 1) / isa.lanes;
        const int64_t col = p * g.nr + n0;
        // Tiles of even height: 49 rows are better as nine of 5 or 6 than as eight of 6 and one of 1.
        const int64_t tiles = ceil_div(rows, isa.max_rows(vectors)), height = rows / tiles, taller = rows % tiles;
        const GemmTileKind kind = g.direct ? GemmTileKind::DirectB : GemmTileKind::Strided;
        const GemmTileFunction run_tall = taller ? isa.tile(kind, static_cast<int>(height + 1), vectors) : nullptr;
        const GemmTileFunction run = isa.tile(kind, static_cast<int>(height), vectors);
        int64_t row = row_begin;
        for (int64_t i = 0; i < tiles; ++i) {
          tile.a = g.a + row * g.a_stride + k0;
          tile.c = g.c + row * g.c_stride + col;
          GemmEpilogue epilogue = g.epilogue;
          if (epilogue.bias) epilogue.bias += col;
          if (epilogue.residual) epilogue.residual += row * epilogue.residual_stride + col;
          tile.epilogue = last ? &epilogue : nullptr;
          (i < taller ? run_tall : run)(tile);
          row += height + (i < taller ? 1 : 0);
        }
      }
    }
  }
}

GemmSplit gemm_split(const GemmIsa& isa, int64_t m, int64_t n, int64_t k, int nr, int64_t products, int threads, bool whole_rows) {
  GemmSplit split;
  split.m = m;
  split.panels = whole_rows ? 1 : std::max<int64_t>(ceil_div(n, nr), 1);
  const int64_t mr = isa.max_rows(std::min(isa.max_vectors, static_cast<int>(ceil_div(std::min<int64_t>(n, nr), isa.lanes))));
  const int64_t k_block = ceil_div(k, k_blocks_of(k, std::min<int64_t>(n, nr)));  // what gemm_block works on at a time
  const int64_t rows = std::max(mr, kBlockABytes / (4 * std::max<int64_t>(k_block, 1)) / mr * mr);
  split.row_blocks = std::max<int64_t>(ceil_div(m, rows), 1);
  const int64_t wanted = threads > 1 ? 4 * threads : 1, most = std::max<int64_t>(ceil_div(m, mr), 1);
  if (split.units() * products < wanted)
    split.row_blocks = std::clamp(ceil_div(wanted, split.panels * products), split.row_blocks, std::max(most, split.row_blocks));
  return split;
}

}  // namespace tokamak::cpu
