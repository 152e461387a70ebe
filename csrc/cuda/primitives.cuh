// What kernels are written over: threads, memory, barriers and matrix products.
//
// Two bodies of one contract: PTX (primitives_ptx.cuh) and a host emulation that executes the same
// kernels in tests (tests/emulator/primitives_host.h), with FAST_S2S_EMULATE.
//
//   thread_rank, block_threads, lane, warp   within the block; blocks are whole warps, 1-D
//   block_rank, block_count                  within the grid
//   cluster_block_rank                       of the block within its cluster
//   sync_threads, sync_warp, sync_named      barriers; sync_named(id, threads) with id in 1..15
//   cluster_arrive, cluster_wait             release, acquire; every thread of the cluster
//   shared_load/store<T>(offset)             the block's dynamic shared memory, by bytes from its
//                                            start; T of 2, 4, 8 or 16 bytes, aligned
//   peer_store<T>(rank, offset, value)       another block's of the cluster
//   load, load_constant, load_l2, store      global memory: plain; never written by this launch;
//                                            past L1; plain
//   add_release, load_acquire                counters in global memory, device scope
//   copy_async, copy_async_commit, _wait<N>  16 bytes from global to shared memory; there once all
//                                            but the last N groups are waited for
//   load_matrices<N>(r, offset)              ldmatrix .x1, .x2, .x4: thread i of the first 8·N
//   gives
//                                            the address of a row of 16 bytes
//   load_matrices_transposed<N>(r, offset)   the same with .trans
//   mma_bf16, mma_fp16                       d += a·b, m16n8k16; fragments as PTX lays them out
//   mma_tf32                                 d += a·b, m16n8k8; operands already rounded by to_tf32
//   shuffle_xor(value, mask)                 of all 32 lanes
//   opaque(word)                             the word, but what is made of it is made where it is
//   used trap()                                   ends the launch with an error kSpinLimit polls of
//   a counter after which a wait is an error
#pragma once

#include "types.cuh"

#if defined(FAST_S2S_EMULATE)
#include "primitives_host.h"
#else
#include "primitives_ptx.cuh"
#endif

namespace fast_s2s {

// Barrier among blocks by a counter that only grows. All that a block wrote to global memory before
// `counter_arrive` is there for every block that `counter_wait` lets through.
FAST_S2S_DEVICE void counter_arrive(uint32_t* counter) {
  sync_threads();
  if (thread_rank() == 0) add_release(counter, 1);
}

// Until `target` blocks have arrived. A peer that never comes is an error, not a hang.
FAST_S2S_DEVICE void counter_wait(const uint32_t* counter, uint32_t target) {
  if (thread_rank() == 0) {
    uint32_t polls = 0;
    while (load_acquire(counter) < target)
      if (++polls == kSpinLimit) trap();
  }
  sync_threads();
}

}  // namespace fast_s2s
