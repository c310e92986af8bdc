// Reductions, argmax, argmin and cumsum. Sums are taken in double (floats) or 64-bit integers; an empty set gives the identity.

#include <algorithm>
#include <limits>

#include "backends/cpu/kernels/ref/ref.h"

namespace tokamak::cpu::ref {
namespace {

enum class Kind { Sum, Mean, Max, Min, Prod };

template <class W>
W identity_of(Kind kind) {
  constexpr bool kReal = std::is_floating_point_v<W>;
  if (kind == Kind::Prod) return 1;
  if (kind == Kind::Max) return kReal ? -std::numeric_limits<W>::infinity() : std::numeric_limits<W>::lowest();
  if (kind == Kind::Min) return kReal ? std::numeric_limits<W>::infinity() : std::numeric_limits<W>::max();
  return 0;
}

template <class W>
W combine(Kind kind, W a, W b) {
  if constexpr (std::is_floating_point_v<W>) {
    if (kind == Kind::Max || kind == Kind::Min) {
      if (std::isnan(a) || std::isnan(b)) return std::numeric_limits<W>::quiet_NaN();
    }
  }
  switch (kind) {
    case Kind::Max: return std::max(a, b);
    case Kind::Min: return std::min(a, b);
    case Kind::Prod: return a * b;
    default: return a + b;
  }
}

std::vector<bool> reduced_axes(const std::vector<int64_t>& axes, int64_t rank, bool none_when_empty) {
  std::vector<bool> reduced(rank, axes.empty() && !none_when_empty);
  for (int64_t axis : axes) reduced[normalize_axis(axis, rank)] = true;
  return reduced;
}

template <class T, class W>
void reduce(Kind kind, const Shape& in, const std::vector<bool>& reduced, const RunArgs& args) {
  Shape kept = in;
  int64_t terms = 1;
  for (size_t i = 0; i < in.size(); ++i)
    if (reduced[i]) terms *= in[i], kept[i] = 1;
  std::vector<int64_t> out_strides = strides_of(kept);
  for (size_t i = 0; i < in.size(); ++i)
    if (reduced[i]) out_strides[i] = 0;
  std::vector<W> sums(args.outputs[0].count(), identity_of<W>(kind));
  if constexpr (std::is_integral_v<T>) {
    // An integer type has no infinity: the identity is its own limit.
    if (kind == Kind::Max) std::fill(sums.begin(), sums.end(), static_cast<W>(std::numeric_limits<T>::lowest()));
    if (kind == Kind::Min) std::fill(sums.begin(), sums.end(), static_cast<W>(std::numeric_limits<T>::max()));
  }
  const T* x = args.inputs[0].data<T>();
  for_each_row(in, std::array<std::vector<int64_t>, 2>{strides_of(in), out_strides}, [&](const auto& at, const auto& step, int64_t count) {
    if (step[1] == 0) {
      W sum = sums[at[1]];
      for (int64_t k = 0; k < count; ++k) sum = combine<W>(kind, sum, static_cast<W>(x[at[0] + k * step[0]]));
      sums[at[1]] = sum;
    } else {
      for (int64_t k = 0; k < count; ++k) {
        W& sum = sums[at[1] + k * step[1]];
        sum = combine<W>(kind, sum, static_cast<W>(x[at[0] + k * step[0]]));
      }
    }
  });
  T* y = args.outputs[0].data<T>();
  for (size_t i = 0; i < sums.size(); ++i) {
    W value = sums[i];
    if (kind == Kind::Mean) {
      if constexpr (std::is_floating_point_v<W>) value /= static_cast<W>(terms);
      else value = terms == 0 ? 0 : value / static_cast<W>(terms);
    }
    y[i] = static_cast<T>(static_cast<Compute<T>>(value));
  }
}

RunFunction prepare_reduce(const NodeView& node) {
  const std::string_view op = node.node->op().name;
  const Kind kind = op == "reduce_sum"    ? Kind::Sum
                    : op == "reduce_mean" ? Kind::Mean
                    : op == "reduce_max"  ? Kind::Max
                    : op == "reduce_min"  ? Kind::Min
                                          : Kind::Prod;
  const Shape in = node.input_shapes[0];
  const bool has_attr = node.attrs().has("axes"), has_input = node.has_input(1);
  const bool none_when_empty = has_attr || node.attrs().get_bool("noop_with_empty_axes", false);
  const std::vector<int64_t> axes_attr = node.attrs().get_ints("axes", {});
  return [=](const RunArgs& args) {
    const std::vector<bool> reduced = reduced_axes(has_input ? args.inputs[1].to_ints() : axes_attr, static_cast<int64_t>(in.size()), none_when_empty);
    if (args.inputs[0].dtype() == DType::Bool) return reduce<bool, uint64_t>(kind, in, reduced, args);
    visit_number(args.inputs[0].dtype(), "reduction", [&](auto tag) {
      using T = typename decltype(tag)::type;
      reduce<T, Accumulator<T>>(kind, in, reduced, args);
    });
  };
}

RunFunction prepare_arg(const NodeView& node) {
  const bool is_max = node.node->op().name == "argmax", last = node.attrs().get_bool("select_last_index", node.attrs().get_bool("select_last", false));
  const Shape in = node.input_shapes[0];
  const int64_t rank = static_cast<int64_t>(in.size()), axis = normalize_axis(node.attrs().get_int("axis", 0), rank);
  const int64_t n = rank == 0 ? 1 : in[axis];
  const int64_t inner = rank == 0 ? 1 : size_of(Shape(in.begin() + axis + 1, in.end()));
  const int64_t outer = rank == 0 ? 1 : size_of(Shape(in.begin(), in.begin() + axis));
  return [=](const RunArgs& args) {
    visit_number(args.inputs[0].dtype(), "argmax", [&](auto tag) {
      using T = typename decltype(tag)::type;
      using W = Compute<T>;
      const T* x = args.inputs[0].data<T>();
      int64_t* y = args.outputs[0].data<int64_t>();
      for (int64_t o = 0; o < outer; ++o)
        for (int64_t i = 0; i < inner; ++i) {
          const T* row = x + o * n * inner + i;
          int64_t best = 0;
          for (int64_t k = 1; k < n; ++k) {
            const W v = static_cast<W>(row[k * inner]), b = static_cast<W>(row[best * inner]);
            if (is_max ? v > b : v < b) best = k;
            else if (last && v == b) best = k;
          }
          y[o * inner + i] = best;
        }
    });
  };
}

RunFunction prepare_cumsum(const NodeView& node) {
  const Shape in = node.input_shapes[0];
  const bool exclusive = node.attrs().get_bool("exclusive", false), reverse = node.attrs().get_bool("reverse", false);
  return [=](const RunArgs& args) {
    const int64_t axis = normalize_axis(args.inputs[1].int_at(0), static_cast<int64_t>(in.size())), n = in.empty() ? 1 : in[axis];
    const int64_t inner = in.empty() ? 1 : size_of(Shape(in.begin() + axis + 1, in.end()));
    const int64_t outer = in.empty() ? 1 : size_of(Shape(in.begin(), in.begin() + axis));
    visit_number(args.inputs[0].dtype(), "cumsum", [&](auto tag) {
      using T = typename decltype(tag)::type;
      using W = Accumulator<T>;
      for (int64_t o = 0; o < outer; ++o)
        for (int64_t i = 0; i < inner; ++i) {
          const T* x = args.inputs[0].data<T>() + o * n * inner + i;
          T* y = args.outputs[0].data<T>() + o * n * inner + i;
          W sum = 0;
          for (int64_t k = 0; k < n; ++k) {
            const int64_t at = (reverse ? n - 1 - k : k) * inner;
            const W before = sum;
            sum += static_cast<W>(x[at]);
            y[at] = static_cast<T>(static_cast<Compute<T>>(exclusive ? before : sum));
          }
        }
    });
  };
}

}  // namespace

KernelList reduce_kernels() {
  KernelList list;
  for (const char* op : {"reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_prod"}) list.push_back(define(op, prepare_reduce));
  list.push_back(define("argmax", prepare_arg));
  list.push_back(define("argmin", prepare_arg));
  list.push_back(define("cumsum", prepare_cumsum));
  return list;
}

}  // namespace tokamak::cpu::ref
