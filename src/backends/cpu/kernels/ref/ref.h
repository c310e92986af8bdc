#pragma once
// Shared by the reference kernels: how one is defined, typed access to tensors of any dtype, and broadcasting.
// A reference kernel gives an op its meaning: plain C++, every dtype, single-threaded.

#include <array>
#include <cmath>
#include <cstring>
#include <functional>
#include <type_traits>

#include "base/half.h"
#include "ir/op.h"
#include "runtime/kernel.h"

namespace tokamak::cpu::ref {

using RunFunction = std::function<void(const RunArgs&)>;
// Reads attributes and concrete shapes once; the function it returns runs.
using Prepare = RunFunction (*)(const NodeView&);

using KernelList = std::vector<const KernelDef*>;

enum Alias { kNoAlias, kInPlace };  // kInPlace: output 0 may share memory with any input of the same shape and element size

// A kernel "ref.<op>" that accepts every node. Lives as long as the process.
const KernelDef* define(std::string_view op, Prepare prepare, Alias alias = kNoAlias);

// "[gather "node name"] ..." as an Error.
template <class... Args>
[[noreturn]] void fail_node(const NodeView& node, ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  fail(code, "[{} \"{}\"] {}", node.node->op().name, node.node->name, fmt::format(format, std::forward<Args>(args)...));
}
// For messages at run time, when the NodeView is gone.
std::string label_of(const NodeView& node);

// An attribute of dims with the symbols bound. Empty when absent.
std::vector<int64_t> dims_attr(const NodeView& node, std::string_view name);
// A possibly negative axis against `rank`; throws InvalidArgument outside.
int64_t normalize_axis(int64_t axis, int64_t rank);

inline int64_t size_of(const Shape& shape) { return num_elements(shape); }
std::vector<int64_t> strides_of(const Shape& shape);  // row-major, in elements
// Strides with which `shape` is walked as `out` (NumPy broadcasting): 0 along repeated dims. Throws InvalidArgument when it does not fit.
std::vector<int64_t> broadcast_strides(const Shape& shape, const Shape& out);

// ---- dtypes ----

template <class T>
struct Tag {
  using type = T;
};

// Storage types by size, for code that only moves elements. Packed 4- and 2-bit types are not among them.
template <class F>
void visit_bytes(int bits, const F& f) {
  switch (bits) {
    case 8: return f(Tag<uint8_t>{});
    case 16: return f(Tag<uint16_t>{});
    case 32: return f(Tag<uint32_t>{});
    case 64: return f(Tag<uint64_t>{});
    case 128: return f(Tag<std::array<uint64_t, 2>>{});
    default: fail(ErrorCode::Unsupported, "elements of {} bits cannot be moved one by one here", bits);
  }
}

// Whole-byte numbers: f(Tag<T>). Throws Unsupported for the others, naming `what`.
template <class F>
void visit_float(DType dtype, const char* what, const F& f) {
  switch (dtype) {
    case DType::F32: return f(Tag<float>{});
    case DType::F64: return f(Tag<double>{});
    case DType::F16: return f(Tag<Half>{});
    case DType::BF16: return f(Tag<BFloat16>{});
    default: fail(ErrorCode::Unsupported, "{} of {}: the reference kernel takes f32, f64, f16 and bf16", what, to_string(dtype));
  }
}
template <class F>
void visit_integer(DType dtype, const char* what, const F& f) {
  switch (dtype) {
    case DType::I8: return f(Tag<int8_t>{});
    case DType::I16: return f(Tag<int16_t>{});
    case DType::I32: return f(Tag<int32_t>{});
    case DType::I64: return f(Tag<int64_t>{});
    case DType::U8: return f(Tag<uint8_t>{});
    case DType::U16: return f(Tag<uint16_t>{});
    case DType::U32: return f(Tag<uint32_t>{});
    case DType::U64: return f(Tag<uint64_t>{});
    default: fail(ErrorCode::Unsupported, "{} of {}: the reference kernel takes whole-byte integers", what, to_string(dtype));
  }
}
template <class F>
void visit_number(DType dtype, const char* what, const F& f) {
  if (is_integer(dtype)) return visit_integer(dtype, what, f);
  visit_float(dtype, what, f);
}

// What arithmetic on a stored T is done in: float for f32 and narrower, double for f64, T itself for integers.
template <class T>
struct ComputeOf {
  using type = T;
};
template <>
struct ComputeOf<Half> {
  using type = float;
};
template <>
struct ComputeOf<BFloat16> {
  using type = float;
};
template <class T>
using Compute = typename ComputeOf<T>::type;

template <class T>
inline constexpr bool kIsFloat = std::is_floating_point_v<Compute<T>>;

// Accumulators: double for floats, 64-bit (wrapping) for integers.
template <class T>
using Accumulator = std::conditional_t<kIsFloat<T>, double, std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>>;

template <class T>
double load_double(const T& v) {
  if constexpr (kIsFloat<T>) return static_cast<double>(static_cast<Compute<T>>(v));
  else return static_cast<double>(v);
}
template <class T>
T store(double v) {
  if constexpr (std::is_same_v<T, Half> || std::is_same_v<T, BFloat16>) return T(static_cast<float>(v));
  else return static_cast<T>(v);
}

// Any numeric tensor as doubles, and back (rounding once). For ops where speed is no concern.
std::vector<double> to_doubles(const Tensor& tensor);
void from_doubles(const std::vector<double>& values, Tensor& out);

// ---- walking ----

constexpr int64_t kMaxRank = 16;

// Walks `shape` in row-major order with N sets of strides, innermost loops handed over whole: f(offset of each, inner strides of each,
// count). Axes that every operand walks contiguously are joined, so that inner loops are long. Does not allocate.
template <size_t N, class F>
void for_each_row(const Shape& shape, const std::array<const int64_t*, N>& strides, const F& f) {
  const int64_t rank = static_cast<int64_t>(shape.size());
  if (rank > kMaxRank) fail(ErrorCode::Unsupported, "rank {}: tensors have at most {} axes here", rank, kMaxRank);
  for (int64_t d : shape)
    if (d == 0) return;
  int64_t num_dims = 0, dims[kMaxRank], steps[kMaxRank][N], index[kMaxRank] = {};
  for (int64_t i = 0; i < rank; ++i) {
    bool joins = num_dims > 0;
    for (size_t n = 0; joins && n < N; ++n) joins = steps[num_dims - 1][n] == strides[n][i] * shape[i];
    if (shape[i] == 1) continue;
    if (!joins) dims[num_dims++] = 1;
    dims[num_dims - 1] *= shape[i];
    for (size_t n = 0; n < N; ++n) steps[num_dims - 1][n] = strides[n][i];
  }
  std::array<int64_t, N> offset{}, inner{};
  if (num_dims == 0) return f(offset, inner, int64_t{1});
  const int64_t last = num_dims - 1;
  for (size_t n = 0; n < N; ++n) inner[n] = steps[last][n];
  while (true) {
    f(offset, inner, dims[last]);
    int64_t i = last - 1;
    for (; i >= 0; --i) {
      for (size_t n = 0; n < N; ++n) offset[n] += steps[i][n];
      if (++index[i] < dims[i]) break;
      for (size_t n = 0; n < N; ++n) offset[n] -= steps[i][n] * dims[i];
      index[i] = 0;
    }
    if (i < 0) return;
  }
}
template <size_t N, class F>
void for_each_row(const Shape& shape, const std::array<std::vector<int64_t>, N>& strides, const F& f) {
  std::array<const int64_t*, N> pointers;
  for (size_t n = 0; n < N; ++n) pointers[n] = strides[n].data();
  for_each_row(shape, pointers, f);
}

// Elements of an i32 or i64 index tensor.
class Indices {
 public:
  explicit Indices(const Tensor& tensor)
      : tensor_(tensor),
        narrow_(tensor.dtype() == DType::I32 ? tensor.data<int32_t>() : nullptr),
        wide_(tensor.dtype() == DType::I64 ? tensor.data<int64_t>() : nullptr) {}
  int64_t operator[](int64_t i) const { return wide_ ? wide_[i] : narrow_ ? narrow_[i] : tensor_.int_at(i); }

 private:
  const Tensor& tensor_;
  const int32_t* narrow_;
  const int64_t* wide_;
};

// out[...] = in[offset by strides...]; strides per out dim (0 repeats). Any dtype, strings and packed 4-/2-bit too.
void copy_strided(const Tensor& in, int64_t in_offset, const std::vector<int64_t>& in_strides, Tensor& out, int64_t out_offset,
                  const std::vector<int64_t>& out_strides, const Shape& shape);
// Element in[i] → out[o], any dtype (slow; a bit field for packed types).
void copy_element(const Tensor& in, int64_t i, Tensor& out, int64_t o);
// `count` consecutive elements.
void copy_block(const Tensor& in, int64_t i, Tensor& out, int64_t o, int64_t count);
// All bytes (or strings); shapes of equal count.
void copy_all(const Tensor& in, Tensor& out);

// A 4- or 2-bit element as its code.
uint8_t get_code(const Tensor& tensor, int64_t i);
void set_code(Tensor& tensor, int64_t i, uint8_t code);

}  // namespace tokamak::cpu::ref
