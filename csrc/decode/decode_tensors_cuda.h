// What the decode ops on CUDA share: checked tensors, the head of the packed weights.
#pragma once

#include <string>
#include <vector>

#include "../lstm/sequence_launch.h"
#include "kernels_cuda.h"

namespace fast_s2s {
namespace cuda {

// beside the registration
void* current_stream();

constexpr int64_t kAny = -1;
// of packed weights that are laid out alike for every device
constexpr int64_t kCudaLayout = -1;

inline Stream stream_here() { return static_cast<Stream>(current_stream()); }

inline Tensor checked(const Tensor& tensor, const std::string& name, ScalarType type,
                      const std::vector<int64_t>& shape, const Tensor& like) {
  STD_TORCH_CHECK(tensor.is_cuda() == like.is_cuda() && tensor.get_device() == like.get_device(),
                  name, ": expected on the device of the weights");
  STD_TORCH_CHECK(tensor.scalar_type() == type, name, ": expected dtype ",
                  torch::headeronly::toString(type), ", got ",
                  torch::headeronly::toString(tensor.scalar_type()));
  const auto sizes = tensor.sizes();
  bool fits = sizes.size() == shape.size();
  for (size_t i = 0; fits && i < shape.size(); ++i) fits = shape[i] == kAny || shape[i] == sizes[i];
  std::string wanted, got;
  for (int64_t size : shape) wanted += (size == kAny ? "any" : std::to_string(size)) + ",";
  for (int64_t size : sizes) got += std::to_string(size) + ",";
  STD_TORCH_CHECK(fits, name, ": expected shape (", wanted, "), got (", got, ")");
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

template <class T>
const T* in(const Tensor& tensor) {
  return static_cast<const T*>(input(tensor));
}

inline DecodeProblem problem_of(const PackedHeader& h) {
  return {h.weights,   h.layers, h.hidden, h.output, h.vocab, h.inputs,
          h.projected, h.table,  1,        1,        false};
}

}  // namespace cuda
}  // namespace fast_s2s
