// The arguments of the LSTM ops on the CPU, checked.
#pragma once

#include <numeric>

#include "lstm.h"
#include "tensors.h"
#include "weights.h"

namespace fast_s2s {

inline DType to_dtype(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::Double:
      return DType::kFloat64;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    default:
      STD_TORCH_CHECK(false, "x: expected dtype Float, Double or BFloat16, got ",
                      torch::headeronly::toString(tensor.scalar_type()));
  }
}

inline ScalarType accumulate_type(DType dtype) {
  return dtype == DType::kFloat64 ? ScalarType::Double : ScalarType::Float;
}

// A dense CPU tensor of this type and shape; copies only if it is not dense.
template <class Shape = std::initializer_list<int64_t>>
Tensor cpu_dense(const Tensor& tensor, const char* name, ScalarType type, const Shape& shape) {
  STD_TORCH_CHECK(tensor.is_cpu(), name, ": expected a CPU tensor");
  return dense(tensor, name, type, shape);
}

template <class Shape = std::initializer_list<int64_t>>
std::optional<Tensor> cpu_dense(const std::optional<Tensor>& tensor, const char* name,
                                ScalarType type, const Shape& shape) {
  if (!tensor.has_value()) return std::nullopt;
  return cpu_dense(*tensor, name, type, shape);
}

template <class T = void>
const T* data(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? static_cast<const T*>(tensor->const_data_ptr()) : nullptr;
}

// `bytes` after `data`; null stays null.
inline const void* after(const void* data, int64_t bytes) {
  return data == nullptr ? nullptr : static_cast<const char*>(data) + bytes;
}
inline void* after(void* data, int64_t bytes) {
  return const_cast<void*>(after(static_cast<const void*>(data), bytes));
}

// Checked and dense.
struct LayerWeights : Weights {
  LstmWeights pointers() const {
    return {w_ih.const_data_ptr(), w_hh.const_data_ptr(), data(b_ih), data(b_hh), data(w_hr)};
  }
};

// `reverse`: of the second of two directions.
inline LayerWeights check_weights(const LstmShape& s, ScalarType type, const Weights& w,
                                  bool reverse = false) {
  const auto name = [&](const char* plain, const char* reversed) {
    return reverse ? reversed : plain;
  };
  return {{cpu_dense(w.w_ih, name("w_ih", "w_ih_reverse"), type, {4 * s.hidden, s.input}),
           cpu_dense(w.w_hh, name("w_hh", "w_hh_reverse"), type, {4 * s.hidden, s.output}),
           cpu_dense(w.b_ih, name("b_ih", "b_ih_reverse"), type, {4 * s.hidden}),
           cpu_dense(w.b_hh, name("b_hh", "b_hh_reverse"), type, {4 * s.hidden}),
           cpu_dense(w.w_hr, name("w_hr", "w_hr_reverse"), type, {s.output, s.hidden})}};
}

// The arguments that forward and backward share, checked and dense, with the shape they imply.
struct Layer {
  LstmShape shape;
  ScalarType type, acc;
  Tensor x, h0, c0;
  LayerWeights weights;
  std::optional<Tensor> lengths, reset;

  // Running rows over all steps.
  int64_t packed_rows() const {
    if (shape.lengths == nullptr) return shape.steps * shape.batch;
    return std::accumulate(shape.lengths, shape.lengths + shape.batch, int64_t{0});
  }
  int64_t row_bytes(int64_t width) const { return width * x.element_size(); }
  bool projected() const { return weights.w_hr.has_value(); }
};

// The hidden and output sizes that w_hh has.
struct LayerSizes {
  int64_t hidden, output;
};

inline LayerSizes sizes_of(const Tensor& w_hh, bool projected) {
  STD_TORCH_CHECK(w_hh.dim() == 2, "w_hh: expected (4H, R), got ", w_hh.dim(), " dimensions");
  STD_TORCH_CHECK(w_hh.size(0) % 4 == 0 && w_hh.size(0) > 0,
                  "w_hh: expected a first dimension 4H, got ", w_hh.size(0));
  const int64_t hidden = w_hh.size(0) / 4;
  STD_TORCH_CHECK(projected || w_hh.size(1) == hidden, "w_hh: expected (4H, H) = (", 4 * hidden,
                  ", ", hidden, ") without w_hr, got R = ", w_hh.size(1));
  return {hidden, w_hh.size(1)};
}

inline LstmShape shape_of(const Tensor& x, const Tensor& w_hh, bool projected, bool reverse) {
  STD_TORCH_CHECK(x.dim() == 3, "x: expected (T, B, I), got ", x.dim(), " dimensions");
  const LayerSizes sizes = sizes_of(w_hh, projected);
  return {x.size(0),   x.size(1), x.size(2), sizes.hidden, sizes.output,
          to_dtype(x), reverse,   nullptr,   nullptr};
}

inline void check_lengths(const LstmShape& shape) {
  if (shape.lengths == nullptr) return;
  for (int64_t row = 0; row < shape.batch; ++row)
    STD_TORCH_CHECK(shape.lengths[row] >= 0 && shape.lengths[row] <= shape.steps,
                    "lengths: expected values in 0..", shape.steps, ", got ", shape.lengths[row]);
}

// `s`: by x and the weights, or those of the first of two directions.
inline Layer check_layer(LstmShape s, const Tensor& x, const Tensor& h0, const Tensor& c0,
                         const Weights& weights, const std::optional<Tensor>& lengths,
                         const std::optional<Tensor>& reset, bool second = false) {
  const ScalarType type = x.scalar_type();
  Layer layer{
      s,
      type,
      accumulate_type(s.dtype),
      cpu_dense(x, "x", type, {s.steps, s.batch, s.input}),
      cpu_dense(h0, "h0", type, {s.batch, s.output}),
      cpu_dense(c0, "c0", type, {s.batch, s.hidden}),
      check_weights(s, type, weights, second),
      cpu_dense(lengths, "lengths", ScalarType::Long, {s.batch}),
      cpu_dense(reset, second ? "reset_reverse" : "reset", ScalarType::Bool, {s.steps, s.batch})};
  layer.shape.lengths = data<int64_t>(layer.lengths);
  layer.shape.reset = data<bool>(layer.reset);
  check_lengths(layer.shape);
  return layer;
}

}  // namespace fast_s2s
