// One way to launch a kernel, plain, cooperative or in clusters; on the device or in the emulator.
#pragma once

#include <cstdint>
#include <string>

#include "device.h"
#include "primitives.cuh"

namespace fast_s2s {

struct LaunchShape {
  int blocks, threads;
  int shared_bytes = 0;
  int cluster = 1;           // blocks of a cluster; 1 for none
  bool cooperative = false;  // all blocks resident at once, or an error
};

#if defined(FAST_S2S_EMULATE)

// Empty on success, else what went wrong.
template <class Args>
std::string launch(void (*kernel)(Args), const LaunchShape& shape, Stream, const Args& args) {
  emulator::Grid grid{shape.blocks, shape.threads, shape.shared_bytes, shape.cluster,
                      shape.cooperative};
  return emulator::run(grid, [kernel, &args] { kernel(args); });
}

#else

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
  error = cudaLaunchKernelEx(&config, kernel, args);
  return error == cudaSuccess ? std::string() : failure("launch", error);
}

#endif

}  // namespace fast_s2s
