// The arguments of the LSTM ops on CUDA, checked: a layer of one or two directions.
#pragma once

#include <string>
#include <vector>

#include "sequence_launch.h"
#include "weights.h"

namespace fast_s2s {
namespace cuda {

// Whether float32 may be multiplied as tf32.
bool allows_tf32();

// D directions, R outputs. With two of them states and what is saved have one more dimension in
// front, and y has their outputs side by side.
struct Layer {
  int64_t steps, batch, inputs, hidden, outputs;
  Precision precision;
  ScalarType type;
  bool reverse;  // of the only direction; of two the second runs in reverse
  Tensor x, h0, c0;
  std::vector<Weights> weights;
  std::optional<Tensor> lengths;
  std::vector<std::optional<Tensor>> resets;

  int64_t directions() const { return static_cast<int64_t>(weights.size()); }
  bool projected() const { return weights[0].w_hr.has_value(); }
  SequenceShape shape(int64_t i) const {
    return {steps, batch, static_cast<const int64_t*>(input(lengths)),
            static_cast<const bool*>(input(resets[i])), directions() == 2 ? i == 1 : reverse};
  }
  Sequence sequence() const;
  // (T·B, width), of all steps' rows
  Tensor rows(const Tensor& tensor, int64_t width) const {
    return torch::stable::view(tensor, {steps * batch, width});
  }
  // a new tensor, with D in front if there are two directions
  Tensor of_each(const std::vector<int64_t>& sizes) const { return of_each(sizes, type); }
  Tensor of_each(const std::vector<int64_t>& sizes, ScalarType of_type) const;
  // the same as an argument: dense and of that shape
  std::optional<Tensor> checked(const std::optional<Tensor>& tensor, const char* name,
                                const std::vector<int64_t>& sizes, ScalarType of_type) const;

  // Direction i's part of such a tensor, for a kernel.
  const void* part(const Tensor& tensor, int64_t i) const {
    return static_cast<const char*>(input(tensor)) + i * (bytes_of(tensor) / weights.size());
  }
  const void* part(const std::optional<Tensor>& tensor, int64_t i) const {
    return tensor.has_value() ? part(*tensor, i) : nullptr;
  }
  void* part_out(Tensor& tensor, int64_t i) const {
    if (tensor.numel() == 0) return nullptr;
    if (i == 0) output(tensor);
    return static_cast<char*>(tensor.mutable_data_ptr()) + i * (bytes_of(tensor) / weights.size());
  }
  // its columns of y or a gradient of it
  int64_t column_bytes(int64_t i) const { return i * outputs * x.element_size(); }
};

struct LayerArguments {
  const Tensor &x, &h0, &c0;
  std::vector<Weights> weights;
  const std::optional<Tensor>& lengths;
  std::vector<std::optional<Tensor>> resets;
  bool reverse;
};
// Raises an error that names what does not fit.
Layer check_layer(const LayerArguments& given);

}  // namespace cuda
}  // namespace fast_s2s
