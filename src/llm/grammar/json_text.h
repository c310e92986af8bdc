#pragma once
// JSON's own syntax as rules: white space, strings, numbers, any value. Rules are made when first asked for.

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "llm/grammar/code_points.h"
#include "llm/grammar/grammar.h"

namespace tokamak::llm::grammar {

__extension__ using Wide = __int128;

// Bounds of integers, both inclusive.
struct IntegerBounds {
  std::optional<Wide> min, max;
};

// A decimal number: digits * 10^-scale.
struct Decimal {
  bool is_negative = false;
  std::string whole, fraction;  // digits; no leading zeros in `whole` (empty for 0), no trailing ones in `fraction`
  // Reads JSON's spelling, exponents too. Nothing when it has more than 40 digits before or after the point.
  static std::optional<Decimal> parse(std::string_view text);
  bool is_zero() const { return whole.empty() && fraction.empty(); }
};

int compare(const Decimal& a, const Decimal& b);  // -1, 0 or 1

struct NumberBounds {
  std::optional<Decimal> min, max;
  bool excludes_min = false, excludes_max = false;
};

inline constexpr int kMaxDigits = 40;

class JsonText {
 public:
  JsonText(AutomatonBuilder& builder, const GrammarOptions& options) : builder_(builder), options_(options) {}

  AutomatonBuilder& builder() { return builder_; }
  const GrammarOptions& options() const { return options_; }

  // From `from` past white space that may stand there; returns where.
  int32_t add_space(int32_t from);
  // `text`, then white space.
  int32_t add_token(int32_t from, std::string_view text) { return add_space(builder_.add_text(from, text)); }

  int32_t value();
  int32_t object();
  int32_t array();
  int32_t string();
  int32_t number();
  int32_t integer();
  // A string of min to max characters, with its quotes.
  void add_string(int32_t from, int32_t min, int32_t max, int32_t to);
  // A string that is none of `names`, spelled with only the escapes JSON needs.
  int32_t other_name(const std::vector<std::string>& names);
  void add_integer(int32_t from, const IntegerBounds& bounds, int32_t to);
  void add_number(int32_t from, const NumberBounds& bounds, int32_t to, int max_fraction = kMaxDigits);

  // `min` to `max` items between which stand commas; each call of `add_item(from, to)` adds one that ends with its own white space.
  using AddItem = std::function<void(int32_t from, int32_t to)>;
  void add_list(int32_t from, const AddItem& add_item, int32_t min, int32_t max, int32_t to);
  // The rest of such a list, each with its comma before.
  void add_more(int32_t from, const AddItem& add_item, int32_t min, int32_t max, int32_t to);

 private:
  void add_character(int32_t from, int32_t to);
  // The rule `slot`, made by `fill` when it is new.
  int32_t make(std::optional<int32_t>& slot, const char* name, const std::function<void(int32_t start, int32_t end)>& fill,
               bool is_fragment = false);

  AutomatonBuilder& builder_;
  const GrammarOptions& options_;
  std::optional<int32_t> space_, value_, object_, array_, string_, number_, integer_, character_;
};

// Digits and points; see json_numbers.cc.
void add_digits(AutomatonBuilder& builder, int32_t from, int min, int max, int32_t to);

}  // namespace tokamak::llm::grammar
