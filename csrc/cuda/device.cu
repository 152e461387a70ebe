#include "device.h"

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <string>

namespace fast_s2s {

namespace {

std::string setting(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::optional<Variant> variant_of(const std::string& name) {
  for (Variant variant : {Variant::kBlock, Variant::kCluster, Variant::kGrid, Variant::kStream})
    if (name == variant_name(variant)) return variant;
  throw std::invalid_argument(
      "FAST_S2S_CUDA_VARIANT: expected block, cluster, grid or stream, got " + name);
}

// To measure what plans would not choose: read at every call, so that a program may try them all.
Device as_asked_for(Device device) {
  const std::string variant = setting("FAST_S2S_CUDA_VARIANT");
  if (!variant.empty()) device.only = variant_of(variant);
  const std::string cluster = setting("FAST_S2S_CUDA_CLUSTER");
  if (!cluster.empty()) {
    const long blocks = std::strtol(cluster.c_str(), nullptr, 10);
    if (blocks < 1)
      throw std::invalid_argument("FAST_S2S_CUDA_CLUSTER: expected at least 1, got " + cluster);
    device.max_cluster = std::min<int64_t>(device.max_cluster, blocks);
  }
  return device;
}

}  // namespace

#if defined(FAST_S2S_EMULATE)

Device device_properties() {
  const emulator::Properties& p = emulator::properties();
  Device device{p.sms, p.shared_bytes, p.max_cluster, p.cooperative, p.weight_registers};
  if (p.only >= 0) device.only = static_cast<Variant>(p.only);
  device.row_tiles = p.row_tiles;
  return as_asked_for(device);
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
  return as_asked_for({attribute(cudaDevAttrMultiProcessorCount, device),
                       attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device), max_cluster,
                       attribute(cudaDevAttrCooperativeLaunch, device) != 0});
}

#endif

}  // namespace fast_s2s
