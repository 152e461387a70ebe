// How many threads the CPU kernels may use.
#pragma once

#include <pthread.h>
#include <torch/csrc/stable/ops.h>

#include "crowding.h"

namespace fast_s2s {

inline bool forked = false;

// torch's number, or one where others want the cores too. A forked process has one thread, but
// libgomp still counts on those its parent had, and would wait for them for ever.
inline int thread_count() {
  static const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });
  (void)registered;
  const int most = forked ? 1 : static_cast<int>(torch::stable::get_num_threads());
  return most > 1 && makes_room() ? crowding.threads(most, steady_now()) : most;
}

}  // namespace fast_s2s
