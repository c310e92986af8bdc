// concat and split: rows of pieces against rows of the whole. Row r of piece p is its LENGTH[p] units from r * LENGTH[p] on, and the units
// from r * WHOLE + START[p] on of the whole. UNIT: 1 to 16 bytes. IS_SPLIT: pieces are written.
#include "elementwise.cuh"

struct Pieces {
  void* piece[MOST_PIECES];
  void* whole;
  int64_t length[MOST_PIECES];
  int64_t start[MOST_PIECES];
  int64_t rows, row_units;
};

extern "C" __global__ void __launch_bounds__(256) concat(const __grid_constant__ Pieces a) {
  wait_with_next();
  const INDEX length = a.length[blockIdx.y], units = a.rows * length;
  UNIT* const piece = static_cast<UNIT*>(a.piece[blockIdx.y]);
  UNIT* const whole = static_cast<UNIT*>(a.whole) + a.start[blockIdx.y];
  for (INDEX i = INDEX(blockIdx.x) * 256 + threadIdx.x; i < units; i += INDEX(gridDim.x) * 256) {
    const INDEX row = i / length, at = row * a.row_units + (i - row * length);
    if (IS_SPLIT) piece[i] = whole[at];
    else whole[at] = piece[i];
  }
}
