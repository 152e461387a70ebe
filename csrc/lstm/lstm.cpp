// Host side of the LSTM ops: check, allocate, dispatch.

#include <array>
#include <string>

#include "../cpu/thread_count.h"
#include "lstm.h"
#include "lstm_ops.h"
#include "rows.h"

namespace fast_s2s {

using torch::headeronly::ScalarType;
using torch::headeronly::toString;
namespace {

DType to_dtype(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::Double:
      return DType::kFloat64;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    default:
      STD_TORCH_CHECK(false, "x: expected dtype Float, Double or BFloat16, got ",
                      toString(tensor.scalar_type()));
  }
}

ScalarType accumulate_type(DType dtype) {
  return dtype == DType::kFloat64 ? ScalarType::Double : ScalarType::Float;
}

void check_shape(const Tensor& tensor, const char* name, std::initializer_list<int64_t> expected) {
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

// A dense CPU tensor of this type and shape; copies only if it is not dense.
Tensor dense(const Tensor& tensor, const char* name, ScalarType type,
             std::initializer_list<int64_t> shape) {
  STD_TORCH_CHECK(tensor.is_cpu(), name, ": expected a CPU tensor");
  STD_TORCH_CHECK(tensor.scalar_type() == type, name, ": expected dtype ", toString(type), ", got ",
                  toString(tensor.scalar_type()));
  check_shape(tensor, name, shape);
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

std::optional<Tensor> dense(const std::optional<Tensor>& tensor, const char* name, ScalarType type,
                            std::initializer_list<int64_t> shape) {
  if (!tensor.has_value()) return std::nullopt;
  return dense(*tensor, name, type, shape);
}

template <class T = void>
const T* data(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? static_cast<const T*>(tensor->const_data_ptr()) : nullptr;
}

Tensor empty(const Tensor& like, std::initializer_list<int64_t> shape) {
  return torch::stable::new_empty(like, shape);
}

// The arguments that forward and backward share, checked and dense, with the shape they imply.
struct Layer {
  LstmShape shape;
  ScalarType type, acc;
  Tensor x, h0, c0, w_ih, w_hh;
  std::optional<Tensor> b_ih, b_hh, w_hr, lengths, reset;

  LstmWeights weights() const {
    return {w_ih.const_data_ptr(), w_hh.const_data_ptr(), data(b_ih), data(b_hh), data(w_hr)};
  }
  // Running rows over all steps.
  int64_t packed_rows() const {
    if (shape.lengths == nullptr) return shape.steps * shape.batch;
    return std::accumulate(shape.lengths, shape.lengths + shape.batch, int64_t{0});
  }
  int64_t row_bytes(int64_t width) const { return width * x.element_size(); }
};

LstmShape shape_of(const Tensor& x, const Tensor& w_hh, bool reverse) {
  STD_TORCH_CHECK(x.dim() == 3, "x: expected (T, B, I), got ", x.dim(), " dimensions");
  STD_TORCH_CHECK(w_hh.dim() == 2, "w_hh: expected (4H, R), got ", w_hh.dim(), " dimensions");
  STD_TORCH_CHECK(w_hh.size(0) % 4 == 0 && w_hh.size(0) > 0,
                  "w_hh: expected a first dimension 4H, got ", w_hh.size(0));
  return {x.size(0),   x.size(1), x.size(2), w_hh.size(0) / 4, w_hh.size(1),
          to_dtype(x), reverse,   nullptr,   nullptr};
}

void check_lengths(const LstmShape& shape) {
  if (shape.lengths == nullptr) return;
  for (int64_t row = 0; row < shape.batch; ++row)
    STD_TORCH_CHECK(shape.lengths[row] >= 0 && shape.lengths[row] <= shape.steps,
                    "lengths: expected values in 0..", shape.steps, ", got ", shape.lengths[row]);
}

Layer check_layer(const Tensor& x, const Tensor& h0, const Tensor& c0, const Tensor& w_ih,
                  const Tensor& w_hh, const std::optional<Tensor>& b_ih,
                  const std::optional<Tensor>& b_hh, const std::optional<Tensor>& w_hr,
                  const std::optional<Tensor>& lengths, const std::optional<Tensor>& reset,
                  bool reverse) {
  LstmShape s = shape_of(x, w_hh, reverse);
  STD_TORCH_CHECK(w_hr.has_value() || s.output == s.hidden, "w_hh: expected (4H, H) = (",
                  4 * s.hidden, ", ", s.hidden, ") without w_hr, got R = ", s.output);
  const ScalarType type = x.scalar_type();
  Layer layer{s,
              type,
              accumulate_type(s.dtype),
              dense(x, "x", type, {s.steps, s.batch, s.input}),
              dense(h0, "h0", type, {s.batch, s.output}),
              dense(c0, "c0", type, {s.batch, s.hidden}),
              dense(w_ih, "w_ih", type, {4 * s.hidden, s.input}),
              dense(w_hh, "w_hh", type, {4 * s.hidden, s.output}),
              dense(b_ih, "b_ih", type, {4 * s.hidden}),
              dense(b_hh, "b_hh", type, {4 * s.hidden}),
              dense(w_hr, "w_hr", type, {s.output, s.hidden}),
              dense(lengths, "lengths", ScalarType::Long, {s.batch}),
              dense(reset, "reset", ScalarType::Bool, {s.steps, s.batch})};
  layer.shape.lengths = data<int64_t>(layer.lengths);
  layer.shape.reset = data<bool>(layer.reset);
  check_lengths(layer.shape);
  return layer;
}

// aᵀ · b
Tensor product_over_rows(const Tensor& a, const Tensor& b) {
  return torch::stable::matmul(torch::stable::transpose(a, 0, 1), b);
}

// d_gates · W_ih, (T, B, I) and zero past a row's length.
Tensor input_gradient(const Layer& layer, const Tensor& d_gates, int threads) {
  const LstmShape& s = layer.shape;
  const Tensor packed = torch::stable::matmul(d_gates, layer.w_ih);
  if (s.lengths == nullptr) return torch::stable::view(packed, {s.steps, s.batch, s.input});
  Tensor d_x = empty(layer.x, {s.steps, s.batch, s.input});
  scatter_rows(s, packed.const_data_ptr(), d_x.mutable_data_ptr(), layer.row_bytes(s.input),
               threads);
  return d_x;
}

// The x of all running rows, (N, I).
Tensor input_rows(const Layer& layer, int64_t n, int threads) {
  const LstmShape& s = layer.shape;
  if (s.lengths == nullptr) return torch::stable::view(layer.x, {n, s.input});
  Tensor rows = empty(layer.x, {n, s.input});
  gather_rows(s, layer.x.const_data_ptr(), rows.mutable_data_ptr(), layer.row_bytes(s.input),
              threads);
  return rows;
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lstm_forward(
    const Tensor& x, const Tensor& h0, const Tensor& c0, const Tensor& w_ih, const Tensor& w_hh,
    const std::optional<Tensor>& b_ih, const std::optional<Tensor>& b_hh,
    const std::optional<Tensor>& w_hr, const std::optional<Tensor>& lengths,
    const std::optional<Tensor>& reset, bool reverse, int64_t save) {
  STD_TORCH_CHECK(save >= 0 && save <= 2, "save: expected 0, 1 or 2, got ", save);
  const Layer layer = check_layer(x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, lengths, reset, reverse);
  const LstmShape& s = layer.shape;
  const bool saves_gates = save == 1, saves_cells = save != 0;
  Tensor y = empty(layer.x, {s.steps, s.batch, s.output});
  Tensor h_n = empty(layer.x, {s.batch, s.output});
  Tensor c_n = empty(layer.x, {s.batch, s.hidden});
  Tensor gates =
      saves_gates ? empty(layer.x, {s.steps, s.batch, 4 * s.hidden}) : empty(layer.x, {0});
  Tensor cells = saves_cells
                     ? torch::stable::new_empty(layer.x, {s.steps, s.batch, s.hidden}, layer.acc)
                     : torch::stable::new_empty(layer.x, {0}, layer.acc);
  const LstmForwardArgs args{s,
                             layer.weights(),
                             layer.x.const_data_ptr(),
                             layer.h0.const_data_ptr(),
                             layer.c0.const_data_ptr(),
                             y.mutable_data_ptr(),
                             h_n.mutable_data_ptr(),
                             c_n.mutable_data_ptr(),
                             saves_gates ? gates.mutable_data_ptr() : nullptr,
                             saves_cells ? cells.mutable_data_ptr() : nullptr};
  if (s.batch > 0) lstm_forward_cpu(args, thread_count());
  return {y, h_n, c_n, gates, cells};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> lstm_backward(
    const std::optional<Tensor>& grad_y, const std::optional<Tensor>& grad_h_n,
    const std::optional<Tensor>& grad_c_n, const Tensor& x, const Tensor& h0, const Tensor& c0,
    const Tensor& w_ih, const Tensor& w_hh, const std::optional<Tensor>& b_ih,
    const std::optional<Tensor>& b_hh, const std::optional<Tensor>& w_hr,
    const std::optional<Tensor>& lengths, const std::optional<Tensor>& reset, bool reverse,
    const Tensor& y, const Tensor& gates, const Tensor& cells, bool needs_x, bool needs_weights) {
  const Layer layer = check_layer(x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, lengths, reset, reverse);
  const LstmShape& s = layer.shape;
  const bool projected = w_hr.has_value(), recomputes = gates.numel() == 0;
  const auto dy = dense(grad_y, "grad_y", layer.type, {s.steps, s.batch, s.output});
  const auto dh_n = dense(grad_h_n, "grad_h_n", layer.type, {s.batch, s.output});
  const auto dc_n = dense(grad_c_n, "grad_c_n", layer.type, {s.batch, s.hidden});
  const Tensor out = dense(y, "y", layer.type, {s.steps, s.batch, s.output});
  const Tensor saved_cells = dense(cells, "cells", layer.acc, {s.steps, s.batch, s.hidden});
  std::optional<Tensor> saved_gates;
  if (!recomputes)
    saved_gates = dense(gates, "gates", layer.type, {s.steps, s.batch, 4 * s.hidden});

  const int64_t n = layer.packed_rows();
  const int threads = thread_count();
  Tensor d_gates = empty(layer.x, {n, 4 * s.hidden});
  Tensor d_bias = empty(layer.x, {4 * s.hidden});
  Tensor d_h0 = empty(layer.x, {s.batch, s.output});
  Tensor d_c0 = empty(layer.x, {s.batch, s.hidden});
  Tensor d_h = empty(layer.x, {projected ? n : 0, s.output});
  Tensor unprojected = empty(layer.x, {projected ? n : 0, s.hidden});
  const LstmBackwardArgs args{s,
                              layer.weights(),
                              data(dy),
                              data(dh_n),
                              data(dc_n),
                              layer.x.const_data_ptr(),
                              out.const_data_ptr(),
                              data(saved_gates),
                              saved_cells.const_data_ptr(),
                              layer.h0.const_data_ptr(),
                              layer.c0.const_data_ptr(),
                              d_gates.mutable_data_ptr(),
                              d_bias.mutable_data_ptr(),
                              d_h0.mutable_data_ptr(),
                              d_c0.mutable_data_ptr(),
                              projected ? d_h.mutable_data_ptr() : nullptr,
                              projected ? unprojected.mutable_data_ptr() : nullptr};
  lstm_backward_cpu(args, threads);

  // what is left are products over all running rows at once, best done by torch's own
  Tensor d_x = empty(layer.x, {0}), d_w_ih = empty(layer.x, {0}), d_w_hh = empty(layer.x, {0}),
         d_w_hr = empty(layer.x, {0});
  if (needs_x) d_x = input_gradient(layer, d_gates, threads);
  if (needs_weights) {
    d_w_ih = product_over_rows(d_gates, input_rows(layer, n, threads));
    Tensor h_prev = empty(layer.x, {n, s.output});
    gather_previous_hidden(s, out.const_data_ptr(), layer.h0.const_data_ptr(),
                           h_prev.mutable_data_ptr(), layer.row_bytes(s.output), threads);
    d_w_hh = product_over_rows(d_gates, h_prev);
    if (projected) d_w_hr = product_over_rows(d_h, unprojected);
  }
  return {d_x, d_h0, d_c0, d_w_ih, d_w_hh, d_bias, d_w_hr};
}

}  // namespace fast_s2s
