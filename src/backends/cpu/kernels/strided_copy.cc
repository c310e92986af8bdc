#include "backends/cpu/kernels/strided_copy.h"

#include <emmintrin.h>
#include <xmmintrin.h>

#include <array>
#include <cstring>

#include "backends/cpu/kernels/parallel.h"
#include "base/error.h"

namespace tokamak::cpu {
namespace {

using Wide = std::array<uint64_t, 2>;

template <class T>
void fill(char* d, int64_t stride, const char* s, int64_t n) {
  T value;
  std::memcpy(&value, s, sizeof(T));
  T* out = reinterpret_cast<T*>(d);
  if (stride == 1)
    for (int64_t i = 0; i < n; ++i) out[i] = value;
  else
    for (int64_t i = 0; i < n; ++i) out[i * stride] = value;
}

template <class T>
void strided(char* d, int64_t d_stride, const char* s, int64_t s_stride, int64_t n) {
  T* out = reinterpret_cast<T*>(d);
  const T* in = reinterpret_cast<const T*>(s);
  for (int64_t i = 0; i < n; ++i) out[i * d_stride] = in[i * s_stride];
}

// out[r * d_stride + c] = in[r + c * s_stride] in blocks whose lines of both sides stay in L1.
template <class T>
void transpose_block(T* out, int64_t d_stride, const T* in, int64_t s_stride, int64_t rows, int64_t cols) {
  constexpr int64_t kBlock = 64 / sizeof(T) < 8 ? 8 : 64 / sizeof(T);
  for (int64_t c0 = 0; c0 < cols; c0 += kBlock) {
    const int64_t c1 = std::min(cols, c0 + kBlock);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = c0; c < c1; ++c) out[r * d_stride + c] = in[r + c * s_stride];
  }
}

template <>
void transpose_block(float* out, int64_t d_stride, const float* in, int64_t s_stride, int64_t rows, int64_t cols) {
  const int64_t whole_rows = rows & ~int64_t{3}, whole_cols = cols & ~int64_t{3};
  constexpr int64_t kBlock = 16;  // columns at a time: four full lines of the destination per group of rows
  for (int64_t c0 = 0; c0 < whole_cols; c0 += kBlock) {
    const int64_t c1 = std::min(whole_cols, c0 + kBlock);
    for (int64_t r = 0; r < whole_rows; r += 4)
      for (int64_t c = c0; c < c1; c += 4) {
        const float* p = in + r + c * s_stride;
        __m128 a = _mm_loadu_ps(p), b = _mm_loadu_ps(p + s_stride), e = _mm_loadu_ps(p + 2 * s_stride), f = _mm_loadu_ps(p + 3 * s_stride);
        _MM_TRANSPOSE4_PS(a, b, e, f);
        float* q = out + r * d_stride + c;
        _mm_storeu_ps(q, a), _mm_storeu_ps(q + d_stride, b), _mm_storeu_ps(q + 2 * d_stride, e), _mm_storeu_ps(q + 3 * d_stride, f);
      }
  }
  for (int64_t r = 0; r < whole_rows; ++r)
    for (int64_t c = whole_cols; c < cols; ++c) out[r * d_stride + c] = in[r + c * s_stride];
  for (int64_t r = whole_rows; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) out[r * d_stride + c] = in[r + c * s_stride];
}

// A few planes to one array of groups (RGB planes to pixels, a channel shuffle), and back: fixed group sizes let the compiler vectorise.
template <int kGroup, class T>
void interleave(T* __restrict out, const T* __restrict in, int64_t plane, int64_t rows) {
  for (int64_t r = 0; r < rows; ++r)
    for (int c = 0; c < kGroup; ++c) out[r * kGroup + c] = in[r + c * plane];
}
template <int kGroup, class T>
void deinterleave(T* __restrict out, int64_t plane, const T* __restrict in, int64_t cols) {
  for (int r = 0; r < kGroup; ++r)
    for (int64_t c = 0; c < cols; ++c) out[r * plane + c] = in[r + c * kGroup];
}

// Row r, column c of the destination is row c, column r of the source.
template <class T>
void transpose_rows(T* out, int64_t d_stride, const T* in, int64_t s_stride, int64_t rows, int64_t cols) {
  if (cols == 2 && d_stride == 2) return interleave<2>(out, in, s_stride, rows);
  if (cols == 3 && d_stride == 3) return interleave<3>(out, in, s_stride, rows);
  if (rows == 2 && s_stride == 2) return deinterleave<2>(out, d_stride, in, cols);
  if (rows == 3 && s_stride == 3) return deinterleave<3>(out, d_stride, in, cols);
  transpose_block(out, d_stride, in, s_stride, rows, cols);
}

template <class F>
void by_size(int64_t bytes, const F& f) {
  switch (bytes) {
    case 1: return f(uint8_t{});
    case 2: return f(uint16_t{});
    case 4: return f(float{});
    case 8: return f(uint64_t{});
    default: return f(Wide{});
  }
}

constexpr int64_t kTransposeRows = 64;  // rows of a task

}  // namespace

std::vector<int64_t> dense_strides(const std::vector<int64_t>& shape) {
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t d = shape.size(); d-- > 1;) strides[d - 1] = strides[d] * shape[d];
  return strides;
}

StridedCopy::StridedCopy(int64_t element_bytes, std::vector<int64_t> sizes, std::vector<int64_t> source_strides, int64_t source_offset,
                         std::vector<int64_t> destination_strides, int64_t destination_offset)
    : bytes_(element_bytes), source_offset_(source_offset), destination_offset_(destination_offset) {
  for (size_t d = 0; d < sizes.size(); ++d) {
    empty_ |= sizes[d] == 0;
    if (sizes[d] == 1) continue;
    if (!sizes_.empty() && source_.back() == source_strides[d] * sizes[d] && destination_.back() == destination_strides[d] * sizes[d]) {
      sizes_.back() *= sizes[d], source_.back() = source_strides[d], destination_.back() = destination_strides[d];
    } else {
      sizes_.push_back(sizes[d]), source_.push_back(source_strides[d]), destination_.push_back(destination_strides[d]);
    }
  }
  if (sizes_.empty()) sizes_ = {1}, source_ = {1}, destination_ = {1};
  const size_t last = sizes_.size() - 1;
  if (source_[last] == 1 && destination_[last] == 1) {
    kind_ = Kind::Runs;
  } else if (source_[last] == 0) {
    kind_ = Kind::Fill;
  } else if (destination_[last] == 1) {
    for (size_t d = 0; d < last; ++d) {
      if (source_[d] != 1) continue;
      kind_ = Kind::Transpose;
      for (size_t e = d; e + 1 < last; ++e) {  // next to the last, the order of the others kept
        std::swap(sizes_[e], sizes_[e + 1]), std::swap(source_[e], source_[e + 1]), std::swap(destination_[e], destination_[e + 1]);
      }
      break;
    }
  }
}

// The inner loop, or for Transpose `rows` rows of the dim before it.
void StridedCopy::piece(const char* s, char* d, int64_t row, int64_t rows) const {
  const size_t last = sizes_.size() - 1;
  const int64_t n = sizes_[last];
  switch (kind_) {
    case Kind::Runs: std::memcpy(d, s, n * bytes_); return;
    case Kind::Fill: by_size(bytes_, [&](auto t) { fill<decltype(t)>(d, destination_[last], s, n); }); return;
    case Kind::Strided: by_size(bytes_, [&](auto t) { strided<decltype(t)>(d, destination_[last], s, source_[last], n); }); return;
    case Kind::Transpose:
      by_size(bytes_, [&](auto t) {
        using T = decltype(t);
        transpose_rows(reinterpret_cast<T*>(d) + row * destination_[last - 1], destination_[last - 1], reinterpret_cast<const T*>(s) + row,
                       source_[last], rows, n);
      });
  }
}

void StridedCopy::run(const void* source, void* destination, ThreadPool* pool) const {
  if (empty_) return;
  const char* const s = static_cast<const char*>(source) + source_offset_ * bytes_;
  char* const d = static_cast<char*>(destination) + destination_offset_ * bytes_;
  const bool transpose = kind_ == Kind::Transpose;
  const size_t outer_dims = sizes_.size() - (transpose ? 2 : 1);
  const int64_t rows = transpose ? sizes_[outer_dims] : 1, blocks = transpose ? (rows + kTransposeRows - 1) / kTransposeRows : 1;
  int64_t outer = 1;
  for (size_t i = 0; i < outer_dims; ++i) outer *= sizes_[i];
  if (outer * blocks == 1 && kind_ == Kind::Runs) {  // one run: split it by bytes
    constexpr int64_t kChunk = 1 << 18;
    const int64_t total = sizes_.back() * bytes_, chunks = (total + kChunk - 1) / kChunk;
    parallel(pool, chunks, kChunk / 16, [&](int64_t begin, int64_t end, int) {
      std::memcpy(d + begin * kChunk, s + begin * kChunk, std::min(total, end * kChunk) - begin * kChunk);
    });
    return;
  }
  const int64_t cost = sizes_.back() * std::min(rows, kTransposeRows) * bytes_ / (kind_ == Kind::Runs ? 16 : 4) + 4;
  parallel(pool, outer * blocks, cost, [&](int64_t begin, int64_t end, int) {
    constexpr size_t kMaxDims = 24;
    int64_t at[kMaxDims], s_at = 0, d_at = 0, block = begin % blocks;
    for (int64_t index = begin / blocks, i = static_cast<int64_t>(outer_dims) - 1; i >= 0; --i) {
      at[i] = index % sizes_[i], index /= sizes_[i];
      s_at += at[i] * source_[i], d_at += at[i] * destination_[i];
    }
    for (int64_t task = begin; task < end; ++task) {
      piece(s + s_at * bytes_, d + d_at * bytes_, block * kTransposeRows, std::min(kTransposeRows, rows - block * kTransposeRows));
      if (++block < blocks) continue;
      block = 0;
      for (size_t i = outer_dims; i-- > 0;) {
        s_at += source_[i], d_at += destination_[i];
        if (++at[i] < sizes_[i]) break;
        s_at -= sizes_[i] * source_[i], d_at -= sizes_[i] * destination_[i];
        at[i] = 0;
      }
    }
  });
}

}  // namespace tokamak::cpu
