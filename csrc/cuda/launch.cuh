// One way to launch a kernel, plain, cooperative or in clusters; on the device or in the emulator.
#pragma once

#include <string>

#include "device.h"
#include "launch_shape.h"
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
  const auto failure = [](const char* what, cudaError_t error) {
    // reported here, and so not once more by the next call that asks for errors
    cudaGetLastError();
    return std::string(what) + ": " + cudaGetErrorString(error);
  };
  cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shape.shared_bytes);
  if (error != cudaSuccess) return failure("cudaFuncSetAttribute(shared memory)", error);
  if (shape.cluster > 8) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    if (error != cudaSuccess) return failure("cudaFuncSetAttribute(cluster size)", error);
  }
  cudaLaunchAttribute attributes[2];
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(shape.blocks);
  config.blockDim = dim3(shape.threads);
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  if (shape.cluster > 1) {
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config.numAttrs].val.clusterDim = {static_cast<unsigned>(shape.cluster), 1, 1};
    ++config.numAttrs;
  }
  if (shape.cooperative) {
    attributes[config.numAttrs].id = cudaLaunchAttributeCooperative;
    attributes[config.numAttrs].val.cooperative = 1;
    ++config.numAttrs;
  }
  // asked before, since a launch that fails ends a graph's capture
  if (shape.cooperative) {
    int device = 0, sms = 0, per_sm = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device);
    error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, kernel, shape.threads,
                                                          shape.shared_bytes);
    if (error != cudaSuccess)
      return failure("cudaOccupancyMaxActiveBlocksPerMultiprocessor", error);
    check_room(shape, static_cast<int64_t>(sms) * per_sm);
  } else if (shape.cluster > 1) {
    int clusters = 0;
    error = cudaOccupancyMaxActiveClusters(&clusters, kernel, &config);
    if (error != cudaSuccess) return failure("cudaOccupancyMaxActiveClusters", error);
    check_room(shape, static_cast<int64_t>(clusters) * shape.cluster);
  }
  error = cudaLaunchKernelEx(&config, kernel, args);
  if (error == cudaErrorCooperativeLaunchTooLarge) {
    cudaGetLastError();
    throw NotResident(shape, 0);
  }
  return error == cudaSuccess ? std::string() : failure("launch", error);
}

#endif

}  // namespace fast_s2s
