// The kernels of layers with a projection, of one precision: of the stream variant alone, which any
// size fits.
#pragma once

#include "backward_cuda.cuh"
#include "forward_cuda.cuh"
#include "sequence_kernel_launch.cuh"

namespace fast_s2s {

template <class Operand>
std::string launch_projected_forward(const Plan& plan, const ForwardArgs& args, Stream stream) {
  constexpr Variant kVariant = Variant::kStream;
  return launch_sequence(plan.row_tiles == 1 ? &lstm_forward_kernel<Operand, kVariant, 1, true>
                                             : &lstm_forward_kernel<Operand, kVariant, 4, true>,
                         plan, args, stream);
}

template <class Operand>
std::string launch_projected_backward(const Plan& plan, const BackwardArgs& args, Stream stream) {
  constexpr Variant kVariant = Variant::kStream;
  return launch_sequence(plan.row_tiles == 1 ? &lstm_backward_kernel<Operand, kVariant, 1, true>
                                             : &lstm_backward_kernel<Operand, kVariant, 4, true>,
                         plan, args, stream);
}

}  // namespace fast_s2s
