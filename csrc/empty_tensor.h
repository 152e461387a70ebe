// A new tensor of an op.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
// TORCH_ERROR_CODE_CHECK; the STABLE_ form came after torch 2.11
#include <torch/headeronly/util/shim_utils.h>

#include <optional>

namespace fast_s2s {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

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
