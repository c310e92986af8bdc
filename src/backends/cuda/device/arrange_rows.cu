// Rows of x as linear_wgmma.cu's copy engine takes them: of TOKENS rows together one stage of k after the other, of a stage PLANES planes
// of 64 k, of a plane rows of 128 bytes as operand_descriptor() has them, k in the order in which the weights' bytes become operands (UNIT
// and the bits of a weight decide: EIGHTS; 0: in order). Rows behind the last and k behind K_SIZE are zeros. A block a row.
//   X_ELEMENT, K_SIZE (a multiple of 8), TOKENS, PLANES, EIGHTS, THREADS, ITEMS: of a thread
//   OPERAND, X_SCALE: y is x / X_SCALE in that type; NORM: x goes through rms_norm first, with weights of NORM_ELEMENT
#include "elementwise.cuh"

constexpr int kStageK = PLANES * 64, kStages = (K_SIZE + kStageK - 1) / kStageK;

// Half a row of a plane: four 16-byte chunks, which hold pair j of four eights of neighbours in x.
struct Item {
  int stage, plane, half;
  DEVICE explicit Item(int i) : stage(i / (2 * PLANES)), plane(i / 2 % PLANES), half(i % 2) {}
  // The first k of eight t.
  DEVICE int k(int t) const {
    const int eight = EIGHTS == 4   ? plane / 2 * 16 + t * 4 + plane % 2 * 2 + half
                      : EIGHTS == 2 ? plane * 8 + t * 2 + half
                                    : plane * 8 + half * 4 + t;
    return stage * kStageK + eight * 8;
  }
};

extern "C" __global__ void __launch_bounds__(THREADS)
    arrange_rows(const X_ELEMENT* x, uint4* y, Weights<NORM_ELEMENT> norm, int m, float epsilon) {
  using Eight = Vec<X_ELEMENT, 8>;
  const int row = blockIdx.x;
#if NORM
  Vec<NORM_ELEMENT, 8> weights[ITEMS][4];
#pragma unroll
  for (int i = 0; i < ITEMS; ++i)
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      const int k = Item(i * THREADS + threadIdx.x).k(t);
      weights[i][t] = k < K_SIZE ? load_early<NORM_ELEMENT, 8>(norm + k) : Vec<NORM_ELEMENT, 8>{};
    }
#endif
  wait_with_next();
  Eight eights[ITEMS][4];
#pragma unroll
  for (int i = 0; i < ITEMS; ++i)
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      const int k = Item(i * THREADS + threadIdx.x).k(t);
      eights[i][t] = row < m && k < K_SIZE ? load_vector<X_ELEMENT, 8>(x + int64_t(row) * K_SIZE + k) : Eight{};
    }
#if NORM
  __shared__ float scratch[32];
  float square = 0;
#pragma unroll
  for (int i = 0; i < ITEMS; ++i)
#pragma unroll
    for (int t = 0; t < 4; ++t)
#pragma unroll
      for (int e = 0; e < 8; ++e) square += to_float(eights[i][t].at[e]) * to_float(eights[i][t].at[e]);
  const float inverse = rsqrtf(block_reduce<Sum, THREADS>(square, scratch) * (1.f / K_SIZE) + epsilon);
  Vec<OPERAND, 8> ready[ITEMS][4];
#pragma unroll
  for (int i = 0; i < ITEMS; ++i)
#pragma unroll
    for (int t = 0; t < 4; ++t)
#pragma unroll
      for (int e = 0; e < 8; ++e)
        ready[i][t].at[e] = from_float<OPERAND>(to_float(eights[i][t].at[e]) * inverse * to_float(weights[i][t].at[e]));
#else
  Vec<OPERAND, 8> ready[ITEMS][4];
#pragma unroll
  for (int i = 0; i < ITEMS; ++i)
#pragma unroll
    for (int t = 0; t < 4; ++t) ready[i][t] = converted<OPERAND>(eights[i][t], 1.f / X_SCALE);
#endif
#pragma unroll
  for (int i = 0; i < ITEMS; ++i) {
    const Item item(i * THREADS + threadIdx.x);
    if (item.stage >= kStages) break;
    const uint32_t* words[4];
#pragma unroll
    for (int t = 0; t < 4; ++t) words[t] = reinterpret_cast<const uint32_t*>(&ready[i][t]);
    uint4* const to = y + ((int64_t(row / TOKENS) * kStages + item.stage) * PLANES + item.plane) * (TOKENS * 8) + row % TOKENS * 8;
#pragma unroll
    for (int j = 0; j < 4; ++j)
      to[(4 * item.half + j) ^ (row % 8)] = EIGHTS == 0 ? uint4{words[j][0], words[j][1], words[j][2], words[j][3]}
                                                        : uint4{words[0][j], words[1][j], words[2][j], words[3][j]};
  }
}
