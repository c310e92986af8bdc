#include "server/trace_context.h"

#include <fmt/format.h>

#include <charconv>
#include <random>

namespace tokamak::server {

namespace {

// Lower-case digits only, as the recommendation has it.
std::optional<uint64_t> read_hex(std::string_view digits) {
  uint64_t value = 0;
  if (digits.find_first_not_of("0123456789abcdef") != std::string_view::npos) return std::nullopt;
  std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
  return value;
}

}  // namespace

std::optional<TraceContext> parse_traceparent(std::string_view text) {
  // 00-<32 digits>-<16 digits>-<2 digits>; later versions may append fields.
  if (text.size() < 55 || text[2] != '-' || text[35] != '-' || text[52] != '-') return std::nullopt;
  const auto version = read_hex(text.substr(0, 2)), high = read_hex(text.substr(3, 16)), low = read_hex(text.substr(19, 16)),
             span = read_hex(text.substr(36, 16)), flags = read_hex(text.substr(53, 2));
  if (!version || !high || !low || !span || !flags || *version == 0xff) return std::nullopt;
  if (text.size() > 55 && (*version == 0 || text[55] != '-')) return std::nullopt;
  if ((*high == 0 && *low == 0) || *span == 0) return std::nullopt;
  return TraceContext{*high, *low, *span, (*flags & 1) != 0};
}

std::string to_traceparent(const TraceContext& c) {
  return fmt::format("00-{:016x}{:016x}-{:016x}-{:02x}", c.trace_id_high, c.trace_id_low, c.span_id, c.is_sampled ? 1 : 0);
}

uint64_t random_trace_number() {
  thread_local std::mt19937_64 random = [] {
    std::random_device device;
    std::seed_seq seed{device(), device(), device(), device()};
    return std::mt19937_64(seed);
  }();
  uint64_t number = 0;
  while (number == 0) number = random();
  return number;
}

}  // namespace tokamak::server
