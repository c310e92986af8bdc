#include "cli/text_file.h"

#include <zlib.h>

#include "base/error.h"
#include "base/file.h"

namespace tokamak::cli {

namespace {

std::string gunzip(const std::string& path, std::span<const std::byte> bytes, size_t limit_bytes) {
  z_stream stream{};
  if (inflateInit2(&stream, 16 + MAX_WBITS) != Z_OK) fail(ErrorCode::Internal, "zlib cannot start");
  std::string text;
  std::string buffer(1 << 18, '\0');
  size_t given = 0;
  int status = Z_OK;
  // A file may hold several gzip members, one after the other.
  while (given < bytes.size() || stream.avail_in > 0) {
    if (stream.avail_in == 0) {
      const size_t piece = std::min<size_t>(bytes.size() - given, 1 << 30);
      stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(bytes.data() + given));
      stream.avail_in = static_cast<uInt>(piece);
      given += piece;
    }
    do {
      stream.next_out = reinterpret_cast<Bytef*>(buffer.data());
      stream.avail_out = static_cast<uInt>(buffer.size());
      status = inflate(&stream, Z_NO_FLUSH);
      text.append(buffer, 0, buffer.size() - stream.avail_out);
    } while (status == Z_OK && stream.avail_out == 0 && text.size() <= limit_bytes);
    if (status == Z_STREAM_END && (stream.avail_in > 0 || given < bytes.size())) inflateReset(&stream);
    else if (status != Z_OK && status != Z_BUF_ERROR) break;
    if (text.size() > limit_bytes) break;
  }
  inflateEnd(&stream);
  if (text.size() > limit_bytes) fail(ErrorCode::ResourceExhausted, "'{}': the text is over {} bytes", path, limit_bytes);
  if (status != Z_STREAM_END) fail(ErrorCode::Corrupt, "'{}' is a damaged or truncated gzip file", path);
  return text;
}

}  // namespace

std::string read_text_file(const std::string& path, size_t limit_bytes) {
  const auto file = MappedFile::open(path);
  const auto bytes = file->bytes();
  if (bytes.size() >= 2 && bytes[0] == std::byte{0x1f} && bytes[1] == std::byte{0x8b}) return gunzip(path, bytes, limit_bytes);
  if (bytes.size() > limit_bytes) fail(ErrorCode::ResourceExhausted, "'{}': the text is over {} bytes", path, limit_bytes);
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

std::vector<std::string> split_documents(const std::string& text) {
  std::vector<std::string> documents;
  std::string document;
  const auto finish = [&] {
    if (!document.empty()) documents.push_back(std::move(document));
    document.clear();
  };
  for (size_t begin = 0; begin < text.size();) {
    const size_t newline = text.find('\n', begin), end = std::min(newline, text.size());
    const size_t length = end - begin - (end > begin && text[end - 1] == '\r' ? 1 : 0);
    if (length == 0) {
      finish();
    } else {
      if (!document.empty()) document += '\n';
      document.append(text, begin, length);
    }
    begin = end + 1;
  }
  finish();
  return documents;
}

}  // namespace tokamak::cli
