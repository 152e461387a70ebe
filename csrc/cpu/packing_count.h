// How often weights were packed for the LSTM, in this process: for tests of when they are not.
#pragma once

#include <atomic>
#include <cstdint>

namespace fast_s2s {

inline std::atomic<int64_t> panels_packed{0};

}  // namespace fast_s2s
