// While a kernel's last loads are under way the memory would idle: until its blocks have added up, and the next kernel's have found their
// places and asked. So the last blocks of a kernel that reads weights ask for the first of the next one's.
#pragma once
#include "prelude.cuh"

// kernels/linear.h: NextConstant.
struct NextConstant {
  const char* from;  // 16-byte aligned
  int bytes;         // 0: none
  int first_block;   // the blocks from here on ask for equal parts
};

// This block's part to the L2 cache: a hint that nothing waits for. By one thread.
DEVICE void prefetch_next(const NextConstant& next) {
#if TOKAMAK_ARCH >= 90
  const int block = int(blockIdx.x) - next.first_block;
  if (next.bytes == 0 || block < 0) return;
  constexpr int kMost = 64 << 10;
  const int part = min(next.bytes / (int(gridDim.x) - next.first_block) / 128 * 128, kMost);
  if (part > 0) asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(next.from + int64_t(block) * part), "r"(part) : "memory");
#endif
}
