// Every kernel of one precision, with or without a projection. Each instance is a source file of
// its own, so that they compile beside each other.
#pragma once

#include "backward_cuda.cuh"
#include "forward_cuda.cuh"
#include "sequence_kernel_launch.cuh"

namespace fast_s2s {

template <class Args>
using Kernel = void (*)(Args);

template <class Operand, Variant kVariant, bool kProjected>
Kernel<ForwardArgs> forward_kernel(const Plan& plan) {
  return plan.row_tiles == 1 ? &lstm_forward_kernel<Operand, kVariant, 1, kProjected>
                             : &lstm_forward_kernel<Operand, kVariant, 4, kProjected>;
}

template <class Operand, Variant kVariant, bool kProjected>
Kernel<BackwardArgs> backward_kernel(const Plan& plan) {
  return plan.row_tiles == 1 ? &lstm_backward_kernel<Operand, kVariant, 1, kProjected>
                             : &lstm_backward_kernel<Operand, kVariant, 4, kProjected>;
}

template <class Operand, bool kProjected>
std::string launch_forward(const Plan& plan, const ForwardArgs& args, Stream stream) {
  const auto with = [&](Kernel<ForwardArgs> kernel) {
    return launch_sequence(kernel, plan, args, stream);
  };
  switch (plan.variant) {
    case Variant::kBlock:
      return with(forward_kernel<Operand, Variant::kBlock, kProjected>(plan));
    case Variant::kCluster:
      return with(forward_kernel<Operand, Variant::kCluster, kProjected>(plan));
    case Variant::kGrid:
      return with(forward_kernel<Operand, Variant::kGrid, kProjected>(plan));
    default:
      return with(forward_kernel<Operand, Variant::kStream, kProjected>(plan));
  }
}

template <class Operand, bool kProjected>
std::string launch_backward(const Plan& plan, const BackwardArgs& args, Stream stream) {
  const auto with = [&](Kernel<BackwardArgs> kernel) {
    return launch_sequence(kernel, plan, args, stream);
  };
  switch (plan.variant) {
    case Variant::kBlock:
      return with(backward_kernel<Operand, Variant::kBlock, kProjected>(plan));
    case Variant::kCluster:
      return with(backward_kernel<Operand, Variant::kCluster, kProjected>(plan));
    case Variant::kGrid:
      return with(backward_kernel<Operand, Variant::kGrid, kProjected>(plan));
    default:
      return with(backward_kernel<Operand, Variant::kStream, kProjected>(plan));
  }
}

}  // namespace fast_s2s
