// The ops of training on CPU tensors, for a layer in one direction or in both: check, allocate,
// dispatch, and the products of the backward pass that take all rows at once.

#include <array>
#include <string>

#include "../cpu/thread_count.h"
#include "layer_cpu.h"
#include "lstm_ops.h"
#include "rows.h"
#include "running_rows.h"
#include "tensor_products.h"

namespace fast_s2s {

namespace {

// One direction of a layer, or both. With two of them states and what is saved have one more
// dimension in front, and y has their outputs side by side.
typedef std::vector<Layer> Directions;

std::vector<int64_t> with_directions(size_t directions, std::vector<int64_t> sizes) {
  if (directions == 2) sizes.insert(sizes.begin(), 2);
  return sizes;
}

// Direction i's part of such a tensor; null if it is empty.
void* part(const Tensor& tensor, const Directions& directions, size_t i) {
  if (tensor.numel() == 0) return nullptr;
  return after(tensor.mutable_data_ptr(),
               i * (tensor.numel() / directions.size() * tensor.element_size()));
}
const void* part(const std::optional<Tensor>& tensor, const Directions& directions, size_t i) {
  return tensor.has_value() ? part(*tensor, directions, i) : nullptr;
}

// Where direction i's columns of y begin.
int64_t column_bytes(const Layer& layer, size_t i) {
  return static_cast<int64_t>(i) * layer.row_bytes(layer.shape.output);
}

struct Outputs {
  Tensor y, h_n, c_n, gates, cells;
};

Outputs forward(const Directions& directions, int64_t save) {
  STD_TORCH_CHECK(save >= 0 && save <= 2, "save: expected 0, 1 or 2, got ", save);
  const Layer& layer = directions[0];
  const LstmShape& s = layer.shape;
  const size_t count = directions.size();
  const int64_t width = count * s.output;
  const auto of_each = [&](bool wanted, std::vector<int64_t> sizes, ScalarType type) {
    return wanted ? empty(layer.x, with_directions(count, sizes), type) : empty(layer.x, {0}, type);
  };
  const Outputs out{empty(layer.x, {s.steps, s.batch, width}),
                    of_each(true, {s.batch, s.output}, layer.type),
                    of_each(true, {s.batch, s.hidden}, layer.type),
                    of_each(save == 1, {s.steps, s.batch, 4 * s.hidden}, layer.type),
                    of_each(save != 0, {s.steps, s.batch, s.hidden}, layer.acc)};
  if (s.batch == 0) return out;
  const auto arguments = [&](size_t i) {
    const Layer& direction = directions[i];
    return LstmForwardArgs{direction.shape,
                           direction.weights.pointers(),
                           direction.x.const_data_ptr(),
                           direction.h0.const_data_ptr(),
                           direction.c0.const_data_ptr(),
                           after(out.y.mutable_data_ptr(), column_bytes(layer, i)),
                           width,
                           part(out.h_n, directions, i),
                           part(out.c_n, directions, i),
                           part(out.gates, directions, i),
                           part(out.cells, directions, i)};
  };
  if (count == 1) {
    lstm_forward_cpu(arguments(0), thread_count());
  } else {
    lstm_forward_cpu(arguments(0), arguments(1), thread_count());
  }
  return out;
}

// What the backward pass is given, checked and dense.
struct Given {
  std::optional<Tensor> grad_y, grad_h_n, grad_c_n;
  Tensor y, cells;
  std::optional<Tensor> gates;
};

Given check_given(const Directions& directions, const std::optional<Tensor>& grad_y,
                  const std::optional<Tensor>& grad_h_n, const std::optional<Tensor>& grad_c_n,
                  const Tensor& y, const Tensor& gates, const Tensor& cells) {
  const Layer& layer = directions[0];
  const LstmShape& s = layer.shape;
  const size_t count = directions.size();
  const std::vector<int64_t> outputs{s.steps, s.batch, static_cast<int64_t>(count) * s.output};
  const auto of_each = [&](std::vector<int64_t> sizes) { return with_directions(count, sizes); };
  Given given{cpu_dense(grad_y, "grad_y", layer.type, outputs),
              cpu_dense(grad_h_n, "grad_h_n", layer.type, of_each({s.batch, s.output})),
              cpu_dense(grad_c_n, "grad_c_n", layer.type, of_each({s.batch, s.hidden})),
              cpu_dense(y, "y", layer.type, outputs),
              cpu_dense(cells, "cells", layer.acc, of_each({s.steps, s.batch, s.hidden})),
              std::nullopt};
  if (gates.numel() > 0)
    given.gates = cpu_dense(gates, "gates", layer.type, of_each({s.steps, s.batch, 4 * s.hidden}));
  return given;
}

// Whether d_h0 is one product of all rows too: packing W_hh for a single step would take longer.
bool is_one_step(const LstmShape& s) {
  return s.steps == 1 && s.lengths == nullptr && s.reset == nullptr;
}

// What the kernel writes of one direction, for the products after it. N running rows.
struct Rowwise {
  Tensor d_gates;           // (N, 4H)
  Tensor d_bias;            // (4H,)
  Tensor d_h, unprojected;  // (N, R) and (N, H); no rows without a projection

  Rowwise(const Layer& layer, int64_t n)
      : d_gates(empty(layer.x, {n, 4 * layer.shape.hidden})),
        d_bias(empty(layer.x, {4 * layer.shape.hidden})),
        d_h(empty(layer.x, {layer.projected() ? n : 0, layer.shape.output})),
        unprojected(empty(layer.x, {layer.projected() ? n : 0, layer.shape.hidden})) {}
};

void run_kernels(const Directions& directions, const Given& given,
                 const std::vector<Rowwise>& rowwise, const Tensor& d_h0, const Tensor& d_c0,
                 int threads) {
  const auto arguments = [&](size_t i) {
    const Layer& layer = directions[i];
    const Rowwise& found = rowwise[i];
    const LstmShape& s = layer.shape;
    const int64_t column = column_bytes(layer, i);
    return LstmBackwardArgs{s,
                            layer.weights.pointers(),
                            after(data(given.grad_y), column),
                            static_cast<int64_t>(directions.size()) * s.output,
                            part(given.grad_h_n, directions, i),
                            part(given.grad_c_n, directions, i),
                            layer.x.const_data_ptr(),
                            after(given.y.const_data_ptr(), column),
                            part(given.gates, directions, i),
                            part(given.cells, directions, i),
                            layer.h0.const_data_ptr(),
                            layer.c0.const_data_ptr(),
                            found.d_gates.mutable_data_ptr(),
                            found.d_bias.mutable_data_ptr(),
                            is_one_step(s) ? nullptr : part(d_h0, directions, i),
                            part(d_c0, directions, i),
                            layer.projected() ? found.d_h.mutable_data_ptr() : nullptr,
                            layer.projected() ? found.unprojected.mutable_data_ptr() : nullptr};
  };
  if (directions.size() == 1) return lstm_backward_cpu(arguments(0), threads);
  lstm_backward_cpu(arguments(0), arguments(1), threads);
}

// d_gates · W_ih of all directions, (T, B, I) and zero past a row's length.
Tensor input_gradient(const Directions& directions, const std::vector<Rowwise>& rowwise) {
  return padded_input(directions[0], rowwise[0].d_gates.size(0), [&](const Tensor& rows) {
    for (size_t i = 0; i < directions.size(); ++i)
      multiply(rowwise[i].d_gates, directions[i].weights.w_ih, rows, i > 0);
  });
}

// The h that each running row came with, (N, R).
Tensor previous_hidden(const Directions& directions, size_t i, const Tensor& y, int64_t n,
                       int threads) {
  const Layer& layer = directions[i];
  const LstmShape& s = layer.shape;
  if (is_one_step(s)) return layer.h0;
  Tensor rows = empty(layer.x, {n, s.output});
  const int64_t bytes = layer.row_bytes(s.output);
  gather_previous_hidden(s, after(y.const_data_ptr(), column_bytes(layer, i)),
                         directions.size() * bytes, layer.h0.const_data_ptr(),
                         rows.mutable_data_ptr(), bytes, threads);
  return rows;
}

struct WeightGradients {
  Tensor w_ih, w_hh, bias, w_hr;
};

struct Gradients {
  Tensor x, h0, c0;
  std::vector<WeightGradients> weights;
};

Gradients backward(const Directions& directions, const Given& given, bool needs_x,
                   bool needs_weights) {
  const Layer& layer = directions[0];
  const LstmShape& s = layer.shape;
  const size_t count = directions.size();
  const int64_t n = layer.packed_rows();
  const int threads = thread_count();
  std::vector<Rowwise> rowwise;
  for (const Layer& direction : directions) rowwise.emplace_back(direction, n);
  const auto none = [&] { return empty(layer.x, {0}); };
  Gradients d{none(),
              empty(layer.x, with_directions(count, {s.batch, s.output})),
              empty(layer.x, with_directions(count, {s.batch, s.hidden})),
              {}};
  run_kernels(directions, given, rowwise, d.h0, d.c0, threads);

  // what is left are products over all running rows at once
  if (needs_x) d.x = input_gradient(directions, rowwise);
  const Tensor x = needs_weights ? input_rows(layer, n) : none();
  for (size_t i = 0; i < count; ++i) {
    const Rowwise& found = rowwise[i];
    if (is_one_step(directions[i].shape))
      multiply(found.d_gates, directions[i].weights.w_hh,
               strided(d.h0, {s.batch, s.output}, {s.output, 1}, i * s.batch * s.output));
    WeightGradients& w =
        d.weights.emplace_back(WeightGradients{none(), none(), found.d_bias, none()});
    if (!needs_weights) continue;
    w.w_ih = product_over_rows(found.d_gates, x);
    w.w_hh = product_over_rows(found.d_gates, previous_hidden(directions, i, given.y, n, threads));
    if (layer.projected()) w.w_hr = product_over_rows(found.d_h, found.unprojected);
  }
  return d;
}

// Both directions of a layer.
Directions check_both(const Tensor& x, const Tensor& h0, const Tensor& c0,
                      const std::vector<Tensor>& weights,
                      const std::vector<Tensor>& weights_reverse, bool bias,
                      const std::optional<Tensor>& lengths, const std::optional<Tensor>& reset,
                      const std::optional<Tensor>& reset_reverse) {
  const Weights each[2] = {weights_of(weights, bias, "weights"),
                           weights_of(weights_reverse, bias, "weights_reverse")};
  STD_TORCH_CHECK(each[0].w_hr.has_value() == each[1].w_hr.has_value(),
                  "w_hr_reverse: expected one in both directions or in none");
  LstmShape s = shape_of(x, each[0].w_hh, each[0].w_hr.has_value(), false);
  const ScalarType type = x.scalar_type();
  const Tensor h = cpu_dense(h0, "h0", type, {2, s.batch, s.output});
  const Tensor c = cpu_dense(c0, "c0", type, {2, s.batch, s.hidden});
  Directions directions;
  for (int64_t i = 0; i < 2; ++i) {
    const Tensor h_i = strided(h, {s.batch, s.output}, {s.output, 1}, i * s.batch * s.output);
    const Tensor c_i = strided(c, {s.batch, s.hidden}, {s.hidden, 1}, i * s.batch * s.hidden);
    s.reverse = i == 1;
    directions.push_back(check_layer(s, x, h_i, c_i, each[i], lengths,
                                     s.reverse ? reset_reverse : reset, s.reverse));
  }
  return directions;
}

Directions check_one(const Tensor& x, const Tensor& h0, const Tensor& c0, const Weights& weights,
                     const std::optional<Tensor>& lengths, const std::optional<Tensor>& reset,
                     bool reverse) {
  const LstmShape s = shape_of(x, weights.w_hh, weights.w_hr.has_value(), reverse);
  return {check_layer(s, x, h0, c0, weights, lengths, reset)};
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lstm_forward(
    const Tensor& x, const Tensor& h0, const Tensor& c0, const Tensor& w_ih, const Tensor& w_hh,
    const std::optional<Tensor>& b_ih, const std::optional<Tensor>& b_hh,
    const std::optional<Tensor>& w_hr, const std::optional<Tensor>& lengths,
    const std::optional<Tensor>& reset, bool reverse, int64_t save) {
  const Directions layer =
      check_one(x, h0, c0, {w_ih, w_hh, b_ih, b_hh, w_hr}, lengths, reset, reverse);
  const Outputs out = forward(layer, save);
  return {out.y, out.h_n, out.c_n, out.gates, out.cells};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lstm_forward_both(
    const Tensor& x, const Tensor& h0, const Tensor& c0, const std::vector<Tensor>& weights,
    const std::vector<Tensor>& weights_reverse, bool bias, const std::optional<Tensor>& lengths,
    const std::optional<Tensor>& reset, const std::optional<Tensor>& reset_reverse, int64_t save) {
  const Directions layer =
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
  const Directions layer =
      check_one(x, h0, c0, {w_ih, w_hh, b_ih, b_hh, w_hr}, lengths, reset, reverse);
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
  const Directions layer =
      check_both(x, h0, c0, weights, weights_reverse, bias, lengths, reset, reset_reverse);
  const Given given = check_given(layer, grad_y, grad_h_n, grad_c_n, y, gates, cells);
  const Gradients d = backward(layer, given, needs_x, needs_weights);
  std::vector<Tensor> out{d.x, d.h0, d.c0};
  for (const WeightGradients& w : d.weights)
    for (const Tensor& tensor : {w.w_ih, w.w_hh, w.bias, w.w_hr}) out.push_back(tensor);
  return out;
}

}  // namespace fast_s2s
