// The ops of variants on CPU tensors: check, allocate, dispatch, and the products of the backward
// pass that take all rows at once.

#include "../cpu/thread_count.h"
#include "layer_cpu.h"
#include "lstm_ops.h"
#include "running_rows.h"
#include "variant.h"

namespace fast_s2s {

namespace {

// As the ops are given it.
struct VariantTensors {
  std::optional<Tensor> norm_ih, norm_hh, norm_c, norm_c_bias, recurrent_mask, kept_hidden,
      kept_cell;
  double zoneout_hidden, zoneout_cell;

  bool normed() const { return norm_ih.has_value(); }

  LstmVariant pointers() const {
    return {data(norm_ih),         data(norm_hh),        data(norm_c),
            data(norm_c_bias),     data(recurrent_mask), data<bool>(kept_hidden),
            data<bool>(kept_cell), zoneout_hidden,       zoneout_cell};
  }
};

// Checked and dense.
VariantTensors check_variant(const Layer& layer, const VariantTensors& v) {
  const LstmShape& s = layer.shape;
  const bool normed = v.normed();
  STD_TORCH_CHECK(normed == v.norm_hh.has_value() && normed == v.norm_c.has_value() &&
                      normed == v.norm_c_bias.has_value(),
                  "norm_ih, norm_hh, norm_c, norm_c_bias: expected all of them or none");
  const auto check_part = [](double part, const char* name) {
    STD_TORCH_CHECK(part >= 0 && part <= 1, name, ": expected a number in 0..1, got ", part);
  };
  check_part(v.zoneout_hidden, "zoneout_hidden");
  check_part(v.zoneout_cell, "zoneout_cell");
  return {cpu_dense(v.norm_ih, "norm_ih", layer.acc, {4 * s.hidden}),
          cpu_dense(v.norm_hh, "norm_hh", layer.acc, {4 * s.hidden}),
          cpu_dense(v.norm_c, "norm_c", layer.acc, {s.hidden}),
          cpu_dense(v.norm_c_bias, "norm_c_bias", layer.acc, {s.hidden}),
          cpu_dense(v.recurrent_mask, "recurrent_mask", layer.type, {s.batch, s.output}),
          cpu_dense(v.kept_hidden, "kept_hidden", ScalarType::Bool, {s.steps, s.batch, s.output}),
          cpu_dense(v.kept_cell, "kept_cell", ScalarType::Bool, {s.steps, s.batch, s.hidden}),
          v.zoneout_hidden,
          v.zoneout_cell};
}

Layer check_arguments(const Tensor& x, const Tensor& h0, const Tensor& c0, const Weights& weights,
                      const std::optional<Tensor>& lengths, const std::optional<Tensor>& reset,
                      bool reverse) {
  const LstmShape s = shape_of(x, weights.w_hh, weights.w_hr.has_value(), reverse);
  return check_layer(s, x, h0, c0, weights, lengths, reset);
}

// What the kernel writes, for the products after it. N running rows.
struct VariantRowwise {
  Tensor d_gates, d_hidden;  // (N, 4H), of W_ih·x and W_hh·h: the same without layer norm
  Tensor fed;                // (N, R)
  Tensor d_h, unprojected;   // (N, R) and (N, H); no rows without a projection

  VariantRowwise(const Layer& layer, int64_t n, bool normed)
      : d_gates(empty(layer.x, {n, 4 * layer.shape.hidden})),
        d_hidden(normed ? empty(layer.x, {n, 4 * layer.shape.hidden}) : d_gates),
        fed(empty(layer.x, {n, layer.shape.output})),
        d_h(empty(layer.x, {layer.projected() ? n : 0, layer.shape.output})),
        unprojected(empty(layer.x, {layer.projected() ? n : 0, layer.shape.hidden})) {}
};

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lstm_variant_forward(
    const Tensor& x, const Tensor& h0, const Tensor& c0, const Tensor& w_ih, const Tensor& w_hh,
    const std::optional<Tensor>& b_ih, const std::optional<Tensor>& b_hh,
    const std::optional<Tensor>& w_hr, const std::optional<Tensor>& lengths,
    const std::optional<Tensor>& reset, bool reverse, const std::optional<Tensor>& norm_ih,
    const std::optional<Tensor>& norm_hh, const std::optional<Tensor>& norm_c,
    const std::optional<Tensor>& norm_c_bias, const std::optional<Tensor>& recurrent_mask,
    const std::optional<Tensor>& kept_hidden, const std::optional<Tensor>& kept_cell,
    double zoneout_hidden, double zoneout_cell, int64_t save) {
  STD_TORCH_CHECK(save >= 0 && save <= 2, "save: expected 0, 1 or 2, got ", save);
  const Layer layer =
      check_arguments(x, h0, c0, {w_ih, w_hh, b_ih, b_hh, w_hr}, lengths, reset, reverse);
  const VariantTensors variant =
      check_variant(layer, {norm_ih, norm_hh, norm_c, norm_c_bias, recurrent_mask, kept_hidden,
                            kept_cell, zoneout_hidden, zoneout_cell});
  const LstmShape& s = layer.shape;
  const auto saved = [&](bool wanted, int64_t width, ScalarType type) {
    return wanted ? empty(layer.x, {s.steps, s.batch, width}, type) : empty(layer.x, {0}, type);
  };
  const Tensor y = empty(layer.x, {s.steps, s.batch, s.output}),
               h_n = empty(layer.x, {s.batch, s.output}), c_n = empty(layer.x, {s.batch, s.hidden}),
               products = saved(save == 1, products_size(s.hidden, variant.normed()), layer.type),
               cells = saved(save != 0, s.hidden, layer.acc);
  if (s.batch == 0) return {y, h_n, c_n, products, cells};
  const auto of_saved = [](const Tensor& tensor) {
    return tensor.numel() == 0 ? nullptr : tensor.mutable_data_ptr();
  };
  lstm_variant_forward_cpu(
      {{s, layer.weights.pointers(), layer.x.const_data_ptr(), layer.h0.const_data_ptr(),
        layer.c0.const_data_ptr(), y.mutable_data_ptr(), s.output, h_n.mutable_data_ptr(),
        c_n.mutable_data_ptr(), of_saved(products), of_saved(cells)},
       variant.pointers()},
      thread_count());
  return {y, h_n, c_n, products, cells};
}

LstmVariantGradients lstm_variant_backward(
    const std::optional<Tensor>& grad_y, const std::optional<Tensor>& grad_h_n,
    const std::optional<Tensor>& grad_c_n, const Tensor& x, const Tensor& h0, const Tensor& c0,
    const Tensor& w_ih, const Tensor& w_hh, const std::optional<Tensor>& b_ih,
    const std::optional<Tensor>& b_hh, const std::optional<Tensor>& w_hr,
    const std::optional<Tensor>& lengths, const std::optional<Tensor>& reset, bool reverse,
    const std::optional<Tensor>& norm_ih, const std::optional<Tensor>& norm_hh,
    const std::optional<Tensor>& norm_c, const std::optional<Tensor>& norm_c_bias,
    const std::optional<Tensor>& recurrent_mask, const std::optional<Tensor>& kept_hidden,
    const std::optional<Tensor>& kept_cell, double zoneout_hidden, double zoneout_cell,
    const Tensor& y, const Tensor& products, const Tensor& cells, bool needs_x,
    bool needs_weights) {
  const Layer layer =
      check_arguments(x, h0, c0, {w_ih, w_hh, b_ih, b_hh, w_hr}, lengths, reset, reverse);
  const VariantTensors variant =
      check_variant(layer, {norm_ih, norm_hh, norm_c, norm_c_bias, recurrent_mask, kept_hidden,
                            kept_cell, zoneout_hidden, zoneout_cell});
  const LstmShape& s = layer.shape;
  const bool normed = variant.normed(), projected = layer.projected();
  const auto d_y = cpu_dense(grad_y, "grad_y", layer.type, {s.steps, s.batch, s.output});
  const auto d_h_n = cpu_dense(grad_h_n, "grad_h_n", layer.type, {s.batch, s.output});
  const auto d_c_n = cpu_dense(grad_c_n, "grad_c_n", layer.type, {s.batch, s.hidden});
  const Tensor outputs = cpu_dense(y, "y", layer.type, {s.steps, s.batch, s.output});
  const Tensor states = cpu_dense(cells, "cells", layer.acc, {s.steps, s.batch, s.hidden});
  std::optional<Tensor> saved;
  if (products.numel() > 0)
    saved = cpu_dense(products, "products", layer.type,
                      {s.steps, s.batch, products_size(s.hidden, normed)});
  const int64_t n = layer.packed_rows();
  const VariantRowwise found(layer, n, normed);
  const auto none = [&] { return empty(layer.x, {0}); };
  const auto of_norm = [&](int64_t size) { return empty(layer.x, {normed ? size : 0}, layer.acc); };
  const Tensor d_h0 = empty(layer.x, {s.batch, s.output}),
               d_c0 = empty(layer.x, {s.batch, s.hidden}), d_bias = empty(layer.x, {4 * s.hidden});
  const Tensor d_norms[4] = {of_norm(4 * s.hidden), of_norm(4 * s.hidden), of_norm(s.hidden),
                             of_norm(s.hidden)};
  const auto where = [](bool there, const Tensor& tensor) {
    return there ? tensor.mutable_data_ptr() : nullptr;
  };
  lstm_variant_backward_cpu(
      {{s, layer.weights.pointers(), data(d_y), s.output, data(d_h_n), data(d_c_n),
        layer.x.const_data_ptr(), outputs.const_data_ptr(), data(saved), states.const_data_ptr(),
        layer.h0.const_data_ptr(), layer.c0.const_data_ptr(), found.d_gates.mutable_data_ptr(),
        d_bias.mutable_data_ptr(), d_h0.mutable_data_ptr(), d_c0.mutable_data_ptr(),
        where(projected, found.d_h), where(projected, found.unprojected)},
       variant.pointers(),
       where(normed, found.d_hidden),
       found.fed.mutable_data_ptr(),
       where(normed, d_norms[0]),
       where(normed, d_norms[1]),
       where(normed, d_norms[2]),
       where(normed, d_norms[3])},
      thread_count());
  Tensor d_x = none(), d_w_ih = none(), d_w_hh = none(), d_w_hr = none();
  if (needs_x)
    d_x = padded_input(
        layer, n, [&](const Tensor& rows) { multiply(found.d_gates, layer.weights.w_ih, rows); });
  if (needs_weights) {
    d_w_ih = product_over_rows(found.d_gates, input_rows(layer, n));
    d_w_hh = product_over_rows(found.d_hidden, found.fed);
    if (projected) d_w_hr = product_over_rows(found.d_h, found.unprojected);
  }
  return {d_x,    d_h0,       d_c0,       d_w_ih,     d_w_hh,    d_bias,
          d_w_hr, d_norms[0], d_norms[1], d_norms[2], d_norms[3]};
}

}  // namespace fast_s2s
