// Runs a sequence of one layer on the device: plan, packed weights, workspace, launches.
#pragma once

#include <vector>

#include "kernels_cuda.h"
#include "tensors.h"

namespace fast_s2s {
namespace cuda {

inline size_t bytes_of(const Tensor& tensor) {
  return static_cast<size_t>(tensor.numel()) * tensor.element_size();
}

// Pointers for a kernel; null for a tensor there is not.
inline const void* input(const Tensor& tensor) {
  declare_memory(tensor.const_data_ptr(), bytes_of(tensor), Access::kInput);
  return tensor.const_data_ptr();
}
inline const void* input(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? input(*tensor) : nullptr;
}
inline void* output(Tensor& tensor) {
  declare_memory(tensor.const_data_ptr(), bytes_of(tensor), Access::kOutput);
  return tensor.mutable_data_ptr();
}
inline void* output_or_null(Tensor& tensor) {
  return tensor.numel() == 0 ? nullptr : output(tensor);
}
inline void* state(Tensor& tensor) {
  declare_memory(tensor.const_data_ptr(), bytes_of(tensor), Access::kState);
  return tensor.mutable_data_ptr();
}

inline void check_launch(const std::string& wrong) {
  STD_TORCH_CHECK(wrong.empty(), "fast_s2s CUDA kernel: ", wrong);
}

// What torch works on, of the current device; defined beside the registration.
Stream current_stream();

// What a layer's launches have in common. `w_hh` of each direction, [4H, R] and dense; `w_hr`, [R,
// H], of none or each.
struct Sequence {
  Precision precision;
  int64_t steps, batch, hidden, projection;  // 0: none
  std::vector<Tensor> w_hh, w_hr;
  Stream stream;
};

// Directions as for one launch but for their weights, which are packed here. Where the device has
// no room for the plan's blocks at once, another is made for fewer.
void run_forward(const Sequence& sequence, std::vector<ForwardDirection> directions);
void run_backward(const Sequence& sequence, std::vector<BackwardDirection> directions);

}  // namespace cuda
}  // namespace fast_s2s
