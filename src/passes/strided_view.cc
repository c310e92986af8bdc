#include "passes/strided_view.h"

#include <algorithm>

namespace tokamak::passes {
namespace {

using Axis = StridedView::Axis;

std::optional<Dim> quotient(const Dim& a, const Dim& b) {
  if (b.is(0)) return std::nullopt;
  const Dim q = Dim::floordiv(a, b);
  return q * b == a ? std::optional(q) : std::nullopt;
}

// Neighbouring factors that are one progression become one.
void append(Axis& axis, const StridedView::Factor& f) {
  if (f.size.is(1)) return;
  if (!axis.empty() && axis.back().stride == f.size * f.stride) axis.back() = {axis.back().size * f.size, f.stride};
  else axis.push_back(f);
}

StridedView dense(Value* v) {
  StridedView view;
  view.source = v;
  view.axes.resize(v->type.dims.size());
  Dim stride = 1;
  for (size_t i = view.axes.size(); i-- > 0; stride = stride * v->type.dims[i]) append(view.axes[i], {v->type.dims[i], stride});
  return view;
}

// The same elements in the same order under other dimensions.
bool reshape(StridedView& view, const Dims& dims) {
  Axis rest;  // what is left to deal out
  for (const Axis& axis : view.axes)
    for (const auto& f : axis) append(rest, f);
  std::reverse(rest.begin(), rest.end());
  std::vector<Axis> axes(dims.size());
  for (size_t i = 0; i < dims.size(); ++i) {
    Dim missing = dims[i];
    while (!missing.is(1)) {
      if (rest.empty()) return false;
      const StridedView::Factor f = rest.back();
      rest.pop_back();
      if (const auto more = quotient(missing, f.size)) {
        append(axes[i], f);
        missing = *more;
      } else if (const auto inner = quotient(f.size, missing)) {
        append(axes[i], {missing, *inner * f.stride});
        rest.push_back({*inner, f.stride});
        missing = 1;
      } else {
        return false;
      }
    }
  }
  view.axes = std::move(axes);
  return rest.empty();
}

// Elements from `start` on, `size` of them.
bool narrow(StridedView& view, int64_t axis, const Dim& start, const Dim& size) {
  Axis& a = view.axes[axis];
  if (a.size() > 1) return false;
  if (a.empty()) return start.is(0) && size.is(1);
  view.offset = view.offset + start * a[0].stride;
  a[0].size = size;
  if (size.is(1)) a.clear();
  return true;
}

bool slice(StridedView& view, const Node* n) {
  if (n->num_inputs() != 1 || !n->attrs.has("starts") || !n->attrs.has("axes")) return false;
  const Dims starts = n->attrs.get_dims("starts");
  const Ints steps = n->attrs.get_ints("steps", {}), axes = normalized_axes(n->attrs.get_ints("axes"), rank_of(n->input(0)));
  if (std::any_of(steps.begin(), steps.end(), [](int64_t s) { return s != 1; })) return false;
  for (size_t i = 0; i < axes.size(); ++i) {
    const Dim &length = n->input(0)->type.dims[axes[i]], &size = n->output(0)->type.dims[axes[i]];
    if (size == length) continue;
    Dim start = starts[i];
    if (!start.is_const()) return false;
    if (start.value() < 0) start = length + start;
    if (!Dim::known_ge(start, 0) || !Dim::known_ge(length, start + size)) return false;
    if (!narrow(view, axes[i], start, size)) return false;
  }
  return true;
}

bool split(StridedView& view, const Node* n, const Value* v) {
  if (n->num_inputs() != 1) return false;
  const int64_t axis = normalized_axes({n->attrs.get_int("axis", 0)}, rank_of(n->input(0)))[0];
  Dim start = 0;
  for (int i = 0; n->output(i) != v; ++i) start = start + n->output(i)->type.dims[axis];
  return narrow(view, axis, start, v->type.dims[axis]);
}

// One index: a scalar drops the axis, a vector of one keeps it.
bool gather(StridedView& view, const Node* n) {
  const auto index = scalar_of(n->input(1));
  const int64_t axis = normalized_axes({n->attrs.get_int("axis", 0)}, rank_of(n->input(0)))[0], indices = rank_of(n->input(1));
  if (!index || indices > 1) return false;
  Dim start = static_cast<int64_t>(*index);
  if (*index < 0) start = n->input(0)->type.dims[axis] + start;
  if (!Dim::known_ge(start, 0) || !narrow(view, axis, start, 1)) return false;
  if (indices == 0) view.axes.erase(view.axes.begin() + axis);
  return true;
}

}  // namespace

StridedView strided_view(Value* v) {
  Node* n = v->producer();
  const Value* x = n != nullptr && n->num_inputs() > 0 ? n->input(0) : nullptr;
  double factor = 1;
  Value* scaled = n != nullptr && n->is("mul") ? beside_scalar(n, &factor) : nullptr;
  if (scaled != nullptr) x = scaled;
  const bool follows =
      x != nullptr && rank_of(x) >= 0 && !x->is_constant() && (x->producer() == nullptr || x->producer()->graph() == n->graph());
  if (!follows || std::any_of(v->type.dims.begin(), v->type.dims.end(), [](const Dim& d) { return d.is(0); })) return dense(v);
  if (scaled != nullptr && same_dims(scaled, v) && is_float(v)) {
    StridedView view = strided_view(scaled);
    view.scale *= factor;
    return view;
  }
  if (!n->is("reshape") && !n->is("transpose") && !n->is("slice") && !n->is("split") && !n->is("gather")) return dense(v);
  StridedView view = strided_view(n->input(0));
  if (n->is("transpose")) {
    const Ints perm = perm_of(n);
    std::vector<Axis> axes;
    for (const int64_t p : perm) axes.push_back(view.axes[p]);
    view.axes = std::move(axes);
    return view;
  }
  const bool is_view = n->is("reshape") ? reshape(view, v->type.dims)
                       : n->is("slice") ? slice(view, n)
                       : n->is("split") ? split(view, n, v)
                                        : gather(view, n);
  return is_view ? view : dense(v);
}

}  // namespace tokamak::passes
