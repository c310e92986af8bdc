#include "import/hf/gguf_blocks.h"

#include <cstring>

#include "base/error.h"
#include "base/half.h"

namespace tokamak::hf {
namespace {

uint8_t byte(const std::byte* p, int i) { return static_cast<uint8_t>(p[i]); }
int8_t signed_byte(const std::byte* p, int i) { return static_cast<int8_t>(p[i]); }
uint16_t half_bits(const std::byte* p) { return static_cast<uint16_t>(byte(p, 0) | byte(p, 1) << 8); }
float half_at(const std::byte* p) { return half_to_float(half_bits(p)); }

// --- one block to floats

// f16 d, then 32 signed bytes.
void q8_0(const std::byte* b, float* out) {
  const float d = half_at(b);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(signed_byte(b, 2 + i));
}

// f16 d, then 16 bytes: low nibbles are elements 0..15, high ones 16..31, all less 8.
void q4_0(const std::byte* b, float* out) {
  const float d = half_at(b);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>((byte(b, 2 + i) & 15) - 8);
    out[i + 16] = d * static_cast<float>((byte(b, 2 + i) >> 4) - 8);
  }
}

// f16 d, f16 dmin, 12 bytes of eight 6-bit (scale, minimum) pairs, 128 bytes of nibbles: each 32 bytes hold 32 elements low, 32 high.
void q4_k(const std::byte* b, float* out) {
  const float d = half_at(b), dmin = half_at(b + 2);
  const std::byte *s = b + 4, *q = b + 16;
  for (int group = 0; group < 8; ++group) {
    const int scale = group < 4 ? byte(s, group) & 63 : (byte(s, group + 4) & 15) | (byte(s, group - 4) >> 6) << 4;
    const int minimum = group < 4 ? byte(s, group + 4) & 63 : byte(s, group + 4) >> 4 | (byte(s, group) >> 6) << 4;
    const float step = d * static_cast<float>(scale), low = dmin * static_cast<float>(minimum);
    for (int i = 0; i < 32; ++i) {
      const uint8_t pair = byte(q, group / 2 * 32 + i);
      out[group * 32 + i] = step * static_cast<float>(group % 2 ? pair >> 4 : pair & 15) - low;
    }
  }
}

// 128 bytes of low nibbles, 64 of upper bit pairs, 16 signed scales of 16 elements each, f16 d. Elements less 32.
void q6_k(const std::byte* b, float* out) {
  const std::byte *low = b, *high = b + 128, *scales = b + 192;
  const float d = half_at(b + 208);
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128, quarter = i / 32 % 4, l = i % 32;
    const uint8_t nibbles = byte(low, half * 64 + quarter % 2 * 32 + l);
    const int bits = (quarter < 2 ? nibbles & 15 : nibbles >> 4) | (byte(high, half * 32 + l) >> (2 * quarter) & 3) << 4;
    out[i] = d * static_cast<float>(signed_byte(scales, i / 16)) * static_cast<float>(bits - 32);
  }
}

struct Format {
  int elements, bytes;
  void (*decode)(const std::byte*, float*);
};

Format format_of(GgufType type) {
  switch (type) {
    case GgufType::Q8_0: return {32, 34, q8_0};
    case GgufType::Q4_0: return {32, 18, q4_0};
    case GgufType::Q4_K: return {256, 144, q4_k};
    case GgufType::Q6_K: return {256, 210, q6_k};
    default: CHECK(false);
  }
}

Tensor dequantized(const GgufTensor& t, DType dense, ThreadPool& pool) {
  const Format format = format_of(t.type);
  Tensor out = Tensor::empty(dense, t.shape);
  pool.parallel_for(out.count() / format.elements, 256, [&](int64_t begin, int64_t end, int) {
    float block[256];
    for (int64_t i = begin; i < end; ++i) {
      format.decode(t.bytes.data() + i * format.bytes, block);
      for (int j = 0; j < format.elements; ++j) {
        const int64_t at = i * format.elements + j;
        if (dense == DType::F32) out.data<float>()[at] = block[j];
        else out.data<uint16_t>()[at] = dense == DType::F16 ? float_to_half(block[j]) : float_to_bfloat16(block[j]);
      }
    }
  });
  return out;
}

// The same integers and scales, each in an array of its own.
Weight kept(const GgufTensor& t, std::string name, ThreadPool& pool) {
  const bool is_4bit = t.type == GgufType::Q4_0;
  const int64_t block_bytes = format_of(t.type).bytes;
  Weight w{std::move(name), Tensor::empty(is_4bit ? DType::I4 : DType::I8, t.shape),
           Tensor::empty(DType::F16, {t.shape[0], t.shape[1] / 32}), 32};
  pool.parallel_for(w.scale.count(), 4096, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const std::byte* b = t.bytes.data() + i * block_bytes;
      w.scale.data<uint16_t>()[i] = half_bits(b);
      if (!is_4bit) {
        std::memcpy(w.data.data<int8_t>() + i * 32, b + 2, 32);
        continue;
      }
      // Nibbles of elements 2j and 2j+1 meet in a byte; less 8 in two's complement is the top bit flipped.
      uint8_t* to = w.data.data<uint8_t>() + i * 16;
      for (int j = 0; j < 8; ++j) {
        const uint8_t first = byte(b, 2 + 2 * j), second = byte(b, 3 + 2 * j);
        to[j] = static_cast<uint8_t>(((first & 15) | (second & 15) << 4) ^ 0x88);
        to[j + 8] = static_cast<uint8_t>(((first >> 4) | (second & 0xf0)) ^ 0x88);
      }
    }
  });
  return w;
}

Tensor viewed(const GgufTensor& t, DType dtype, const std::shared_ptr<const void>& owner) {
  const auto alignment = static_cast<uintptr_t>(bits_of(dtype) / 8);
  if (owner != nullptr && reinterpret_cast<uintptr_t>(t.bytes.data()) % alignment == 0)
    return Tensor::view(dtype, t.shape, t.bytes.data(), owner);
  Tensor copy = Tensor::empty(dtype, t.shape);
  if (!t.bytes.empty()) std::memcpy(copy.raw(), t.bytes.data(), t.bytes.size());
  return copy;
}

}  // namespace

Weight to_weight(const GgufTensor& t, std::string name, const std::shared_ptr<const void>& owner, bool keep_quantized, DType dense,
                 ThreadPool& pool) {
  switch (t.type) {
    case GgufType::F32: return {std::move(name), viewed(t, DType::F32, owner), {}, 0};
    case GgufType::F16: return {std::move(name), viewed(t, DType::F16, owner), {}, 0};
    case GgufType::BF16: return {std::move(name), viewed(t, DType::BF16, owner), {}, 0};
    default: break;
  }
  const bool can_keep = (t.type == GgufType::Q8_0 || t.type == GgufType::Q4_0) && t.shape.size() == 2;
  if (keep_quantized && can_keep) return kept(t, std::move(name), pool);
  return {std::move(name), dequantized(t, dense, pool), {}, 0};
}

}  // namespace tokamak::hf
