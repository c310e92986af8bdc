// Tensor core products of 16-bit floats (sm_80 and newer): asynchronous copies, ldmatrix, mma.sync; clusters (sm_90 and newer).
// PTX ISA: "cp.async", "ldmatrix", "mma.m16n8k16", "barrier.cluster", "mapa".
#pragma once
#include "prelude.cuh"

DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// 16 bytes to shared memory; zeros when not valid (`from` is not read then).
DEVICE void copy_async_16(uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
DEVICE void copy_async_8(uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to), "l"(from), "r"(valid ? 8 : 0) : "memory");
}
DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most kPending of this thread's latest groups are under way.
template <int kPending>
DEVICE void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8.
DEVICE void load_matrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
DEVICE void load_matrices_transposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// d[16, 8] += a[16, 16] b[16, 8].
DEVICE void mma_16x8x16(f16, float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
DEVICE void mma_16x8x16(bf16, float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#if TOKAMAK_ARCH >= 90
// A barrier of all threads of the cluster; shared memory written before it is seen after it by every block.
DEVICE void cluster_barrier() {
  asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// Until all threads of the cluster are here; what they wrote is not seen for it.
DEVICE void cluster_meet() {
  __syncwarp();
  asm volatile("barrier.cluster.arrive.relaxed.aligned;\n\tbarrier.cluster.wait.aligned;" ::: "memory");
}
// A barrier's halves that order no memory, so that none is waited for: behind cluster_wait() every block of the cluster has started. A
// thread waits between two arrivals.
DEVICE void cluster_arrive() {
  __syncwarp();
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
DEVICE void cluster_wait() {
  __syncwarp();
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// `address` of this block's shared memory, in block `rank` of the cluster.
DEVICE uint32_t cluster_address(uint32_t address, uint32_t rank) {
  uint32_t mapped;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mapped) : "r"(address), "r"(rank));
  return mapped;
}
DEVICE float cluster_load(uint32_t address) {
  float x;
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(x) : "r"(address) : "memory");
  return x;
}
DEVICE void cluster_load(uint32_t address, float (&x)[4]) {
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(x[0]), "=f"(x[1]), "=f"(x[2]), "=f"(x[3])
               : "r"(address)
               : "memory");
}
// Neighbouring floats at `address` of this block's shared memory in kBlocks blocks of the cluster, `first` and every kEvery-th from there,
// added up in their order.
template <int kBlocks, int kEvery = 1, int kCount>
DEVICE void sum_of_cluster(uint32_t address, float (&value)[kCount], uint32_t first = 0) {
  static_assert(kCount == 4 || kCount == 1);
#pragma unroll
  for (int v = 0; v < kCount; ++v) value[v] = 0.f;
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    const uint32_t from = cluster_address(address, first + b * kEvery);
    if constexpr (kCount == 4) {
      float more[4];
      cluster_load(from, more);
#pragma unroll
      for (int v = 0; v < kCount; ++v) value[v] += more[v];
    } else {
      value[0] += cluster_load(from);
    }
  }
}
// To a block's shared memory at `address`; the mbarrier of that block at `barrier` counts the bytes when they are there. Both addresses are
// of the cluster. The block that stores need not stay, the other must.
DEVICE void cluster_store(uint32_t address, float4 x, uint32_t barrier) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(address), "f"(x.x),
               "f"(x.y), "f"(x.z), "f"(x.w), "r"(barrier)
               : "memory");
}
DEVICE void cluster_store(uint32_t address, float2 x, uint32_t barrier) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(address), "f"(x.x), "f"(x.y),
               "r"(barrier)
               : "memory");
}
#endif
