// Runs CUDA kernels on the host: one fiber per thread, real barriers, checked memory.
//
// What it finds: reads of unwritten or racing bytes of shared and of registered global memory,
// accesses out of bounds, writes to inputs, reads of copies not waited for, lanes of a warp that
// meet at different operations, deadlocks (with who waits where), endless polling. Order between
// threads is what barriers make of it: every warp has a vector clock, joined where the hardware
// would make writes visible, and an access must come after those it conflicts with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace fast_s2s::emulator {

struct Properties {
  uint64_t seed = 1;
  int sms = 8;
  int shared_bytes = 227 * 1024;  // the most one block may have
  int max_cluster = 8;            // 1: no clusters
  bool cooperative = true;
  // for plans: registers of a thread that may hold weights; the variant (-1: any) and tiles of rows
  // (0: any) to use
  int weight_registers = 128;
  int only = -1;
  int row_tiles = 0;
  // blocks for which there is room at once (0: one on every SM), as other work leaves it; and what
  // asking for it gives (0: the truth)
  int resident = 0;
  int occupancy = 0;
};
Properties& properties();

// What launches ask for.
int64_t room();
int64_t occupancy();

struct Grid {
  int blocks, threads, shared_bytes, cluster;
  bool cooperative;
};

// Runs `kernel` once per thread. Empty on success, else what went wrong.
std::string run(const Grid& grid, const std::function<void()>& kernel);

// Global memory that kernels may touch. `kInput` may not be written, `kOutput` must be written
// before it is read, `kState` is written already.
enum class Access { kInput, kOutput, kState };
void register_memory(const void* at, size_t bytes, Access access);
void forget_memory();
// How many launches there were since the start, and how many threads, matrix products and barriers.
struct Counts {
  uint64_t launches, threads, products, barriers;
};
const Counts& counts();

// What a running thread may ask for.
struct Here {
  int thread, threads, block, blocks, cluster_rank;
};
const Here& here();

enum class Space { kShared, kGlobal };
void read(Space space, const void* at, size_t bytes);
void write(Space space, void* at, size_t bytes);
// An address of this block's shared memory, or of a peer's in the cluster.
unsigned char* shared(uint32_t offset, size_t bytes);
unsigned char* peer_shared(int rank, uint32_t offset, size_t bytes);

void sync_threads();
void sync_warp();
void sync_named(int id, int threads);
void cluster_arrive();
void cluster_wait();
void release(const void* variable);
void acquire(const void* variable);
void polled();
void copy_async(unsigned char* to, const void* from);
void copy_async_commit();
void copy_async_wait(int pending);

// All lanes of the warp meet here; the last one calls `operation` with what each brought.
void meet(const char* name, void* mine, void (*operation)(void* const (&lanes)[32]));
void count_product();

[[noreturn]] void fail(const std::string& what);

}  // namespace fast_s2s::emulator
