// How many threads the CPU kernels may use.
#pragma once

#include <pthread.h>
#include <torch/csrc/stable/ops.h>

#include "crowding.h"

namespace fast_s2s {

inline bool forked = false;
// from when the library is loaded on: torch's own threads may be there before the first call
inline const int fork_handler = pthread_atfork(nullptr, nullptr, [] { forked = true; });

// torch's number, or one where others want the cores too. A forked process has one thread, but
// libgomp still counts on those its parent had, and would wait for them for ever.
inline int thread_count() {
  const int most = forked ? 1 : static_cast<int>(torch::stable::get_num_threads());
  return most > 1 && makes_room() ? crowding.threads(most, steady_now()) : most;
}

}  // namespace fast_s2s
