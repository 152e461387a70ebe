// The ops of a single step on CPU tensors: the kernels of a sequence, with less around them.

#include <cstring>

#include "../cpu/thread_count.h"
#include "layer_cpu.h"
#include "lstm_ops.h"
#include "tensor_products.h"

namespace fast_s2s {

namespace {

Layer check_cell(const Tensor& x, const Tensor& h0, const Tensor& c0, const Tensor& w_ih,
                 const Tensor& w_hh, const std::optional<Tensor>& b_ih,
                 const std::optional<Tensor>& b_hh) {
  STD_TORCH_CHECK(x.dim() == 2, "x: expected (B, I), got ", x.dim(), " dimensions");
  const LayerSizes sizes = sizes_of(w_hh, false);
  const LstmShape s{1,           x.size(0), x.size(1), sizes.hidden, sizes.output,
                    to_dtype(x), false,     nullptr,   nullptr};
  const ScalarType type = x.scalar_type();
  return {s,
          type,
          accumulate_type(s.dtype),
          cpu_dense(x, "x", type, {s.batch, s.input}),
          cpu_dense(h0, "h0", type, {s.batch, s.hidden}),
          cpu_dense(c0, "c0", type, {s.batch, s.hidden}),
          check_weights(s, type, {w_ih, w_hh, b_ih, b_hh, std::nullopt}),
          std::nullopt,
          std::nullopt};
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> lstm_cell(const Tensor& x, const Tensor& h0,
                                                     const Tensor& c0, const Tensor& w_ih,
                                                     const Tensor& w_hh,
                                                     const std::optional<Tensor>& b_ih,
                                                     const std::optional<Tensor>& b_hh, bool save) {
  const Layer layer = check_cell(x, h0, c0, w_ih, w_hh, b_ih, b_hh);
  const LstmShape& s = layer.shape;
  Tensor h = empty(layer.x, {s.batch, s.hidden}), c = empty(layer.x, {s.batch, s.hidden});
  Tensor gates = save ? empty(layer.x, {s.batch, 4 * s.hidden}) : empty(layer.x, {0});
  Tensor cells =
      save ? empty(layer.x, {s.batch, s.hidden}, layer.acc) : empty(layer.x, {0}, layer.acc);
  // the output of the only step is the final state
  void* out = h.mutable_data_ptr();
  const LstmForwardArgs args{s,
                             layer.weights.pointers(),
                             layer.x.const_data_ptr(),
                             layer.h0.const_data_ptr(),
                             layer.c0.const_data_ptr(),
                             out,
                             s.hidden,
                             out,
                             c.mutable_data_ptr(),
                             save ? gates.mutable_data_ptr() : nullptr,
                             save ? cells.mutable_data_ptr() : nullptr};
  if (s.batch > 0) lstm_forward_cpu(args, thread_count());
  return {h, c, gates, cells};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> lstm_cell_backward(
    const std::optional<Tensor>& grad_h, const std::optional<Tensor>& grad_c, const Tensor& x,
    const Tensor& h0, const Tensor& c0, const Tensor& w_ih, const Tensor& w_hh, const Tensor& gates,
    const Tensor& cells, bool needs_x, bool needs_h0, bool needs_weights) {
  const Layer layer = check_cell(x, h0, c0, w_ih, w_hh, std::nullopt, std::nullopt);
  const LstmShape& s = layer.shape;
  const auto dh = cpu_dense(grad_h, "grad_h", layer.type, {s.batch, s.hidden});
  const auto dc = cpu_dense(grad_c, "grad_c", layer.type, {s.batch, s.hidden});
  const Tensor saved_gates = cpu_dense(gates, "gates", layer.type, {s.batch, 4 * s.hidden});
  const Tensor saved_cells = cpu_dense(cells, "cells", layer.acc, {s.batch, s.hidden});
  Tensor d_gates = empty(layer.x, {s.batch, 4 * s.hidden});
  Tensor d_c0 = empty(layer.x, {s.batch, s.hidden});
  // outputs may not share memory, though these are equal
  Tensor d_b_ih = empty(layer.x, {4 * s.hidden}), d_b_hh = empty(layer.x, {4 * s.hidden});
  const LstmBackwardArgs args{s,
                              layer.weights.pointers(),
                              nullptr,
                              s.hidden,
                              data(dh),
                              data(dc),
                              layer.x.const_data_ptr(),
                              nullptr,
                              saved_gates.const_data_ptr(),
                              saved_cells.const_data_ptr(),
                              layer.h0.const_data_ptr(),
                              layer.c0.const_data_ptr(),
                              d_gates.mutable_data_ptr(),
                              d_b_ih.mutable_data_ptr(),
                              nullptr,
                              d_c0.mutable_data_ptr(),
                              nullptr,
                              nullptr};
  lstm_backward_cpu(args, thread_count());
  std::memcpy(d_b_hh.mutable_data_ptr(), d_b_ih.const_data_ptr(), layer.row_bytes(4 * s.hidden));
  const auto nothing = [&] { return empty(layer.x, {0}); };
  return {needs_x ? product(d_gates, layer.weights.w_ih) : nothing(),
          needs_h0 ? product(d_gates, layer.weights.w_hh) : nothing(),
          d_c0,
          needs_weights ? product_over_rows(d_gates, layer.x) : nothing(),
          needs_weights ? product_over_rows(d_gates, layer.h0) : nothing(),
          d_b_ih,
          d_b_hh};
}

}  // namespace fast_s2s
