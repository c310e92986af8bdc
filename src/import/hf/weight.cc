#include "import/hf/weight.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/half.h"

namespace tokamak::hf {
namespace {

constexpr int64_t kChunk = 1 << 18;  // elements a task looks at

// Whether some exponent is all ones: a loop that vectorises.
template <class Bits>
bool has_non_finite(const Bits* data, int64_t count, Bits exponent) {
  Bits found = 0;
  for (int64_t i = 0; i < count; ++i) found |= static_cast<Bits>((data[i] & exponent) == exponent);
  return found != 0;
}

bool has_non_finite(const Tensor& t, int64_t begin, int64_t end) {
  switch (t.dtype()) {
    case DType::F32: return has_non_finite<uint32_t>(static_cast<const uint32_t*>(t.raw()) + begin, end - begin, 0x7f800000);
    case DType::F16: return has_non_finite<uint16_t>(t.data<uint16_t>() + begin, end - begin, 0x7c00);
    case DType::BF16: return has_non_finite<uint16_t>(t.data<uint16_t>() + begin, end - begin, 0x7f80);
    default: return false;
  }
}

void check_finite(const Tensor& t, const std::string& name, ThreadPool& pool) {
  std::atomic<int64_t> bad{INT64_MAX};
  pool.parallel_for(t.count(), kChunk, [&](int64_t begin, int64_t end, int) {
    if (!has_non_finite(t, begin, end)) return;
    for (int64_t i = begin; i < end; ++i) {
      if (std::isfinite(t.float_at(i))) continue;
      for (int64_t seen = bad; i < seen && !bad.compare_exchange_weak(seen, i);) {
      }
      return;
    }
  });
  if (bad == INT64_MAX) return;
  fail(ErrorCode::Corrupt, "tensor \"{}\": element {} of {}{} is {}; expected finite weights: the checkpoint is damaged", name, bad.load(),
       to_string(t.dtype()), to_string(t.shape()), t.float_at(bad));
}

// f(dtype tag's load) for the float dtypes.
template <class F>
void with_loader(DType dtype, const F& f) {
  switch (dtype) {
    case DType::F32: return f([](const void* p, int64_t i) { return static_cast<const float*>(p)[i]; });
    case DType::F16: return f([](const void* p, int64_t i) { return half_to_float(static_cast<const uint16_t*>(p)[i]); });
    case DType::BF16: return f([](const void* p, int64_t i) { return bfloat16_to_float(static_cast<const uint16_t*>(p)[i]); });
    case DType::I8: return f([](const void* p, int64_t i) { return static_cast<float>(static_cast<const int8_t*>(p)[i]); });
    case DType::I4:
      return f([](const void* p, int64_t i) {
        const int nibble = (static_cast<const uint8_t*>(p)[i / 2] >> (4 * (i & 1))) & 15;
        return static_cast<float>(nibble >= 8 ? nibble - 16 : nibble);
      });
    default: CHECK(false);
  }
}

template <class F>
void with_store(DType dtype, const F& f) {
  switch (dtype) {
    case DType::F32: return f([](void* p, int64_t i, float v) { static_cast<float*>(p)[i] = v; });
    case DType::F16: return f([](void* p, int64_t i, float v) { static_cast<uint16_t*>(p)[i] = float_to_half(v); });
    case DType::BF16: return f([](void* p, int64_t i, float v) { static_cast<uint16_t*>(p)[i] = float_to_bfloat16(v); });
    default: CHECK(false);
  }
}

int64_t row_bytes(const Tensor& t) { return t.dim(0) == 0 ? 0 : t.size_bytes() / t.dim(0); }

// Rows in an order of their own, copied; I4 rows must have even length.
Tensor gather_rows(const Tensor& from, const std::vector<int64_t>& source) {
  Shape shape = from.shape();
  shape[0] = static_cast<int64_t>(source.size());
  Tensor out = Tensor::empty(from.dtype(), shape);
  const int64_t bytes = row_bytes(from);
  for (size_t i = 0; i < source.size(); ++i)
    std::memcpy(out.data<std::byte>() + static_cast<int64_t>(i) * bytes, from.data<std::byte>() + source[i] * bytes, bytes);
  return out;
}

Tensor concat(const std::vector<Tensor>& parts) {
  Shape shape = parts[0].shape();
  shape[0] = 0;
  for (const Tensor& p : parts) shape[0] += p.dim(0);
  Tensor out = Tensor::empty(parts[0].dtype(), shape);
  std::byte* to = out.data<std::byte>();
  for (const Tensor& p : parts) {
    if (p.size_bytes() > 0) std::memcpy(to, p.raw(), p.size_bytes());
    to += p.size_bytes();
  }
  return out;
}

Tensor view_rows(const Tensor& t, int64_t begin, int64_t end) {
  Shape shape = t.shape();
  shape[0] = end - begin;
  // The copy in the owner keeps the storage.
  auto owner = std::make_shared<Tensor>(t);
  return Tensor::view(t.dtype(), shape, t.data<std::byte>() + begin * row_bytes(t), std::move(owner));
}

// Whether columns [begin, end) are whole bytes.
bool are_whole_bytes(const Tensor& t, int64_t begin, int64_t end) {
  const int64_t bits = bits_of(t.dtype());
  return begin * bits % 8 == 0 && end * bits % 8 == 0 && t.dim(1) * bits % 8 == 0;
}

Tensor copy_columns(const Tensor& t, int64_t begin, int64_t end) {
  const int64_t bits = bits_of(t.dtype()), from_bytes = t.dim(1) * bits / 8, to_bytes = (end - begin) * bits / 8;
  Tensor out = Tensor::empty(t.dtype(), {t.dim(0), end - begin});
  for (int64_t i = 0; i < t.dim(0); ++i)
    std::memcpy(out.data<std::byte>() + i * to_bytes, t.data<std::byte>() + i * from_bytes + begin * bits / 8, to_bytes);
  return out;
}

}  // namespace

void check_finite(const Weight& weight, ThreadPool& pool) {
  check_finite(weight.data, weight.name, pool);
  if (weight.is_quantized()) check_finite(weight.scale, weight.name + " (scales)", pool);
}

Tensor to_dense(const Weight& weight, DType dtype, ThreadPool& pool) {
  const Tensor& data = weight.data;
  if (!weight.is_quantized() && data.dtype() == dtype) return data;
  Tensor out = Tensor::empty(dtype, data.shape());
  const int64_t columns = data.rank() > 0 ? std::max<int64_t>(1, data.dim(-1)) : 1, rows = data.count() / columns;
  const int64_t groups = weight.is_quantized() ? columns / weight.group_size : 1, size = columns / groups;
  with_loader(data.dtype(), [&](auto load) {
    with_store(dtype, [&](auto store) {
      pool.parallel_for(rows * groups, std::max<int64_t>(1, kChunk / size), [&](int64_t begin, int64_t end, int) {
        for (int64_t g = begin; g < end; ++g) {
          const float scale = weight.is_quantized() ? static_cast<float>(weight.scale.float_at(g)) : 1.0f;
          for (int64_t i = g * size; i < (g + 1) * size; ++i) store(out.raw(), i, scale * load(data.raw(), i));
        }
      });
    });
  });
  check_finite(out, fmt::format("{} (as {})", weight.name, to_string(dtype)), pool);
  return out;
}

std::vector<float> to_floats(const Weight& weight) {
  std::vector<float> out(weight.data.count());
  for (int64_t i = 0; i < weight.data.count(); ++i) {
    out[i] = static_cast<float>(weight.data.float_at(i));
    if (weight.is_quantized()) out[i] *= static_cast<float>(weight.scale.float_at(i / weight.group_size));
  }
  return out;
}

Weight slice_rows(const Weight& weight, int64_t begin, int64_t end, std::string name) {
  Weight out{std::move(name), view_rows(weight.data, begin, end), {}, weight.group_size};
  if (weight.is_quantized()) out.scale = view_rows(weight.scale, begin, end);
  return out;
}

Weight slice_columns(const Weight& weight, int64_t begin, int64_t end) {
  Weight out{weight.name, {}, {}, weight.group_size};
  const int64_t group = weight.group_size;
  const bool is_one_group = weight.is_quantized() && group == weight.data.dim(1);
  if (!are_whole_bytes(weight.data, begin, end) || (weight.is_quantized() && !is_one_group && (begin % group != 0 || end % group != 0)))
    fail(ErrorCode::Unsupported,
         "tensor \"{}\": columns {} to {} of {} cut its groups of {} elements or its bytes; split the model over fewer ranks", weight.name,
         begin, end, weight.data.dim(1), group);
  out.data = copy_columns(weight.data, begin, end);
  if (is_one_group) {
    out.scale = weight.scale;
    out.group_size = end - begin;
  } else if (weight.is_quantized()) {
    out.scale = copy_columns(weight.scale, begin / group, end / group);
  }
  return out;
}

Weight concat_rows(const std::vector<Weight>& parts, DType dense_dtype, std::string name, ThreadPool& pool) {
  Weight out{std::move(name), {}, {}, parts[0].group_size};
  bool same = true, dense = true;
  for (const Weight& p : parts) {
    same = same && p.data.dtype() == parts[0].data.dtype() && p.is_quantized() == parts[0].is_quantized() && p.group_size == out.group_size;
    dense = dense && !p.is_quantized();
  }
  std::vector<Tensor> data, scales;
  for (const Weight& p : parts) {
    // Floats of several dtypes meet in f32, which holds them all.
    data.push_back(same ? p.data : to_dense(p, dense ? DType::F32 : dense_dtype, pool));
    if (same && p.is_quantized()) scales.push_back(p.scale);
  }
  out.data = concat(data);
  if (!scales.empty()) out.scale = concat(scales);
  else out.group_size = 0;
  return out;
}

Weight select_rows(const Weight& weight, const std::vector<int64_t>& source) {
  Weight out{weight.name, gather_rows(weight.data, source), {}, weight.group_size};
  if (weight.is_quantized()) out.scale = gather_rows(weight.scale, source);
  return out;
}

}  // namespace tokamak::hf
