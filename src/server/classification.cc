#include "server/classification.h"

#include <algorithm>
#include <numeric>

namespace tokamak::server {

namespace {

std::string number(double value) { return fmt::format("{:f}", value); }
std::string number(int64_t value) { return std::to_string(value); }
std::string number(uint64_t value) { return std::to_string(value); }

template <class T, class Wide>
void top(const void* data, int64_t count, int k, const std::vector<std::string>& labels, std::string* out) {
  const T* values = static_cast<const T*>(data);
  std::vector<int64_t> order(count);
  std::iota(order.begin(), order.end(), int64_t{0});
  // NaN compares less than everything, so that the order is one.
  const auto larger = [values](int64_t a, int64_t b) {
    const Wide x = static_cast<Wide>(values[a]), y = static_cast<Wide>(values[b]);
    if (x > y) return true;
    if (y > x) return false;
    const bool nan_x = x != x, nan_y = y != y;
    return nan_x != nan_y ? nan_y : a < b;
  };
  std::partial_sort(order.begin(), order.begin() + k, order.end(), larger);
  for (int i = 0; i < k; ++i) {
    const int64_t index = order[i];
    out[i] = fmt::format("{}:{}", number(static_cast<Wide>(values[index])), index);
    if (index < static_cast<int64_t>(labels.size()) && !labels[index].empty()) out[i] += ":" + labels[index];
  }
}

using TopFunction = void (*)(const void*, int64_t, int, const std::vector<std::string>&, std::string*);

TopFunction top_function(DType dtype) {
  switch (dtype) {
    case DType::F32: return top<float, double>;
    case DType::F64: return top<double, double>;
    case DType::I8: return top<int8_t, int64_t>;
    case DType::I16: return top<int16_t, int64_t>;
    case DType::I32: return top<int32_t, int64_t>;
    case DType::I64: return top<int64_t, int64_t>;
    case DType::U8: return top<uint8_t, uint64_t>;
    case DType::U16: return top<uint16_t, uint64_t>;
    case DType::U32: return top<uint32_t, uint64_t>;
    case DType::U64: return top<uint64_t, uint64_t>;
    default: return nullptr;
  }
}

}  // namespace

Tensor classify(const Tensor& output, int k, bool has_rows, const std::vector<std::string>& labels) {
  const TopFunction function = top_function(output.dtype());
  if (!function)
    fail(ErrorCode::InvalidArgument, "class result not available for output due to unsupported type '{}'", to_string(output.dtype()));
  const int64_t rows = has_rows && output.rank() > 0 ? output.dim(0) : 1;
  const int64_t row = rows > 0 ? output.count() / rows : 0;
  k = static_cast<int>(std::min<int64_t>(k, row));
  Tensor result = Tensor::empty(DType::String, has_rows ? Shape{rows, k} : Shape{k});
  const int64_t row_bytes = bytes_of(output.dtype(), row);
  for (int64_t r = 0; r < rows; ++r) function(output.data<std::byte>() + r * row_bytes, row, k, labels, result.strings().data() + r * k);
  return result;
}

}  // namespace tokamak::server
