// Host side of the LSTM ops on CUDA tensors: check, allocate, products over the whole sequence.

#include "lstm_ops_cuda.h"

#include "sequence_launch.h"

namespace fast_s2s {
namespace cuda {

namespace {

// a call of so few rows and one step reads each weight once by itself
constexpr int64_t kCellRows = 32;

Precision precision_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return allows_tf32() ? Precision::kTf32 : Precision::kFp32;
    case ScalarType::BFloat16:
      return Precision::kBf16;
    case ScalarType::Half:
      return Precision::kFp16;
    default:
      STD_TORCH_CHECK(false, "x: expected dtype Float, BFloat16 or Half, got ",
                      torch::headeronly::toString(tensor.scalar_type()));
  }
}

// The arguments that forward and backward share, checked and dense.
struct Layer {
  int64_t steps, batch, inputs, hidden;
  Precision precision;
  ScalarType type;
  bool reverse;
  Tensor x, h0, c0, w_ih, w_hh;
  std::optional<Tensor> b_ih, b_hh, lengths, reset;

  SequenceShape shape() const {
    return {steps, batch, static_cast<const int64_t*>(input(lengths)),
            static_cast<const bool*>(input(reset)), reverse};
  }
  Sequence sequence(const Tensor& recurrent) const {
    return {precision, steps, batch, hidden, {recurrent}, static_cast<Stream>(current_stream())};
  }
  // rows of all steps, (T·B, width)
  Tensor rows(const Tensor& tensor, int64_t width) const {
    return torch::stable::view(tensor, {steps * batch, width});
  }
  bool one_small_step() const {
    return steps == 1 && batch <= kCellRows && !lengths.has_value() && !reset.has_value();
  }
};

void check_device(const Tensor& tensor, const char* name, const Tensor& x) {
  STD_TORCH_CHECK(tensor.get_device() == x.get_device() && tensor.is_cuda() == x.is_cuda(), name,
                  ": expected on the device of x");
}

void check_device(const std::optional<Tensor>& tensor, const char* name, const Tensor& x) {
  if (tensor.has_value()) check_device(*tensor, name, x);
}

Layer check_layer(const Tensor& x, const Tensor& h0, const Tensor& c0, const Tensor& w_ih,
                  const Tensor& w_hh, const std::optional<Tensor>& b_ih,
                  const std::optional<Tensor>& b_hh, const std::optional<Tensor>& w_hr,
                  const std::optional<Tensor>& lengths, const std::optional<Tensor>& reset,
                  bool reverse) {
  STD_TORCH_CHECK(x.dim() == 3, "x: expected (T, B, I), got ", x.dim(), " dimensions");
  STD_TORCH_CHECK(w_hh.dim() == 2, "w_hh: expected (4H, R), got ", w_hh.dim(), " dimensions");
  STD_TORCH_CHECK(!w_hr.has_value(),
                  "w_hr: expected None: the CUDA kernels have no projections; use "
                  "`with fast_s2s.backend('reference')`");
  const int64_t t = x.size(0), b = x.size(1), i = x.size(2), h = w_hh.size(1);
  STD_TORCH_CHECK(h > 0 && w_hh.size(0) == 4 * h, "w_hh: expected (4H, H) without w_hr, got (",
                  w_hh.size(0), ", ", h, ")");
  check_device(h0, "h0", x);
  check_device(c0, "c0", x);
  check_device(w_ih, "w_ih", x);
  check_device(w_hh, "w_hh", x);
  check_device(b_ih, "b_ih", x);
  check_device(b_hh, "b_hh", x);
  check_device(lengths, "lengths", x);
  check_device(reset, "reset", x);
  const ScalarType type = x.scalar_type();
  return {t,
          b,
          i,
          h,
          precision_of(x),
          type,
          reverse,
          dense(x, "x", type, {t, b, i}),
          dense(h0, "h0", type, {b, h}),
          dense(c0, "c0", type, {b, h}),
          dense(w_ih, "w_ih", type, {4 * h, i}),
          dense(w_hh, "w_hh", type, {4 * h, h}),
          dense(b_ih, "b_ih", type, {4 * h}),
          dense(b_hh, "b_hh", type, {4 * h}),
          dense(lengths, "lengths", ScalarType::Long, {b}),
          dense(reset, "reset", ScalarType::Bool, {t, b})};
}

Tensor transposed(const Tensor& tensor) { return torch::stable::transpose(tensor, 0, 1); }

// What the sequence kernels see of the input: x · W_ihᵀ, (T·B, 4H).
Tensor input_product(const Layer& layer) {
  return torch::stable::matmul(layer.rows(layer.x, layer.inputs), transposed(layer.w_ih));
}

struct Outputs {
  Tensor y, h_n, c_n, gates, cells;
};

void run_cell(const Layer& layer, Outputs& out) {
  const CellArgs args{layer.batch,
                      layer.inputs,
                      layer.hidden,
                      input(layer.x),
                      input(layer.h0),
                      input(layer.c0),
                      input(layer.w_ih),
                      input(layer.w_hh),
                      input(layer.b_ih),
                      input(layer.b_hh),
                      output(out.h_n),
                      output(out.c_n),
                      output_or_null(out.gates),
                      static_cast<float*>(output_or_null(out.cells))};
  check_launch(lstm_cell_cuda(layer.precision, args, static_cast<Stream>(current_stream())));
  out.y = torch::stable::copy_(out.y, torch::stable::view(out.h_n, {1, layer.batch, layer.hidden}));
}

void run_sequence(const Layer& layer, Outputs& out) {
  const Tensor gates_x = input_product(layer);
  const ForwardDirection direction{layer.shape(),
                                   input(gates_x),
                                   input(layer.b_ih),
                                   input(layer.b_hh),
                                   nullptr,
                                   input(layer.h0),
                                   input(layer.c0),
                                   output(out.y),
                                   output(out.h_n),
                                   output(out.c_n),
                                   output_or_null(out.gates),
                                   static_cast<float*>(output_or_null(out.cells))};
  run_forward(layer.sequence(layer.w_hh), {direction});
}

// What each step started from, (T, B, H).
Tensor previous_hidden(const Layer& layer, const Tensor& y) {
  Tensor out = empty(layer.x, {layer.steps, layer.batch, layer.hidden});
  const PreviousHidden args{layer.shape(), layer.hidden, input(y), input(layer.h0), output(out)};
  check_launch(previous_hidden_cuda(layer.precision, args, static_cast<Stream>(current_stream())));
  return out;
}

// The activated gates once more: every h is known by now, so this is one product of all rows.
Tensor recompute_gates(const Layer& layer, const Tensor& h_prev) {
  const Tensor gates_x = input_product(layer);
  const Tensor gates_h =
      torch::stable::matmul(layer.rows(h_prev, layer.hidden), transposed(layer.w_hh));
  Tensor out = empty(layer.x, {layer.steps, layer.batch, 4 * layer.hidden});
  const Activate args{layer.steps * layer.batch, layer.hidden,      input(gates_x), input(gates_h),
                      input(layer.b_ih),         input(layer.b_hh), output(out)};
  check_launch(activate_cuda(layer.precision, args, static_cast<Stream>(current_stream())));
  return out;
}

// Declared memory is that of one op call.
struct Declared {
  Declared() { forget_declared(); }
  ~Declared() { forget_declared(); }
  static void forget_declared() {
#if defined(FAST_S2S_EMULATE)
    emulator::forget_memory();
#endif
  }
};

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lstm_forward(
    const Tensor& x, const Tensor& h0, const Tensor& c0, const Tensor& w_ih, const Tensor& w_hh,
    const std::optional<Tensor>& b_ih, const std::optional<Tensor>& b_hh,
    const std::optional<Tensor>& w_hr, const std::optional<Tensor>& lengths,
    const std::optional<Tensor>& reset, bool reverse, int64_t save) {
  STD_TORCH_CHECK(save >= 0 && save <= 2, "save: expected 0, 1 or 2, got ", save);
  const Declared declared;
  const Layer layer = check_layer(x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, lengths, reset, reverse);
  const int64_t t = layer.steps, b = layer.batch, h = layer.hidden;
  Outputs out{empty(layer.x, {t, b, h}), empty(layer.x, {b, h}), empty(layer.x, {b, h}),
              save == 1 ? empty(layer.x, {t, b, 4 * h}) : empty(layer.x, {0}),
              save == 0 ? torch::stable::new_empty(layer.x, {0}, ScalarType::Float)
                        : torch::stable::new_empty(layer.x, {t, b, h}, ScalarType::Float)};
  if (b > 0) {
    if (layer.one_small_step()) {
      run_cell(layer, out);
    } else {
      run_sequence(layer, out);
    }
  }
  return {out.y, out.h_n, out.c_n, out.gates, out.cells};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> lstm_backward(
    const std::optional<Tensor>& grad_y, const std::optional<Tensor>& grad_h_n,
    const std::optional<Tensor>& grad_c_n, const Tensor& x, const Tensor& h0, const Tensor& c0,
    const Tensor& w_ih, const Tensor& w_hh, const std::optional<Tensor>& b_ih,
    const std::optional<Tensor>& b_hh, const std::optional<Tensor>& w_hr,
    const std::optional<Tensor>& lengths, const std::optional<Tensor>& reset, bool reverse,
    const Tensor& y, const Tensor& gates, const Tensor& cells, bool needs_x, bool needs_weights) {
  const Declared declared;
  const Layer layer = check_layer(x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, lengths, reset, reverse);
  const int64_t t = layer.steps, b = layer.batch, h = layer.hidden;
  const auto dy = dense(grad_y, "grad_y", layer.type, {t, b, h});
  const auto dh_n = dense(grad_h_n, "grad_h_n", layer.type, {b, h});
  const auto dc_n = dense(grad_c_n, "grad_c_n", layer.type, {b, h});
  const Tensor out = dense(y, "y", layer.type, {t, b, h});
  const Tensor saved_cells = dense(cells, "cells", ScalarType::Float, {t, b, h});
  const bool recomputes = gates.numel() == 0 && b > 0;

  Tensor d_gates = empty(layer.x, {t, b, 4 * h});
  Tensor d_h0 = empty(layer.x, {b, h}), d_c0 = empty(layer.x, {b, h});
  Tensor h_prev = empty(layer.x, {0});
  if (recomputes || needs_weights) h_prev = previous_hidden(layer, out);
  const Tensor saved_gates = recomputes ? recompute_gates(layer, h_prev)
                                        : dense(gates, "gates", layer.type, {t, b, 4 * h});
  if (b > 0) {
    const BackwardDirection direction{layer.shape(),
                                      nullptr,
                                      input(dy),
                                      input(dh_n),
                                      input(dc_n),
                                      input(saved_gates),
                                      static_cast<const float*>(input(saved_cells)),
                                      input(layer.c0),
                                      output(d_gates),
                                      output(d_h0),
                                      output(d_c0)};
    run_backward(layer.sequence(layer.w_hh), {direction});
  }

  // what is left are products over all rows at once, best done by torch's own
  const Tensor rows = layer.rows(d_gates, 4 * h);
  Tensor d_x = empty(layer.x, {0}), d_w_ih = empty(layer.x, {0}), d_w_hh = empty(layer.x, {0});
  if (needs_x)
    d_x = torch::stable::view(torch::stable::matmul(rows, layer.w_ih), {t, b, layer.inputs});
  if (needs_weights) {
    d_w_ih = torch::stable::matmul(transposed(rows), layer.rows(layer.x, layer.inputs));
    d_w_hh = torch::stable::matmul(transposed(rows), layer.rows(h_prev, h));
  }
  const int64_t over_rows[] = {0};
  const Tensor d_bias = torch::stable::sum(rows, over_rows);
  return {d_x, d_h0, d_c0, d_w_ih, d_w_hh, d_bias, empty(layer.x, {0})};
}

}  // namespace cuda
}  // namespace fast_s2s
