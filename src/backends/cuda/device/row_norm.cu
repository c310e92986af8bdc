// layer_norm, rms_norm and the forms that add a residual first: a warp or a block a row (row_plan.h), the row in registers, or read once a
// pass where it is too long. ELEMENT: x, residual, sum. Y_ELEMENT. SCALE_TYPE, BIAS_TYPE. IS_RMS, HAS_RESIDUAL, HAS_SCALE, HAS_BIAS,
// HAS_SUM, HAS_STATISTICS. EARLY: scale and bias are weights, read before the kernel before this one ends. SCALE_STEP, BIAS_STEP: 0 for one
// value for all columns. RESIDUAL_STEP: 0 for one row for all rows.
#include "row.cuh"

constexpr int kStep = ROW_THREADS * WIDTH, kUnroll = IN_REGISTERS ? ITEMS : 1;

struct Row {
  const ELEMENT *x, *residual;
  DEVICE void load(int col, float (&v)[WIDTH]) const {
    const Vec<ELEMENT, WIDTH> a = load_vector<ELEMENT, WIDTH>(x + col);
#if HAS_RESIDUAL
    const Vec<ELEMENT, WIDTH> b = load_vector<ELEMENT, WIDTH>(residual + col);
#endif
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) {
      v[k] = to_float(a.at[k]);
#if HAS_RESIDUAL
      v[k] += to_float(b.at[k]);
#endif
    }
  }
};

extern "C" __global__ void __launch_bounds__(ROW_THREADS* BLOCK_ROWS)
    row_norm(const ELEMENT* x, const ELEMENT* residual, const SCALE_TYPE* scale, const BIAS_TYPE* bias, Y_ELEMENT* y, ELEMENT* sum,
             float* mean_out, float* inverse_out, int64_t rows, float epsilon) {
  __shared__ float scratch[32];
  const int lane = threadIdx.x % ROW_THREADS;
#if EARLY && HAS_SCALE
  Vec<SCALE_TYPE, WIDTH> scales[ITEMS];
  load_early<COLS, kStep>(scale, lane, scales);
#endif
#if EARLY && HAS_BIAS
  Vec<BIAS_TYPE, WIDTH> biases[ITEMS];
  load_early<COLS, kStep>(bias, lane, biases);
#endif
  wait_with_next();
  const int64_t row = int64_t(blockIdx.x) * BLOCK_ROWS + threadIdx.x / ROW_THREADS;
  if (row >= rows) return;
  const Row in{x + row * COLS, residual + row * RESIDUAL_STEP * COLS};
#if IN_REGISTERS
  float held[ITEMS][WIDTH];
#pragma unroll
  for (int item = 0; item < ITEMS; ++item)
    if (const int col = item * kStep + lane * WIDTH; col < COLS) in.load(col, held[item]);
#define LOAD_ROW(v) float(&v)[WIDTH] = held[item];
#else
#define LOAD_ROW(v) \
  float v[WIDTH];   \
  in.load(col, v);
#endif
  float mean = 0;
#if !IS_RMS
#pragma unroll kUnroll
  for (int item = 0; item < ITEMS; ++item) {
    const int col = item * kStep + lane * WIDTH;
    if (col >= COLS) break;
    LOAD_ROW(v)
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) mean += v[k];
  }
  mean = row_reduce<Sum, ROW_THREADS>(mean, scratch) * (1.f / COLS);
#endif
  float square = 0;
#pragma unroll kUnroll
  for (int item = 0; item < ITEMS; ++item) {
    const int col = item * kStep + lane * WIDTH;
    if (col >= COLS) break;
    LOAD_ROW(v)
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) square += (v[k] - mean) * (v[k] - mean);
  }
  square = row_reduce<Sum, ROW_THREADS>(square, scratch);
  const float inverse = rsqrtf(square * (1.f / COLS) + epsilon);
#if HAS_STATISTICS
  if (lane == 0) {
    if (mean_out != nullptr) mean_out[row] = mean;
    if (inverse_out != nullptr) inverse_out[row] = inverse;
  }
#endif
#pragma unroll kUnroll
  for (int item = 0; item < ITEMS; ++item) {
    const int col = item * kStep + lane * WIDTH;
    if (col >= COLS) break;
    LOAD_ROW(v)
#if EARLY && HAS_SCALE
    const Vec<SCALE_TYPE, WIDTH> s = scales[item];
#elif HAS_SCALE
    const Vec<SCALE_TYPE, WIDTH> s = SCALE_STEP ? load_vector<SCALE_TYPE, WIDTH>(scale + col) : Vec<SCALE_TYPE, WIDTH>{};
#endif
#if EARLY && HAS_BIAS
    const Vec<BIAS_TYPE, WIDTH> b = biases[item];
#elif HAS_BIAS
    const Vec<BIAS_TYPE, WIDTH> b = BIAS_STEP ? load_vector<BIAS_TYPE, WIDTH>(bias + col) : Vec<BIAS_TYPE, WIDTH>{};
#endif
    Vec<Y_ELEMENT, WIDTH> out;
#if HAS_SUM
    Vec<ELEMENT, WIDTH> total;
#endif
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) {
      float w = (v[k] - mean) * inverse;
#if HAS_SUM
      total.at[k] = from_float<ELEMENT>(v[k]);
#endif
#if HAS_SCALE
      w *= to_float(SCALE_STEP ? s.at[k] : scale[0]);
#endif
#if HAS_BIAS
      w += to_float(BIAS_STEP ? b.at[k] : bias[0]);
#endif
      out.at[k] = from_float<Y_ELEMENT>(w);
    }
#if HAS_SUM
    store_vector<ELEMENT, WIDTH>(sum + row * COLS + col, total);
#endif
    store_vector<Y_ELEMENT, WIDTH>(y + row * COLS + col, out);
  }
}
