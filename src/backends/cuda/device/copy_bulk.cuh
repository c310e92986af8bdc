// Boxes of tensors that the copy engine brings to shared memory (sm_90 and newer), and the barriers in shared memory that it reports to.
// PTX ISA: "mbarrier", "cp.async.bulk.tensor".
#pragma once
#include "mma.cuh"

// A CUtensorMap. Kernels take it as `const __grid_constant__ TensorMap`.
struct alignas(64) TensorMap {
  uint64_t words[16];
};

#if TOKAMAK_ARCH >= 90
// `arrivals` end a phase, once the bytes expected in it are there. Phases are numbered from 0; a wait names the parity of one of the two
// latest. By one thread, then barrier_init_done() and the block's barrier.
DEVICE void barrier_init(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
DEVICE void barrier_init_done() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEVICE void barrier_arrive(uint32_t barrier) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory"); }
DEVICE void barrier_arrive_expecting(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
DEVICE bool barrier_try_wait(uint32_t barrier, int parity) {
  uint32_t done;
  asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
               : "=r"(done)
               : "r"(barrier), "r"(parity)
               : "memory");
  return done != 0;
}
// Until the phase of that parity is over.
DEVICE void barrier_wait(uint32_t barrier, int parity) {
  while (!barrier_try_wait(barrier, parity)) {
  }
}

// Ahead of the first copy: maps are read from memory too.
DEVICE void prefetch_map(const TensorMap& map) { asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory"); }
// `bytes` that lie together; both addresses and the size are multiples of 16.
DEVICE void copy_bytes(uint32_t to, const void* from, int bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from), "r"(bytes),
               "r"(barrier)
               : "memory");
}
// The same to every block of the cluster whose bit `blocks` has, at the same place in its shared memory; each one's barrier there is told.
DEVICE void copy_bytes_to(uint16_t blocks, uint32_t to, const void* from, int bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], %4;" ::"r"(to),
               "l"(from), "r"(bytes), "r"(barrier), "h"(blocks)
               : "memory");
}
// Of another block, by the barrier's mapped address; orders nothing but what the copy engine and products do with shared memory (release by
// the cluster would be a fence of all memory).
DEVICE void barrier_arrive_at(uint32_t mapped) { asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(mapped) : "memory"); }
// The map's box at these coordinates, the innermost first. `to` is aligned to 128 bytes, to 1024 when the map swizzles.
DEVICE void copy_box(uint32_t to, const TensorMap& map, int x, int y, uint32_t barrier) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(to),
               "l"(&map), "r"(barrier), "r"(x), "r"(y)
               : "memory");
}
DEVICE void copy_box(uint32_t to, const TensorMap& map, int x, int y, int z, int w, uint32_t barrier) {
  asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(to),
               "l"(&map), "r"(barrier), "r"(x), "r"(y), "r"(z), "r"(w)
               : "memory");
}
#endif
