// Host side of the LSTM ops on CUDA tensors: allocate, launch, products over the whole sequence.

#include "lstm_ops.h"

#include <array>

#include "layer_cuda.h"

namespace fast_s2s {
namespace cuda {

namespace {

// a call of so few rows and one step reads each weight once by itself
constexpr int64_t kCellRows = 32;

Tensor transposed(const Tensor& tensor) { return torch::stable::transpose(tensor, 0, 1); }

// a · b, of their own type: kernels read it as that. Autocast, which may be on around a backward
// pass alone, rounds what `matmul` is given, but leaves alone an op that has its output already.
Tensor product(const Tensor& a, const Tensor& b) {
  const Tensor out = empty(a, {a.size(0), b.size(1)});
  std::array<StableIValue, 3> stack{torch::stable::detail::from(a), torch::stable::detail::from(b),
                                    torch::stable::detail::from(out)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// The sum of all rows, likewise: autocast would have it float32.
Tensor sum_of_rows(const Tensor& rows) {
  Tensor out = empty(rows, {rows.size(1)});
  const int64_t over_rows[] = {0};
  return torch::stable::sum_out(out, rows, over_rows);
}

// What the sequence kernels see of the input: x · W_ihᵀ, (T·B, 4H).
Tensor input_product(const Layer& layer, int64_t i) {
  return product(layer.rows(layer.x, layer.inputs), transposed(layer.weights[i].w_ih));
}

struct Outputs {
  Tensor y, h_n, c_n, gates, cells;
};

bool one_small_step(const Layer& layer) {
  return layer.directions() == 1 && !layer.projected() && layer.steps == 1 &&
         layer.batch <= kCellRows && !layer.lengths.has_value() && !layer.resets[0].has_value();
}

void run_cell(const Layer& layer, Outputs& out) {
  const Weights& w = layer.weights[0];
  const CellArgs args{layer.batch,
                      layer.inputs,
                      layer.hidden,
                      input(layer.x),
                      input(layer.h0),
                      input(layer.c0),
                      input(w.w_ih),
                      input(w.w_hh),
                      input(w.b_ih),
                      input(w.b_hh),
                      output(out.h_n),
                      output(out.c_n),
                      output_or_null(out.gates),
                      static_cast<float*>(output_or_null(out.cells))};
  check_launch(lstm_cell_cuda(layer.precision, args, current_stream()));
  out.y = torch::stable::copy_(out.y, torch::stable::view(out.h_n, {1, layer.batch, layer.hidden}));
}

void run_sequence(const Layer& layer, Outputs& out) {
  std::vector<Tensor> gates_x;
  std::vector<ForwardDirection> directions;
  auto* y = static_cast<char*>(output(out.y));
  for (int64_t i = 0; i < layer.directions(); ++i) {
    const Weights& w = layer.weights[i];
    gates_x.push_back(input_product(layer, i));
    directions.push_back({layer.shape(i), input(gates_x[i]), input(w.b_ih), input(w.b_hh), nullptr,
                          nullptr, layer.part(layer.h0, i), layer.part(layer.c0, i),
                          y + layer.column_bytes(i), layer.part_out(out.h_n, i),
                          layer.part_out(out.c_n, i), layer.part_out(out.gates, i),
                          static_cast<float*>(layer.part_out(out.cells, i))});
  }
  run_forward(layer.sequence(), directions);
}

// What each step started from, (T, B, R).
Tensor previous_hidden(const Layer& layer, int64_t i, const Tensor& y) {
  Tensor out = empty(layer.x, {layer.steps, layer.batch, layer.outputs});
  const auto* from = static_cast<const char*>(input(y)) + layer.column_bytes(i);
  const PreviousHidden args{layer.shape(i), layer.outputs,           layer.directions(),
                            from,           layer.part(layer.h0, i), output(out)};
  check_launch(previous_hidden_cuda(layer.precision, args, current_stream()));
  return out;
}

// The activated gates once more: every h is known by now, so this is one product of all rows.
Tensor recompute_gates(const Layer& layer, int64_t i, const Tensor& h_prev) {
  const Weights& w = layer.weights[i];
  const Tensor gates_x = input_product(layer, i);
  const Tensor gates_h = product(layer.rows(h_prev, layer.outputs), transposed(w.w_hh));
  Tensor out = empty(layer.x, {layer.steps, layer.batch, 4 * layer.hidden});
  const Activate args{layer.steps * layer.batch,
                      layer.hidden,
                      input(gates_x),
                      input(gates_h),
                      input(w.b_ih),
                      input(w.b_hh),
                      output(out)};
  check_launch(activate_cuda(layer.precision, args, current_stream()));
  return out;
}

// Each h before the projection, (T·B, H).
Tensor unprojected(const Layer& layer, int64_t i, const void* gates, const float* cells) {
  Tensor out = empty(layer.x, {layer.steps * layer.batch, layer.hidden});
  const Unprojected args{layer.shape(i), layer.hidden, gates, cells, output(out)};
  check_launch(unprojected_cuda(layer.precision, args, current_stream()));
  return out;
}

// x for a product with gradients, which are zero past a row's length, where x may be no number.
Tensor running_inputs(const Layer& layer) {
  if (!layer.lengths.has_value() || layer.batch == 0) return layer.x;
  Tensor out = empty(layer.x, {layer.steps, layer.batch, layer.inputs});
  const Running args{layer.shape(0), layer.inputs, input(layer.x), output(out)};
  check_launch(running_cuda(layer.precision, args, current_stream()));
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

Outputs forward(const Layer& layer, int64_t save) {
  STD_TORCH_CHECK(save >= 0 && save <= 2, "save: expected 0, 1 or 2, got ", save);
  const int64_t t = layer.steps, b = layer.batch, h = layer.hidden, r = layer.outputs;
  const ScalarType acc = ScalarType::Float;
  Outputs out{
      empty(layer.x, {t, b, layer.directions() * r}), layer.of_each({b, r}), layer.of_each({b, h}),
      save == 1 ? layer.of_each({t, b, 4 * h}) : empty(layer.x, {0}),
      save == 0 ? torch::stable::new_empty(layer.x, {0}, acc) : layer.of_each({t, b, h}, acc)};
  if (b > 0) {
    if (one_small_step(layer)) {
      run_cell(layer, out);
    } else {
      run_sequence(layer, out);
    }
  }
  return out;
}

struct Given {
  std::optional<Tensor> grad_y, grad_h_n, grad_c_n;
  Tensor y, gates, cells;
};

Given check_given(const Layer& layer, const std::optional<Tensor>& grad_y,
                  const std::optional<Tensor>& grad_h_n, const std::optional<Tensor>& grad_c_n,
                  const Tensor& y, const Tensor& gates, const Tensor& cells) {
  const int64_t t = layer.steps, b = layer.batch, h = layer.hidden, r = layer.outputs;
  const std::vector<int64_t> outputs{t, b, layer.directions() * r};
  const bool saved = gates.numel() > 0 || b == 0;
  return {dense(grad_y, "grad_y", layer.type, outputs),
          layer.checked(grad_h_n, "grad_h_n", {b, r}, layer.type),
          layer.checked(grad_c_n, "grad_c_n", {b, h}, layer.type),
          dense(y, "y", layer.type, outputs),
          saved ? *layer.checked(gates, "gates", {t, b, 4 * h}, layer.type) : gates,
          *layer.checked(cells, "cells", {t, b, h}, ScalarType::Float)};
}

// The gradients of a direction's weights; empty where not wanted.
struct WeightGradients {
  Tensor w_ih, w_hh, bias, w_hr;
};
struct Gradients {
  Tensor x, h0, c0;
  std::vector<WeightGradients> weights;
};

Gradients backward(const Layer& layer, const Given& given, bool needs_x, bool needs_weights) {
  const int64_t t = layer.steps, b = layer.batch, h = layer.hidden, r = layer.outputs;
  const bool recomputes = given.gates.numel() == 0 && b > 0;
  const Tensor none = empty(layer.x, {0});
  Gradients d{none, layer.of_each({b, r}), layer.of_each({b, h}), {}};
  std::vector<Tensor> h_prev, gates, d_gates, d_h;
  std::vector<BackwardDirection> directions;
  const auto* grad_y = static_cast<const char*>(input(given.grad_y));
  for (int64_t i = 0; i < layer.directions(); ++i) {
    h_prev.push_back(recomputes || needs_weights ? previous_hidden(layer, i, given.y) : none);
    if (recomputes) gates.push_back(recompute_gates(layer, i, h_prev[i]));
    d_gates.push_back(empty(layer.x, {t, b, 4 * h}));
    d_h.push_back(layer.projected() ? empty(layer.x, {t, b, r}) : empty(layer.x, {0}));
    directions.push_back({layer.shape(i), nullptr, nullptr,
                          grad_y == nullptr ? nullptr : grad_y + layer.column_bytes(i),
                          layer.part(given.grad_h_n, i), layer.part(given.grad_c_n, i),
                          recomputes ? input(gates[i]) : layer.part(given.gates, i),
                          static_cast<const float*>(layer.part(given.cells, i)),
                          layer.part(layer.c0, i), output(d_gates[i]), layer.part_out(d.h0, i),
                          layer.part_out(d.c0, i), output_or_null(d_h[i])});
  }
  if (b > 0) run_backward(layer.sequence(), directions);

  // what is left are products over all rows at once, best done by torch's own
  const Tensor x = needs_weights ? running_inputs(layer) : layer.x;
  for (int64_t i = 0; i < layer.directions(); ++i) {
    const Tensor rows = layer.rows(d_gates[i], 4 * h);
    if (needs_x) {
      const Tensor d_x = product(rows, layer.weights[i].w_ih);
      d.x = i == 0 ? d_x : torch::stable::subtract(d.x, d_x, -1);
    }
    WeightGradients of_weights{empty(layer.x, {0}), empty(layer.x, {0}), sum_of_rows(rows),
                               empty(layer.x, {0})};
    if (needs_weights) {
      of_weights.w_ih = product(transposed(rows), layer.rows(x, layer.inputs));
      of_weights.w_hh = product(transposed(rows), layer.rows(h_prev[i], r));
      if (layer.projected())
        of_weights.w_hr = product(transposed(layer.rows(d_h[i], r)),
                                  unprojected(layer, i, directions[i].gates, directions[i].cells));
    }
    d.weights.push_back(of_weights);
  }
  if (needs_x) d.x = torch::stable::view(d.x, {t, b, layer.inputs});
  return d;
}

Layer check_both(const Tensor& x, const Tensor& h0, const Tensor& c0,
                 const std::vector<Tensor>& weights, const std::vector<Tensor>& weights_reverse,
                 bool bias, const std::optional<Tensor>& lengths,
                 const std::optional<Tensor>& reset, const std::optional<Tensor>& reset_reverse) {
  return check_layer(
      {x,
       h0,
       c0,
       {weights_of(weights, bias, "weights"), weights_of(weights_reverse, bias, "weights_reverse")},
       lengths,
       {reset, reset_reverse},
       false});
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lstm_forward(
    const Tensor& x, const Tensor& h0, const Tensor& c0, const Tensor& w_ih, const Tensor& w_hh,
    const std::optional<Tensor>& b_ih, const std::optional<Tensor>& b_hh,
    const std::optional<Tensor>& w_hr, const std::optional<Tensor>& lengths,
    const std::optional<Tensor>& reset, bool reverse, int64_t save) {
  const Declared declared;
  const Layer layer =
      check_layer({x, h0, c0, {{w_ih, w_hh, b_ih, b_hh, w_hr}}, lengths, {reset}, reverse});
  const Outputs out = forward(layer, save);
  return {out.y, out.h_n, out.c_n, out.gates, out.cells};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lstm_forward_both(
    const Tensor& x, const Tensor& h0, const Tensor& c0, const std::vector<Tensor>& weights,
    const std::vector<Tensor>& weights_reverse, bool bias, const std::optional<Tensor>& lengths,
    const std::optional<Tensor>& reset, const std::optional<Tensor>& reset_reverse, int64_t save) {
  const Declared declared;
  const Layer layer =
      check_both(x, h0, c0, weights, weights_reverse, bias, lengths, reset, reset_reverse);
  const Outputs out = forward(layer, save);
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
  const Layer layer =
      check_layer({x, h0, c0, {{w_ih, w_hh, b_ih, b_hh, w_hr}}, lengths, {reset}, reverse});
  const Given given = check_given(layer, grad_y, grad_h_n, grad_c_n, y, gates, cells);
  const Gradients d = backward(layer, given, needs_x, needs_weights);
  const WeightGradients& w = d.weights[0];
  return {d.x, d.h0, d.c0, w.w_ih, w.w_hh, w.bias, w.w_hr};
}

std::vector<Tensor> lstm_backward_both(
    const std::optional<Tensor>& grad_y, const std::optional<Tensor>& grad_h_n,
    const std::optional<Tensor>& grad_c_n, const Tensor& x, const Tensor& h0, const Tensor& c0,
    const std::vector<Tensor>& weights, const std::vector<Tensor>& weights_reverse, bool bias,
    const std::optional<Tensor>& lengths, const std::optional<Tensor>& reset,
    const std::optional<Tensor>& reset_reverse, const Tensor& y, const Tensor& gates,
    const Tensor& cells, bool needs_x, bool needs_weights) {
  const Declared declared;
  const Layer layer =
      check_both(x, h0, c0, weights, weights_reverse, bias, lengths, reset, reset_reverse);
  const Given given = check_given(layer, grad_y, grad_h_n, grad_c_n, y, gates, cells);
  const Gradients d = backward(layer, given, needs_x, needs_weights);
  std::vector<Tensor> out{d.x, d.h0, d.c0};
  for (const WeightGradients& w : d.weights) {
    for (const Tensor& tensor : {w.w_ih, w.w_hh, w.bias, w.w_hr}) out.push_back(tensor);
  }
  return out;
}

}  // namespace cuda
}  // namespace fast_s2s
