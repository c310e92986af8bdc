// Pools and reductions over spatial axes against double-precision loops.

#include "one_node.h"

namespace tokamak {
namespace {

using test::OneNode;
using test::random_tensor;

struct Pool {
  int64_t n = 1, h = 1, w = 1, c = 1, kh = 1, kw = 1;
  ir::Ints strides = {1, 1}, dilations = {1, 1}, pads = {0, 0, 0, 0};
  int64_t ceil_mode = 0, include_pad = 0;
  bool nchw = false;
  int64_t out(int axis) const {
    const int64_t size = axis ? w : h, k = axis ? kw : kh, room = size + pads[axis] + pads[axis + 2] - (k - 1) * dilations[axis] - 1;
    int64_t n = (ceil_mode ? (room + strides[axis] - 1) / strides[axis] : room / strides[axis]) + 1;
    if (ceil_mode && (n - 1) * strides[axis] >= size + pads[axis]) --n;
    return n;
  }
};

void check(const Pool& k, bool is_max, int threads) {
  const auto shape = [&](int64_t h, int64_t w) { return k.nchw ? Shape{k.n, k.c, h, w} : Shape{k.n, h, w, k.c}; };
  const auto at = [&](int64_t h, int64_t w, int64_t n, int64_t y, int64_t x, int64_t c) {
    return k.nchw ? ((n * k.c + c) * h + y) * w + x : ((n * h + y) * w + x) * k.c + c;
  };
  const int64_t oh = k.out(0), ow = k.out(1);
  const Tensor x = random_tensor(shape(k.h, k.w), 3);
  std::vector<double> expected(k.n * oh * ow * k.c);
  for (int64_t n = 0; n < k.n; ++n)
    for (int64_t oy = 0; oy < oh; ++oy)
      for (int64_t ox = 0; ox < ow; ++ox)
        for (int64_t c = 0; c < k.c; ++c) {
          double best = -INFINITY, sum = 0;
          int64_t count = 0;
          for (int64_t i = 0; i < k.kh; ++i)
            for (int64_t j = 0; j < k.kw; ++j) {
              const int64_t y = oy * k.strides[0] - k.pads[0] + i * k.dilations[0], z = ox * k.strides[1] - k.pads[1] + j * k.dilations[1];
              const bool inside = y >= 0 && y < k.h && z >= 0 && z < k.w;
              count += inside || (k.include_pad && y < k.h + k.pads[2] && z < k.w + k.pads[3]);
              if (!inside) continue;
              const double v = x.data<float>()[at(k.h, k.w, n, y, z, c)];
              best = std::max(best, v);
              sum += v;
            }
          expected[at(oh, ow, n, oy, ox, c)] = is_max ? best : sum / static_cast<double>(count);
        }
  ir::Attrs attrs = {{"kernel", ir::Ints{k.kh, k.kw}}, {"strides", k.strides},
                     {"dilations", k.dilations},       {"pads", k.pads},
                     {"ceil_mode", k.ceil_mode},       {"layout", std::string(k.nchw ? "NCHW" : "NHWC")}};
  if (!is_max) attrs.set("count_include_pad", k.include_pad);
  int ran = 0;
  for (const KernelDef* def : cpu::kernels_for(is_max ? "max_pool" : "avg_pool")) {
    if (def->name().substr(0, 4) == "ref.") continue;
    OneNode node({x}, {false}, attrs, shape(oh, ow), threads);
    if (!def->supports(node.view())) continue;
    node.prepare(*def, "");
    test::expect_close(node.run(), expected, 1e-5, 1e-6,
                       fmt::format("{} {}x{}x{} k{}x{} {}", def->name(), k.h, k.w, k.c, k.kh, k.kw, k.nchw));
    EXPECT_TRUE(node.guard_intact());
    ++ran;
  }
  EXPECT_GT(ran, 0);
}

TEST(Pool, AgainstLoop) {
  for (const bool is_max : {true, false})
    for (const bool nchw : {false, true})
      for (int64_t c : {1, 16, 58, 131})
        for (int threads : {1, 2}) {
          check(
              {.n = 2, .h = 9, .w = 11, .c = c, .kh = 3, .kw = 3, .strides = {2, 2}, .pads = {1, 1, 1, 1}, .include_pad = 1, .nchw = nchw},
              is_max, threads);
          check({.h = 8, .w = 7, .c = c, .kh = 2, .kw = 3, .strides = {2, 1}, .pads = {0, 1, 1, 0}, .nchw = nchw}, is_max, threads);
          check({.h = 10, .w = 10, .c = c, .kh = 3, .kw = 3, .strides = {2, 2}, .ceil_mode = 1, .include_pad = 1, .nchw = nchw}, is_max,
                threads);
          check({.h = 11, .w = 12, .c = c, .kh = 3, .kw = 2, .strides = {1, 3}, .dilations = {2, 3}, .pads = {2, 1, 0, 1}, .nchw = nchw},
                is_max, threads);
        }
}

TEST(ReduceSpatial, AgainstLoop) {
  for (const char* op : {"reduce_mean", "reduce_sum", "reduce_max"})
    for (int64_t c : {1, 17, 64, 300})
      for (int64_t rows : {1, 7, 200}) {
        const Tensor x = random_tensor({2, rows, 3, c}, 5);
        std::vector<double> expected(2 * c);
        for (int64_t n = 0; n < 2; ++n)
          for (int64_t k = 0; k < c; ++k) {
            double sum = 0, best = -INFINITY;
            for (int64_t r = 0; r < rows * 3; ++r) {
              const double v = x.data<float>()[(n * rows * 3 + r) * c + k];
              sum += v;
              best = std::max(best, v);
            }
            expected[n * c + k] = std::string(op) == "reduce_max"   ? best
                                  : std::string(op) == "reduce_sum" ? sum
                                                                    : sum / static_cast<double>(rows * 3);
          }
        int ran = 0;
        for (const KernelDef* def : cpu::kernels_for(op)) {
          if (def->name().find("spatial") == std::string::npos) continue;
          OneNode node({x}, {false}, {{"axes", ir::Ints{1, 2}}, {"keepdims", int64_t{0}}}, {2, c}, 2);
          if (test::lacks_instructions(*def, node.view())) continue;
          node.prepare(*def, "");
          test::expect_close(node.run(), expected, 1e-5, 1e-5, std::string(def->name()));
          ++ran;
        }
        EXPECT_GT(ran, 0);
      }
}

}  // namespace
}  // namespace tokamak
