#ifdef TOKAMAK_CUDA
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/backends/cuda/check_kernels.h"

namespace tokamak::test {
namespace {

void check(const std::string& type, const std::string& sizes, const std::string& attrs) {
  check_cuda_kernels({fmt::format("graph main(%x: {}) {{ %s = const i64[{}] {{{}}} %y = resize(%x, _, _, %s) {{{}}} return %y }}", type,
                                  std::count(sizes.begin(), sizes.end(), ',') + 1, sizes, attrs)});
}

TEST(CudaResize, Modes) {
  for (const char* dtype : {"f32", "f16"})
    for (const char* mode : {"nearest", "linear", "cubic"}) {
      check(fmt::format("{}[1,2,5,7]", dtype), "1,2,11,9", fmt::format("mode=\"{}\"", mode));
      check(fmt::format("{}[2,6,8,16]", dtype), "2,12,16,16",
            fmt::format("mode=\"{}\", coordinate_transformation_mode=\"asymmetric\"", mode));
    }
  check("u8[1,1,6,6]", "1,1,9,4", "mode=\"linear\"");
  check("i32[1,1,6,6]", "1,1,9,4", "mode=\"cubic\"");
  check("f64[4,6]", "7,3", "mode=\"linear\"");
}

TEST(CudaResize, Coordinates) {
  for (const char* coordinates : {"half_pixel", "align_corners", "pytorch_half_pixel", "tf_half_pixel_for_nn", "half_pixel_symmetric"})
    check("f32[1,2,5,7]", "1,2,8,4", fmt::format("mode=\"linear\", coordinate_transformation_mode=\"{}\"", coordinates));
  for (const char* nearest : {"floor", "ceil", "round_prefer_ceil"})
    check("i64[1,1,5,7]", "1,1,7,13", fmt::format("nearest_mode=\"{}\"", nearest));
  check("f32[1,1,9,9]", "1,1,4,5", "mode=\"cubic\", antialias=1");
  check("f32[1,1,5,5]", "1,1,8,7", "mode=\"cubic\", exclude_outside=1");
  check("f32[2,3,4]", "2,7,6", "mode=\"linear\"");
  check_cuda_kernels(
      {"graph main(%x: f32[1,1,6,6]) { %r = const f32[8] {0,0,-0.3,0.1,1,1,0.8,1.2} %s = const i64[4] {1,1,5,5} "
       "%y = resize(%x, %r, _, %s) {mode=\"linear\", coordinate_transformation_mode=\"tf_crop_and_resize\", extrapolation_value=7.5} "
       "return %y }"});
  check_cuda_kernels(
      {"graph main(%x: f32[1,2,4,4]) { %s = const f32[2] {2.5,0.6} %y = resize(%x, _, %s) {mode=\"linear\", axes=[2,3]} return %y }"});
}

}  // namespace
}  // namespace tokamak::test
#endif
