// topk, and the ops whose output shape depends on the data: nonzero, nms, unique, compress. The latter allocate their own outputs.

#include <algorithm>
#include <numeric>

#include "backends/cpu/kernels/ref/ref.h"

namespace tokamak::cpu::ref {
namespace {

// NaN after everything, so that it is a strict weak order.
template <class W>
bool total_less(W a, W b) {
  if constexpr (std::is_floating_point_v<W>) {
    if (std::isnan(a) || std::isnan(b)) return !std::isnan(a);
  }
  return a < b;
}

RunFunction prepare_topk(const NodeView& node) {
  const Shape in = node.input_shapes[0], out = node.output_shapes[0];
  const int64_t axis = normalize_axis(node.attrs().get_int("axis", -1), static_cast<int64_t>(in.size()));
  const bool largest = node.attrs().get_bool("largest", true);
  const int64_t n = in[axis], k = out[axis], outer = size_of(Shape(in.begin(), in.begin() + axis)),
                inner = size_of(Shape(in.begin() + axis + 1, in.end()));
  if (k > n) fail_node(node, ErrorCode::OutOfRange, "k is {} on an axis of {}", k, n);
  return [=](const RunArgs& args) {
    visit_number(args.inputs[0].dtype(), "topk", [&](auto tag) {
      using T = typename decltype(tag)::type;
      using W = Compute<T>;
      std::vector<int64_t> order(n);
      for (int64_t o = 0; o < outer; ++o)
        for (int64_t i = 0; i < inner; ++i) {
          const T* x = args.inputs[0].data<T>() + o * n * inner + i;
          std::iota(order.begin(), order.end(), int64_t{0});
          std::partial_sort(order.begin(), order.begin() + k, order.end(), [&](int64_t a, int64_t b) {
            const W va = static_cast<W>(x[a * inner]), vb = static_cast<W>(x[b * inner]);
            if (largest ? total_less(vb, va) : total_less(va, vb)) return true;
            if (largest ? total_less(va, vb) : total_less(vb, va)) return false;
            return a < b;
          });
          for (int64_t j = 0; j < k; ++j) {
            args.outputs[0].data<T>()[(o * k + j) * inner + i] = x[order[j] * inner];
            if (args.outputs.size() > 1 && args.outputs[1].defined()) args.outputs[1].data<int64_t>()[(o * k + j) * inner + i] = order[j];
          }
        }
    });
  };
}

RunFunction prepare_nonzero(const NodeView&) {
  return [](const RunArgs& args) {
    const Tensor& x = args.inputs[0];
    std::vector<int64_t> found;
    if (x.dtype() == DType::String) {
      for (int64_t i = 0; i < x.count(); ++i)
        if (!x.strings()[i].empty()) found.push_back(i);
    } else {
      const std::vector<double> values = to_doubles(x);
      for (int64_t i = 0; i < x.count(); ++i)
        if (values[i] != 0) found.push_back(i);
    }
    const int64_t n = static_cast<int64_t>(found.size());
    const std::vector<int64_t> strides = strides_of(x.shape());
    args.outputs[0] = Tensor::empty(DType::I64, {x.rank(), n});
    for (int64_t d = 0; d < x.rank(); ++d)
      for (int64_t i = 0; i < n; ++i) args.outputs[0].data<int64_t>()[d * n + i] = found[i] / strides[d] % x.dim(d);
  };
}

RunFunction prepare_compress(const NodeView& node) {
  const bool flat = !node.attrs().has("axis");
  const Shape in = flat ? Shape{size_of(node.input_shapes[0])} : node.input_shapes[0];
  const int64_t axis = flat ? 0 : normalize_axis(node.attrs().get_int("axis"), static_cast<int64_t>(in.size()));
  return [=](const RunArgs& args) {
    const Tensor& condition = args.inputs[1];
    std::vector<int64_t> kept;
    for (int64_t i = 0; i < std::min(condition.count(), in[axis]); ++i)
      if (condition.data<uint8_t>()[i]) kept.push_back(i);
    Shape out = in;
    out[axis] = static_cast<int64_t>(kept.size());
    args.outputs[0] = Tensor::empty(args.inputs[0].dtype(), out);
    const int64_t outer = size_of(Shape(in.begin(), in.begin() + axis)), inner = size_of(Shape(in.begin() + axis + 1, in.end()));
    for (int64_t o = 0; o < outer; ++o)
      for (size_t i = 0; i < kept.size(); ++i)
        copy_block(args.inputs[0], (o * in[axis] + kept[i]) * inner, args.outputs[0], (o * out[axis] + static_cast<int64_t>(i)) * inner,
                   inner);
  };
}

// -1, 0 or 1 for elements i and j of a tensor.
std::function<int(int64_t, int64_t)> comparer(const Tensor& x) {
  if (x.dtype() == DType::String) return [&x](int64_t i, int64_t j) { return x.strings()[i].compare(x.strings()[j]); };
  std::function<int(int64_t, int64_t)> compare;
  const auto make = [&](auto tag) {
    using T = typename decltype(tag)::type;
    compare = [p = x.data<T>()](int64_t i, int64_t j) {
      const Compute<T> a = static_cast<Compute<T>>(p[i]), b = static_cast<Compute<T>>(p[j]);
      return total_less(a, b) ? (total_less(b, a) ? 0 : -1) : total_less(b, a) ? 1 : 0;
    };
  };
  if (x.dtype() == DType::Bool) make(Tag<uint8_t>{});
  else visit_number(x.dtype(), "unique", make);
  return compare;
}

RunFunction prepare_unique(const NodeView& node) {
  const bool flat = !node.attrs().has("axis"), sorted = node.attrs().get_bool("sorted", true);
  const Shape in = flat ? Shape{size_of(node.input_shapes[0])} : node.input_shapes[0];
  const int64_t axis = flat ? 0 : normalize_axis(node.attrs().get_int("axis"), static_cast<int64_t>(in.size()));
  return [=](const RunArgs& args) {
    const Tensor& x = args.inputs[0];
    const int64_t n = in[axis], outer = size_of(Shape(in.begin(), in.begin() + axis)),
                  inner = size_of(Shape(in.begin() + axis + 1, in.end()));
    const std::function<int(int64_t, int64_t)> compare = comparer(x);
    const auto compare_slices = [&](int64_t a, int64_t b) {
      for (int64_t o = 0; o < outer; ++o)
        for (int64_t i = 0; i < inner; ++i)
          if (const int c = compare((o * n + a) * inner + i, (o * n + b) * inner + i); c != 0) return c;
      return 0;
    };
    std::vector<int64_t> order(n);
    std::iota(order.begin(), order.end(), int64_t{0});
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return compare_slices(a, b) < 0; });
    std::vector<int64_t> firsts, counts, group(n);
    for (int64_t i = 0; i < n; ++i) {
      if (i == 0 || compare_slices(order[i - 1], order[i]) != 0) {
        firsts.push_back(order[i]);  // the sort is stable: the first of its group
        counts.push_back(0);
      }
      ++counts.back();
      group[order[i]] = static_cast<int64_t>(firsts.size()) - 1;
    }
    const int64_t m = static_cast<int64_t>(firsts.size());
    std::vector<int64_t> place(m);  // output position of each group
    std::iota(place.begin(), place.end(), int64_t{0});
    if (!sorted) {
      std::vector<int64_t> by_first(place);
      std::sort(by_first.begin(), by_first.end(), [&](int64_t a, int64_t b) { return firsts[a] < firsts[b]; });
      for (int64_t i = 0; i < m; ++i) place[by_first[i]] = i;
    }
    Shape out = in;
    out[axis] = m;
    args.outputs[0] = Tensor::empty(x.dtype(), out);
    for (int64_t g = 0; g < m; ++g)
      for (int64_t o = 0; o < outer; ++o) copy_block(x, (o * n + firsts[g]) * inner, args.outputs[0], (o * m + place[g]) * inner, inner);
    const auto put = [&](size_t output, int64_t count, const auto& value) {
      if (output >= args.outputs.size()) return;
      args.outputs[output] = Tensor::empty(DType::I64, {count});
      for (int64_t i = 0; i < count; ++i) value(i, args.outputs[output].data<int64_t>());
    };
    put(1, m, [&](int64_t g, int64_t* y) { y[place[g]] = firsts[g]; });
    put(2, n, [&](int64_t i, int64_t* y) { y[i] = place[group[i]]; });
    put(3, m, [&](int64_t g, int64_t* y) { y[place[g]] = counts[g]; });
  };
}

struct Box {
  double y0, x0, y1, x1;
  double area() const { return (y1 - y0) * (x1 - x0); }
};

Box read_box(const double* p, bool center) {
  if (center) return {p[1] - p[3] / 2, p[0] - p[2] / 2, p[1] + p[3] / 2, p[0] + p[2] / 2};
  return {std::min(p[0], p[2]), std::min(p[1], p[3]), std::max(p[0], p[2]), std::max(p[1], p[3])};
}

double intersection_over_union(const Box& a, const Box& b) {
  const double height = std::min(a.y1, b.y1) - std::max(a.y0, b.y0), width = std::min(a.x1, b.x1) - std::max(a.x0, b.x0);
  if (height <= 0 || width <= 0) return 0;
  return height * width / (a.area() + b.area() - height * width);
}

RunFunction prepare_nms(const NodeView& node) {
  const bool center = node.attrs().get_bool("center_point_box", false);
  return [center](const RunArgs& args) {
    const auto has = [&](size_t i) { return args.inputs.size() > i && args.inputs[i].defined() && args.inputs[i].count() > 0; };
    const std::vector<double> boxes = to_doubles(args.inputs[0]), scores = to_doubles(args.inputs[1]);
    const int64_t batches = args.inputs[1].dim(0), classes = args.inputs[1].dim(1), n = args.inputs[1].dim(2);
    const int64_t limit = has(2) ? args.inputs[2].int_at(0) : 0;
    const double iou_limit = has(3) ? args.inputs[3].float_at(0) : 0, score_limit = has(4) ? args.inputs[4].float_at(0) : -INFINITY;
    std::vector<int64_t> picked;
    for (int64_t b = 0; b < batches; ++b)
      for (int64_t c = 0; c < classes; ++c) {
        const double* score = scores.data() + (b * classes + c) * n;
        std::vector<int64_t> order;
        for (int64_t i = 0; i < n; ++i)
          if (score[i] > score_limit) order.push_back(i);
        std::stable_sort(order.begin(), order.end(), [&](int64_t i, int64_t j) { return score[i] > score[j]; });
        std::vector<Box> kept;
        for (int64_t i : order) {
          if (static_cast<int64_t>(kept.size()) >= limit) break;
          const Box box = read_box(boxes.data() + (b * n + i) * 4, center);
          if (std::any_of(kept.begin(), kept.end(), [&](const Box& k) { return intersection_over_union(box, k) > iou_limit; })) continue;
          kept.push_back(box);
          picked.insert(picked.end(), {b, c, i});
        }
      }
    args.outputs[0] = Tensor::of<int64_t>({static_cast<int64_t>(picked.size()) / 3, 3}, picked);
  };
}

}  // namespace

KernelList search_kernels() {
  return {define("topk", prepare_topk), define("nonzero", prepare_nonzero), define("nms", prepare_nms), define("unique", prepare_unique),
          define("compress", prepare_compress)};
}

}  // namespace tokamak::cpu::ref
