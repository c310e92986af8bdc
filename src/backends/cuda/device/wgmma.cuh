// Warpgroup products of 16-bit floats (sm_90a): operands in shared memory, sums in registers, asynchronous. PTX ISA: "wgmma.mma_async".
#pragma once
#include "mma.cuh"

#if TOKAMAK_ARCH == 90
// Describes operand rows of 128 bytes along k, 16-byte chunks exchanged as chunk ^ (row % 8) ("128-byte swizzle"): groups of 8 rows are
// 1024 bytes apart. `address` is that of a first row divisible by 1024, plus the bytes to the first k.
DEVICE uint64_t operand_descriptor(uint32_t address) {
  return uint64_t((address & 0x3ffff) >> 4) | uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}

// Registers of the sums may have been written by ordinary instructions; before the first product of a batch.
DEVICE void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until at most kPending of the latest batches are under way.
template <int kPending>
DEVICE void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Keeps the compiler from reading sums before a wait.
DEVICE void keep_in_place(float& x) { asm volatile("" : "+f"(x)::"memory"); }

// What this thread wrote to shared memory is seen by products (and bulk copies) that start behind a barrier.
DEVICE void fence_shared_for_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
#else
DEVICE void fence_shared_for_products() {}
#endif
