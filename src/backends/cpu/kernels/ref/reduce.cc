// Reductions, argmax, argmin, cumsum and cumprod. Sums are taken in double (floats) or 64-bit integers; an empty set gives the identity.

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

// The input walked as kept axes around reduced ones.
struct Reduction {
  Shape kept, reduced;
  std::vector<int64_t> kept_strides, reduced_strides;

  Reduction(const Shape& in, const std::vector<int64_t>& axes, bool none_when_empty) {
    const int64_t rank = static_cast<int64_t>(in.size());
    std::vector<bool> is_reduced(rank, axes.empty() && !none_when_empty);
    for (int64_t axis : axes)
      if (rank > 0) is_reduced[normalize_axis(axis, rank)] = true;
    const std::vector<int64_t> strides = strides_of(in);
    for (int64_t i = 0; i < rank; ++i) {
      (is_reduced[i] ? reduced : kept).push_back(in[i]);
      (is_reduced[i] ? reduced_strides : kept_strides).push_back(strides[i]);
    }
  }

  template <class T, class W>
  void run(Kind kind, const RunArgs& args) const {
    const T* x = args.inputs[0].data<T>();
    T* y = args.outputs[0].data<T>();
    const int64_t terms = size_of(reduced);
    W initial = identity_of<W>(kind);
    if constexpr (std::is_integral_v<T>) {  // no infinity: the identity is the type's own limit
      if (kind == Kind::Max) initial = static_cast<W>(std::numeric_limits<T>::lowest());
      if (kind == Kind::Min) initial = static_cast<W>(std::numeric_limits<T>::max());
    }
    for_each_row(kept, std::array<const int64_t*, 1>{kept_strides.data()}, [&](const auto& at, const auto& step, int64_t count) {
      for (int64_t k = 0; k < count; ++k) {
        const T* from = x + at[0] + k * step[0];
        W value = initial;
        for_each_row(reduced, std::array<const int64_t*, 1>{reduced_strides.data()}, [&](const auto& row, const auto& inner, int64_t n) {
          for (int64_t i = 0; i < n; ++i) value = combine<W>(kind, value, static_cast<W>(from[row[0] + i * inner[0]]));
        });
        if (kind == Kind::Mean) {
          if constexpr (std::is_floating_point_v<W>) value /= static_cast<W>(terms);
          else value = terms == 0 ? 0 : value / static_cast<W>(terms);
        }
        *y++ = static_cast<T>(static_cast<Compute<T>>(value));
      }
    });
  }
};

void run_reduction(const Reduction& reduction, Kind kind, const RunArgs& args) {
  if (args.inputs[0].dtype() == DType::Bool) return reduction.run<bool, uint64_t>(kind, args);
  visit_number(args.inputs[0].dtype(), "reduction", [&](auto tag) {
    using T = typename decltype(tag)::type;
    reduction.run<T, Accumulator<T>>(kind, args);
  });
}

RunFunction prepare_reduce(const NodeView& node) {
  const std::string_view op = node.node->op().name;
  const Kind kind = op == "reduce_sum"    ? Kind::Sum
                    : op == "reduce_mean" ? Kind::Mean
                    : op == "reduce_max"  ? Kind::Max
                    : op == "reduce_min"  ? Kind::Min
                                          : Kind::Prod;
  const Shape in = node.input_shapes[0];
  const bool none_when_empty = node.attrs().has("axes") || node.attrs().get_bool("noop_with_empty_axes", false);
  if (!node.has_input(1))
    return [kind, reduction = Reduction(in, node.attrs().get_ints("axes", {}), none_when_empty)](const RunArgs& args) {
      run_reduction(reduction, kind, args);
    };
  return [=](const RunArgs& args) { run_reduction(Reduction(in, args.inputs[1].to_ints(), none_when_empty), kind, args); };
}

RunFunction prepare_arg(const NodeView& node) {
  const bool is_max = node.node->op().name == "argmax",
             last = node.attrs().get_bool("select_last_index", node.attrs().get_bool("select_last", false));
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

RunFunction prepare_running(const NodeView& node) {
  const bool is_product = node.node->is("cumprod");
  const Shape in = node.input_shapes[0];
  const bool exclusive = node.attrs().get_bool("exclusive", false), reverse = node.attrs().get_bool("reverse", false);
  return [=](const RunArgs& args) {
    const int64_t axis = normalize_axis(args.inputs[1].int_at(0), static_cast<int64_t>(in.size())), n = in.empty() ? 1 : in[axis];
    const int64_t inner = in.empty() ? 1 : size_of(Shape(in.begin() + axis + 1, in.end()));
    const int64_t outer = in.empty() ? 1 : size_of(Shape(in.begin(), in.begin() + axis));
    visit_number(args.inputs[0].dtype(), "cumsum and cumprod", [&](auto tag) {
      using T = typename decltype(tag)::type;
      using W = Accumulator<T>;
      for (int64_t o = 0; o < outer; ++o)
        for (int64_t i = 0; i < inner; ++i) {
          const T* x = args.inputs[0].data<T>() + o * n * inner + i;
          T* y = args.outputs[0].data<T>() + o * n * inner + i;
          W total = is_product ? 1 : 0;
          for (int64_t k = 0; k < n; ++k) {
            const int64_t at = (reverse ? n - 1 - k : k) * inner;
            const W before = total;
            if (is_product) total *= static_cast<W>(x[at]);
            else total += static_cast<W>(x[at]);
            y[at] = static_cast<T>(static_cast<Compute<T>>(exclusive ? before : total));
          }
        }
    });
  };
}

}  // namespace

KernelList reduce_kernels() {
  KernelList list;
  for (const char* op : {"reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_prod"})
    list.push_back(define(op, prepare_reduce));
  list.push_back(define("argmax", prepare_arg));
  list.push_back(define("argmin", prepare_arg));
  list.push_back(define("cumsum", prepare_running));
  list.push_back(define("cumprod", prepare_running));
  return list;
}

}  // namespace tokamak::cpu::ref
