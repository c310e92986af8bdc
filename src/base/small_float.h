#pragma once
// Eight- and four-bit floats of ONNX (float8 OCP and FNUZ forms, E8M0 scales, FP4 E2M1): by value, for reference kernels and tests.

#include <cstdint>

#include "base/dtype.h"

namespace tokamak {

// The value of one code. Throws InvalidArgument when `dtype` is not a small float.
float small_float_to_float(DType dtype, uint8_t bits);

// Round to nearest even; values past the largest finite one become it when `saturate`, else NaN or infinity, whichever the format has.
uint8_t float_to_small_float(DType dtype, float value, bool saturate = true);

}  // namespace tokamak
