// Every convolution kernel against a double-precision loop.

#include <functional>

#include "one_node.h"

namespace tokamak {
namespace {

using test::OneNode;
using test::random_tensor;

struct Case {
  int64_t n = 1, h = 1, w = 1, c = 1, m = 1, kh = 1, kw = 1;
  ir::Ints strides = {1, 1}, dilations = {1, 1}, pads = {0, 0, 0, 0};
  int64_t group = 1;
  bool nchw = false;
  std::string auto_pad = "NOTSET";

  int64_t out(int axis) const {
    const int64_t size = axis == 0 ? h : w, k = axis == 0 ? kh : kw;
    if (auto_pad != "NOTSET") return (size + strides[axis] - 1) / strides[axis];
    return (size + pads[axis] + pads[axis + 2] - (k - 1) * dilations[axis] - 1) / strides[axis] + 1;
  }
  int64_t pad_begin(int axis) const {
    if (auto_pad == "NOTSET") return pads[axis];
    const int64_t size = axis == 0 ? h : w, k = axis == 0 ? kh : kw;
    const int64_t total = std::max<int64_t>(0, (out(axis) - 1) * strides[axis] + (k - 1) * dilations[axis] + 1 - size);
    return auto_pad == "SAME_UPPER" ? total / 2 : total - total / 2;
  }
  std::string text() const {
    return fmt::format("n{} {}x{}x{} -> {} k{}x{} s{}{} d{}{} p{}{}{}{} g{} {} {}", n, h, w, c, m, kh, kw, strides[0], strides[1],
                       dilations[0], dilations[1], pads[0], pads[1], pads[2], pads[3], group, auto_pad, nchw ? "NCHW" : "NHWC");
  }
};

// Where logical element (n, y, x, c) lies.
int64_t at(const Case& k, int64_t h, int64_t w, int64_t channels, int64_t n, int64_t y, int64_t x, int64_t c) {
  return k.nchw ? ((n * channels + c) * h + y) * w + x : ((n * h + y) * w + x) * channels + c;
}

std::vector<double> oracle(const Case& k, const Tensor& x, const Tensor& w, const Tensor& bias,
                           const std::function<double(double, int64_t element, int64_t column)>& epilogue) {
  const int64_t oh = k.out(0), ow = k.out(1), cg = k.c / k.group, mg = k.m / k.group;
  std::vector<double> y(k.n * oh * ow * k.m);
  for (int64_t n = 0; n < k.n; ++n)
    for (int64_t oy = 0; oy < oh; ++oy)
      for (int64_t ox = 0; ox < ow; ++ox)
        for (int64_t m = 0; m < k.m; ++m) {
          double sum = bias.defined() ? bias.data<float>()[m] : 0;
          for (int64_t i = 0; i < k.kh; ++i)
            for (int64_t j = 0; j < k.kw; ++j) {
              const int64_t iy = oy * k.strides[0] - k.pad_begin(0) + i * k.dilations[0],
                            ix = ox * k.strides[1] - k.pad_begin(1) + j * k.dilations[1];
              if (iy < 0 || iy >= k.h || ix < 0 || ix >= k.w) continue;
              for (int64_t c = 0; c < cg; ++c)
                sum += static_cast<double>(x.data<float>()[at(k, k.h, k.w, k.c, n, iy, ix, m / mg * cg + c)]) *
                       w.data<float>()[((m * cg + c) * k.kh + i) * k.kw + j];
            }
          const int64_t element = at(k, oh, ow, k.m, n, oy, ox, m);
          y[element] = epilogue ? epilogue(sum, element, m) : sum;
        }
  return y;
}

struct Epilogue {
  std::string text;
  std::vector<Tensor> inputs;
  std::function<double(double, int64_t, int64_t)> meaning;
};

// Runs every kernel that accepts the node, with every tactic. Returns how many ran.
int check(const Case& k, int threads = 1, const Epilogue& epilogue = {}, bool with_bias = true, unsigned seed = 1) {
  const Shape x_shape = k.nchw ? Shape{k.n, k.c, k.h, k.w} : Shape{k.n, k.h, k.w, k.c};
  const Shape y_shape = k.nchw ? Shape{k.n, k.m, k.out(0), k.out(1)} : Shape{k.n, k.out(0), k.out(1), k.m};
  const Tensor x = random_tensor(x_shape, seed),
               w = random_tensor({k.m, k.c / k.group, k.kh, k.kw}, seed + 1, 1 / std::sqrt(float(k.kh * k.kw * k.c / k.group)));
  const Tensor bias = with_bias ? random_tensor({k.m}, seed + 2) : Tensor();
  ir::Attrs attrs = {
      {"strides", k.strides}, {"dilations", k.dilations}, {"group", k.group}, {"layout", std::string(k.nchw ? "NCHW" : "NHWC")}};
  if (k.auto_pad == "NOTSET") attrs.set("pads", k.pads);
  else attrs.set("auto_pad", k.auto_pad);
  std::vector<Tensor> inputs = {x, w, bias};
  if (!epilogue.text.empty()) {
    attrs.set("epilogue", epilogue.text);
    attrs.set("epilogue_input", int64_t{3});
    inputs.insert(inputs.end(), epilogue.inputs.begin(), epilogue.inputs.end());
  }
  std::vector<bool> constant(inputs.size(), false);
  constant[1] = true;
  const std::vector<double> expected = oracle(k, x, w, bias, epilogue.meaning);
  int ran = 0;
  for (const KernelDef* def : cpu::kernels_for("conv")) {
    if (def->name().substr(0, 4) == "ref.") continue;
    OneNode probe(inputs, constant, attrs, y_shape, threads);
    if (!def->supports(probe.view())) continue;
    for (const std::string& tactic : def->tactics(probe.view())) {
      OneNode node(inputs, constant, attrs, y_shape, threads);
      node.prepare(*def, tactic);
      node.run();
      const std::string what = fmt::format("{} [{}] {} epilogue \"{}\" threads {}", def->name(), tactic, k.text(), epilogue.text, threads);
      test::expect_close(node.run(), expected, 1e-3, 1e-4, what);
      EXPECT_TRUE(node.guard_intact()) << what;
      ++ran;
    }
  }
  return ran;
}

TEST(Conv, OneByOne) {
  for (int64_t c : {1, 3, 17, 64})
    for (int64_t m : {1, 16, 58, 130}) EXPECT_GT(check({.n = 2, .h = 5, .w = 7, .c = c, .m = m}), 0);
  check({.h = 9, .w = 9, .c = 24, .m = 40, .strides = {2, 2}});
  check({.h = 40, .w = 40, .c = 500, .m = 20}, 2);  // several blocks of rows and of K
  check({.h = 7, .w = 7, .c = 1000, .m = 200}, 2);  // threads split the panels
}

TEST(Conv, ThreeByThree) {
  for (int64_t size : {1, 2, 3, 4, 5, 8, 13, 17})
    for (int64_t c : {1, 16, 19})
      for (int64_t m : {3, 33}) check({.h = size, .w = 18 - size, .c = c, .m = m, .kh = 3, .kw = 3, .pads = {1, 1, 1, 1}});
  check({.n = 3, .h = 7, .w = 9, .c = 32, .m = 48, .kh = 3, .kw = 3, .pads = {0, 2, 1, 0}}, 2);
  check({.h = 14, .w = 14, .c = 512, .m = 70, .kh = 3, .kw = 3, .pads = {1, 1, 1, 1}}, 2);
  check({.h = 30, .w = 31, .c = 64, .m = 64, .kh = 3, .kw = 3, .pads = {1, 1, 1, 1}}, 2);
}

TEST(Conv, StridesPadsDilationsGroups) {
  unsigned seed = 10;
  for (int64_t stride : {1, 2, 3})
    for (int64_t dilation : {1, 2})
      for (int64_t group : {1, 2, 4}) {
        check({.n = 2,
               .h = 13,
               .w = 11,
               .c = 12,
               .m = 20,
               .kh = 3,
               .kw = 2,
               .strides = {stride, 4 - stride},
               .dilations = {dilation, 1},
               .pads = {1, 0, 2, 1},
               .group = group},
              1, {}, true, ++seed);
        check({.h = 12,
               .w = 17,
               .c = 8,
               .m = 72,
               .kh = 1,
               .kw = 5,
               .strides = {1, stride},
               .dilations = {1, dilation},
               .pads = {0, 3, 0, 4},
               .group = group},
              2, {}, false, ++seed);
      }
  check({.h = 30, .w = 29, .c = 3, .m = 24, .kh = 7, .kw = 7, .strides = {2, 2}, .pads = {3, 3, 3, 3}}, 2);
  check({.h = 10, .w = 9, .c = 6, .m = 10, .kh = 3, .kw = 3, .strides = {2, 2}, .auto_pad = "SAME_UPPER"});
  check({.h = 10, .w = 9, .c = 6, .m = 10, .kh = 4, .kw = 2, .strides = {1, 2}, .auto_pad = "SAME_LOWER"});
}

TEST(Conv, Depthwise) {
  unsigned seed = 50;
  for (int64_t k : {1, 2, 3, 5, 7})
    for (int64_t stride : {1, 2, 3})
      for (int64_t c : {2, 16, 58}) {
        const int64_t pad = k / 2;
        EXPECT_GT(check({.n = 2,
                         .h = 9,
                         .w = 15,
                         .c = c,
                         .m = c,
                         .kh = k,
                         .kw = k,
                         .strides = {stride, stride},
                         .pads = {pad, pad, pad, pad},
                         .group = c},
                        1 + c % 2, {}, true, ++seed),
                  0);
        check({.h = k, .w = k + 1, .c = c, .m = c, .kh = k, .kw = k, .strides = {stride, stride}, .pads = {pad, 0, 0, k - 1}, .group = c},
              2, {}, false, ++seed);
      }
  check({.h = 11, .w = 12, .c = 20, .m = 20, .kh = 3, .kw = 3, .dilations = {2, 2}, .pads = {2, 2, 2, 2}, .group = 20});
}

TEST(Conv, Nchw) {
  EXPECT_GT(check({.n = 2, .h = 6, .w = 7, .c = 19, .m = 21, .kh = 3, .kw = 3, .pads = {1, 1, 1, 1}, .nchw = true}, 2), 0);
  check({.h = 17, .w = 18, .c = 20, .m = 20, .kh = 5, .kw = 5, .strides = {2, 2}, .pads = {2, 2, 2, 2}, .group = 20, .nchw = true});
}

TEST(Conv, Epilogues) {
  for (const bool nchw : {false, true})
    for (const Case& k :
         {Case{.n = 2, .h = 6, .w = 9, .c = 18, .m = 37, .kh = 3, .kw = 3, .pads = {1, 1, 1, 1}, .nchw = nchw},
          Case{.n = 2, .h = 5, .w = 8, .c = 420, .m = 37, .nchw = nchw},
          Case{.n = 2, .h = 6, .w = 9, .c = 37, .m = 37, .kh = 3, .kw = 3, .pads = {1, 1, 1, 1}, .group = 37, .nchw = nchw}}) {
      const Shape full_shape = nchw ? Shape{2, 37, k.h, k.w} : Shape{2, k.h, k.w, 37};
      const Tensor column = random_tensor(nchw ? Shape{37, 1, 1} : Shape{37}, 7), full = random_tensor(full_shape, 8);
      const Tensor gate = random_tensor(nchw ? Shape{2, 37, 1, 1} : Shape{2, 1, 1, 37}, 9),
                   plane = random_tensor(nchw ? Shape{k.h, k.w} : Shape{k.h, k.w, 1}, 11);
      const auto f = [](const Tensor& t) { return t.data<float>(); };
      const int64_t image = k.h * k.w * 37;
      const std::vector<Epilogue> list = {
          {"t0 = relu(i0); ret t0", {}, [](double v, int64_t, int64_t) { return std::max(v, 0.0); }},
          {"t0 = add(i0, i1); t1 = relu(t0); ret t1", {full}, [&](double v, int64_t e, int64_t) { return std::max(v + f(full)[e], 0.0); }},
          {"t0 = add(i0, i1); ret t0", {column}, [&](double v, int64_t, int64_t c) { return v + f(column)[c]; }},
          {"t0 = relu(i0); t1 = add(t0, i1); ret t1", {full}, [&](double v, int64_t e, int64_t) { return std::max(v, 0.0) + f(full)[e]; }},
          {"t0 = clip(i0, 0, 6); ret t0", {}, [](double v, int64_t, int64_t) { return std::clamp(v, 0.0, 6.0); }},
          {"t0 = hard_swish(i0); ret t0", {}, [](double v, int64_t, int64_t) { return v * std::clamp(v / 6 + 0.5, 0.0, 1.0); }},
          {"t0 = silu(i0); ret t0", {}, [](double v, int64_t, int64_t) { return v / (1 + std::exp(-v)); }},
          {"t0 = sigmoid(i0); t1 = mul(t0, i1); t2 = add(t1, i2); ret t2",
           {column, full},
           [&](double v, int64_t e, int64_t c) { return f(column)[c] / (1 + std::exp(-v)) + f(full)[e]; }},
          {"t0 = mul(i0, i1); t1 = tanh(t0); ret t1",
           {gate},
           [&](double v, int64_t e, int64_t c) { return std::tanh(v * f(gate)[e / image * 37 + c]); }},
          {"t0 = mul(i0, i1); ret t0",
           {plane},
           [&](double v, int64_t e, int64_t) { return v * f(plane)[nchw ? e % (k.h * k.w) : e / 37 % (k.h * k.w)]; }},
      };
      for (const Epilogue& epilogue : list)
        for (int threads : {1, 2}) EXPECT_GT(check(k, threads, epilogue), 0);
    }
}

}  // namespace
}  // namespace tokamak
