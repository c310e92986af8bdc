#include "ir/attr.h"

namespace tokamak::ir {
namespace {

constexpr const char* kKindNames[] = {"an integer", "a float", "a string", "integers", "floats", "strings", "dims", "a dtype", "a tensor"};

[[noreturn]] void wrong_kind(std::string_view name, const char* expected, const Attr& found) {
  fail(ErrorCode::InvalidArgument, "attribute `{}`: expected {}, found {}", name, expected, kKindNames[found.index()]);
}

[[noreturn]] void missing(std::string_view name) { fail(ErrorCode::InvalidArgument, "attribute `{}` is missing", name); }

template <class T>
const T& as(std::string_view name, const Attr& attr) {
  if (const T* value = std::get_if<T>(&attr)) return *value;
  wrong_kind(name, kKindNames[Attr(T()).index()], attr);
}

double as_float(std::string_view name, const Attr& attr) {
  if (const int64_t* value = std::get_if<int64_t>(&attr)) return static_cast<double>(*value);
  return as<double>(name, attr);
}

const Attr& require(const Attrs& attrs, std::string_view name) {
  const Attr* attr = attrs.find(name);
  if (!attr) missing(name);
  return *attr;
}

template <class T>
T get(const Attrs& attrs, std::string_view name, T&& otherwise) {
  const Attr* attr = attrs.find(name);
  return attr ? as<T>(name, *attr) : std::move(otherwise);
}

}  // namespace

const Attr* Attrs::find(std::string_view name) const {
  const auto it = map_.find(name);
  return it == map_.end() ? nullptr : &it->second;
}

void Attrs::erase(std::string_view name) {
  const auto it = map_.find(name);
  if (it != map_.end()) map_.erase(it);
}

int64_t Attrs::get_int(std::string_view name) const { return as<int64_t>(name, require(*this, name)); }
int64_t Attrs::get_int(std::string_view name, int64_t otherwise) const { return get(*this, name, std::move(otherwise)); }
double Attrs::get_float(std::string_view name) const { return as_float(name, require(*this, name)); }
double Attrs::get_float(std::string_view name, double otherwise) const {
  const Attr* attr = find(name);
  return attr ? as_float(name, *attr) : otherwise;
}
std::string Attrs::get_string(std::string_view name) const { return as<std::string>(name, require(*this, name)); }
std::string Attrs::get_string(std::string_view name, std::string otherwise) const { return get(*this, name, std::move(otherwise)); }
Ints Attrs::get_ints(std::string_view name) const { return as<Ints>(name, require(*this, name)); }
Ints Attrs::get_ints(std::string_view name, Ints otherwise) const { return get(*this, name, std::move(otherwise)); }
Floats Attrs::get_floats(std::string_view name, Floats otherwise) const {
  const Attr* attr = find(name);
  if (!attr) return otherwise;
  if (const Ints* ints = std::get_if<Ints>(attr)) return Floats(ints->begin(), ints->end());
  return as<Floats>(name, *attr);
}
Strings Attrs::get_strings(std::string_view name, Strings otherwise) const { return get(*this, name, std::move(otherwise)); }

Dims Attrs::get_dims(std::string_view name) const {
  const Attr& attr = require(*this, name);
  if (const Ints* ints = std::get_if<Ints>(&attr)) return Dims(ints->begin(), ints->end());
  return as<Dims>(name, attr);
}

DType Attrs::get_dtype(std::string_view name) const { return as<DType>(name, require(*this, name)); }
DType Attrs::get_dtype(std::string_view name, DType otherwise) const { return get(*this, name, std::move(otherwise)); }
const Tensor& Attrs::get_tensor(std::string_view name) const { return as<Tensor>(name, require(*this, name)); }

bool same_attrs(const Attrs& a, const Attrs& b) {
  auto i = a.begin(), j = b.begin();
  for (; i != a.end() && j != b.end(); ++i, ++j) {
    if (i->first != j->first || i->second.index() != j->second.index()) return false;
    const bool same = std::visit(
        [&](const auto& x) {
          using T = std::decay_t<decltype(x)>;
          const T& y = std::get<T>(j->second);
          if constexpr (std::is_same_v<T, Tensor>) return same_bytes(x, y);
          else return x == y;
        },
        i->second);
    if (!same) return false;
  }
  return i == a.end() && j == b.end();
}

}  // namespace tokamak::ir
