// Launching on a device, apart from the kernels' headers: a change of it compiles no kernel anew.
#pragma once

#include <string>

#include "device.h"
#include "launch_shape.h"

namespace fast_s2s {

// `kernel` with its one argument. Empty on success, else what went wrong; raises NotResident.
std::string launch_kernel(const void* kernel, const LaunchShape& shape, Stream stream,
                          const void* args);

}  // namespace fast_s2s
