// What a launch asks for, and what it says when there is no room for it.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace fast_s2s {

struct LaunchShape {
  int blocks, threads;
  int shared_bytes = 0;
  int cluster = 1;           // blocks of a cluster; 1 for none
  bool cooperative = false;  // all blocks resident at once, or an error
};

// The device has no room for all blocks of a cooperative launch, or for one whole cluster, at once,
// so that nothing was launched: a plan for fewer may fit. `resident`: so many have room, 0 if that
// is not known.
struct NotResident : std::runtime_error {
  int64_t resident;
  NotResident(const LaunchShape& shape, int64_t resident)
      : std::runtime_error(
            "launch: " + std::to_string(shape.cooperative ? shape.blocks : shape.cluster) +
            " blocks must be resident at once, and the device has room for " +
            (resident > 0 ? std::to_string(resident) : std::string("fewer"))),
        resident(resident) {}
};

// Raises NotResident for more than there is room for.
inline void check_room(const LaunchShape& shape, int64_t resident) {
  const int64_t needed = shape.cooperative ? shape.blocks : shape.cluster > 1 ? shape.cluster : 0;
  if (resident < needed) throw NotResident(shape, resident);
}

}  // namespace fast_s2s
