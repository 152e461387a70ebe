#include "device.h"

#include <stdexcept>
#include <string>

namespace fast_s2s {

#if defined(FAST_S2S_EMULATE)

Device device_properties() {
  const emulator::Properties& p = emulator::properties();
  Device device{p.sms, p.shared_bytes, p.max_cluster, p.cooperative, p.weight_registers};
  if (p.only >= 0) device.only = static_cast<Variant>(p.only);
  device.row_tiles = p.row_tiles;
  return device;
}

#else

namespace {

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  const cudaError_t error = cudaDeviceGetAttribute(&value, which, device);
  if (error != cudaSuccess)
    throw std::runtime_error(std::string("cudaDeviceGetAttribute: ") + cudaGetErrorString(error));
  return value;
}

}  // namespace

Device device_properties() {
  int device = 0;
  const cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess)
    throw std::runtime_error(std::string("cudaGetDevice: ") + cudaGetErrorString(error));
  const int major = attribute(cudaDevAttrComputeCapabilityMajor, device);
  const bool clusters = attribute(cudaDevAttrClusterLaunch, device) != 0;
  // 8 works everywhere; the data-centre parts have 16
  const int64_t max_cluster = !clusters ? 1 : major == 9 || major == 10 ? 16 : 8;
  return {attribute(cudaDevAttrMultiProcessorCount, device),
          attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device), max_cluster,
          attribute(cudaDevAttrCooperativeLaunch, device) != 0};
}

#endif

}  // namespace fast_s2s
