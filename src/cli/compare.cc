#include "cli/compare.h"

#include <algorithm>
#include <cmath>

namespace tokamak::cli {

Difference compare_tensors(const Tensor& got, const Tensor& want, const Tolerance& tolerance) {
  Difference d;
  const auto differs = [&](std::string message) {
    if (d.same) d.message = std::move(message);
    d.same = false;
  };
  if (got.shape() != want.shape()) {
    differs(fmt::format("shape {} where {} is expected", to_string(got.shape()), to_string(want.shape())));
    return d;
  }
  if (got.dtype() != want.dtype()) {
    differs(fmt::format("type {} where {} is expected", to_string(got.dtype()), to_string(want.dtype())));
    return d;
  }
  int64_t outside = 0;
  for (int64_t i = 0; i < want.count(); ++i) {
    if (want.dtype() == DType::String) {
      if (got.strings()[i] != want.strings()[i])
        differs(fmt::format("element {} is '{}' where '{}' is expected", i, got.strings()[i], want.strings()[i]));
      continue;
    }
    // 64-bit integers past 2^53 would lose their difference as doubles.
    if (is_integer(want.dtype()) && got.int_at(i) == want.int_at(i)) continue;
    const double g = got.float_at(i), w = want.float_at(i);
    if ((std::isnan(g) && std::isnan(w)) || g == w) {
      if (!is_integer(want.dtype())) continue;
    }
    const double error = is_integer(want.dtype()) ? std::max(std::abs(g - w), 1.0) : std::abs(g - w);
    const bool finite = std::isfinite(g) && std::isfinite(w);
    if (finite) {
      d.max_abs_error = std::max(d.max_abs_error, error);
      if (w != 0) d.max_rel_error = std::max(d.max_rel_error, error / std::abs(w));
    }
    if (!finite || error > tolerance.atol + tolerance.rtol * std::abs(w)) {
      ++outside;
      differs(fmt::format("element {} is {} where {} is expected", i, g, w));
    }
  }
  if (outside > 1)
    d.message += fmt::format(" ({} of {} elements outside rtol {} atol {})", outside, want.count(), tolerance.rtol, tolerance.atol);
  return d;
}

}  // namespace tokamak::cli
