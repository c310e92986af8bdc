// Numbers between bounds: digit by digit, as long as the digits so far are those of a bound the next one is limited by it.

#include <algorithm>
#include <charconv>

#include "base/error.h"
#include "llm/grammar/json_text.h"

namespace tokamak::llm::grammar {

void add_digits(AutomatonBuilder& builder, int32_t from, int min, int max, int32_t to) {
  for (int i = 0; i < max; ++i) {
    if (i >= min) builder.add_epsilon(from, to);
    const int32_t next = builder.add_node(builder.rule_of(from));
    builder.add_bytes(from, '0', '9', next);
    from = next;
  }
  builder.add_epsilon(from, to);
}

namespace {

std::string digits_of(Wide value) {
  std::string text;
  for (; value > 0; value /= 10) text.insert(text.begin(), static_cast<char>('0' + static_cast<int>(value % 10)));
  return text.empty() ? "0" : text;
}

// Numbers of as many digits as `low` and `high` have, between them. Ends in `to`.
void add_same_length(AutomatonBuilder& builder, int32_t from, std::string_view low, std::string_view high, int32_t to) {
  const int n = static_cast<int>(low.size());
  size_t same = 0;
  while (same < low.size() && low[same] == high[same]) ++same;
  from = builder.add_text(from, low.substr(0, same));
  if (same == low.size()) return builder.add_epsilon(from, to);
  const auto node = [&] { return builder.add_node(builder.rule_of(from)); };
  if (low[same] + 1 < high[same]) {
    const int32_t between = node();
    builder.add_bytes(from, static_cast<uint8_t>(low[same] + 1), static_cast<uint8_t>(high[same] - 1), between);
    add_digits(builder, between, n - static_cast<int>(same) - 1, n - static_cast<int>(same) - 1, to);
  }
  int32_t at_low = builder.add_text(from, low.substr(same, 1)), at_high = builder.add_text(from, high.substr(same, 1));
  for (size_t i = same + 1; i < low.size(); ++i) {
    const int rest = n - static_cast<int>(i) - 1;
    if (low[i] < '9') {
      const int32_t above = node();
      builder.add_bytes(at_low, static_cast<uint8_t>(low[i] + 1), '9', above);
      add_digits(builder, above, rest, rest, to);
    }
    if (high[i] > '0') {
      const int32_t below = node();
      builder.add_bytes(at_high, '0', static_cast<uint8_t>(high[i] - 1), below);
      add_digits(builder, below, rest, rest, to);
    }
    at_low = builder.add_text(at_low, low.substr(i, 1));
    at_high = builder.add_text(at_high, high.substr(i, 1));
  }
  builder.add_epsilon(at_low, to);
  builder.add_epsilon(at_high, to);
}

// Whole numbers without a sign, from `low` >= 0 to `high` (nothing: as many as kMaxDigits digits allow).
void add_magnitude(AutomatonBuilder& builder, int32_t from, const std::string& low, const std::optional<std::string>& high, int32_t to) {
  const auto max_digits = static_cast<int>(high ? high->size() : low.size());
  for (int digits = static_cast<int>(low.size()); digits <= max_digits; ++digits) {
    const bool is_first = digits == static_cast<int>(low.size()), is_last = high && digits == static_cast<int>(high->size());
    const std::string a = is_first ? low : "1" + std::string(digits - 1, '0');
    const std::string b = is_last ? *high : std::string(digits, '9');
    if (a > b) continue;
    if (a == "0" && b != "0") {  // no digit may follow a zero, but this is the one number of one digit that has it
      builder.add_text(from, "0", to);
      add_same_length(builder, from, "1", b, to);
    } else {
      add_same_length(builder, from, a, b, to);
    }
  }
  if (high || max_digits >= kMaxDigits) return;
  const int32_t first = builder.add_node(builder.rule_of(from));
  builder.add_bytes(from, '1', '9', first);
  add_digits(builder, first, max_digits, kMaxDigits - 1, to);
}

}  // namespace

void JsonText::add_integer(int32_t from, const IntegerBounds& bounds, int32_t to) {
  if (bounds.min && bounds.max && *bounds.min > *bounds.max) return;
  const Wide zero = 0;
  if (!bounds.max || *bounds.max >= 0) {
    std::optional<std::string> high;
    if (bounds.max) high = digits_of(*bounds.max);
    add_magnitude(builder_, from, digits_of(std::max(bounds.min.value_or(zero), zero)), high, to);
  }
  if (!bounds.min || *bounds.min < 0) {
    std::optional<std::string> high;
    if (bounds.min) high = digits_of(-*bounds.min);
    const Wide one = -1;
    add_magnitude(builder_, builder_.add_text(from, "-"), digits_of(-std::min(bounds.max.value_or(one), one)), high, to);
  }
}

int32_t JsonText::integer() {
  return make(integer_, "integer", [&](int32_t start, int32_t end) { add_integer(start, {}, end); });
}

int32_t JsonText::number() {
  return make(number_, "number", [&](int32_t start, int32_t end) {
    const auto node = [&] { return builder_.add_node(builder_.rule_of(start)); };
    const int32_t whole = node(), exponent = node(), fraction = node(), sign = node(), digits = node();
    const int32_t unsigned_start = node();
    builder_.add_epsilon(start, unsigned_start);
    builder_.add_text(start, "-", unsigned_start);
    add_magnitude(builder_, unsigned_start, "0", std::nullopt, whole);
    builder_.add_epsilon(whole, exponent);
    builder_.add_text(whole, ".", fraction);
    add_digits(builder_, fraction, 1, kMaxDigits, exponent);
    builder_.add_epsilon(exponent, end);
    builder_.add_text(exponent, "e", sign);
    builder_.add_text(exponent, "E", sign);
    builder_.add_epsilon(sign, digits);
    builder_.add_text(sign, "+", digits);
    builder_.add_text(sign, "-", digits);
    add_digits(builder_, digits, 1, 2, end);
  });
}

std::optional<Decimal> Decimal::parse(std::string_view text) {
  Decimal out;
  if (text.starts_with('-')) {
    out.is_negative = true;
    text.remove_prefix(1);
  }
  int exponent = 0;
  if (const size_t e = text.find_first_of("eE"); e != std::string_view::npos) {
    std::string_view digits = text.substr(e + 1);
    if (digits.starts_with('+')) digits.remove_prefix(1);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), exponent);
    if (error != std::errc() || exponent > 400 || exponent < -400) return std::nullopt;
    text = text.substr(0, e);
  }
  const size_t point = text.find('.');
  std::string digits(text.substr(0, point));
  int scale = 0;
  if (point != std::string_view::npos) {
    digits += text.substr(point + 1);
    scale = static_cast<int>(text.size() - point - 1);
  }
  scale -= exponent;
  if (scale < 0) digits.append(-scale, '0');
  scale = std::max(scale, 0);
  if (digits.size() < static_cast<size_t>(scale)) digits.insert(0, scale - digits.size(), '0');
  out.whole = digits.substr(0, digits.size() - scale);
  out.fraction = digits.substr(digits.size() - scale);
  out.whole.erase(0, out.whole.find_first_not_of('0'));
  out.fraction.erase(out.fraction.find_last_not_of('0') + 1);
  if (out.whole.size() > kMaxDigits || out.fraction.size() > kMaxDigits) return std::nullopt;
  if (out.is_zero()) out.is_negative = false;
  return out;
}

namespace {

// Text that JSON reads as a double is rounded; with at most so many digits it cannot be rounded past a bound.
constexpr int kMaxExactDigits = 15;

struct FractionBound {
  std::string_view digits;
  bool is_exclusive;
};

// What may follow the whole part: nothing, or a point and digits, such that 0.digits is within the bounds.
void add_fraction(AutomatonBuilder& builder, int32_t from, const std::optional<FractionBound>& low,
                  const std::optional<FractionBound>& high, int max_digits, int32_t to) {
  const auto node = [&] { return builder.add_node(builder.rule_of(from)); };
  // Whether the digits so far, all equal to the bound's, may be all there are.
  const auto may_end = [&](size_t n, bool on_low, bool on_high) {
    if (on_low && (n < low->digits.size() || low->is_exclusive)) return false;
    return !(on_high && n >= high->digits.size() && high->is_exclusive);
  };
  if (may_end(0, low.has_value(), high.has_value())) builder.add_epsilon(from, to);
  if (max_digits == 0) return;
  struct State {
    int32_t node;
    bool on_low, on_high;
  };
  std::vector<State> states = {{builder.add_text(from, "."), low.has_value(), high.has_value()}};
  for (int i = 0; i < max_digits; ++i) {
    const auto n = static_cast<size_t>(i);
    std::vector<State> next;
    const auto state_of = [&](bool on_low, bool on_high) {
      for (const State& s : next) {
        if (s.on_low == on_low && s.on_high == on_high) return s.node;
      }
      next.push_back({node(), on_low, on_high});
      if (may_end(n + 1, on_low, on_high)) builder.add_epsilon(next.back().node, to);
      return next.back().node;
    };
    for (const State& s : states) {
      const int low_digit = s.on_low && n < low->digits.size() ? low->digits[n] : '0';
      const int high_digit = !s.on_high ? '9' : n < high->digits.size() ? high->digits[n] : '0';
      for (int digit = low_digit; digit <= high_digit; ++digit) {
        const int32_t target = state_of(s.on_low && digit == low_digit, s.on_high && digit == high_digit);
        builder.add_bytes(s.node, static_cast<uint8_t>(digit), static_cast<uint8_t>(digit), target);
      }
    }
    states = std::move(next);
  }
}

// Numbers without a sign between low and high (nothing: no upper bound), both >= 0.
void add_decimal(AutomatonBuilder& builder, int32_t from, const Decimal& low, bool excludes_low, const std::optional<Decimal>& high,
                 bool excludes_high, int max_fraction, int32_t to) {
  const auto node = [&] { return builder.add_node(builder.rule_of(from)); };
  const auto shown = [](const std::string& whole) { return whole.empty() ? std::string("0") : whole; };
  const auto wide = [](const std::string& whole) {
    Wide value = 0;
    for (const char c : whole) value = value * 10 + (c - '0');
    return value;
  };
  // 40 digits do not fit into 128 bits, 36 do.
  for (const Decimal* bound : {&low, high ? &*high : nullptr}) {
    if (bound && bound->whole.size() > 36) fail(ErrorCode::InvalidArgument, "bounds of numbers beyond 10^36 are not supported");
  }
  const Wide first = wide(low.whole);
  const int digits = static_cast<int>(shown(high ? high->whole : low.whole).size());
  const int fraction =
      std::min(max_fraction,
               std::max(kMaxExactDigits - digits, static_cast<int>(std::max(low.fraction.size(), high ? high->fraction.size() : 0)) + 1));
  const std::optional<FractionBound> above(FractionBound{low.fraction, excludes_low});
  std::optional<FractionBound> below;
  if (high) below = FractionBound{high->fraction, excludes_high};
  if (high && wide(high->whole) == first) {
    return add_fraction(builder, builder.add_text(from, shown(low.whole)), above, below, fraction, to);
  }
  add_fraction(builder, builder.add_text(from, shown(low.whole)), above, std::nullopt, fraction, to);
  if (high) add_fraction(builder, builder.add_text(from, shown(high->whole)), std::nullopt, below, fraction, to);
  const int32_t between = node();
  std::optional<std::string> last;
  if (high) last = digits_of(wide(high->whole) - 1);
  if (!high || wide(high->whole) - 1 > first) add_magnitude(builder, from, digits_of(first + 1), last, between);
  add_fraction(builder, between, std::nullopt, std::nullopt, fraction, to);
}

}  // namespace

int compare(const Decimal& a, const Decimal& b) {
  if (a.is_negative != b.is_negative) return a.is_negative ? -1 : 1;
  int order = a.whole.size() != b.whole.size() ? (a.whole.size() < b.whole.size() ? -1 : 1) : a.whole.compare(b.whole);
  if (order == 0) order = a.fraction.compare(b.fraction);
  order = order < 0 ? -1 : order > 0 ? 1 : 0;
  return a.is_negative ? -order : order;
}

void JsonText::add_number(int32_t from, const NumberBounds& bounds, int32_t to, int max_fraction) {
  if (bounds.min && bounds.max) {
    const int order = compare(*bounds.min, *bounds.max);
    if (order > 0 || (order == 0 && (bounds.excludes_min || bounds.excludes_max))) return;
  }
  const Decimal zero;
  const auto negated = [](const std::optional<Decimal>& d) {
    std::optional<Decimal> out = d;
    if (out) out->is_negative = false;
    return out;
  };
  const bool min_is_positive = bounds.min && !bounds.min->is_negative, max_is_negative = bounds.max && bounds.max->is_negative;
  if (!max_is_negative) {
    if (min_is_positive) add_decimal(builder_, from, *bounds.min, bounds.excludes_min, bounds.max, bounds.excludes_max, max_fraction, to);
    else add_decimal(builder_, from, zero, false, bounds.max, bounds.excludes_max, max_fraction, to);
  }
  if (!min_is_positive) {  // -0 is left out
    const int32_t magnitude = builder_.add_text(from, "-");
    if (max_is_negative)
      add_decimal(builder_, magnitude, *negated(bounds.max), bounds.excludes_max, negated(bounds.min), bounds.excludes_min, max_fraction,
                  to);
    else add_decimal(builder_, magnitude, zero, true, negated(bounds.min), bounds.excludes_min, max_fraction, to);
  }
}

}  // namespace tokamak::llm::grammar
