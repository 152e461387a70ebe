// Checking and making the tensors of an op.
#pragma once

#include <algorithm>
#include <string>

#include "../empty_tensor.h"

namespace fast_s2s {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class Shape = std::initializer_list<int64_t>>
void check_shape(const Tensor& tensor, const char* name, const Shape& expected) {
  const auto sizes = tensor.sizes();
  if (sizes.size() == expected.size() &&
      std::equal(expected.begin(), expected.end(), sizes.begin()))
    return;
  std::string message = std::string(name) + ": expected shape (";
  for (int64_t size : expected) message += std::to_string(size) + ",";
  message += "), got (";
  for (int64_t size : sizes) message += std::to_string(size) + ",";
  STD_TORCH_CHECK(false, message, ")");
}

// A dense tensor of this type and shape; copies only if it is not dense. The caller has checked its
// device.
template <class Shape = std::initializer_list<int64_t>>
Tensor dense(const Tensor& tensor, const char* name, ScalarType type, const Shape& shape) {
  STD_TORCH_CHECK(tensor.scalar_type() == type, name, ": expected dtype ",
                  torch::headeronly::toString(type), ", got ",
                  torch::headeronly::toString(tensor.scalar_type()));
  check_shape(tensor, name, shape);
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

template <class Shape = std::initializer_list<int64_t>>
std::optional<Tensor> dense(const std::optional<Tensor>& tensor, const char* name, ScalarType type,
                            const Shape& shape) {
  if (!tensor.has_value()) return std::nullopt;
  return dense(*tensor, name, type, shape);
}

}  // namespace fast_s2s
