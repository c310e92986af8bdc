#pragma once
// A dimension: an integer or an expression over named symbols ("batch", "seq*12", "floordiv(h+1,2)"). Kept in one canonical form, a
// polynomial with integer coefficients over atoms (symbols and floordiv/mod/min/max terms), so equality is equality of text. Characters of
// a name outside [A-Za-z0-9_.] print as $XX (hex), so text never needs quotes. Sizes are bounded: expressions that grow past them throw
// OutOfRange.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace tokamak::ir {

class Dim {
 public:
  Dim(int64_t value = 0) : constant_(value) {}  // implicit: shapes are written {1, 3, 224}
  static Dim symbol(std::string name);
  // Parses what to_string printed. Throws InvalidArgument.
  static Dim parse(std::string_view text);

  bool is_const() const { return terms_ == nullptr; }
  int64_t value() const;  // CHECKs is_const()
  bool is(int64_t v) const { return is_const() && constant_ == v; }
  std::optional<std::string> as_symbol() const;  // the name if this is exactly one symbol
  std::string to_string() const;
  bool operator==(const Dim& other) const;

  // Arithmetic throws OutOfRange when a coefficient leaves 64 bits.
  friend Dim operator+(const Dim& a, const Dim& b);
  friend Dim operator-(const Dim& a, const Dim& b);
  friend Dim operator*(const Dim& a, const Dim& b);
  // Rounds toward minus infinity; exact quotients of polynomials simplify. Throws InvalidArgument on a constant zero divisor.
  static Dim floordiv(const Dim& a, const Dim& b);
  static Dim ceildiv(const Dim& a, const Dim& b);  // -floordiv(-a, b)
  static Dim mod(const Dim& a, const Dim& b);
  static Dim min(const Dim& a, const Dim& b);
  static Dim max(const Dim& a, const Dim& b);

  // Bounds that hold for every binding; symbols are sizes, so they are at least 0. nullopt: unbounded.
  std::optional<int64_t> lower_bound() const;
  std::optional<int64_t> upper_bound() const;
  // Whether a >= b for every binding, as far as bounds can tell. Never throws.
  static bool known_ge(const Dim& a, const Dim& b);

  using Bindings = std::unordered_map<std::string, int64_t>;
  // Replaces bound symbols; the result is constant when all of them are bound.
  Dim substitute(const Bindings& bindings) const;
  Dim substitute(const std::string& name, const Dim& by) const;
  void collect_symbols(std::vector<std::string>& out) const;

 private:
  struct Atom;
  struct Term;
  struct Terms;
  struct Range;
  static Dim from_terms(Terms terms);
  Terms terms() const;
  static Dim atom(std::shared_ptr<const Atom> a);
  static Dim opaque(int kind, const Dim& a, const Dim& b);
  static Dim extreme(int kind, const Dim& a, const Dim& b);
  static std::optional<Dim> exact_quotient(const Dim& a, const Dim& b);
  static Dim floordiv_by_constant(const Dim& a, int64_t c);
  Dim cancel_extremes() const;
  Dim map_atoms(const std::function<Dim(const Atom&)>& f) const;
  Range range() const;

  int64_t constant_ = 0;
  std::shared_ptr<const Terms> terms_;  // null when constant
};

using Dims = std::vector<Dim>;
std::string to_string(const Dims& dims);  // "batch,seq,64"
// The reverse, splitting at commas outside parentheses. Throws InvalidArgument.
Dims parse_dims(std::string_view text);

}  // namespace tokamak::ir
