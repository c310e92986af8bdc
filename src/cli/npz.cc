#include "cli/npz.h"

#include <zlib.h>

#include <algorithm>
#include <cctype>
#include <cstring>

#include "base/file.h"
#include "cli/args.h"

namespace tokamak::cli {

namespace {

using Bytes = std::span<const std::byte>;

// Little-endian fields with every read checked.
struct Reader {
  Bytes bytes;
  const std::string& where;

  Bytes slice(uint64_t offset, uint64_t size) const {
    if (offset > bytes.size() || size > bytes.size() - offset) fail(ErrorCode::Corrupt, "{}: cut short at byte {}", where, offset);
    return bytes.subspan(offset, size);
  }
  template <class T>
  T read(uint64_t offset) const {
    T value;
    std::memcpy(&value, slice(offset, sizeof(T)).data(), sizeof(T));
    return value;
  }
};

// The text after `'key':` in the header's Python dictionary.
std::string_view dict_value(std::string_view header, std::string_view key, const std::string& where) {
  const size_t at = header.find(fmt::format("'{}'", key));
  const size_t colon = at == std::string_view::npos ? at : header.find(':', at + key.size() + 2);
  if (colon == std::string_view::npos) fail(ErrorCode::Corrupt, "{}: npy header lacks '{}'", where, key);
  const size_t begin = header.find_first_not_of(" \t", colon + 1);
  return begin == std::string_view::npos ? std::string_view() : header.substr(begin);
}

struct Element {
  DType dtype;
  int64_t size_bytes;  // in the file
  char kind;           // numpy's letter; 'U' and 'S' are strings
};

Element parse_descr(std::string_view text, const std::string& where) {
  if (text.size() < 4 || text[0] != '\'') fail(ErrorCode::Unsupported, "{}: structured array types are not supported", where);
  const std::string_view descr = text.substr(1, text.find('\'', 1) - 1);
  if (descr.size() < 3) fail(ErrorCode::Corrupt, "{}: bad array type '{}'", where, descr);
  if (descr[0] == '>') fail(ErrorCode::Unsupported, "{}: big-endian data ('{}')", where, descr);
  const char kind = descr[1];
  const int64_t size = parse_int(descr.substr(2), where);
  if (kind == 'O') fail(ErrorCode::Unsupported, "{}: object arrays are pickled Python and are not read", where);
  static constexpr struct {
    char kind;
    int64_t size;
    DType dtype;
  } kTypes[] = {{'f', 4, DType::F32}, {'f', 2, DType::F16},  {'f', 8, DType::F64}, {'i', 1, DType::I8},    {'i', 2, DType::I16},
                {'i', 4, DType::I32}, {'i', 8, DType::I64},  {'u', 1, DType::U8},  {'u', 2, DType::U16},   {'u', 4, DType::U32},
                {'u', 8, DType::U64}, {'b', 1, DType::Bool}, {'c', 8, DType::C64}, {'c', 16, DType::C128}, {'V', 2, DType::BF16}};
  for (const auto& type : kTypes)
    if (type.kind == kind && type.size == size) return {type.dtype, size, kind};
  if (size >= 0 && size <= (1 << 24)) {
    if (kind == 'U') return {DType::String, size * 4, kind};
    if (kind == 'S') return {DType::String, size, kind};
  }
  fail(ErrorCode::Unsupported, "{}: array type '{}'", where, descr);
}

void append_utf8(std::string& out, uint32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += {static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 63))};
  } else if (c < 0x10000) {
    out += {static_cast<char>(0xe0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 63)), static_cast<char>(0x80 | (c & 63))};
  } else {
    out += {static_cast<char>(0xf0 | (c >> 18 & 7)), static_cast<char>(0x80 | (c >> 12 & 63)), static_cast<char>(0x80 | (c >> 6 & 63)),
            static_cast<char>(0x80 | (c & 63))};
  }
}

std::string string_element(Bytes bytes, char kind) {
  std::string out;
  if (kind == 'S') {
    out.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    out.resize(std::min(out.size(), out.find_last_not_of('\0') + 1));
    return out;
  }
  for (size_t i = 0; i + 4 <= bytes.size(); i += 4) {
    uint32_t c;
    std::memcpy(&c, bytes.data() + i, 4);
    if (c == 0) break;
    append_utf8(out, c);
  }
  return out;
}

// Where row-major element `index` lies in column-major order.
int64_t fortran_index(int64_t index, const Shape& shape) {
  int64_t stride = num_elements(shape), result = 0;
  for (size_t i = shape.size(); i-- > 0;) {
    stride /= shape[i];
    result += index % shape[i] * stride;
    index /= shape[i];
  }
  return result;
}

std::vector<std::byte> inflate_member(Bytes packed, uint64_t size, const std::string& where) {
  // Deflate expands at most about 1032 times; a larger claim is a lie.
  if (size > packed.size() * 1100 + 1024) fail(ErrorCode::Corrupt, "{}: claims {} bytes from {} compressed", where, size, packed.size());
  std::vector<std::byte> out(size);
  z_stream stream{};
  if (inflateInit2(&stream, -MAX_WBITS) != Z_OK) fail(ErrorCode::Internal, "zlib did not start");
  size_t in_at = 0, out_at = 0;
  int status = Z_OK;
  while (status == Z_OK) {
    const uInt in_piece = static_cast<uInt>(std::min<size_t>(packed.size() - in_at, 1 << 30));
    const uInt out_piece = static_cast<uInt>(std::min<size_t>(out.size() - out_at, 1 << 30));
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(packed.data() + in_at));
    stream.avail_in = in_piece;
    stream.next_out = reinterpret_cast<Bytef*>(out.data() + out_at);
    stream.avail_out = out_piece;
    status = inflate(&stream, Z_NO_FLUSH);
    in_at += in_piece - stream.avail_in;
    out_at += out_piece - stream.avail_out;
  }
  inflateEnd(&stream);
  if (status != Z_STREAM_END || out_at != out.size()) fail(ErrorCode::Corrupt, "{}: damaged compressed data", where);
  return out;
}

}  // namespace

Tensor read_npy(Bytes bytes, const std::string& where) {
  const Reader reader{bytes, where};
  if (bytes.size() < 10 || std::memcmp(bytes.data(), "\x93NUMPY", 6) != 0) fail(ErrorCode::Corrupt, "{}: not a .npy array", where);
  const int version = reader.read<uint8_t>(6);
  if (version < 1 || version > 3) fail(ErrorCode::Unsupported, "{}: npy format version {}", where, version);
  const uint64_t header_at = version == 1 ? 10 : 12;
  const uint64_t header_size = version == 1 ? reader.read<uint16_t>(8) : reader.read<uint32_t>(8);
  const Bytes header_bytes = reader.slice(header_at, header_size);
  const std::string_view header(reinterpret_cast<const char*>(header_bytes.data()), header_bytes.size());

  const Element element = parse_descr(dict_value(header, "descr", where), where);
  const bool fortran = dict_value(header, "fortran_order", where).starts_with("True");
  std::string_view shape_text = dict_value(header, "shape", where);
  const size_t close = shape_text.find(')');
  if (!shape_text.starts_with("(") || close == std::string_view::npos) fail(ErrorCode::Corrupt, "{}: bad shape in the npy header", where);
  Shape shape;
  for (std::string part : split(shape_text.substr(1, close - 1), ',')) {
    part.erase(std::remove_if(part.begin(), part.end(), [](unsigned char c) { return std::isspace(c); }), part.end());
    if (!part.empty()) shape.push_back(parse_int(part, where));
  }
  const int64_t count = num_elements(shape);
  const Bytes data = bytes.subspan(header_at + header_size);
  if (element.size_bytes > 0 && static_cast<uint64_t>(count) > data.size() / static_cast<uint64_t>(element.size_bytes))
    fail(ErrorCode::Corrupt, "{}: {} elements of {} bytes declared, {} bytes present", where, count, element.size_bytes, data.size());
  if (element.size_bytes == 0 && count > (1 << 20)) fail(ErrorCode::Corrupt, "{}: {} empty strings", where, count);

  Tensor tensor = Tensor::empty(element.dtype, shape);
  for (int64_t i = 0; i < (fortran || element.dtype == DType::String ? count : 0); ++i) {
    const Bytes source = data.subspan((fortran ? fortran_index(i, shape) : i) * element.size_bytes, element.size_bytes);
    if (element.dtype == DType::String) tensor.strings()[i] = string_element(source, element.kind);
    else std::memcpy(static_cast<std::byte*>(tensor.raw()) + i * element.size_bytes, source.data(), source.size());
  }
  if (!fortran && element.dtype != DType::String && count > 0) std::memcpy(tensor.raw(), data.data(), count * element.size_bytes);
  return tensor;
}

std::vector<std::pair<std::string, Tensor>> read_npz(const std::string& path) {
  const auto file = MappedFile::open(path);
  const Reader reader{file->bytes(), path};
  const uint64_t size = reader.bytes.size();

  // The end-of-directory record lies within the last 64 KiB.
  uint64_t end = UINT64_MAX;
  for (uint64_t at = size < 22 ? 0 : size - 22; size >= 22; --at) {
    if (reader.read<uint32_t>(at) == 0x06054b50) end = at;
    if (end != UINT64_MAX || at == 0 || size - at > 66000) break;
  }
  if (end == UINT64_MAX) fail(ErrorCode::Corrupt, "{}: not a zip archive", path);
  uint64_t entries = reader.read<uint16_t>(end + 10), at = reader.read<uint32_t>(end + 16);
  if ((entries == 0xffff || at == 0xffffffff) && end >= 20 && reader.read<uint32_t>(end - 20) == 0x07064b50) {
    const uint64_t end64 = reader.read<uint64_t>(end - 12);
    entries = reader.read<uint64_t>(end64 + 32);
    at = reader.read<uint64_t>(end64 + 48);
  }

  std::vector<std::pair<std::string, Tensor>> arrays;
  for (uint64_t entry = 0; entry < entries; ++entry) {
    if (reader.read<uint32_t>(at) != 0x02014b50) fail(ErrorCode::Corrupt, "{}: damaged zip directory", path);
    const int method = reader.read<uint16_t>(at + 10);
    const uint32_t crc = reader.read<uint32_t>(at + 16);
    uint64_t packed_size = reader.read<uint32_t>(at + 20), full_size = reader.read<uint32_t>(at + 24),
             local = reader.read<uint32_t>(at + 42);
    const uint64_t name_size = reader.read<uint16_t>(at + 28), extra_size = reader.read<uint16_t>(at + 30),
                   comment_size = reader.read<uint16_t>(at + 32);
    const Bytes name_bytes = reader.slice(at + 46, name_size);
    std::string name(reinterpret_cast<const char*>(name_bytes.data()), name_bytes.size());
    // The zip64 field lists only the sizes that did not fit, in this order.
    for (uint64_t field = at + 46 + name_size, stop = field + extra_size; field + 4 <= stop;) {
      const uint16_t id = reader.read<uint16_t>(field), field_size = reader.read<uint16_t>(field + 2);
      uint64_t value_at = field + 4;
      for (uint64_t* value : {&full_size, &packed_size, &local}) {
        if (id != 1 || *value != 0xffffffff) continue;
        *value = reader.read<uint64_t>(value_at);
        value_at += 8;
      }
      field += 4 + field_size;
    }
    at += 46 + name_size + extra_size + comment_size;

    const std::string where = path + ":" + name;
    if (reader.read<uint32_t>(local) != 0x04034b50) fail(ErrorCode::Corrupt, "{}: damaged zip member", where);
    const Bytes packed = reader.slice(local + 30 + reader.read<uint16_t>(local + 26) + reader.read<uint16_t>(local + 28), packed_size);
    std::vector<std::byte> inflated;
    if (method == 8) inflated = inflate_member(packed, full_size, where);
    else if (method != 0) fail(ErrorCode::Unsupported, "{}: zip compression method {}", where, method);
    const Bytes content = method == 8 ? Bytes(inflated) : packed;
    if (crc32_z(0, reinterpret_cast<const Bytef*>(content.data()), content.size()) != crc)
      fail(ErrorCode::Corrupt, "{}: checksum does not match", where);
    if (name.ends_with(".npy")) name.resize(name.size() - 4);
    arrays.emplace_back(std::move(name), read_npy(content, where));
  }
  return arrays;
}

}  // namespace tokamak::cli
