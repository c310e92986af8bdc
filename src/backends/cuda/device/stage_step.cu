// Brings a step's arrays from pinned host memory to where the plan's graph reads them, and puts tokens that the step before has chosen in
// the place of those that the host did not know (-1 - row). On the host the pieces lie one behind the other.
#include "prelude.cuh"

// 32-bit words; rows of `width` go `stride` apart.
struct Piece {
  int32_t to, count, width, stride;
};
struct Pieces {
  Piece at[PIECES];
};

// The first piece is the tokens. chosen: of the step before.
extern "C" __global__ void __launch_bounds__(256)
    stage_step(const int32_t* host, int32_t* device, Pieces pieces, int total, const int32_t* chosen) {
  const int i = blockIdx.x * 256 + threadIdx.x;
  int32_t value = i < total ? host[i] : 0;  // written before the launch: read while the step before still runs
  int left = i, to = 0;
#pragma unroll
  for (int p = 0; p < PIECES; ++p) {
    const Piece& piece = pieces.at[p];
    if (left >= 0 && left < piece.count) to = piece.to + left / piece.width * piece.stride + left % piece.width;
    left -= piece.count;
  }
  wait_for_previous();
  if (i >= total) return;
  if (i < pieces.at[0].count && value < 0) value = max(chosen[-1 - value], 0);  // there may have been none to choose
  device[to] = value;
}
