// max_pool, avg_pool and lp_pool.

#include <limits>

#include "backends/cpu/kernels/ref/window.h"

namespace tokamak::cpu::ref {
namespace {

// Calls cell(n, c, d, h, w) for every output position.
template <class Cell>
void for_each_output(const Planes& out, const Cell& cell) {
  for (int64_t n = 0; n < out.batch; ++n)
    for (int64_t c = 0; c < out.channels; ++c)
      for (int64_t d = 0; d < out.size[0]; ++d)
        for (int64_t h = 0; h < out.size[1]; ++h)
          for (int64_t w = 0; w < out.size[2]; ++w) cell(n, c, d, h, w);
}

// Calls tap(d, h, w, inside) for every window element of output (od, oh, ow) that is inside the padded input; `inside` when it is real
// input.
template <class Tap>
void for_each_tap(const Window& window, const Planes& in, int64_t od, int64_t oh, int64_t ow, const Tap& tap) {
  const Triple o{od, oh, ow};
  for (int64_t kd = 0; kd < window.kernel[0]; ++kd)
    for (int64_t kh = 0; kh < window.kernel[1]; ++kh)
      for (int64_t kw = 0; kw < window.kernel[2]; ++kw) {
        const Triple k{kd, kh, kw};
        Triple at;
        bool padded = true, inside = true;
        for (int s = 0; s < 3; ++s) {
          at[s] = o[s] * window.stride[s] + k[s] * window.dilation[s] - window.pad_begin[s];
          inside &= at[s] >= 0 && at[s] < in.size[s];
          padded &= at[s] < in.size[s] + window.pad_end[s];
        }
        if (padded) tap(at[0], at[1], at[2], inside);
      }
}

RunFunction prepare_max_pool(const NodeView& node) {
  const Planes in(node.input_shapes[0], is_channels_last(node)), out(node.output_shapes[0], is_channels_last(node));
  const Window window(node, node.attrs().get_ints("kernel"), in, out);
  const bool column_major = node.attrs().get_int("storage_order", 0) != 0;
  return [=](const RunArgs& args) {
    int64_t* indices = args.outputs.size() > 1 && args.outputs[1].defined() ? args.outputs[1].data<int64_t>() : nullptr;
    visit_number(args.inputs[0].dtype(), "max_pool", [&](auto tag) {
      using T = typename decltype(tag)::type;
      using W = Compute<T>;
      const T* x = args.inputs[0].data<T>();
      for_each_output(out, [&](int64_t n, int64_t c, int64_t od, int64_t oh, int64_t ow) {
        W best = kIsFloat<T> ? -std::numeric_limits<W>::infinity() : std::numeric_limits<W>::lowest();
        int64_t where = -1;
        for_each_tap(window, in, od, oh, ow, [&](int64_t d, int64_t h, int64_t w, bool inside) {
          if (!inside) return;
          const W v = static_cast<W>(x[in.at(n, c, d, h, w)]);
          if (where >= 0 && !(v > best)) return;
          best = v;
          const int64_t position = column_major ? (w * in.size[1] + h) * in.size[0] + d : (d * in.size[1] + h) * in.size[2] + w;
          where = (n * in.channels + c) * in.area() + position;
        });
        const int64_t o = out.at(n, c, od, oh, ow);
        args.outputs[0].data<T>()[o] = static_cast<T>(best);
        if (indices) indices[o] = where;
      });
    });
  };
}

RunFunction prepare_avg_pool(const NodeView& node) {
  const Planes in(node.input_shapes[0], is_channels_last(node)), out(node.output_shapes[0], is_channels_last(node));
  const Window window(node, node.attrs().get_ints("kernel"), in, out);
  const bool include_pad = node.attrs().get_bool("count_include_pad", false);
  return [=](const RunArgs& args) {
    visit_float(args.inputs[0].dtype(), "avg_pool", [&](auto tag) {
      using T = typename decltype(tag)::type;
      const T* x = args.inputs[0].data<T>();
      for_each_output(out, [&](int64_t n, int64_t c, int64_t od, int64_t oh, int64_t ow) {
        double sum = 0;
        int64_t count = 0;
        for_each_tap(window, in, od, oh, ow, [&](int64_t d, int64_t h, int64_t w, bool inside) {
          if (inside) sum += load_double(x[in.at(n, c, d, h, w)]);
          count += inside || include_pad;
        });
        args.outputs[0].data<T>()[out.at(n, c, od, oh, ow)] = store<T>(count == 0 ? 0 : sum / static_cast<double>(count));
      });
    });
  };
}

RunFunction prepare_lp_pool(const NodeView& node) {
  const Planes in(node.input_shapes[0], is_channels_last(node)), out(node.output_shapes[0], is_channels_last(node));
  const Window window(node, node.attrs().get_ints("kernel"), in, out);
  const double p = static_cast<double>(node.attrs().get_int("p", 2));
  return [=](const RunArgs& args) {
    visit_float(args.inputs[0].dtype(), "lp_pool", [&](auto tag) {
      using T = typename decltype(tag)::type;
      const T* x = args.inputs[0].data<T>();
      for_each_output(out, [&](int64_t n, int64_t c, int64_t od, int64_t oh, int64_t ow) {
        double sum = 0;
        for_each_tap(window, in, od, oh, ow, [&](int64_t d, int64_t h, int64_t w, bool inside) {
          if (inside) sum += std::pow(std::fabs(load_double(x[in.at(n, c, d, h, w)])), p);
        });
        args.outputs[0].data<T>()[out.at(n, c, od, oh, ow)] = store<T>(std::pow(sum, 1 / p));
      });
    });
  };
}

}  // namespace

KernelList pool_kernels() {
  return {define("max_pool", prepare_max_pool), define("avg_pool", prepare_avg_pool), define("lp_pool", prepare_lp_pool)};
}

}  // namespace tokamak::cpu::ref
