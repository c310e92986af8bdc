#include "import/onnx/wire.h"

#include <bit>
#include <cstring>

#include "base/error.h"

namespace tokamak::onnx {
namespace {

int varint_size(uint64_t value) {
  int size = 1;
  while (value >>= 7) ++size;
  return size;
}

}  // namespace

uint64_t read_varint(Bytes bytes, size_t& position, size_t base) {
  uint64_t value = 0;
  const size_t start = position;
  for (int shift = 0; shift < 70; shift += 7) {
    if (position >= bytes.size()) fail(ErrorCode::Corrupt, "not a valid ONNX file: it ends inside a number at byte {}", base + start);
    const uint64_t b = static_cast<uint64_t>(bytes[position++]);
    if (shift == 63 && b > 1) break;  // more than 64 bits
    value |= (b & 0x7f) << shift;
    if (b < 0x80) return value;
  }
  fail(ErrorCode::Corrupt, "not a valid ONNX file: the number at byte {} is longer than 64 bits", base + start);
}

uint64_t read_fixed(Bytes bytes, size_t& position, size_t base, int size) {
  if (bytes.size() - position < static_cast<size_t>(size))
    fail(ErrorCode::Corrupt, "not a valid ONNX file: it ends inside a {}-byte number at byte {}", size, base + position);
  uint64_t value = 0;
  for (int i = 0; i < size; ++i) value |= static_cast<uint64_t>(bytes[position + i]) << (8 * i);
  position += size;
  return value;
}

void wrong_wire_type(const Field& field, const char* expected) {
  fail(ErrorCode::Corrupt, "not a valid ONNX file: field {} at byte {} should be {}, found wire type {}", field.number, field.offset,
       expected, static_cast<int>(field.wire));
}

// The tag and the length were read canonically or not; for messages the canonical size is near enough, and exact for every real writer.
size_t payload_offset(const Field& field) {
  return field.offset + varint_size(uint64_t{field.number} << 3) + varint_size(field.bytes.size());
}

int64_t Field::as_int() const {
  if (wire != Wire::Varint) wrong_wire_type(*this, "an integer");
  return static_cast<int64_t>(scalar);
}

float Field::as_float() const {
  if (wire != Wire::Fixed32) wrong_wire_type(*this, "a float");
  return std::bit_cast<float>(static_cast<uint32_t>(scalar));
}

Bytes Field::as_bytes() const {
  if (wire != Wire::Length) wrong_wire_type(*this, "bytes, text or a message");
  return bytes;
}

std::string_view Field::as_text() const {
  const Bytes b = as_bytes();
  return {reinterpret_cast<const char*>(b.data()), b.size()};
}

WireReader WireReader::inside(const Field& field) { return WireReader(field.as_bytes(), payload_offset(field)); }

bool WireReader::next(Field& field) {
  if (position_ >= bytes_.size()) return false;
  field.offset = base_ + position_;
  const uint64_t tag = read_varint(bytes_, position_, base_);
  if (tag >> 3 == 0 || tag >> 3 > 0x1fffffff)
    fail(ErrorCode::Corrupt, "not a valid ONNX file: impossible field number {} at byte {}", tag >> 3, field.offset);
  field.number = static_cast<uint32_t>(tag >> 3);
  field.bytes = {};
  switch (tag & 7) {
    case 0:
      field.wire = Wire::Varint;
      field.scalar = read_varint(bytes_, position_, base_);
      break;
    case 1:
      field.wire = Wire::Fixed64;
      field.scalar = read_fixed(bytes_, position_, base_, 8);
      break;
    case 5:
      field.wire = Wire::Fixed32;
      field.scalar = read_fixed(bytes_, position_, base_, 4);
      break;
    case 2: {
      field.wire = Wire::Length;
      const uint64_t size = read_varint(bytes_, position_, base_);
      if (size > bytes_.size() - position_)
        fail(ErrorCode::Corrupt, "not a valid ONNX file, or a truncated one: field {} at byte {} wants {} bytes, {} remain", field.number,
             field.offset, size, bytes_.size() - position_);
      field.bytes = bytes_.subspan(position_, size);
      position_ += size;
      break;
    }
    default: fail(ErrorCode::Corrupt, "not a valid ONNX file: unknown wire type {} at byte {}", tag & 7, field.offset);
  }
  return true;
}

void append_ints(const Field& field, std::vector<int64_t>& out) {
  for_each_varint(field, [&](uint64_t v) { out.push_back(static_cast<int64_t>(v)); });
}

void append_floats(const Field& field, std::vector<double>& out) {
  for_each_fixed32(field, [&](uint32_t bits) { out.push_back(std::bit_cast<float>(bits)); });
}

}  // namespace tokamak::onnx
