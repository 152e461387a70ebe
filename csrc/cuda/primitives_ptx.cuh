// The primitives in PTX. Contract: primitives.cuh.
#pragma once

#include <cuda_runtime.h>

#include "types.cuh"

#define FAST_S2S_DEVICE __device__ __forceinline__
#define FAST_S2S_KERNEL(threads) __global__ void __launch_bounds__(threads, 1)
// arguments stay where the launch put them: an object may refer to them without a copy
#define FAST_S2S_GRID_CONSTANT __grid_constant__

namespace fast_s2s {

// Polls of a counter after which a wait is an error. By default about two minutes of them: beyond
// any step, and what the block of one row may have to do for all others, such as to choose among
// many tokens. Tests that would rather fail soon compile with another number.
#if !defined(FAST_S2S_SPINS)
#define FAST_S2S_SPINS (1 << 28)
#endif
constexpr uint32_t kSpinLimit = FAST_S2S_SPINS;
// of a grid whose threads take as many elements as there are
constexpr int64_t kMostBlocks = 2048;

FAST_S2S_DEVICE int thread_rank() { return threadIdx.x; }
FAST_S2S_DEVICE int block_threads() { return blockDim.x; }
FAST_S2S_DEVICE int lane() { return threadIdx.x % 32; }
FAST_S2S_DEVICE int warp() { return threadIdx.x / 32; }
FAST_S2S_DEVICE int block_rank() { return blockIdx.x; }
FAST_S2S_DEVICE int block_count() { return gridDim.x; }

FAST_S2S_DEVICE void trap() { __trap(); }

FAST_S2S_DEVICE void sync_threads() { __syncthreads(); }
FAST_S2S_DEVICE void sync_warp() { __syncwarp(); }
FAST_S2S_DEVICE void sync_named(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// below sm_90 there are no clusters, and plans never ask for them
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
FAST_S2S_DEVICE int cluster_block_rank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
FAST_S2S_DEVICE void cluster_arrive() {
  // .aligned wants the whole warp in one instruction, which loops by lane may have left apart
  __syncwarp();
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
FAST_S2S_DEVICE void cluster_wait() {
  // what is done since the arrival may have left lanes apart, too
  __syncwarp();
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
FAST_S2S_DEVICE uint32_t peer_address(int rank, uint32_t address) {
  uint32_t out;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(out) : "r"(address), "r"(rank));
  return out;
}
FAST_S2S_DEVICE void peer_store_at(uint32_t address, const Words& v) {
  asm volatile("st.shared::cluster.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(v.w[0]),
               "r"(v.w[1]), "r"(v.w[2]), "r"(v.w[3])
               : "memory");
}
#else
FAST_S2S_DEVICE int cluster_block_rank() {
  trap();
  return 0;
}
FAST_S2S_DEVICE void cluster_arrive() { trap(); }
FAST_S2S_DEVICE void cluster_wait() { trap(); }
FAST_S2S_DEVICE uint32_t peer_address(int, uint32_t) {
  trap();
  return 0;
}
FAST_S2S_DEVICE void peer_store_at(uint32_t, const Words&) { trap(); }
#endif

FAST_S2S_DEVICE uint32_t opaque(uint32_t value) {
  asm volatile("" : "+r"(value));
  return value;
}

extern __shared__ __align__(16) unsigned char dynamic_shared[];

FAST_S2S_DEVICE uint32_t shared_address(uint32_t offset) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(dynamic_shared)) + offset;
}

template <class T>
FAST_S2S_DEVICE T shared_load(uint32_t offset) {
  return *reinterpret_cast<const T*>(dynamic_shared + offset);
}
template <class T>
FAST_S2S_DEVICE void shared_store(uint32_t offset, const T& value) {
  *reinterpret_cast<T*>(dynamic_shared + offset) = value;
}
FAST_S2S_DEVICE void peer_store(int rank, uint32_t offset, const Words& value) {
  peer_store_at(peer_address(rank, shared_address(offset)), value);
}

template <class T>
FAST_S2S_DEVICE T load(const T* at) {
  return *at;
}
template <class T>
FAST_S2S_DEVICE void store(T* at, const T& value) {
  *at = value;
}
FAST_S2S_DEVICE float load_constant(const float* at) { return __ldg(at); }
FAST_S2S_DEVICE Bf16 load_constant(const Bf16* at) { return {__ldg(&at->bits)}; }
FAST_S2S_DEVICE Fp16 load_constant(const Fp16* at) { return {__ldg(&at->bits)}; }
FAST_S2S_DEVICE int64_t load_constant(const int64_t* at) {
  return __ldg(reinterpret_cast<const long long*>(at));
}
FAST_S2S_DEVICE bool load_constant(const bool* at) {
  return __ldg(reinterpret_cast<const unsigned char*>(at)) != 0;
}
FAST_S2S_DEVICE unsigned char load_constant(const unsigned char* at) { return __ldg(at); }
FAST_S2S_DEVICE Words load_constant(const Words* at) {
  const uint4 v = __ldg(reinterpret_cast<const uint4*>(at));
  return {{v.x, v.y, v.z, v.w}};
}
FAST_S2S_DEVICE uint32_t load_l2(const uint32_t* at) {
  uint32_t out;
  asm volatile("ld.global.cg.b32 %0, [%1];" : "=r"(out) : "l"(at) : "memory");
  return out;
}

FAST_S2S_DEVICE void add_release(uint32_t* counter, uint32_t value) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(counter), "r"(value) : "memory");
}
FAST_S2S_DEVICE uint32_t load_acquire(const uint32_t* counter) {
  uint32_t out;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(out) : "l"(counter) : "memory");
  return out;
}

// past L1, which would hold what another block wrote in an earlier step
FAST_S2S_DEVICE void copy_async(uint32_t offset, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(offset)), "l"(from)
               : "memory");
}
FAST_S2S_DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
FAST_S2S_DEVICE void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

template <int kCount>
FAST_S2S_DEVICE void load_matrices(uint32_t (&r)[kCount], uint32_t offset) {
  static_assert(kCount == 1 || kCount == 2 || kCount == 4, "ldmatrix has .x1, .x2 and .x4");
  const uint32_t at = shared_address(offset);
  if constexpr (kCount == 1) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                 : "=r"(r[0])
                 : "r"(at)
                 : "memory");
  } else if constexpr (kCount == 2) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(at)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
  }
}
template <int kCount>
FAST_S2S_DEVICE void load_matrices_transposed(uint32_t (&r)[kCount], uint32_t offset) {
  static_assert(kCount == 1 || kCount == 2 || kCount == 4, "ldmatrix has .x1, .x2 and .x4");
  const uint32_t at = shared_address(offset);
  if constexpr (kCount == 1) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                 : "=r"(r[0])
                 : "r"(at)
                 : "memory");
  } else if constexpr (kCount == 2) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(at)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
  }
}

FAST_S2S_DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
FAST_S2S_DEVICE void mma_fp16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
FAST_S2S_DEVICE void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

FAST_S2S_DEVICE float shuffle_xor(float value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
FAST_S2S_DEVICE int64_t shuffle_xor(int64_t value, int mask) {
  return __shfl_xor_sync(0xffffffffu, static_cast<long long>(value), mask);
}

}  // namespace fast_s2s
