#pragma once
// gzip and deflate (RFC 1950 to 1952) of whole bodies.

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tokamak::server::http {

// "" (as they are), "gzip" or "deflate". `deflate` is a zlib stream, as RFC 9110 defines it; when undone, a bare one is taken too.
// Throws Unsupported for another encoding, Corrupt for bytes that are no such stream, ResourceExhausted past `max_bytes`.
std::vector<std::byte> decompress(std::string_view encoding, std::span<const std::byte> bytes, size_t max_bytes);
std::string compress(std::string_view encoding, std::span<const std::span<const std::byte>> pieces);

// What of gzip and deflate an Accept-Encoding header prefers; "" when it names neither.
std::string_view accepted_encoding(std::string_view header);

}  // namespace tokamak::server::http
