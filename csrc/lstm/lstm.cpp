// Host side of the LSTM ops: check, allocate, dispatch.

#include <array>
#include <cstring>
#include <string>

#include "../cpu/thread_count.h"
#include "lstm.h"
#include "lstm_ops.h"
#include "rows.h"
#include "tensors.h"

namespace fast_s2s {

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

// A dense CPU tensor of this type and shape; copies only if it is not dense.
Tensor cpu_dense(const Tensor& tensor, const char* name, ScalarType type,
                 std::initializer_list<int64_t> shape) {
  STD_TORCH_CHECK(tensor.is_cpu(), name, ": expected a CPU tensor");
  return dense(tensor, name, type, shape);
}

std::optional<Tensor> cpu_dense(const std::optional<Tensor>& tensor, const char* name,
                                ScalarType type, std::initializer_list<int64_t> shape) {
  if (!tensor.has_value()) return std::nullopt;
  return cpu_dense(*tensor, name, type, shape);
}

template <class T = void>
const T* data(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? static_cast<const T*>(tensor->const_data_ptr()) : nullptr;
}

// `bytes` after `data`; null stays null.
const void* after(const void* data, int64_t bytes) {
  return data == nullptr ? nullptr : static_cast<const char*>(data) + bytes;
}
void* after(void* data, int64_t bytes) { return static_cast<char*>(data) + bytes; }

// Checked and dense.
struct LayerWeights {
  Tensor w_ih, w_hh;
  std::optional<Tensor> b_ih, b_hh, w_hr;

  LstmWeights pointers() const {
    return {w_ih.const_data_ptr(), w_hh.const_data_ptr(), data(b_ih), data(b_hh), data(w_hr)};
  }
};

LayerWeights check_weights(const LstmShape& s, ScalarType type, const Tensor& w_ih,
                           const Tensor& w_hh, const std::optional<Tensor>& b_ih,
                           const std::optional<Tensor>& b_hh, const std::optional<Tensor>& w_hr) {
  return {cpu_dense(w_ih, "w_ih", type, {4 * s.hidden, s.input}),
          cpu_dense(w_hh, "w_hh", type, {4 * s.hidden, s.output}),
          cpu_dense(b_ih, "b_ih", type, {4 * s.hidden}),
          cpu_dense(b_hh, "b_hh", type, {4 * s.hidden}),
          cpu_dense(w_hr, "w_hr", type, {s.output, s.hidden})};
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
};

LstmShape shape_of(const Tensor& x, const Tensor& w_hh, bool projected, bool reverse) {
  STD_TORCH_CHECK(x.dim() == 3, "x: expected (T, B, I), got ", x.dim(), " dimensions");
  STD_TORCH_CHECK(w_hh.dim() == 2, "w_hh: expected (4H, R), got ", w_hh.dim(), " dimensions");
  STD_TORCH_CHECK(w_hh.size(0) % 4 == 0 && w_hh.size(0) > 0,
                  "w_hh: expected a first dimension 4H, got ", w_hh.size(0));
  const int64_t hidden = w_hh.size(0) / 4;
  STD_TORCH_CHECK(projected || w_hh.size(1) == hidden, "w_hh: expected (4H, H) = (", 4 * hidden,
                  ", ", hidden, ") without w_hr, got R = ", w_hh.size(1));
  return {x.size(0),   x.size(1), x.size(2), hidden, w_hh.size(1),
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
  LstmShape s = shape_of(x, w_hh, w_hr.has_value(), reverse);
  const ScalarType type = x.scalar_type();
  Layer layer{s,
              type,
              accumulate_type(s.dtype),
              cpu_dense(x, "x", type, {s.steps, s.batch, s.input}),
              cpu_dense(h0, "h0", type, {s.batch, s.output}),
              cpu_dense(c0, "c0", type, {s.batch, s.hidden}),
              check_weights(s, type, w_ih, w_hh, b_ih, b_hh, w_hr),
              cpu_dense(lengths, "lengths", ScalarType::Long, {s.batch}),
              cpu_dense(reset, "reset", ScalarType::Bool, {s.steps, s.batch})};
  layer.shape.lengths = data<int64_t>(layer.lengths);
  layer.shape.reset = data<bool>(layer.reset);
  check_lengths(layer.shape);
  return layer;
}

// Where the reverse direction forgets: before t what the forward one forgets before t + 1.
std::optional<Tensor> reversed(const std::optional<Tensor>& reset, const LstmShape& s) {
  if (!reset.has_value()) return std::nullopt;
  Tensor shifted = empty(*reset, {s.steps, s.batch});
  bool* out = static_cast<bool*>(shifted.mutable_data_ptr());
  if (s.steps == 0) return shifted;
  const int64_t all = s.steps * s.batch;
  std::copy(data<bool>(reset) + s.batch, data<bool>(reset) + all, out);
  std::fill(out + all - s.batch, out + all, false);
  return shifted;
}

// aᵀ · b
Tensor product_over_rows(const Tensor& a, const Tensor& b) {
  return torch::stable::matmul(torch::stable::transpose(a, 0, 1), b);
}

// d_gates · W_ih, (T, B, I) and zero past a row's length.
Tensor input_gradient(const Layer& layer, const Tensor& d_gates, int threads) {
  const LstmShape& s = layer.shape;
  const Tensor packed = torch::stable::matmul(d_gates, layer.weights.w_ih);
  if (s.lengths == nullptr) return torch::stable::view(packed, {s.steps, s.batch, s.input});
  Tensor d_x = empty(layer.x, {s.steps, s.batch, s.input});
  scatter_rows(s, packed.const_data_ptr(), d_x.mutable_data_ptr(), layer.row_bytes(s.input),
               threads);
  return d_x;
}

// Whether d_h0 is one product of all rows too: packing W_hh for a single step would take longer.
bool is_one_step(const LstmShape& s) {
  return s.steps == 1 && s.lengths == nullptr && s.reset == nullptr;
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
  Tensor cells = saves_cells ? empty(layer.x, {s.steps, s.batch, s.hidden}, layer.acc)
                             : empty(layer.x, {0}, layer.acc);
  const LstmForwardArgs args{s,
                             layer.weights.pointers(),
                             layer.x.const_data_ptr(),
                             layer.h0.const_data_ptr(),
                             layer.c0.const_data_ptr(),
                             y.mutable_data_ptr(),
                             s.output,
                             h_n.mutable_data_ptr(),
                             c_n.mutable_data_ptr(),
                             saves_gates ? gates.mutable_data_ptr() : nullptr,
                             saves_cells ? cells.mutable_data_ptr() : nullptr};
  if (s.batch > 0) lstm_forward_cpu(args, thread_count());
  return {y, h_n, c_n, gates, cells};
}

std::tuple<Tensor, Tensor, Tensor> lstm_infer(const Tensor& x, const std::optional<Tensor>& h0,
                                              const std::optional<Tensor>& c0,
                                              const std::vector<Tensor>& weights, bool bias,
                                              bool projected, bool bidirectional,
                                              const std::optional<Tensor>& lengths,
                                              const std::optional<Tensor>& reset) {
  const int64_t each = 2 + 2 * bias + projected, directions = 1 + bidirectional;
  const int64_t given = weights.size(), count = given / each;
  STD_TORCH_CHECK(given > 0 && given % (each * directions) == 0, "weights: expected ",
                  each * directions, " tensors for each layer, got ", given);
  LstmShape s = shape_of(x, weights[1], projected, false);
  const ScalarType type = x.scalar_type();
  Tensor in = cpu_dense(x, "x", type, {s.steps, s.batch, s.input});
  const auto h = cpu_dense(h0, "h0", type, {count, s.batch, s.output});
  const auto c = cpu_dense(c0, "c0", type, {count, s.batch, s.hidden});
  const auto limits = cpu_dense(lengths, "lengths", ScalarType::Long, {s.batch});
  const auto resets = cpu_dense(reset, "reset", ScalarType::Bool, {s.steps, s.batch});
  const auto reverse_resets = bidirectional ? reversed(resets, s) : std::nullopt;
  s.lengths = data<int64_t>(limits);
  check_lengths(s);
  Tensor h_n = empty(in, {count, s.batch, s.output}), c_n = empty(in, {count, s.batch, s.hidden});
  const int64_t bytes = x.element_size(), width = directions * s.output;
  for (int64_t k = 0; k < count; k += directions) {
    Tensor y = empty(in, {s.steps, s.batch, width});
    const auto layer_weights = [&](int64_t index) {
      const Tensor* w = &weights[index * each];
      const auto given_if = [&](bool there, int64_t at) {
        return there ? std::optional<Tensor>(w[at]) : std::nullopt;
      };
      return check_weights(s, type, w[0], w[1], given_if(bias, 2), given_if(bias, 3),
                           given_if(projected, each - 1));
    };
    const auto arguments = [&](int64_t direction, const LayerWeights& layer) {
      const int64_t index = k + direction;
      LstmForwardArgs args{s,
                           layer.pointers(),
                           in.const_data_ptr(),
                           after(data(h), index * s.batch * s.output * bytes),
                           after(data(c), index * s.batch * s.hidden * bytes),
                           after(y.mutable_data_ptr(), direction * s.output * bytes),
                           width,
                           after(h_n.mutable_data_ptr(), index * s.batch * s.output * bytes),
                           after(c_n.mutable_data_ptr(), index * s.batch * s.hidden * bytes),
                           nullptr,
                           nullptr};
      args.shape.reverse = direction == 1;
      args.shape.reset = data<bool>(direction == 1 ? reverse_resets : resets);
      return args;
    };
    const LayerWeights layer = layer_weights(k);
    const std::optional<LayerWeights> other =
        bidirectional ? std::optional(layer_weights(k + 1)) : std::nullopt;
    if (s.batch > 0 && bidirectional)
      lstm_forward_cpu(arguments(0, layer), arguments(1, *other), thread_count());
    if (s.batch > 0 && !bidirectional) lstm_forward_cpu(arguments(0, layer), thread_count());
    in = y;
    s.input = width;
  }
  return {in, h_n, c_n};
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
  const auto dy = cpu_dense(grad_y, "grad_y", layer.type, {s.steps, s.batch, s.output});
  const auto dh_n = cpu_dense(grad_h_n, "grad_h_n", layer.type, {s.batch, s.output});
  const auto dc_n = cpu_dense(grad_c_n, "grad_c_n", layer.type, {s.batch, s.hidden});
  const Tensor out = cpu_dense(y, "y", layer.type, {s.steps, s.batch, s.output});
  const Tensor saved_cells = cpu_dense(cells, "cells", layer.acc, {s.steps, s.batch, s.hidden});
  std::optional<Tensor> saved_gates;
  if (!recomputes)
    saved_gates = cpu_dense(gates, "gates", layer.type, {s.steps, s.batch, 4 * s.hidden});

  const int64_t n = layer.packed_rows();
  const int threads = thread_count();
  Tensor d_gates = empty(layer.x, {n, 4 * s.hidden});
  Tensor d_bias = empty(layer.x, {4 * s.hidden});
  Tensor d_h0 = empty(layer.x, {s.batch, s.output});
  Tensor d_c0 = empty(layer.x, {s.batch, s.hidden});
  Tensor d_h = empty(layer.x, {projected ? n : 0, s.output});
  Tensor unprojected = empty(layer.x, {projected ? n : 0, s.hidden});
  const LstmBackwardArgs args{s,
                              layer.weights.pointers(),
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
                              is_one_step(s) ? nullptr : d_h0.mutable_data_ptr(),
                              d_c0.mutable_data_ptr(),
                              projected ? d_h.mutable_data_ptr() : nullptr,
                              projected ? unprojected.mutable_data_ptr() : nullptr};
  lstm_backward_cpu(args, threads);

  // what is left are products over all running rows at once, best done by torch's own
  Tensor d_x = empty(layer.x, {0}), d_w_ih = empty(layer.x, {0}), d_w_hh = empty(layer.x, {0}),
         d_w_hr = empty(layer.x, {0});
  if (is_one_step(s)) d_h0 = torch::stable::matmul(d_gates, layer.weights.w_hh);
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
