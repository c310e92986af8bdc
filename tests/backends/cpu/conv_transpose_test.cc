// Transposed convolutions against a double-precision loop, and resizes against the reference kernel.

#include "one_node.h"

namespace tokamak {
namespace {

using test::OneNode;
using test::random_tensor;

struct Case {
  int64_t n = 1, h = 1, w = 1, c = 1, m = 1, kh = 1, kw = 1;
  ir::Ints strides = {1, 1}, dilations = {1, 1}, pads = {0, 0, 0, 0}, output_padding = {0, 0};
  int64_t group = 1;
  bool nchw = false;
  int64_t out(int axis) const {
    return strides[axis] * ((axis ? w : h) - 1) + output_padding[axis] + ((axis ? kw : kh) - 1) * dilations[axis] + 1 - pads[axis] -
           pads[axis + 2];
  }
};

void check(const Case& k, int threads) {
  const auto shape = [&](int64_t c, int64_t h, int64_t w) { return k.nchw ? Shape{k.n, c, h, w} : Shape{k.n, h, w, c}; };
  const auto at = [&](int64_t channels, int64_t h, int64_t w, int64_t n, int64_t y, int64_t x, int64_t c) {
    return k.nchw ? ((n * channels + c) * h + y) * w + x : ((n * h + y) * w + x) * channels + c;
  };
  const int64_t oh = k.out(0), ow = k.out(1), cg = k.c / k.group, mg = k.m / k.group;
  const Tensor x = random_tensor(shape(k.c, k.h, k.w), 1), w = random_tensor({k.c, mg, k.kh, k.kw}, 2, 0.2f),
               bias = random_tensor({k.m}, 3);
  std::vector<double> expected(k.n * oh * ow * k.m);
  for (int64_t n = 0; n < k.n; ++n)
    for (int64_t m = 0; m < k.m; ++m) {
      for (int64_t y = 0; y < oh; ++y)
        for (int64_t z = 0; z < ow; ++z) expected[at(k.m, oh, ow, n, y, z, m)] = bias.data<float>()[m];
      for (int64_t iy = 0; iy < k.h; ++iy)
        for (int64_t ix = 0; ix < k.w; ++ix)
          for (int64_t i = 0; i < k.kh; ++i)
            for (int64_t j = 0; j < k.kw; ++j) {
              const int64_t y = iy * k.strides[0] + i * k.dilations[0] - k.pads[0], z = ix * k.strides[1] + j * k.dilations[1] - k.pads[1];
              if (y < 0 || y >= oh || z < 0 || z >= ow) continue;
              for (int64_t c = m / mg * cg; c < (m / mg + 1) * cg; ++c)
                expected[at(k.m, oh, ow, n, y, z, m)] += static_cast<double>(x.data<float>()[at(k.c, k.h, k.w, n, iy, ix, c)]) *
                                                         w.data<float>()[((c * mg + m % mg) * k.kh + i) * k.kw + j];
            }
    }
  int ran = 0;
  for (const KernelDef* def : cpu::kernels_for("conv_transpose")) {
    if (def->name().substr(0, 4) == "ref.") continue;
    OneNode node({x, w, bias}, {false, true, false},
                 {{"strides", k.strides},
                  {"dilations", k.dilations},
                  {"pads", k.pads},
                  {"output_padding", k.output_padding},
                  {"group", k.group},
                  {"layout", std::string(k.nchw ? "NCHW" : "NHWC")}},
                 shape(k.m, oh, ow), threads);
    if (test::lacks_instructions(*def, node.view())) continue;
    node.prepare(*def, "");
    test::expect_close(node.run(), expected, 1e-4, 1e-5, fmt::format("{} {}x{}x{}", def->name(), k.h, k.w, k.c));
    EXPECT_TRUE(node.guard_intact());
    ++ran;
  }
  EXPECT_GT(ran, 0);
}

TEST(ConvTranspose, AgainstLoop) {
  for (const bool nchw : {false, true})
    for (int threads : {1, 2}) {
      check({.n = 2, .h = 5, .w = 7, .c = 24, .m = 18, .kh = 2, .kw = 2, .strides = {2, 2}, .nchw = nchw}, threads);
      check({.h = 6,
             .w = 4,
             .c = 8,
             .m = 66,
             .kh = 3,
             .kw = 3,
             .strides = {2, 2},
             .pads = {1, 1, 1, 1},
             .output_padding = {1, 1},
             .nchw = nchw},
            threads);
      check({.h = 5,
             .w = 5,
             .c = 12,
             .m = 6,
             .kh = 4,
             .kw = 3,
             .strides = {3, 1},
             .dilations = {1, 2},
             .pads = {2, 0, 1, 3},
             .group = 3,
             .nchw = nchw},
            threads);
      check({.h = 2, .w = 150, .c = 5, .m = 3, .kh = 1, .kw = 5, .strides = {1, 2}, .nchw = nchw}, threads);
    }
}

TEST(Resize, AgainstReference) {
  for (const char* mode : {"nearest", "linear"})
    for (const char* coordinates :
         {"half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric", "tf_half_pixel_for_nn"})
      for (const char* nearest : {"round_prefer_floor", "round_prefer_ceil", "floor", "ceil"})
        for (const bool last : {false, true})
          for (const auto& [h, w] : {std::pair<int64_t, int64_t>{14, 10}, {3, 13}, {1, 5}, {7, 5}}) {
            const Tensor x = random_tensor(last ? Shape{2, 7, 5, 19} : Shape{2, 19, 7, 5}, 4);
            const Shape y = last ? Shape{2, h, w, 19} : Shape{2, 19, h, w};
            const Tensor sizes = Tensor::of<int64_t>({4}, y);
            const ir::Attrs attrs = {{"mode", std::string(mode)},
                                     {"coordinate_transformation_mode", std::string(coordinates)},
                                     {"nearest_mode", std::string(nearest)},
                                     {"layout", std::string(last ? "NHWC" : "NCHW")}};
            OneNode oracle({x, Tensor(), Tensor(), sizes}, {false, false, false, true}, attrs, y, 1);
            oracle.prepare(*cpu::find_kernel("ref.resize"), "");
            const Tensor& reference = oracle.run();
            const std::vector<double> expected(reference.data<float>(), reference.data<float>() + reference.count());
            int ran = 0;
            for (const KernelDef* def : cpu::kernels_for("resize")) {
              if (def->name() == "ref.resize") continue;
              OneNode node({x, Tensor(), Tensor(), sizes}, {false, false, false, true}, attrs, y, 2);
              if (test::lacks_instructions(*def, node.view())) continue;
              node.prepare(*def, "");
              test::expect_close(node.run(), expected, 1e-5, 1e-5, fmt::format("{} {} {} {}", def->name(), mode, coordinates, nearest));
              ++ran;
            }
            EXPECT_GT(ran, 0);
          }
}

}  // namespace
}  // namespace tokamak
