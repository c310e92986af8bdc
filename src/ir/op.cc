#include "ir/op.h"

#include <algorithm>
#include <unordered_map>

namespace tokamak::ir {
namespace {

constexpr int64_t kMaxKnownInts = 64;

}  // namespace

InferContext::InferContext(const Node& node, std::vector<ValueInfo> inputs, int num_outputs, std::function<Dim()> fresh_symbol,
                           const Dim::Bindings* bindings)
    : node_(node), inputs_(std::move(inputs)), outputs_(num_outputs), fresh_symbol_(std::move(fresh_symbol)), bindings_(bindings) {
  // Arity is checked here too, since graphs come from files and every `infer` counts on it.
  const OpDef& op = node.op();
  for (int i = 0; i < op.min_inputs; ++i)
    if (!has_input(i)) fail("input {} is absent", i);
  if (op.max_inputs >= 0 && num_inputs() > op.max_inputs) fail("{} inputs; the operator takes at most {}", num_inputs(), op.max_inputs);
  if (num_outputs < op.min_outputs || (op.max_outputs >= 0 && num_outputs > op.max_outputs))
    fail("{} outputs; the operator gives {} to {}", num_outputs, op.min_outputs,
         op.max_outputs < 0 ? std::string("any number") : std::to_string(op.max_outputs));
}

const Dim& InferContext::dim(int i, int64_t axis) const {
  const Dims& dims = inputs_[i].type.dims;
  const int64_t rank = static_cast<int64_t>(dims.size());
  if (axis < -rank || axis >= rank) fail("input {} needs more than {} dimensions", i, rank);
  return dims[axis < 0 ? axis + rank : axis];
}

std::optional<Dims> InferContext::ints(int i) const {
  if (!has_input(i)) return std::nullopt;
  const ValueInfo& info = inputs_[i];
  if (info.ints) {
    // Trusted only when it fits the type, since graphs come from files.
    if (info.type.is_static()) {
      const Dim count = info.type.num_elements();
      if (!count.is(static_cast<int64_t>(info.ints->size()))) return std::nullopt;
    }
    if (!bindings_) return info.ints;
    Dims bound;
    for (const Dim& d : *info.ints) bound.push_back(bind(d));
    return bound;
  }
  const Tensor& t = info.constant;
  if (!t.defined() || !t.layout().empty() || t.count() > kMaxKnownInts) return std::nullopt;
  if (!is_integer(t.dtype()) && t.dtype() != DType::Bool) return std::nullopt;
  const std::vector<int64_t> values = t.to_ints();
  return Dims(values.begin(), values.end());
}

std::optional<Ints> InferContext::const_ints(int i) const {
  const auto dims = ints(i);
  if (!dims) return std::nullopt;
  Ints values;
  for (const Dim& d : *dims) {
    if (!d.is_const()) return std::nullopt;
    values.push_back(d.value());
  }
  return values;
}

Dim InferContext::bind(const Dim& dim) const { return bindings_ && !dim.is_const() ? dim.substitute(*bindings_) : dim; }

TensorType InferContext::bind(const TensorType& type) const {
  TensorType bound = type;
  for (Dim& d : bound.dims) d = bind(d);
  return bound;
}

Dims InferContext::dims_attr(std::string_view name) const {
  Dims dims = attrs().get_dims(name);
  for (Dim& d : dims) d = bind(d);
  return dims;
}

void InferContext::fail_text(const std::string& message) const {
  const std::string& label = node_.name.empty() && node_.num_outputs() > 0 && node_.output() ? node_.output()->name : node_.name;
  throw Error(ErrorCode::InvalidArgument, fmt::format("[{} \"{}\"] {}", node_.op().name, label, message));
}

int64_t InferContext::axis(int64_t axis, int64_t rank) const {
  if (axis < -rank || axis >= rank) fail("axis {} is outside [{}, {}]", axis, -rank, rank - 1);
  return axis < 0 ? axis + rank : axis;
}

Dims InferContext::broadcast(const Dims& a, const Dims& b) const {
  const Dims& longer = a.size() >= b.size() ? a : b;
  const Dims& shorter = a.size() >= b.size() ? b : a;
  Dims result = longer;
  const size_t lead = longer.size() - shorter.size();
  for (size_t i = 0; i < shorter.size(); ++i) {
    const Dim& x = longer[lead + i];
    const Dim& y = shorter[i];
    Dim& r = result[lead + i];
    if (x == y || y.is(1)) continue;
    if (x.is(1)) r = y;
    else if (x.is_const() && y.is_const())
      fail("shapes [{}] and [{}] do not broadcast: {} vs {}", to_string(a), to_string(b), x.value(), y.value());
    else if (x.is_const()) continue;  // y must turn out to be it, or 1
    else if (y.is_const()) r = y;
    else r = Dim::max(x, y);
  }
  return result;
}

namespace ops {
#define TOKAMAK_OPS(table) std::span<const OpDef> table();
#include "ir/ops/all_ops.inc"
#undef TOKAMAK_OPS
}  // namespace ops

std::span<const OpDef* const> all_ops() {
  static const std::vector<const OpDef*> list = [] {
    std::vector<const OpDef*> all;
    const auto append = [&](std::span<const OpDef> table) {
      for (const OpDef& op : table) all.push_back(&op);
    };
#define TOKAMAK_OPS(table) append(ops::table());
#include "ir/ops/all_ops.inc"
#undef TOKAMAK_OPS
    return all;
  }();
  return list;
}

const OpDef* find_op(std::string_view name) {
  static const std::unordered_map<std::string_view, const OpDef*> index = [] {
    std::unordered_map<std::string_view, const OpDef*> map;
    for (const OpDef* op : all_ops()) CHECK(map.emplace(op->name, op).second);
    return map;
  }();
  const auto it = index.find(name);
  return it == index.end() ? nullptr : it->second;
}

}  // namespace tokamak::ir
