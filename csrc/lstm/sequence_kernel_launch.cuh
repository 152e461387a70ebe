// Launches a sequence kernel as its plan has it.
#pragma once

#include "../cuda/launch.cuh"
#include "kernels_cuda.h"
#include "sequence_cuda.cuh"

namespace fast_s2s {

template <class Args>
std::string launch_sequence(void (*kernel)(Args), const Plan& plan, const Args& args,
                            Stream stream) {
  const Layout& l = plan.layout;
  // what a strip's way to its peers takes for granted
  if (plan.variant == Variant::kCluster && (l.ranks & (l.ranks - 1)) != 0)
    return "plan: blocks of a cluster: expected a power of two, got " + std::to_string(l.ranks);
  LaunchShape shape;
  shape.blocks = static_cast<int>(plan.tiles) * l.directions * l.ranks;
  shape.threads = kThreads;
  shape.shared_bytes = static_cast<int>(plan.shared_bytes);
  const bool through_l2 = plan.variant == Variant::kGrid || plan.variant == Variant::kStream;
  shape.cluster = plan.variant == Variant::kCluster ? l.ranks : 1;
  shape.cooperative = through_l2 && !plan.stepwise;
  return launch(kernel, shape, stream, args);
}

}  // namespace fast_s2s
