// What the decode ops on CUDA share: checked tensors, sizes of the packed weights.
#pragma once

#include <string>
#include <vector>

#include "../lstm/sequence_launch.h"
#include "arguments.h"
#include "kernels_cuda.h"

namespace fast_s2s {
namespace cuda {

using decode_arguments::kAny;

inline Tensor checked(const Tensor& tensor, const std::string& name, ScalarType type,
                      const std::vector<int64_t>& shape, const Tensor& like) {
  STD_TORCH_CHECK(tensor.is_cuda() == like.is_cuda() && tensor.get_device() == like.get_device(),
                  name, ": expected on the device of the weights");
  return decode_arguments::dense_of(tensor, name, type, shape);
}

template <class T>
const T* in(const Tensor& tensor) {
  return static_cast<const T*>(input(tensor));
}

inline DecodeProblem problem_of(const PackedHeader& h) {
  return {h.weights, h.layers, h.hidden, h.output, h.vocab, h.inputs, h.projected, h.table,
          1,         1,        false,    h.heads,  h.keys,  h.values, h.additive,  h.feeding};
}

}  // namespace cuda
}  // namespace fast_s2s
