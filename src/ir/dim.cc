#include "ir/dim.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <set>

#include "base/error.h"

namespace tokamak::ir {
namespace {

enum Kind { kSymbol, kFloorDiv, kMod, kMin, kMax };
constexpr const char* kFunctionNames[] = {"", "floordiv", "mod", "min", "max"};

// Hostile graphs can square a dimension in every node; real ones stay far below these.
constexpr size_t kMaxTerms = 256;
constexpr size_t kMaxDegree = 32;
constexpr size_t kMaxAtomText = 4096;
constexpr size_t kMaxText = 16384;
constexpr int64_t kInf = std::numeric_limits<int64_t>::max();
constexpr int64_t kNegInf = std::numeric_limits<int64_t>::min();

[[noreturn]] void overflow() { fail(ErrorCode::OutOfRange, "a dimension leaves the range of 64-bit integers"); }
[[noreturn]] void too_large() { fail(ErrorCode::OutOfRange, "a symbolic dimension has grown too large to handle"); }

int64_t checked_add(int64_t a, int64_t b) {
  int64_t r;
  if (__builtin_add_overflow(a, b, &r)) overflow();
  return r;
}
int64_t checked_sub(int64_t a, int64_t b) {
  int64_t r;
  if (__builtin_sub_overflow(a, b, &r)) overflow();
  return r;
}
int64_t checked_mul(int64_t a, int64_t b) {
  int64_t r;
  if (__builtin_mul_overflow(a, b, &r)) overflow();
  return r;
}
int64_t floor_quotient(int64_t a, int64_t b) {
  if (b == 0) fail(ErrorCode::InvalidArgument, "a dimension is divided by zero");
  if (a == kNegInf && b == -1) overflow();
  const int64_t q = a / b;
  return q - ((a % b != 0) && ((a < 0) != (b < 0)));
}
int64_t floor_remainder(int64_t a, int64_t b) {
  if (b == 0) fail(ErrorCode::InvalidArgument, "a dimension is taken modulo zero");
  if (b == -1) return 0;
  const int64_t r = a % b;
  return r != 0 && ((r < 0) != (b < 0)) ? r + b : r;
}

// Saturating arithmetic on bounds; kInf and kNegInf are "unbounded" and absorb.
int64_t bound_add(int64_t a, int64_t b) {
  if (a == kInf || b == kInf) return kInf;
  if (a == kNegInf || b == kNegInf) return kNegInf;
  int64_t r;
  if (__builtin_add_overflow(a, b, &r)) return a > 0 ? kInf : kNegInf;
  return r;
}
int64_t bound_mul(int64_t a, int64_t b) {
  if (a == 0 || b == 0) return 0;
  const bool negative = (a < 0) != (b < 0);
  int64_t r;
  if (a == kInf || b == kInf || a == kNegInf || b == kNegInf || __builtin_mul_overflow(a, b, &r)) return negative ? kNegInf : kInf;
  return r;
}

bool is_name_char(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.'; }

// "past len" -> "past$20len"; an empty name is "$".
std::string encode_name(std::string_view name) {
  if (name.empty()) return "$";
  std::string out;
  for (size_t i = 0; i < name.size(); ++i) {
    const bool leading = i == 0 && ((name[i] >= '0' && name[i] <= '9') || name[i] == '.');
    if (is_name_char(name[i]) && !leading) out += name[i];
    else out += fmt::format("${:02X}", static_cast<unsigned char>(name[i]));
  }
  return out;
}

}  // namespace

struct Dim::Atom {
  int kind = kSymbol;
  std::string name;  // of a symbol
  Dim a, b;          // operands otherwise
  std::string text;  // canonical, the identity of the atom
};

struct Dim::Term {
  int64_t coefficient = 0;
  std::vector<std::shared_ptr<const Atom>> factors;  // sorted by text; powers repeat; empty for the constant term

  // Graded lexicographic, a monomial order: high degree first. <0, 0, >0.
  int compare(const Term& other) const {
    if (factors.size() != other.factors.size()) return factors.size() > other.factors.size() ? -1 : 1;
    for (size_t i = 0; i < factors.size(); ++i) {
      if (factors[i] == other.factors[i]) continue;
      if (int c = factors[i]->text.compare(other.factors[i]->text)) return c;
    }
    return 0;
  }
  Term times(const Term& other) const {
    Term t{checked_mul(coefficient, other.coefficient), {}};
    if (factors.size() + other.factors.size() > kMaxDegree) too_large();
    t.factors.reserve(factors.size() + other.factors.size());
    std::merge(factors.begin(), factors.end(), other.factors.begin(), other.factors.end(), std::back_inserter(t.factors),
               [](const auto& x, const auto& y) { return x->text < y->text; });
    return t;
  }
  // This monomial over `other` when it divides exactly.
  std::optional<Term> over(const Term& other) const {
    if (other.coefficient == 0 || coefficient % other.coefficient != 0) return std::nullopt;
    Term t{coefficient / other.coefficient, {}};
    size_t j = 0;
    for (const auto& f : factors) {
      if (j < other.factors.size() && f->text == other.factors[j]->text) ++j;
      else t.factors.push_back(f);
    }
    if (j != other.factors.size()) return std::nullopt;
    return t;
  }
};

struct Dim::Terms {
  std::vector<Term> list;
};

struct Dim::Range {
  int64_t lo = kNegInf, hi = kInf;
};

Dim Dim::from_terms(Terms terms) {
  auto& list = terms.list;
  std::sort(list.begin(), list.end(), [](const Term& x, const Term& y) { return x.compare(y) < 0; });
  size_t n = 0;
  for (size_t i = 0; i < list.size();) {
    Term t = std::move(list[i++]);
    while (i < list.size() && t.compare(list[i]) == 0) t.coefficient = checked_add(t.coefficient, list[i++].coefficient);
    if (t.coefficient != 0) list[n++] = std::move(t);
  }
  list.resize(n);
  if (list.empty()) return Dim(0);
  if (list.size() == 1 && list[0].factors.empty()) return Dim(list[0].coefficient);
  if (n > kMaxTerms) too_large();
  size_t text = 0;
  for (const Term& t : list) {
    if (t.coefficient == kNegInf) overflow();  // its negation would not print
    for (const auto& f : t.factors) text += f->text.size();
  }
  if (text > kMaxText) too_large();
  Dim d;
  d.terms_ = std::make_shared<const Terms>(std::move(terms));
  return d;
}

Dim::Terms Dim::terms() const {
  if (terms_) return *terms_;
  Terms t;
  if (constant_ != 0) t.list.push_back({constant_, {}});
  return t;
}

Dim Dim::atom(std::shared_ptr<const Atom> a) {
  Terms t;
  t.list.push_back({1, {std::move(a)}});
  return from_terms(std::move(t));
}

Dim Dim::opaque(int kind, const Dim& a, const Dim& b) {
  auto atom = std::make_shared<Atom>();
  atom->kind = kind;
  atom->text = std::string(kFunctionNames[kind]) + "(" + a.to_string() + "," + b.to_string() + ")";
  if (atom->text.size() > kMaxAtomText) too_large();
  atom->a = a;
  atom->b = b;
  return Dim::atom(std::move(atom));
}

Dim Dim::symbol(std::string name) {
  auto atom = std::make_shared<Atom>();
  atom->text = encode_name(name);
  if (atom->text.size() > kMaxAtomText) too_large();
  atom->name = std::move(name);
  return Dim::atom(std::move(atom));
}

int64_t Dim::value() const {
  CHECK(is_const());
  return constant_;
}

std::optional<std::string> Dim::as_symbol() const {
  if (!terms_ || terms_->list.size() != 1) return std::nullopt;
  const Term& t = terms_->list[0];
  if (t.coefficient != 1 || t.factors.size() != 1 || t.factors[0]->kind != kSymbol) return std::nullopt;
  return t.factors[0]->name;
}

std::string Dim::to_string() const {
  if (!terms_) return std::to_string(constant_);
  std::string out;
  for (const Term& t : terms_->list) {
    const int64_t magnitude = t.coefficient < 0 ? -t.coefficient : t.coefficient;
    if (t.coefficient < 0) out += '-';
    else if (!out.empty()) out += '+';
    for (size_t i = 0; i < t.factors.size(); ++i) {
      if (i) out += '*';
      out += t.factors[i]->text;
    }
    if (t.factors.empty()) out += std::to_string(magnitude);
    else if (magnitude != 1) out += '*' + std::to_string(magnitude);
  }
  return out;
}

bool Dim::operator==(const Dim& other) const {
  if (!terms_ || !other.terms_) return !terms_ && !other.terms_ && constant_ == other.constant_;
  if (terms_ == other.terms_) return true;
  const auto& x = terms_->list;
  const auto& y = other.terms_->list;
  if (x.size() != y.size()) return false;
  for (size_t i = 0; i < x.size(); ++i)
    if (x[i].coefficient != y[i].coefficient || x[i].compare(y[i]) != 0) return false;
  return true;
}

Dim operator+(const Dim& a, const Dim& b) {
  if (a.is_const() && b.is_const()) return checked_add(a.constant_, b.constant_);
  if (a.is(0)) return b;
  if (b.is(0)) return a;
  Dim::Terms sum = a.terms();
  const Dim::Terms more = b.terms();
  sum.list.insert(sum.list.end(), more.list.begin(), more.list.end());
  return Dim::from_terms(std::move(sum)).cancel_extremes();
}

// min(p,q) + max(p-k,q-k) = p + q - k: the two parts of a rotated axis (torch.roll) add up to the axis again.
Dim Dim::cancel_extremes() const {
  if (!terms_ || terms_->list.size() < 2) return *this;
  const auto& list = terms_->list;
  const auto is = [](const Term& t, int kind) { return t.factors.size() == 1 && t.factors[0]->kind == kind; };
  for (const Term& low : list) {
    if (!is(low, kMin)) continue;
    for (const Term& high : list) {
      if (!is(high, kMax) || high.coefficient != low.coefficient) continue;
      const Atom &m = *low.factors[0], &n = *high.factors[0];
      for (const bool swapped : {false, true}) {
        const Dim k = m.a - (swapped ? n.b : n.a);
        if (!(m.b - (swapped ? n.a : n.b) == k)) continue;
        Terms rest;
        for (const Term& t : list)
          if (&t != &low && &t != &high) rest.list.push_back(t);
        return from_terms(std::move(rest)) + (m.a + m.b - k) * Dim(low.coefficient);
      }
    }
  }
  return *this;
}

Dim operator-(const Dim& a, const Dim& b) {
  if (a.is_const() && b.is_const()) return checked_sub(a.constant_, b.constant_);
  if (a == b) return 0;
  return a + b * Dim(-1);
}

Dim operator*(const Dim& a, const Dim& b) {
  if (a.is_const() && b.is_const()) return checked_mul(a.constant_, b.constant_);
  if (a.is(1)) return b;
  if (b.is(1)) return a;
  const Dim::Terms x = a.terms(), y = b.terms();
  Dim::Terms product;
  product.list.reserve(x.list.size() * y.list.size());
  for (const auto& s : x.list)
    for (const auto& t : y.list) product.list.push_back(s.times(t));
  return Dim::from_terms(std::move(product));
}

// Multivariate long division under the monomial order of Term::compare; nullopt unless the remainder is zero.
std::optional<Dim> Dim::exact_quotient(const Dim& a, const Dim& b) {
  const Terms divisor = b.terms();
  Dim quotient, rest = a;
  for (size_t step = 0; step < kMaxTerms; ++step) {
    if (rest.is(0)) return quotient;
    const auto q = rest.terms().list.front().over(divisor.list.front());
    if (!q) return std::nullopt;
    Terms single;
    single.list.push_back(*q);
    const Dim d = from_terms(std::move(single));
    quotient = quotient + d;
    rest = rest - d * b;
  }
  return std::nullopt;
}

// floordiv(c*q + r, c) = q + floordiv(r, c): coefficients reduce to [0, c), which also makes the form unique.
Dim Dim::floordiv_by_constant(const Dim& a, int64_t c) {
  Dim whole;
  Terms rest;
  int64_t common = c;
  for (const Term& t : a.terms().list) {
    const int64_t q = floor_quotient(t.coefficient, c), r = floor_remainder(t.coefficient, c);
    if (q != 0) {
      Terms single;
      single.list.push_back({q, t.factors});
      whole = whole + from_terms(std::move(single));
    }
    if (r != 0) rest.list.push_back({r, t.factors});
    if (!t.factors.empty()) common = std::gcd(common, r);
  }
  // floordiv(g*x + r, g*d) = floordiv(x + floordiv(r, g), d)
  if (common > 1) {
    for (Term& t : rest.list) t.coefficient /= common;
    std::erase_if(rest.list, [](const Term& t) { return t.coefficient == 0; });
    c /= common;
  }
  const Dim r = from_terms(std::move(rest));
  if (c == 1) return whole + r;
  // Reduced coefficients may bring a min and a max together that a sum would not have kept.
  if (const Dim simpler = r.cancel_extremes(); !(simpler == r)) return whole + floordiv(simpler, c);
  const Range bounds = r.range();
  if (bounds.lo != kNegInf && bounds.hi != kInf && floor_quotient(bounds.lo, c) == floor_quotient(bounds.hi, c))
    return whole + floor_quotient(bounds.lo, c);
  // floordiv(floordiv(x, d) + k, c) = floordiv(x + d*k, d*c)
  if (r.terms_) {
    const auto& list = r.terms_->list;
    const Term& first = list[0];
    const bool constant_tail = list.size() == 1 || (list.size() == 2 && list[1].factors.empty());
    if (constant_tail && first.coefficient == 1 && first.factors.size() == 1 && first.factors[0]->kind == kFloorDiv) {
      const Atom& inner = *first.factors[0];
      const int64_t k = list.size() == 2 ? list[1].coefficient : 0;
      int64_t product;
      if (inner.b.is_const() && inner.b.constant_ > 0 && !__builtin_mul_overflow(inner.b.constant_, c, &product))
        return whole + floordiv(inner.a + inner.b * Dim(k), product);
    }
  }
  return whole + opaque(kFloorDiv, r, c);
}

Dim Dim::floordiv(const Dim& a, const Dim& b) {
  if (b.is(0)) fail(ErrorCode::InvalidArgument, "dimension {} is divided by zero", a.to_string());
  if (a.is_const() && b.is_const()) return floor_quotient(a.constant_, b.constant_);
  if (b.is(1) || a.is(0)) return a;
  if (a == b) return 1;
  if (b.is_const() && b.constant_ > 0) return floordiv_by_constant(a, b.constant_);
  if (b.is_const() && b.constant_ != kNegInf) return floordiv_by_constant(a * Dim(-1), -b.constant_);
  if (b.is_const()) return opaque(kFloorDiv, a, b);
  if (auto q = exact_quotient(a, b)) return *q;

  const auto& divisor = b.terms_->list;
  Dim whole, rest = a;
  if (divisor.size() == 1) {  // take out what divides: floordiv(b*q + r, b) = q + floordiv(r, b)
    Terms taken, left;
    for (const Term& t : a.terms().list) {
      if (auto q = t.over(divisor[0])) taken.list.push_back(*q);
      else left.list.push_back(t);
    }
    whole = from_terms(std::move(taken));
    rest = from_terms(std::move(left));
  }
  // Cancel the monomial that all terms of both share.
  Term shared = divisor[0];
  shared.coefficient = 0;
  const Terms rest_terms = rest.terms();
  for (const auto* list : {&divisor, &rest_terms.list})
    for (const Term& t : *list) {
      shared.coefficient = std::gcd(shared.coefficient, t.coefficient);
      std::vector<std::shared_ptr<const Atom>> common;
      std::set_intersection(shared.factors.begin(), shared.factors.end(), t.factors.begin(), t.factors.end(), std::back_inserter(common),
                            [](const auto& x, const auto& y) { return x->text < y->text; });
      shared.factors = std::move(common);
    }
  if (!rest.is(0) && (shared.coefficient > 1 || !shared.factors.empty())) {
    Terms single;
    single.list.push_back(shared);
    const Dim d = from_terms(std::move(single));
    return whole + floordiv(*exact_quotient(rest, d), *exact_quotient(b, d));
  }
  if (rest.is(0)) return whole;
  if (rest.is_const() && rest.constant_ > 0 && known_ge(b, rest + Dim(1))) return whole;
  return whole + opaque(kFloorDiv, rest, b);
}

Dim Dim::ceildiv(const Dim& a, const Dim& b) {
  if (b.is_const() && b.constant_ > 0) return floordiv(a + (b - Dim(1)), b);
  return Dim(0) - floordiv(Dim(0) - a, b);
}

Dim Dim::mod(const Dim& a, const Dim& b) {
  if (b.is(0)) fail(ErrorCode::InvalidArgument, "dimension {} is taken modulo zero", a.to_string());
  if (a.is_const() && b.is_const()) return floor_remainder(a.constant_, b.constant_);
  if (b.is(1) || a.is(0) || a == b) return 0;
  if (b.is_const()) {
    Terms rest;
    for (const Term& t : a.terms().list)
      if (int64_t r = floor_remainder(t.coefficient, b.constant_)) rest.list.push_back({r, t.factors});
    const Dim r = from_terms(std::move(rest));
    if (r.is_const()) return floor_remainder(r.constant_, b.constant_);
    const Range bounds = r.range();
    if (b.constant_ > 0 && bounds.lo >= 0 && bounds.hi < b.constant_) return r;
    return opaque(kMod, r, b);
  }
  if (exact_quotient(a, b)) return 0;
  if (known_ge(a, 0) && known_ge(b, a + Dim(1))) return a;
  return opaque(kMod, a, b);
}

// min and max are associative and idempotent: flatten, drop what another operand covers, order by text, nest to the right.
Dim Dim::extreme(int kind, const Dim& a, const Dim& b) {
  std::vector<Dim> operands, pending{b, a};
  while (!pending.empty()) {
    const Dim d = std::move(pending.back());
    pending.pop_back();
    if (d.terms_ && d.terms_->list.size() == 1) {
      const Term& t = d.terms_->list[0];
      if (t.coefficient == 1 && t.factors.size() == 1 && t.factors[0]->kind == kind) {
        pending.push_back(t.factors[0]->b);
        pending.push_back(t.factors[0]->a);
        continue;
      }
    }
    const auto covers = [&](const Dim& x, const Dim& y) { return kind == kMax ? known_ge(x, y) : known_ge(y, x); };
    if (std::any_of(operands.begin(), operands.end(), [&](const Dim& o) { return covers(o, d); })) continue;
    std::erase_if(operands, [&](const Dim& o) { return covers(d, o); });
    operands.push_back(d);
  }
  std::sort(operands.begin(), operands.end(), [](const Dim& x, const Dim& y) { return x.to_string() < y.to_string(); });
  Dim result = operands.back();
  for (size_t i = operands.size() - 1; i-- > 0;) result = opaque(kind, operands[i], result);
  return result;
}

Dim Dim::min(const Dim& a, const Dim& b) {
  if (a.is_const() && b.is_const()) return std::min(a.constant_, b.constant_);
  return a == b ? a : extreme(kMin, a, b);
}

Dim Dim::max(const Dim& a, const Dim& b) {
  if (a.is_const() && b.is_const()) return std::max(a.constant_, b.constant_);
  return a == b ? a : extreme(kMax, a, b);
}

Dim::Range Dim::range() const {
  if (!terms_) return {constant_, constant_};
  const auto atom_range = [](const Atom& atom) -> Range {
    if (atom.kind == kSymbol) return {0, kInf};
    const Range x = atom.a.range(), y = atom.b.range();
    switch (atom.kind) {
      case kMin: return {std::min(x.lo, y.lo), std::min(x.hi, y.hi)};
      case kMax: return {std::max(x.lo, y.lo), std::max(x.hi, y.hi)};
      case kMod:
        if (y.lo < 0) return {};
        return {0, y.hi == kInf ? kInf : std::max<int64_t>(y.hi - 1, 0)};
      default:
        if (y.lo > 0 && y.lo == y.hi)
          return {x.lo == kNegInf ? kNegInf : floor_quotient(x.lo, y.lo), x.hi == kInf ? kInf : floor_quotient(x.hi, y.lo)};
        if (x.lo >= 0 && y.lo >= 0) return {0, x.hi};
        return {};
    }
  };
  Range sum{0, 0};
  for (const Term& t : terms_->list) {
    Range r{t.coefficient, t.coefficient};
    for (const auto& f : t.factors) {
      const Range x = atom_range(*f);
      const int64_t corners[] = {bound_mul(r.lo, x.lo), bound_mul(r.lo, x.hi), bound_mul(r.hi, x.lo), bound_mul(r.hi, x.hi)};
      r = {*std::min_element(corners, corners + 4), *std::max_element(corners, corners + 4)};
    }
    sum = {bound_add(sum.lo, r.lo), bound_add(sum.hi, r.hi)};
    if (sum.lo == kInf) sum.lo = kNegInf;  // saturated: give up rather than be wrong
    if (sum.hi == kNegInf) sum.hi = kInf;
  }
  return sum;
}

std::optional<int64_t> Dim::lower_bound() const {
  const Range r = range();
  return !is_const() && r.lo == kNegInf ? std::nullopt : std::optional(r.lo);
}

std::optional<int64_t> Dim::upper_bound() const {
  const Range r = range();
  return !is_const() && r.hi == kInf ? std::nullopt : std::optional(r.hi);
}

bool Dim::known_ge(const Dim& a, const Dim& b) {
  if (a.is_const() && b.is_const()) return a.constant_ >= b.constant_;
  const Range x = a.range(), y = b.range();
  if (x.lo != kNegInf && y.hi != kInf && x.lo >= y.hi) return true;
  // max(p,q) >= b when either operand is, a >= min(p,q) likewise; min(p,q) >= b and a >= max(p,q) need both.
  const auto extreme_of = [](const Dim& d) -> const Atom* {
    if (!d.terms_ || d.terms_->list.size() != 1) return nullptr;
    const Term& t = d.terms_->list[0];
    if (t.coefficient != 1 || t.factors.size() != 1) return nullptr;
    return t.factors[0]->kind == kMin || t.factors[0]->kind == kMax ? t.factors[0].get() : nullptr;
  };
  if (const Atom* m = extreme_of(b))
    if (m->kind == kMin ? known_ge(a, m->a) || known_ge(a, m->b) : known_ge(a, m->a) && known_ge(a, m->b)) return true;
  if (const Atom* m = extreme_of(a))
    if (m->kind == kMax ? known_ge(m->a, b) || known_ge(m->b, b) : known_ge(m->a, b) && known_ge(m->b, b)) return true;
  try {
    const Dim difference = a - b;
    if (difference.range().lo >= 0) return true;
    // floordiv(p,c) >= x  if  p >= c*x, and x >= floordiv(q,c)  if  c*x + c-1 >= q; with the same c on both sides, if p >= q.
    const auto quotient = [](const Dim& d) -> std::optional<std::pair<Dim, int64_t>> {  // d = floordiv(first, second)
      if (!d.terms_ || d.terms_->list.size() > 2) return std::nullopt;
      const auto& list = d.terms_->list;
      if (list[0].coefficient != 1 || list[0].factors.size() != 1 || (list.size() == 2 && !list[1].factors.empty())) return std::nullopt;
      const Atom& atom = *list[0].factors[0];
      if (atom.kind != kFloorDiv || !atom.b.is_const() || atom.b.constant_ <= 0) return std::nullopt;
      return std::pair(list.size() == 2 ? atom.a + atom.b * Dim(list[1].coefficient) : atom.a, atom.b.constant_);
    };
    const auto p = quotient(a), q = quotient(b);
    if (p && q && p->second == q->second) return known_ge(p->first, q->first);
    if (p) return known_ge(p->first, b * Dim(p->second));
    if (q) return known_ge(a * Dim(q->second) + Dim(q->second - 1), q->first);
    return false;
  } catch (const Error&) {
    return false;  // too large to tell
  }
}

Dim Dim::map_atoms(const std::function<Dim(const Atom&)>& f) const {
  if (!terms_) return *this;
  Dim sum;
  for (const Term& t : terms_->list) {
    Dim product = t.coefficient;
    for (const auto& factor : t.factors) product = product * f(*factor);
    sum = sum + product;
  }
  return sum;
}

namespace {

Dim apply(int kind, const Dim& a, const Dim& b) {
  switch (kind) {
    case kFloorDiv: return Dim::floordiv(a, b);
    case kMod: return Dim::mod(a, b);
    case kMin: return Dim::min(a, b);
    default: return Dim::max(a, b);
  }
}

}  // namespace

Dim Dim::substitute(const Bindings& bindings) const {
  if (!terms_) return *this;
  return map_atoms([&](const Atom& atom) -> Dim {
    if (atom.kind != kSymbol) return apply(atom.kind, atom.a.substitute(bindings), atom.b.substitute(bindings));
    const auto found = bindings.find(atom.name);
    return found == bindings.end() ? symbol(atom.name) : Dim(found->second);
  });
}

Dim Dim::substitute(const std::string& name, const Dim& by) const {
  if (!terms_) return *this;
  return map_atoms([&](const Atom& atom) -> Dim {
    if (atom.kind != kSymbol) return apply(atom.kind, atom.a.substitute(name, by), atom.b.substitute(name, by));
    return atom.name == name ? by : symbol(atom.name);
  });
}

void Dim::collect_symbols(std::vector<std::string>& out) const {
  if (!terms_) return;
  for (const Term& t : terms_->list)
    for (const auto& f : t.factors) {
      if (f->kind != kSymbol) {
        f->a.collect_symbols(out);
        f->b.collect_symbols(out);
      } else if (std::find(out.begin(), out.end(), f->name) == out.end()) {
        out.push_back(f->name);
      }
    }
}

std::string to_string(const Dims& dims) {
  std::string out;
  for (size_t i = 0; i < dims.size(); ++i) {
    if (i) out += ',';
    out += dims[i].to_string();
  }
  return out;
}

}  // namespace tokamak::ir
