#pragma once
// Attribute values and the attribute dictionary of a node.

#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/tensor.h"
#include "ir/dim.h"

namespace tokamak::ir {

using Ints = std::vector<int64_t>;
using Floats = std::vector<double>;
using Strings = std::vector<std::string>;
using Attr = std::variant<int64_t, double, std::string, Ints, Floats, Strings, Dims, DType, Tensor>;

// Ordered by name, so that two equal nodes print and hash the same. Booleans are integers 0 and 1.
class Attrs {
 public:
  Attrs() = default;
  Attrs(std::initializer_list<std::pair<const std::string, Attr>> init) : map_(init) {}

  bool has(std::string_view name) const { return map_.find(name) != map_.end(); }
  const Attr* find(std::string_view name) const;
  void set(std::string name, Attr value) { map_.insert_or_assign(std::move(name), std::move(value)); }
  void erase(std::string_view name);
  bool empty() const { return map_.empty(); }

  // Typed access. The form with a default returns it when the attribute is absent; the other throws InvalidArgument then. Both throw
  // InvalidArgument when the attribute has another type. get_float accepts an integer, get_floats and get_dims accept integers.
  int64_t get_int(std::string_view name) const;
  int64_t get_int(std::string_view name, int64_t otherwise) const;
  double get_float(std::string_view name, double otherwise) const;
  double get_float(std::string_view name) const;
  std::string get_string(std::string_view name, std::string otherwise) const;
  std::string get_string(std::string_view name) const;
  Ints get_ints(std::string_view name, Ints otherwise) const;
  Ints get_ints(std::string_view name) const;
  Floats get_floats(std::string_view name, Floats otherwise) const;
  Strings get_strings(std::string_view name, Strings otherwise) const;
  Dims get_dims(std::string_view name) const;
  DType get_dtype(std::string_view name) const;
  DType get_dtype(std::string_view name, DType otherwise) const;
  const Tensor& get_tensor(std::string_view name) const;
  bool get_bool(std::string_view name, bool otherwise) const { return get_int(name, otherwise) != 0; }

  auto begin() const { return map_.begin(); }
  auto end() const { return map_.end(); }

 private:
  std::map<std::string, Attr, std::less<>> map_;
};

bool same_attrs(const Attrs& a, const Attrs& b);

}  // namespace tokamak::ir
