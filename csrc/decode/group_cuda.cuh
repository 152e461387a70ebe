// A group of blocks: its rows, its barrier, the slots that a step computes.
#pragma once

#include "../cuda/launch.cuh"
#include "kernels_cuda.h"

namespace fast_s2s {

constexpr int kDecodeThreads = 32 * kDecodeWarps;

// What a group of blocks works on.
struct Group {
  int rank, index;
  int64_t first_row;
  int rows;
  FAST_S2S_DEVICE explicit Group(const DecodeCudaArgs& args)
      : rank(block_rank() % args.layout.ranks), index(block_rank() / args.layout.ranks) {
    first_row = args.first_row + static_cast<int64_t>(index) * args.layout.group_rows;
    const int64_t left = args.call.rows - first_row;
    rows = left < 0
               ? 0
               : static_cast<int>(left < args.layout.group_rows ? left : args.layout.group_rows);
  }
};

// Barrier of the blocks of a group: all that one wrote is there for the others.
class GroupBarrier {
 public:
  FAST_S2S_DEVICE GroupBarrier(const DecodeCudaArgs& args, const Group& group)
      : ranks_(args.layout.ranks),
        cluster_(args.layout.cluster),
        counter_(args.counters + group.index) {}
  FAST_S2S_DEVICE void wait() {
    if (ranks_ == 1) {
      sync_threads();
    } else if (cluster_) {
      // the barrier takes whole warps
      sync_warp();
      cluster_arrive();
      cluster_wait();
    } else {
      counter_arrive(counter_);
      counter_wait(counter_, static_cast<uint32_t>(ranks_) * ++passed_);
    }
  }

 private:
  const int ranks_;
  const bool cluster_;
  uint32_t* counter_;
  uint32_t passed_ = 0;
};

// Slots that a step computes, in shared memory: which each is, where the states of the step before
// lie, its input. The same in every block of the group.
class LiveSlots {
 public:
  FAST_S2S_DEVICE explicit LiveSlots(const DecodeLayout& layout) : l_(layout) {}
  FAST_S2S_DEVICE int slot(int i) const { return shared_load<int>(at(0, i)); }
  FAST_S2S_DEVICE int parent(int i) const { return shared_load<int>(at(1, i)); }
  FAST_S2S_DEVICE int token(int i) const { return shared_load<int>(at(2, i)); }
  // Of a unit of choice; one past the last unit, too.
  FAST_S2S_DEVICE int begin(int unit) const { return shared_load<int>(l_.begins + 4 * unit); }
  FAST_S2S_DEVICE void set(int i, int slot, int parent, int token) const {
    shared_store(at(0, i), slot);
    shared_store(at(1, i), parent);
    shared_store(at(2, i), token);
  }
  FAST_S2S_DEVICE void set_begin(int unit, int first) const {
    shared_store(l_.begins + 4 * unit, first);
  }

 private:
  FAST_S2S_DEVICE uint32_t at(int array, int i) const {
    return l_.live + 4 * (array * l_.slots + i);
  }
  const DecodeLayout& l_;
};

}  // namespace fast_s2s
