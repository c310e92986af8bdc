#pragma once
// A bounded reader of the protobuf wire format (https://protobuf.dev/programming-guides/encoding/) over bytes in memory. Nothing is copied:
// strings and nested messages are spans of the input. Every malformed byte is an Error{Corrupt} that names its offset.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace tokamak::onnx {

using Bytes = std::span<const std::byte>;

enum class Wire : uint8_t { Varint = 0, Fixed64 = 1, Length = 2, Fixed32 = 5 };

// One field of a message. `number` and `wire` say what it is; the typed accessors fail when the wire type does not fit.
struct Field {
  uint32_t number = 0;
  Wire wire = Wire::Varint;
  uint64_t scalar = 0;  // Varint, Fixed32, Fixed64
  Bytes bytes;          // Length
  size_t offset = 0;    // of the field's tag in the file

  int64_t as_int() const;
  float as_float() const;
  Bytes as_bytes() const;
  std::string_view as_text() const;
};

class WireReader {
 public:
  // `offset` is where `bytes` starts in the file, for messages.
  explicit WireReader(Bytes bytes, size_t offset = 0) : bytes_(bytes), base_(offset) {}
  // The message inside a Length field.
  static WireReader inside(const Field& field);

  // False at the end. Groups (an obsolete wire type) are Corrupt.
  bool next(Field& field);

 private:
  Bytes bytes_;
  size_t base_;
  size_t position_ = 0;
};

// Elements of a repeated scalar field, packed or not; calls f(value) for each. Integers come as uint64_t bits of the varint.
void for_each_varint(const Field& field, const auto& f);
void for_each_fixed32(const Field& field, const auto& f);
void for_each_fixed64(const Field& field, const auto& f);

void append_ints(const Field& field, std::vector<int64_t>& out);
void append_floats(const Field& field, std::vector<double>& out);

// --- implementation ---

// Reads one varint of at most ten bytes at `position`; advances it. Fails with an offset relative to `base`.
uint64_t read_varint(Bytes bytes, size_t& position, size_t base);
uint64_t read_fixed(Bytes bytes, size_t& position, size_t base, int size);
[[noreturn]] void wrong_wire_type(const Field& field, const char* expected);
size_t payload_offset(const Field& field);

void for_each_varint(const Field& field, const auto& f) {
  if (field.wire == Wire::Varint) return f(field.scalar);
  if (field.wire != Wire::Length) wrong_wire_type(field, "an integer");
  for (size_t at = 0; at < field.bytes.size();) f(read_varint(field.bytes, at, payload_offset(field)));
}

void for_each_fixed32(const Field& field, const auto& f) {
  if (field.wire == Wire::Fixed32) return f(static_cast<uint32_t>(field.scalar));
  if (field.wire != Wire::Length) wrong_wire_type(field, "a 32-bit number");
  for (size_t at = 0; at < field.bytes.size();) f(static_cast<uint32_t>(read_fixed(field.bytes, at, payload_offset(field), 4)));
}

void for_each_fixed64(const Field& field, const auto& f) {
  if (field.wire == Wire::Fixed64) return f(field.scalar);
  if (field.wire != Wire::Length) wrong_wire_type(field, "a 64-bit number");
  for (size_t at = 0; at < field.bytes.size();) f(read_fixed(field.bytes, at, payload_offset(field), 8));
}

}  // namespace tokamak::onnx
