// Where the threads of a team wait for each other, some dozen times in a call.
//
// OpenMP's own barrier spins for milliseconds before it sleeps. On a machine with more threads than
// cores that is the time slice which the thread waited for would need: a step of 10 µs takes 3 ms.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "crowding.h"

namespace fast_s2s {

class Barrier {
 public:
  // Returns when `threads` threads have called it; what each wrote before is then visible to all.
  void wait(int threads) {
    wait(threads, [] {});
  }
  // The last one to come calls `finish` before any returns.
  template <class Finish>
  void wait(int threads, const Finish& finish) {
    if (threads == 1) return finish();
    const uint32_t phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
      finish();
      arrived_.store(0, std::memory_order_relaxed);
      // one order with `sleepers_`: either this sees the sleeper, or it sees the new phase
      phase_.store(phase + 1, std::memory_order_seq_cst);
      if (sleepers_.load(std::memory_order_seq_cst) == 0) return;
      {
        const std::lock_guard<std::mutex> lock(mutex_);
        woken_.notify_all();
      }
      return was_waited_for();
    }
    if (!spin(phase)) sleep(phase);
  }

 private:
  // Several times what a wake-up takes, which on a virtual machine is up to 50 µs: one thread that
  // slept would else send all others to sleep, who wait for it to wake, in every step from then on.
  static constexpr std::chrono::microseconds kSpinTime{200};

  // Whether the phase ended in time.
  bool spin(uint32_t phase) const {
    const auto end = std::chrono::steady_clock::now() + kSpinTime;
    do {
      for (int i = 0; i < 32; ++i) {
        if (phase_.load(std::memory_order_acquire) != phase) return true;
        pause();
      }
    } while (std::chrono::steady_clock::now() < end);
    return false;
  }

  static void pause() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    // `yield` is there for this, and most Arm cores pass over it at once
    __asm__ volatile("isb");
#endif
  }

  void sleep(uint32_t phase) {
    std::unique_lock<std::mutex> lock(mutex_);
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    woken_.wait(lock, [&] { return phase_.load(std::memory_order_seq_cst) != phase; });
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
  }

  // on cache lines of their own: one is written by all threads, one is watched by all
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
  alignas(64) std::atomic<int> sleepers_{0};
  std::mutex mutex_;
  std::condition_variable woken_;
};

}  // namespace fast_s2s
