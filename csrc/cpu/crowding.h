// Whether other programs want this machine's cores at the same time.
//
// A team whose threads share their cores with others waits in every step for whichever thread has
// no core just then, some milliseconds each time. One thread alone waits for none. Results are the
// same to the bit for any number of threads, so a call may take as many as serve it.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <string>

namespace fast_s2s {

// When to go alone, and for how long. Times in nanoseconds of one clock; may be asked and told by
// any thread.
class Crowding {
 public:
  static constexpr int64_t kFirstPause = 20'000'000, kLongestPause = 1'000'000'000;
  // What is shorter does not tell: threads of other libraries spin for some milliseconds when they
  // have nothing more to do.
  static constexpr int64_t kLeast = 20'000'000;

  // Of `most` threads those for a call that begins now.
  int threads(int most, int64_t now) const {
    return now < alone_until_.load(std::memory_order_relaxed) ? 1 : most;
  }

  // Others in its team have waited for a thread. It spent `delayed` of the last `elapsed`, at least
  // kLeast, waiting for a core: a third is more than what runs beside everything takes.
  void waited_for(int64_t now, int64_t elapsed, int64_t delayed) {
    if (delayed * 3 < elapsed) return;
    const int64_t until = alone_until_.load(std::memory_order_relaxed);
    if (now < until) return;
    // longer each time that it is so again soon after, which takes kLeast or more to find out
    int64_t pause = pause_.load(std::memory_order_relaxed);
    pause = now - until < pause + 4 * kLeast ? std::min(2 * pause, kLongestPause) : kFirstPause;
    pause_.store(pause, std::memory_order_relaxed);
    alone_until_.store(now + pause, std::memory_order_relaxed);
  }

 private:
  std::atomic<int64_t> alone_until_{0}, pause_{kFirstPause};
};

inline Crowding crowding;

// FAST_S2S_MAKE_ROOM=0 keeps to the number of threads whatever else runs, for tests of threads.
inline bool makes_room() {
  static const bool asked = [] {
    const char* setting = std::getenv("FAST_S2S_MAKE_ROOM");
    return setting == nullptr || std::string(setting) != "0";
  }();
  return asked;
}

inline int64_t steady_now() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

// What the calling thread has waited for a core so far, in nanoseconds; -1 if Linux does not tell.
inline int64_t waited_for_core() {
  std::ifstream file("/proc/thread-self/schedstat");
  int64_t running = 0, waiting = 0;
  return file >> running >> waiting ? waiting : -1;
}

// To be called by a thread for which others have waited so long that they went to sleep.
inline void was_waited_for() {
  thread_local int64_t last_time = -1, last_waited = 0;
  const int64_t now = steady_now(), elapsed = now - last_time;
  if (last_time >= 0 && elapsed < Crowding::kLeast) return;
  const int64_t waited = waited_for_core();
  if (waited < 0) return;
  if (last_time >= 0) crowding.waited_for(now, elapsed, waited - last_waited);
  last_time = now;
  last_waited = waited;
}

}  // namespace fast_s2s
