// gather: rows of x at indices, UNIT (1 to 16 bytes) at a time. Sizes are arguments: every number of rows shares the code. Unit u of row t
// is unit u of x's row (t / count) * bound + index[t % count]. INDEX: i32 or i64 indices; WIDE: 64-bit arithmetic.
#include "elementwise.cuh"

struct Gather {
  const UNIT* x;
  const INDEX* indices;
  UNIT* y;
  int64_t total, bound;  // units of y; rows of x in one outer slice
  Divider units, count;  // of a row; indices
};

extern "C" __global__ void __launch_bounds__(256) gather(const __grid_constant__ Gather a) {
  wait_with_next();
  const WIDE i = WIDE(blockIdx.x) * 256 + WIDE(threadIdx.x);
  if (i >= WIDE(a.total)) return;
  const WIDE row = divide(i, a.units), unit = i - row * WIDE(a.units.divisor);
  const WIDE outer = divide(row, a.count), at = row - outer * WIDE(a.count.divisor);
  int64_t index = a.indices[at];
  if (index < 0) index += a.bound;
  index = index < 0 ? 0 : index >= a.bound ? a.bound - 1 : index;
  a.y[i] = a.x[(outer * WIDE(a.bound) + WIDE(index)) * WIDE(a.units.divisor) + unit];
}
