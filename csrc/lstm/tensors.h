// Checking and making the tensors of an op.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
// TORCH_ERROR_CODE_CHECK; the STABLE_ form came after torch 2.11
#include <torch/headeronly/util/shim_utils.h>

#include <algorithm>
#include <optional>
#include <string>

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

// Not initialised, on the device of `like`, and of its type unless another is given. By the C
// function of this one op: `torch::stable::new_empty` looks it up by its name at every call.
template <class Shape = std::initializer_list<int64_t>>
Tensor empty(const Tensor& like, const Shape& shape,
             std::optional<ScalarType> type = std::nullopt) {
  int32_t dtype = 0, layout = 0, device = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_layout(like.get(), &layout));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  if (type.has_value())
    dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(*type));
  AtenTensorHandle made;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_aten_new_empty(like.get(), &*shape.begin(), static_cast<int64_t>(shape.size()),
                                &dtype, &layout, &device, like.get_device_index(), nullptr, &made));
  return Tensor(made);
}

}  // namespace fast_s2s
