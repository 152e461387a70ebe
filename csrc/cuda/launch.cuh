// One way to launch a kernel, plain, cooperative or in clusters; on the device or in the emulator.
#pragma once

#include <string>

#include "launch_kernel.h"
#include "primitives.cuh"

namespace fast_s2s {

#if defined(FAST_S2S_EMULATE)

// Empty on success, else what went wrong; raises NotResident.
template <class Args>
std::string launch(void (*kernel)(Args), const LaunchShape& shape, Stream, const Args& args) {
  emulator::Grid grid{shape.blocks, shape.threads, shape.shared_bytes, shape.cluster,
                      shape.cooperative};
  check_room(shape, emulator::occupancy());
  if (shape.cooperative && shape.blocks > emulator::room()) throw NotResident(shape, 0);
  return emulator::run(grid, [kernel, &args] { kernel(args); });
}

#else

// The same on the device.
template <class Args>
std::string launch(void (*kernel)(Args), const LaunchShape& shape, Stream stream,
                   const Args& args) {
  return launch_kernel(reinterpret_cast<const void*>(kernel), shape, stream, &args);
}

#endif

}  // namespace fast_s2s
