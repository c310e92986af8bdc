#include "import/hf/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/error.h"

namespace tokamak::hf {
namespace {

enum ValueType : uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64, kNumTypes };
constexpr uint64_t kSizes[kNumTypes] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

struct Block {
  GgufType type;
  const char* name;
  uint64_t elements, bytes;
};
constexpr Block kBlocks[] = {{GgufType::F32, "F32", 1, 4},      {GgufType::F16, "F16", 1, 2},     {GgufType::BF16, "BF16", 1, 2},
                             {GgufType::Q4_0, "Q4_0", 32, 18},  {GgufType::Q8_0, "Q8_0", 32, 34}, {GgufType::Q4_K, "Q4_K", 256, 144},
                             {GgufType::Q6_K, "Q6_K", 256, 210}};

const Block* find_block(uint32_t type) {
  for (const Block& b : kBlocks)
    if (static_cast<uint32_t>(b.type) == type) return &b;
  return nullptr;
}

}  // namespace

const char* to_string(GgufType type) { return find_block(static_cast<uint32_t>(type))->name; }

class Gguf::Reader {
 public:
  Reader(std::span<const std::byte> bytes, const std::string& what) : bytes_(bytes), what_(what) {}
  uint64_t at() const { return at_; }
  uint64_t left() const { return bytes_.size() - at_; }

  std::span<const std::byte> take(uint64_t size) {
    if (size > left())
      fail(ErrorCode::Corrupt, "{}: truncated, or a size is absurd: {} bytes wanted at byte {}, the file has {}", what_, size, at_,
           bytes_.size());
    at_ += size;
    return bytes_.subspan(at_ - size, size);
  }
  template <class T>
  T read() {
    T value;
    std::memcpy(&value, take(sizeof(T)).data(), sizeof(T));
    return value;
  }
  std::string_view string() {
    const auto text = take(read<uint64_t>());
    return {reinterpret_cast<const char*>(text.data()), text.size()};
  }
  // A count of things that take at least `least` bytes each.
  uint64_t count(uint64_t least, const char* things) { return check(read<uint64_t>(), least, things); }
  uint64_t check(uint64_t count, uint64_t least, const char* things) const {
    if (count > left() / least)
      fail(ErrorCode::Corrupt, "{}: {} {} cannot be in the {} bytes behind byte {}", what_, count, things, left(), at_);
    return count;
  }

 private:
  std::span<const std::byte> bytes_;
  const std::string& what_;
  uint64_t at_ = 0;
};

Gguf::Gguf(std::span<const std::byte> bytes, std::string what) : bytes_(bytes), what_(std::move(what)) {
  Reader reader(bytes, what_);
  if (bytes.size() < 24 || std::memcmp(bytes.data(), "GGUF", 4) != 0)
    fail(ErrorCode::Corrupt, "{}: not a GGUF file (it does not start with GGUF, or has no header)", what_);
  reader.take(4);
  const auto version = reader.read<uint32_t>();
  if (version == 0x03000000 || version == 0x02000000)
    fail(ErrorCode::Unsupported, "{}: a big-endian GGUF file; convert it for little-endian machines", what_);
  if (version != 2 && version != 3) fail(ErrorCode::Unsupported, "{}: GGUF version {}; this version reads 2 and 3", what_, version);
  const uint64_t num_tensors = reader.count(24, "tensors"), num_values = reader.count(12, "metadata entries");
  for (uint64_t i = 0; i < num_values; ++i) {
    std::string key(reader.string());
    read_value(reader, std::move(key));
  }
  read_tensors(reader, num_tensors);
}

void Gguf::read_value(Reader& reader, std::string key) {
  Value v;
  v.type = reader.read<uint32_t>();
  if (v.type == kArray) {
    v.is_list = true;
    v.type = reader.read<uint32_t>();
    if (v.type == kArray) fail(ErrorCode::Unsupported, "{}: metadata \"{}\" is a list of lists", what_, key);
  }
  if (v.type >= kNumTypes) fail(ErrorCode::Corrupt, "{}: metadata \"{}\" has the unknown type {}", what_, key, v.type);
  const uint64_t least = v.type == kString ? 8 : kSizes[v.type];
  if (v.is_list) v.count = reader.count(least, "list elements");
  if (v.type == kString) {
    v.strings.reserve(v.count);
    for (uint64_t i = 0; i < v.count; ++i) v.strings.push_back(reader.string());
  } else {
    v.bytes = reader.take(v.count * least);
  }
  if (!values_.emplace(key, std::move(v)).second) fail(ErrorCode::Corrupt, "{}: metadata \"{}\" is there twice", what_, key);
}

void Gguf::read_tensors(Reader& reader, uint64_t count) {
  struct Entry {
    uint64_t begin, end;
    const std::string* name;
  };
  std::vector<Entry> entries;
  for (uint64_t i = 0; i < count; ++i) {
    const std::string name(reader.string());
    const auto rank = reader.read<uint32_t>();
    if (rank < 1 || rank > 4) fail(ErrorCode::Corrupt, "{}: tensor \"{}\" has {} dimensions; expected 1 to 4", what_, name, rank);
    Shape shape(rank);
    uint64_t elements = 1;
    for (uint32_t d = 0; d < rank; ++d) {
      const auto size = reader.read<uint64_t>();
      if (size > (uint64_t{1} << 40) || __builtin_mul_overflow(elements, size, &elements) || elements > (uint64_t{1} << 48))
        fail(ErrorCode::Corrupt, "{}: tensor \"{}\" has an absurd size", what_, name);
      shape[rank - 1 - d] = static_cast<int64_t>(size);
    }
    const auto type = reader.read<uint32_t>();
    const Block* block = find_block(type);
    if (block == nullptr)
      fail(ErrorCode::Unsupported, "{}: tensor \"{}\" has ggml type {}; this version reads F32, F16, BF16, Q8_0, Q4_0, Q4_K and Q6_K",
           what_, name, type);
    if (static_cast<uint64_t>(shape.back()) % block->elements != 0)
      fail(ErrorCode::Corrupt, "{}: tensor \"{}\": rows of {} are not whole {} blocks of {}", what_, name, shape.back(), block->name,
           block->elements);
    const uint64_t offset = reader.read<uint64_t>(), size = elements / block->elements * block->bytes;
    if (offset > bytes_.size() || size > bytes_.size() - offset)
      fail(ErrorCode::Corrupt, "{}: tensor \"{}\" ({} {}) has {} bytes at offset {}; the file has {}", what_, name, block->name,
           tokamak::to_string(shape), size, offset, bytes_.size());
    const auto [at, fresh] = tensors_.emplace(name, GgufTensor{block->type, std::move(shape), {}});
    if (!fresh) fail(ErrorCode::Corrupt, "{}: tensor \"{}\" is there twice", what_, name);
    entries.push_back({offset, offset + size, &at->first});
  }
  const int64_t alignment = integer("general.alignment").value_or(32);
  if (alignment < 1 || alignment > (1 << 20) || !std::has_single_bit(static_cast<uint64_t>(alignment)))
    fail(ErrorCode::Corrupt, "{}: general.alignment is {}; expected a power of two", what_, alignment);
  const auto unit = static_cast<uint64_t>(alignment);
  const uint64_t data = (reader.at() + unit - 1) / unit * unit;
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  uint64_t at = 0;
  for (const Entry& e : entries) {
    if (e.begin % unit != 0 || e.begin < at || data > bytes_.size() || e.end > bytes_.size() - data)
      fail(ErrorCode::Corrupt,
           "{}: tensor \"{}\" (bytes {} to {} of the data) is misaligned, overlaps another or lies past the end of the file", what_,
           *e.name, e.begin, e.end);
    tensors_.find(*e.name)->second.bytes = bytes_.subspan(data + e.begin, e.end - e.begin);
    at = e.end;
  }
}

const Gguf::Value* Gguf::find(std::string_view key) const {
  const auto found = values_.find(key);
  return found == values_.end() ? nullptr : &found->second;
}

void Gguf::wrong(std::string_view key, const char* expected) const {
  fail(ErrorCode::Corrupt, "{}: metadata \"{}\" is of another type; expected {}", what_, key, expected);
}

std::optional<double> Gguf::number_at(const Value& v, uint64_t i) {
  const auto as = [&](auto tag) {
    std::memcpy(&tag, v.bytes.data() + i * sizeof(tag), sizeof(tag));
    return static_cast<double>(tag);
  };
  switch (v.type) {
    case kU8: return as(uint8_t{});
    case kI8: return as(int8_t{});
    case kU16: return as(uint16_t{});
    case kI16: return as(int16_t{});
    case kU32: return as(uint32_t{});
    case kI32: return as(int32_t{});
    case kU64: return as(uint64_t{});
    case kI64: return as(int64_t{});
    case kF32: return as(float{});
    case kF64: return as(double{});
    default: return std::nullopt;
  }
}

std::vector<double> Gguf::numbers(std::string_view key) const {
  std::vector<double> out;
  const Value* v = find(key);
  for (uint64_t i = 0; v != nullptr && i < v->count; ++i) {
    const auto number = number_at(*v, i);
    if (!number) wrong(key, "numbers");
    out.push_back(*number);
  }
  return out;
}

std::optional<double> Gguf::number(std::string_view key) const {
  if (!has(key)) return std::nullopt;
  const std::vector<double> all = numbers(key);
  if (all.empty() || std::adjacent_find(all.begin(), all.end(), std::not_equal_to<>()) != all.end()) wrong(key, "one number");
  return all.front();
}

std::optional<int64_t> Gguf::integer(std::string_view key) const {
  const auto value = number(key);
  if (!value) return std::nullopt;
  if (!(*value > -9e15 && *value < 9e15) || *value != static_cast<double>(static_cast<int64_t>(*value))) wrong(key, "an integer");
  return static_cast<int64_t>(*value);
}

std::optional<bool> Gguf::boolean(std::string_view key) const {
  const Value* v = find(key);
  if (v == nullptr) return std::nullopt;
  if (v->type != kBool || v->is_list) wrong(key, "true or false");
  return v->bytes[0] != std::byte{0};
}

std::optional<std::string_view> Gguf::text(std::string_view key) const {
  const Value* v = find(key);
  if (v == nullptr) return std::nullopt;
  if (v->type != kString || v->is_list) wrong(key, "a string");
  return v->strings[0];
}

std::vector<std::string_view> Gguf::texts(std::string_view key) const {
  const Value* v = find(key);
  if (v == nullptr) return {};
  if (v->type != kString || !v->is_list) wrong(key, "a list of strings");
  return v->strings;
}

}  // namespace tokamak::hf
