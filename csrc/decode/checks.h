// Checks of tensors that the decode ops on the CPU take.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "arguments.h"

namespace fast_s2s {
namespace decode_checks {

using torch::headeronly::toString;

using decode_arguments::kAny;

// A dense CPU tensor of this type and shape; copies only if it is not dense.
inline Tensor dense(const Tensor& tensor, const std::string& name, ScalarType type,
                    const std::vector<int64_t>& shape) {
  STD_TORCH_CHECK(tensor.is_cpu(), name, ": expected a CPU tensor");
  return decode_arguments::dense_of(tensor, name, type, shape);
}

template <class T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <class T>
T* mutable_data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// Raises unless all values are in low..high.
inline void check_range(const Tensor& tensor, const std::string& name, int64_t low, int64_t high) {
  const int64_t* values = data<int64_t>(tensor);
  for (int64_t i = 0; i < tensor.numel(); ++i)
    STD_TORCH_CHECK(values[i] >= low && values[i] <= high, name, ": expected values in ", low, "..",
                    high, ", got ", values[i]);
}

inline ScalarType acc_type(WeightType weights) {
  return weights == WeightType::kFloat64 ? ScalarType::Double : ScalarType::Float;
}

// As packed, which `given` must be: of a network, or with `of_layers` false of a linear layer.
inline PackedHeader read_header(const Tensor& packed, const std::vector<int64_t>& given,
                                bool of_layers = true) {
  PackedHeader header{};
  STD_TORCH_CHECK(packed.is_cpu() && packed.dim() == 1 && packed.is_contiguous() &&
                      packed.scalar_type() == ScalarType::Byte &&
                      packed.numel() >= static_cast<int64_t>(sizeof(header)),
                  "packed: expected what decode_pack gave, on the CPU");
  std::memcpy(&header, packed.const_data_ptr(), sizeof(header));
  STD_TORCH_CHECK(std::memcmp(header.magic, kPackedMagic, sizeof(header.magic)) == 0,
                  "packed: expected what decode_pack of this version gave");
  STD_TORCH_CHECK(
      header.weights == WeightType::kFloat32 || header.weights == WeightType::kFloat64 ||
          header.weights == WeightType::kBFloat16 || header.weights == WeightType::kInt8,
      "packed: expected weights of a type that the CPU has kernels for");
  PackedHeader here = header;
  decode_describe_cpu(here);
  STD_TORCH_CHECK(here.layout == header.layout,
                  "packed: expected weights packed for this machine's instruction set; pack again");
  STD_TORCH_CHECK(here.bytes == header.bytes && header.bytes == packed.numel(), "packed: expected ",
                  here.bytes, " bytes, got ", packed.numel());
  STD_TORCH_CHECK((header.layers > 0) == of_layers, "packed: expected weights ",
                  of_layers ? "of at least one layer" : "of a linear layer, of no other");
  STD_TORCH_CHECK(given == decode_arguments::numbers_of(header),
                  "header: expected that of the packed weights");
  return header;
}

}  // namespace decode_checks
}  // namespace fast_s2s
