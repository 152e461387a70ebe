// The state of a launch: fibers, warps, blocks, clusters.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "context.h"
#include "emulator.h"
#include "memory.h"

namespace fast_s2s::emulator {

struct Fiber;
struct Block;

struct Copy {
  unsigned char* to;
  const void* from;
  bool read_early;
  unsigned char bytes[16];
};

struct Fiber {
  Context context;
  unsigned char* stack = nullptr;
  Here here;
  uint32_t thread, warp;  // in the grid
  Block* block;
  const char* waits_for = nullptr;
  bool done = false;
  uint64_t cluster_ticket = 0;
  std::vector<std::vector<Copy>> copies;  // by group; the last one is open
};

struct Barrier {
  int arrived = 0;
  uint64_t generation = 0;
  Clock clock;
  std::vector<Fiber*> waiters;
  std::map<uint32_t, int> arrived_of_warp;
};

struct Warp {
  Clock clock;
  int arrived = 0;
  const char* operation = nullptr;
  void* lanes[32];
  Fiber* fibers[32];
  Barrier sync;
};

struct Cluster {
  Barrier barrier;
  std::vector<Block*> blocks;
};

struct Block {
  int rank, running;
  Cluster* cluster;
  std::vector<unsigned char> memory;
  std::unique_ptr<Shadow> shadow;
  Barrier barrier;
  std::map<int, Barrier> named;
};

struct Machine {
  Grid grid;
  const std::function<void()>* kernel;
  Context scheduler;
  std::vector<Warp> warps;
  std::deque<Block> blocks;
  std::deque<Cluster> clusters;
  std::deque<Fiber> fibers;
  std::vector<Fiber*> runnable;
  std::map<const void*, Clock> variables;
  std::string error;
  size_t next_cluster = 0;
  int resident = 0, running = 0;
  uint64_t random;
};

// of the launch that runs, null outside; its fiber that runs
extern Machine* machine;
extern Fiber* current;
extern Counts totals;

uint64_t draw();
Warp& warp_of(const Fiber& fiber);
Accessor accessor();
// Lets another fiber run; returns once somebody has put this one back among the runnable ones.
void resume_another();
void sleep(const char* what);
void wake(Fiber* fiber);
// Whole pages that are there for kernels alone: host code that touches them crashes. Those of
// before are let go. `open_memory`: whether they can be touched.
void guard_memory(const std::vector<std::pair<void*, size_t>>& pages);
void open_memory(bool open);
// All that was written before this launch ended is there for the next.
void settle_memory();

}  // namespace fast_s2s::emulator
