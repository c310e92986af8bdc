// What a warp of a decode kernel keeps of the tokens it has seen, for up to HEAD_TILES * 8 heads: a softmax as it goes along, UNROLL tiles
// of 16 tokens at a time. ELEMENT, HEAD_DIM; layout: paged_decode.cu.
#pragma once
#include "cache_operand.cuh"

constexpr int kKeyChunks = (HEAD_DIM + 31) / 32, kValueChunks = (HEAD_DIM + 63) / 64, kTile = 16 * UNROLL;

struct DecodeSums {
  // A lane's state is of heads 2 c and 2 c + 1 of each tile of heads; `total` of its own tokens.
  float sum[HEAD_TILES][kValueChunks][4][4], largest[HEAD_TILES][2], total[HEAD_TILES][2];

  DEVICE DecodeSums() : sum{} {
#pragma unroll
    for (int n = 0; n < HEAD_TILES; ++n) largest[n][0] = largest[n][1] = nothing(), total[n][0] = total[n][1] = 0;
  }
  // Products q k become weights, relative to the largest so far: those of tokens [begin, end), the first tile's beginning at `base`.
  // `exponent`: from q k to what exp2 takes.
  template <class Exponent>
  DEVICE void weigh(float (&weight)[HEAD_TILES][UNROLL][4], const bool (&is_there)[UNROLL], int g, int base, int begin, int end,
                    const Exponent& exponent) {
#pragma unroll
    for (int n = 0; n < HEAD_TILES; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float highest = largest[n][i];
#pragma unroll
        for (int u = 0; u < UNROLL; ++u)
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int token = base + u * 16 + half * 8 + g;
            float& w = weight[n][u][half * 2 + i];
            w = token >= begin && token < end && is_there[u] ? exponent(w) : nothing();
            highest = fmaxf(highest, w);
          }
#pragma unroll
        for (int offset = 4; offset < 32; offset *= 2) highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, offset));
        const float shift = finite_or_zero(highest), keep = exp2f(largest[n][i] - shift);
        largest[n][i] = highest;
        total[n][i] *= keep;
#pragma unroll
        for (int u = 0; u < UNROLL; ++u)
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            float& w = weight[n][u][half * 2 + i];
            w = exp2f(w - shift);
            total[n][i] += w;
          }
#pragma unroll
        for (int j = 0; j < kValueChunks; ++j)
#pragma unroll
          for (int m = 0; m < 4; ++m) sum[n][j][m][i] *= keep, sum[n][j][m][2 + i] *= keep;
      }
  }
  DEVICE void add(const float (&weight)[HEAD_TILES][UNROLL][4], const Chunk (&values)[UNROLL][4][kValueChunks]) {
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
      uint32_t p[HEAD_TILES][2];
#pragma unroll
      for (int n = 0; n < HEAD_TILES; ++n)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          p[n][half] = transposed(pack_pair(ELEMENT{}, weight[n][u][half * 2], weight[n][u][half * 2 + 1]));
#pragma unroll
      for (int j = 0; j < kValueChunks; ++j)
#pragma unroll
        for (int m = 0; m < 4; ++m) {
          uint32_t of[4];
#pragma unroll
          for (int k = 0; k < 4; ++k) of[k] = word(values[u][k][j], m);
          const uint32_t a[4] = {__byte_perm(of[0], of[1], 0x5410), __byte_perm(of[0], of[1], 0x7632), __byte_perm(of[2], of[3], 0x5410),
                                 __byte_perm(of[2], of[3], 0x7632)};
#pragma unroll
          for (int n = 0; n < HEAD_TILES; ++n) mma_16x8x16(ELEMENT{}, sum[n][j][m], a, p[n][0], p[n][1]);
        }
    }
  }
};
