#include "launch_kernel.h"

namespace fast_s2s {

namespace {

// dynamic shared memory that every kernel may have unasked
constexpr int kUnasked = 48 << 10;

std::string failure(const char* what, cudaError_t error) {
  // reported here, and so not once more by the next call that asks for errors
  cudaGetLastError();
  return std::string(what) + ": " + cudaGetErrorString(error);
}

cudaError_t attribute(int& value, cudaDeviceAttr which) {
  int device = 0;
  const cudaError_t error = cudaGetDevice(&device);
  return error == cudaSuccess ? cudaDeviceGetAttribute(&value, which, device) : error;
}

// What the launch needs beyond what every kernel may. Always the most there is: another thread that
// launches the same kernel for less must not take it away in between.
std::string allow(const void* kernel, const LaunchShape& shape) {
  if (shape.shared_bytes > kUnasked) {
    int most = 0;
    cudaError_t error = attribute(most, cudaDevAttrMaxSharedMemoryPerBlockOptin);
    if (error == cudaSuccess)
      error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
    if (error != cudaSuccess) return failure("cudaFuncSetAttribute(shared memory)", error);
  }
  if (shape.cluster > 8) {
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    if (error != cudaSuccess) return failure("cudaFuncSetAttribute(cluster size)", error);
  }
  return "";
}

// Asked before, since a launch that fails ends a graph's capture. Raises NotResident.
std::string check_resident(const void* kernel, const LaunchShape& shape,
                           const cudaLaunchConfig_t& config) {
  if (shape.cooperative) {
    int sms = 0, per_sm = 0;
    cudaError_t error = attribute(sms, cudaDevAttrMultiProcessorCount);
    if (error == cudaSuccess)
      error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, kernel, shape.threads,
                                                            shape.shared_bytes);
    if (error != cudaSuccess)
      return failure("cudaOccupancyMaxActiveBlocksPerMultiprocessor", error);
    check_room(shape, static_cast<int64_t>(sms) * per_sm);
  } else if (shape.cluster > 1) {
    int clusters = 0;
    const cudaError_t error = cudaOccupancyMaxActiveClusters(&clusters, kernel, &config);
    // a size that this device does not have is one for which it has no room
    if (error == cudaErrorInvalidClusterSize) {
      cudaGetLastError();
      clusters = 0;
    } else if (error != cudaSuccess) {
      return failure("cudaOccupancyMaxActiveClusters", error);
    }
    // compiled by the driver from PTX of an older target, in which clusters are a trap
    cudaFuncAttributes compiled{};
    const cudaError_t known = cudaFuncGetAttributes(&compiled, kernel);
    if (known != cudaSuccess) return failure("cudaFuncGetAttributes", known);
    if (compiled.ptxVersion < 90) clusters = 0;
    check_room(shape, static_cast<int64_t>(clusters) * shape.cluster);
  }
  return "";
}

}  // namespace

std::string launch_kernel(const void* kernel, const LaunchShape& shape, Stream stream,
                          const void* args) {
  std::string wrong = allow(kernel, shape);
  if (!wrong.empty()) return wrong;
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
  wrong = check_resident(kernel, shape, config);
  if (!wrong.empty()) return wrong;
  void* parameters[] = {const_cast<void*>(args)};
  const cudaError_t error = cudaLaunchKernelExC(&config, kernel, parameters);
  if (error == cudaErrorCooperativeLaunchTooLarge) {
    cudaGetLastError();
    throw NotResident(shape, 0);
  }
  return error == cudaSuccess ? std::string() : failure("launch", error);
}

}  // namespace fast_s2s
