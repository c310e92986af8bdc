#pragma once
// The instruction-set specific inner parts of convolution: plain functions over plain structs, one table an instruction set. The drivers
// that choose blocks, split over threads and book workspace are ordinary code (conv_igemm.cc, conv_winograd.cc, conv_depthwise.cc).

#include <cstdint>

namespace tokamak::cpu {

// What happens to an accumulator before it is stored: y = act(acc + bias [+ residual]) [+ residual], act = clamp or hard swish.
struct RegisterEpilogue {
  const float* bias = nullptr;      // per column; readable to the next multiple of the vector width. Never null.
  const float* residual = nullptr;  // laid out like the output, null if none
  bool residual_after = false;
  bool hard_swish = false;
  float low = 0, high = 0;  // clamp; -inf and inf when there is none
};

// `len` consecutive floats that every row reads at rows[i] + offset.
struct KSegment {
  int64_t offset;
  int64_t len;
};

// C[m x n] (+)= sum over segments of A * B for one column panel of nv vectors, one block of K.
struct PanelArgs {
  const float* const* rows = nullptr;  // m row pointers
  int64_t m = 0;
  const KSegment* segments = nullptr;
  int64_t num_segments = 0;
  const float* b = nullptr;  // [k][nv * width], zero beyond n
  int nv = 0;
  int64_t n = 0;  // valid columns, in ((nv-1)*width, nv*width]
  float* c = nullptr;
  int64_t ldc = 0;
  bool load_c = false;        // continue a sum of earlier K blocks
  bool plain = false;         // store the sum alone, no epilogue
  RegisterEpilogue epilogue;  // bias and residual already at this panel's first row and column
  // What the caller reads next of B, fetched towards the second-level cache while this panel is computed: weights that stream from memory
  // are otherwise waited for.
  const float* next_b = nullptr;
  int64_t next_floats = 0;
};

// Winograd F(m x m, 3x3), m = 2 or 4. A tile is (m+2)^2 input pixels and m^2 output pixels.
struct WinogradInput {
  const float* x = nullptr;  // image [H][W][C]
  int64_t h = 0, w = 0, c = 0;
  int64_t pad_top = 0, pad_left = 0;
  int64_t tiles_w = 0;
  int64_t tile_begin = 0, tile_end = 0;  // of this image
  int64_t c_begin = 0, c_end = 0;
  float* v = nullptr;    // [(m+2)^2][tiles][ldv], row of tile_begin first
  int64_t v_stride = 0;  // between transform points
  int64_t ldv = 0;
};
struct WinogradOutput {
  const float* s = nullptr;  // sums [(m+2)^2][tiles][lds]
  int64_t s_stride = 0;
  int64_t lds = 0;
  float* y = nullptr;  // image [OH][OW][ldc] at the panel's first column
  int64_t oh = 0, ow = 0, ldc = 0, n = 0;
  int64_t tiles_w = 0;
  int64_t tile_begin = 0, tile_end = 0;
  RegisterEpilogue epilogue;  // residual at the image's first pixel and the panel's first column
};

// Depthwise: one range of output rows of one image, channels [c_begin, c_end).
struct DepthwiseArgs {
  const float* x = nullptr;  // image [H][W][C]
  int64_t h = 0, w = 0, c = 0;
  float* y = nullptr;  // image [OH][OW][C]
  int64_t oh = 0, ow = 0;
  int64_t kh = 0, kw = 0, stride_h = 1, stride_w = 1, dilation_h = 1, dilation_w = 1, pad_top = 0, pad_left = 0;
  const float* weights = nullptr;                              // [c / width][kh][kw][width], zero beyond c
  int64_t row_begin = 0, row_end = 0, c_begin = 0, c_end = 0;  // c_begin a multiple of the vector width
  RegisterEpilogue epilogue;
};

// Max or average pooling of a range of output rows of one image, all channels.
struct PoolArgs {
  const float* x = nullptr;  // image [H][W][C]
  int64_t h = 0, w = 0, c = 0;
  float* y = nullptr;  // image [OH][OW][C], ldy floats from pixel to pixel
  int64_t ow = 0, ldy = 0;
  int64_t kh = 0, kw = 0, stride_h = 1, stride_w = 1, dilation_h = 1, dilation_w = 1;
  int64_t pad_top = 0, pad_left = 0, pad_bottom = 0, pad_right = 0;
  bool is_max = false;
  bool include_pad = false;  // averages count padded positions
  int64_t row_begin = 0, row_end = 0;
};

enum class ColumnReduction { Sum, Max };
// y[c] = scale * sum (or max) over r of x[r * stride + c], c in [0, columns).
struct ColumnArgs {
  const float* x = nullptr;
  int64_t rows = 0, columns = 0, stride = 0;
  ColumnReduction reduction = ColumnReduction::Sum;
  float scale = 1;
  float* y = nullptr;
};

// y[i] = w[0] * a[i] + w[1] * b[i] + w[2] * c[i] + w[3] * d[i]: one output pixel of a bilinear resize.
struct BlendArgs {
  const float *a = nullptr, *b = nullptr, *c = nullptr, *d = nullptr;
  float w[4] = {};
  float* y = nullptr;
  int64_t count = 0;
};

struct ConvIsa {
  const char* name;  // "avx512", the prefix of kernel names
  int width;         // floats in a vector
  int max_nv;
  int max_rows[5];  // of a register tile, by nv
  void (*panel)(const PanelArgs&);
  void (*winograd_input)(int m, const WinogradInput&);
  void (*winograd_output)(int m, const WinogradOutput&);
  void (*depthwise)(const DepthwiseArgs&);
  void (*pool)(const PoolArgs&);
  void (*columns)(const ColumnArgs&);
  void (*blend)(const BlendArgs&);
};
extern const ConvIsa kConvAvx512;
extern const ConvIsa kConvAvx2;

}  // namespace tokamak::cpu
