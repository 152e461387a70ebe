// What host code knows of the device: its stream type, its properties, the memory it is given.
#pragma once

#include <cstddef>

#include "../lstm/plan.h"

#if defined(FAST_S2S_EMULATE)
#include "emulator.h"
#else
#include <cuda_runtime_api.h>
#endif

namespace fast_s2s {

#if defined(FAST_S2S_EMULATE)
typedef void* Stream;
#else
typedef cudaStream_t Stream;
#endif

enum class Access { kInput, kOutput, kState };

// Tells the emulator which memory kernels may read, must write first, or find written. Nothing on a
// device.
inline void declare_memory([[maybe_unused]] const void* at, [[maybe_unused]] size_t bytes,
                           [[maybe_unused]] Access access) {
#if defined(FAST_S2S_EMULATE)
  emulator::register_memory(at, bytes,
                            access == Access::kInput    ? emulator::Access::kInput
                            : access == Access::kOutput ? emulator::Access::kOutput
                                                        : emulator::Access::kState);
#endif
}

// Of the current device. Raises std::runtime_error if there is none.
Device device_properties();

}  // namespace fast_s2s
