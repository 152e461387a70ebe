// Host side of the LSTM ops: check, allocate, dispatch.

#include <array>
#include <string>

#include "lstm.h"
#include "lstm_ops.h"

namespace fast_s2s {

using torch::headeronly::ScalarType;
using torch::headeronly::toString;
using torch::stable::Tensor;

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
      STD_TORCH_CHECK(false, "gates: expected float32, float64 or bfloat16");
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

// The shape that gates (T, B, 4H) and w_hh (4H, R) imply.
LstmShape shape_of(const Tensor& gates, const Tensor& w_hh, bool reverse) {
  STD_TORCH_CHECK(gates.dim() == 3, "gates: expected (T, B, 4H), got ", gates.dim(), " dimensions");
  STD_TORCH_CHECK(w_hh.dim() == 2, "w_hh: expected (4H, R), got ", w_hh.dim(), " dimensions");
  STD_TORCH_CHECK(gates.size(2) % 4 == 0 && gates.size(2) > 0,
                  "gates: expected a last dimension 4H, got ", gates.size(2));
  return {gates.size(0),   gates.size(1), gates.size(2) / 4, w_hh.size(1),
          to_dtype(gates), reverse,       nullptr,           nullptr};
}

void check_lengths(const LstmShape& shape) {
  if (shape.lengths == nullptr) return;
  for (int64_t row = 0; row < shape.batch; ++row)
    STD_TORCH_CHECK(shape.lengths[row] >= 0 && shape.lengths[row] <= shape.steps,
                    "lengths: expected values in 0..", shape.steps, ", got ", shape.lengths[row]);
}

int thread_count() { return static_cast<int>(torch::stable::get_num_threads()); }

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lstm_forward(
    const Tensor& gates_x, const Tensor& h0, const Tensor& c0, const Tensor& w_hh,
    const std::optional<Tensor>& w_hr, const std::optional<Tensor>& lengths,
    const std::optional<Tensor>& reset, bool reverse, int64_t save) {
  LstmShape shape = shape_of(gates_x, w_hh, reverse);
  const auto [steps, batch, hidden, output] =
      std::array{shape.steps, shape.batch, shape.hidden, shape.output};
  STD_TORCH_CHECK(w_hr.has_value() || output == hidden, "w_hh: expected (4H, H) = (", 4 * hidden,
                  ", ", hidden, ") without w_hr, got R = ", output);
  STD_TORCH_CHECK(save == 0 || save == 1, "save: expected 0 or 1, got ", save);
  const ScalarType type = gates_x.scalar_type(), acc = accumulate_type(shape.dtype);
  const Tensor x = dense(gates_x, "gates_x", type, {steps, batch, 4 * hidden});
  const Tensor h = dense(h0, "h0", type, {batch, output});
  const Tensor c = dense(c0, "c0", type, {batch, hidden});
  const Tensor hh = dense(w_hh, "w_hh", type, {4 * hidden, output});
  const auto hr = dense(w_hr, "w_hr", type, {output, hidden});
  const auto row_lengths = dense(lengths, "lengths", ScalarType::Long, {batch});
  const auto resets = dense(reset, "reset", ScalarType::Bool, {steps, batch});
  shape.lengths = data<int64_t>(row_lengths);
  shape.reset = data<bool>(resets);
  check_lengths(shape);

  const bool saves = save == 1;
  Tensor y = torch::stable::new_empty(x, {steps, batch, output});
  Tensor h_n = torch::stable::new_empty(x, {batch, output});
  Tensor c_n = torch::stable::new_empty(x, {batch, hidden});
  Tensor gates = saves ? torch::stable::new_empty(x, {steps, batch, 4 * hidden})
                       : torch::stable::new_empty(x, {0});
  Tensor cells = saves ? torch::stable::new_empty(x, {steps, batch, hidden}, acc)
                       : torch::stable::new_empty(x, {0}, acc);
  const LstmForwardArgs args{shape,
                             x.const_data_ptr(),
                             h.const_data_ptr(),
                             c.const_data_ptr(),
                             hh.const_data_ptr(),
                             data(hr),
                             y.mutable_data_ptr(),
                             h_n.mutable_data_ptr(),
                             c_n.mutable_data_ptr(),
                             saves ? gates.mutable_data_ptr() : nullptr,
                             saves ? cells.mutable_data_ptr() : nullptr};
  if (batch > 0) lstm_forward_cpu(args, thread_count());
  return {y, h_n, c_n, gates, cells};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> lstm_backward(
    const std::optional<Tensor>& grad_y, const std::optional<Tensor>& grad_h_n,
    const std::optional<Tensor>& grad_c_n, const Tensor& gates, const Tensor& cells,
    const Tensor& c0, const Tensor& w_hh, const std::optional<Tensor>& w_hr,
    const std::optional<Tensor>& lengths, const std::optional<Tensor>& reset, bool reverse) {
  LstmShape shape = shape_of(gates, w_hh, reverse);
  const auto [steps, batch, hidden, output] =
      std::array{shape.steps, shape.batch, shape.hidden, shape.output};
  const ScalarType type = gates.scalar_type(), acc = accumulate_type(shape.dtype);
  const auto dy = dense(grad_y, "grad_y", type, {steps, batch, output});
  const auto dh_n = dense(grad_h_n, "grad_h_n", type, {batch, output});
  const auto dc_n = dense(grad_c_n, "grad_c_n", type, {batch, hidden});
  const Tensor saved_gates = dense(gates, "gates", type, {steps, batch, 4 * hidden});
  const Tensor saved_cells = dense(cells, "cells", acc, {steps, batch, hidden});
  const Tensor c = dense(c0, "c0", type, {batch, hidden});
  const Tensor hh = dense(w_hh, "w_hh", type, {4 * hidden, output});
  const auto hr = dense(w_hr, "w_hr", type, {output, hidden});
  const auto row_lengths = dense(lengths, "lengths", ScalarType::Long, {batch});
  const auto resets = dense(reset, "reset", ScalarType::Bool, {steps, batch});
  shape.lengths = data<int64_t>(row_lengths);
  shape.reset = data<bool>(resets);
  check_lengths(shape);

  const bool projected = w_hr.has_value();
  Tensor d_gates = torch::stable::new_empty(saved_gates, {steps, batch, 4 * hidden});
  Tensor d_h0 = torch::stable::new_empty(saved_gates, {batch, output});
  Tensor d_c0 = torch::stable::new_empty(saved_gates, {batch, hidden});
  Tensor d_h = projected ? torch::stable::new_empty(saved_gates, {steps, batch, output})
                         : torch::stable::new_empty(saved_gates, {0});
  const LstmBackwardArgs args{shape,
                              data(dy),
                              data(dh_n),
                              data(dc_n),
                              saved_gates.const_data_ptr(),
                              saved_cells.const_data_ptr(),
                              c.const_data_ptr(),
                              hh.const_data_ptr(),
                              data(hr),
                              d_gates.mutable_data_ptr(),
                              d_h0.mutable_data_ptr(),
                              d_c0.mutable_data_ptr(),
                              projected ? d_h.mutable_data_ptr() : nullptr};
  if (batch > 0) lstm_backward_cpu(args, thread_count());
  return {d_gates, d_h0, d_c0, d_h};
}

}  // namespace fast_s2s
