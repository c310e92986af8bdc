#pragma once
// The GGUF container, versions 2 and 3: metadata and tensors of llama.cpp's models
// (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). Read through a mapping; nothing in the file is trusted.

#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/tensor.h"

namespace tokamak::hf {

// The types that this version reads.
enum class GgufType : uint32_t { F32 = 0, F16 = 1, Q4_0 = 2, Q8_0 = 8, Q4_K = 12, Q6_K = 14, BF16 = 30 };
const char* to_string(GgufType type);

struct GgufTensor {
  GgufType type;
  Shape shape;  // row-major: the file's dimensions reversed; rows of quantized tensors are whole blocks
  std::span<const std::byte> bytes;
};

class Gguf {
 public:
  // Reads the header; `what` names the file in messages. `bytes` must outlive this. Throws Corrupt when a count, size or offset does not
  // fit the file, a key or tensor is repeated or tensors overlap; Unsupported for other versions, byte orders and tensor types.
  Gguf(std::span<const std::byte> bytes, std::string what);

  const std::map<std::string, GgufTensor, std::less<>>& tensors() const { return tensors_; }

  // Metadata. Absent keys give nullopt (or empty lists); a key of another kind throws Corrupt naming it.
  bool has(std::string_view key) const { return values_.find(key) != values_.end(); }
  std::optional<int64_t> integer(std::string_view key) const;  // any integer type; also of a list, its first element when all are equal
  std::optional<double> number(std::string_view key) const;
  std::optional<bool> boolean(std::string_view key) const;
  std::optional<std::string_view> text(std::string_view key) const;
  std::vector<std::string_view> texts(std::string_view key) const;
  std::vector<double> numbers(std::string_view key) const;  // a list of numbers, or one

 private:
  struct Value {
    uint32_t type = 0;  // of the elements, when `is_list`
    bool is_list = false;
    uint64_t count = 1;
    std::span<const std::byte> bytes;
    std::vector<std::string_view> strings;
  };
  class Reader;
  void read_value(Reader& reader, std::string key);
  void read_tensors(Reader& reader, uint64_t count);
  const Value* find(std::string_view key) const;
  [[noreturn]] void wrong(std::string_view key, const char* expected) const;
  static std::optional<double> number_at(const Value& value, uint64_t i);

  std::span<const std::byte> bytes_;
  std::string what_;
  std::map<std::string, Value, std::less<>> values_;
  std::map<std::string, GgufTensor, std::less<>> tensors_;
};

}  // namespace tokamak::hf
