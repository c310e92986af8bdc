// y = epilogue(gate(p_gate) * p_up): rows of p have eight columns of the gate, eight of up, and so on. Floor: one read of p, one write of
// y.
//   P_ELEMENT, Y_ELEMENT; COLUMNS of y, a multiple of 8; GATE_FUNCTION
#include "epilogue.cuh"

constexpr int kEights = COLUMNS / 8;

extern "C" __global__ void __launch_bounds__(256) gate(const P_ELEMENT* p, Y_ELEMENT* y, int64_t count, Extras extras) {
  wait_with_next();
  const int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (i >= count) return;
  float value[8], up[8];
  load_floats<8>(p + i * 16, value);
  load_floats<8>(p + i * 16 + 8, up);
#pragma unroll
  for (int k = 0; k < 8; ++k) value[k] = GATE_FUNCTION(value[k]) * up[k];
  epilogue<8>(value, i / kEights, i % kEights * 8, extras);
  store_floats<8>(y + i * 8, value);
}
