#include "server/http/compression.h"

#include <zlib.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "base/error.h"

namespace tokamak::server::http {

namespace {

constexpr int kGzip = 15 + 16, kZlib = 15, kRaw = -15;  // window bits, as zlib takes them

// False: not a stream of that kind from its first bytes on.
bool inflate_all(int window_bits, std::string_view encoding, std::span<const std::byte> bytes, size_t max_bytes,
                 std::vector<std::byte>& out) {
  z_stream stream = {};
  if (inflateInit2(&stream, window_bits) != Z_OK) fail(ErrorCode::ResourceExhausted, "no memory to undo Content-Encoding {}", encoding);
  const std::unique_ptr<z_stream, decltype(&inflateEnd)> guard(&stream, inflateEnd);
  out.resize(std::min(max_bytes, std::max<size_t>(bytes.size() * 4, 4096)));
  stream.next_in = const_cast<Bytef*>(reinterpret_cast<const Bytef*>(bytes.data()));
  size_t fed = 0;
  for (;;) {
    if (stream.avail_in == 0 && fed < bytes.size()) {
      stream.avail_in = static_cast<uInt>(std::min<size_t>(bytes.size() - fed, 1u << 30));
      fed += stream.avail_in;
    }
    const size_t done = stream.total_out;
    stream.next_out = reinterpret_cast<Bytef*>(out.data() + done);
    stream.avail_out = static_cast<uInt>(std::min<size_t>(out.size() - done, 1u << 30));
    const int status = inflate(&stream, Z_NO_FLUSH);
    if (status == Z_STREAM_END) break;
    if (status == Z_DATA_ERROR && stream.total_out == 0) return false;
    if (status == Z_BUF_ERROR && stream.avail_out == 0) {
      // Full, checked below.
    } else if (status == Z_BUF_ERROR || (status == Z_OK && stream.avail_in == 0 && fed == bytes.size() && stream.avail_out > 0)) {
      fail(ErrorCode::Corrupt, "the body ends before its {} stream does", encoding);
    } else if (status != Z_OK) {
      fail(ErrorCode::Corrupt, "the body is no {} stream: {}", encoding, stream.msg != nullptr ? stream.msg : "bad data");
    }
    if (stream.total_out == out.size()) {
      if (out.size() >= max_bytes) fail(ErrorCode::ResourceExhausted, "the body is larger than {} bytes when decompressed", max_bytes);
      out.resize(std::min(max_bytes, out.size() * 2));
    }
  }
  out.resize(stream.total_out);
  return true;
}

}  // namespace

std::vector<std::byte> decompress(std::string_view encoding, std::span<const std::byte> bytes, size_t max_bytes) {
  std::vector<std::byte> out;
  if (encoding.empty() || encoding == "identity") {
    out.assign(bytes.begin(), bytes.end());
  } else if (encoding == "gzip" || encoding == "x-gzip") {
    if (!inflate_all(kGzip, encoding, bytes, max_bytes, out)) fail(ErrorCode::Corrupt, "the body is no gzip stream");
  } else if (encoding == "deflate") {
    if (!inflate_all(kZlib, encoding, bytes, max_bytes, out) && !inflate_all(kRaw, encoding, bytes, max_bytes, out))
      fail(ErrorCode::Corrupt, "the body is no deflate stream");
  } else {
    fail(ErrorCode::Unsupported, "Content-Encoding '{}': expected gzip, deflate or identity", encoding);
  }
  return out;
}

std::string compress(std::string_view encoding, std::span<const std::span<const std::byte>> pieces) {
  z_stream stream = {};
  // Level 1: answers wait for it.
  if (deflateInit2(&stream, 1, Z_DEFLATED, encoding == "gzip" ? kGzip : kZlib, 8, Z_DEFAULT_STRATEGY) != Z_OK)
    fail(ErrorCode::ResourceExhausted, "no memory to compress an answer");
  const std::unique_ptr<z_stream, decltype(&deflateEnd)> guard(&stream, deflateEnd);
  std::string out;
  const auto run = [&](std::span<const std::byte> piece, int flush) {
    size_t fed = 0;
    stream.next_in = const_cast<Bytef*>(reinterpret_cast<const Bytef*>(piece.data()));
    stream.avail_in = 0;
    for (;;) {
      if (stream.avail_in == 0 && fed < piece.size()) {
        stream.avail_in = static_cast<uInt>(std::min<size_t>(piece.size() - fed, 1u << 30));
        fed += stream.avail_in;
      }
      const size_t before = out.size(), room = 64 << 10;
      out.resize(before + room);
      stream.next_out = reinterpret_cast<Bytef*>(out.data() + before);
      stream.avail_out = room;
      const int status = deflate(&stream, flush);
      out.resize(before + room - stream.avail_out);
      if (status == Z_STREAM_END || (flush == Z_NO_FLUSH && stream.avail_in == 0 && fed == piece.size())) return;
    }
  };
  for (const auto piece : pieces) run(piece, Z_NO_FLUSH);
  run({}, Z_FINISH);
  return out;
}

std::string_view accepted_encoding(std::string_view header) {
  double best = 0;
  std::string_view choice;
  while (!header.empty()) {
    const size_t comma = std::min(header.find(','), header.size());
    std::string_view item = header.substr(0, comma);
    header.remove_prefix(std::min(comma + 1, header.size()));
    double quality = 1;
    if (const size_t semicolon = item.find(';'); semicolon != std::string_view::npos) {
      const size_t q = item.find("q=", semicolon);
      if (q != std::string_view::npos) quality = std::strtod(std::string(item.substr(q + 2)).c_str(), nullptr);
      item = item.substr(0, semicolon);
    }
    while (!item.empty() && (item.front() == ' ' || item.front() == '\t')) item.remove_prefix(1);
    while (!item.empty() && (item.back() == ' ' || item.back() == '\t')) item.remove_suffix(1);
    if ((item == "gzip" || item == "deflate") && quality > best) {
      best = quality;
      choice = item;
    }
  }
  return choice;
}

}  // namespace tokamak::server::http
