// The LSTM ops, on CPU tensors and on CUDA ones. Schemas and meaning: fast_s2s/ops.py, ops_both.py,
// ops_cell.py and ops_variant.py; shapes of every tensor: lstm.h.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>
#include <vector>

namespace fast_s2s {

using torch::stable::Tensor;

typedef std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> LstmForwardOp(
    const Tensor& x, const Tensor& h0, const Tensor& c0, const Tensor& w_ih, const Tensor& w_hh,
    const std::optional<Tensor>& b_ih, const std::optional<Tensor>& b_hh,
    const std::optional<Tensor>& w_hr, const std::optional<Tensor>& lengths,
    const std::optional<Tensor>& reset, bool reverse, int64_t save);

typedef std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> LstmBackwardOp(
    const std::optional<Tensor>& grad_y, const std::optional<Tensor>& grad_h_n,
    const std::optional<Tensor>& grad_c_n, const Tensor& x, const Tensor& h0, const Tensor& c0,
    const Tensor& w_ih, const Tensor& w_hh, const std::optional<Tensor>& b_ih,
    const std::optional<Tensor>& b_hh, const std::optional<Tensor>& w_hr,
    const std::optional<Tensor>& lengths, const std::optional<Tensor>& reset, bool reverse,
    const Tensor& y, const Tensor& gates, const Tensor& cells, bool needs_x, bool needs_weights);

// Both directions of a layer at once. Weights are w_ih, w_hh, with `bias` b_ih and b_hh, and
// perhaps w_hr.
typedef std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> LstmForwardBothOp(
    const Tensor& x, const Tensor& h0, const Tensor& c0, const std::vector<Tensor>& weights,
    const std::vector<Tensor>& weights_reverse, bool bias, const std::optional<Tensor>& lengths,
    const std::optional<Tensor>& reset, const std::optional<Tensor>& reset_reverse, int64_t save);

typedef std::vector<Tensor> LstmBackwardBothOp(
    const std::optional<Tensor>& grad_y, const std::optional<Tensor>& grad_h_n,
    const std::optional<Tensor>& grad_c_n, const Tensor& x, const Tensor& h0, const Tensor& c0,
    const std::vector<Tensor>& weights, const std::vector<Tensor>& weights_reverse, bool bias,
    const std::optional<Tensor>& lengths, const std::optional<Tensor>& reset,
    const std::optional<Tensor>& reset_reverse, const Tensor& y, const Tensor& gates,
    const Tensor& cells, bool needs_x, bool needs_weights);

LstmForwardOp lstm_forward;
LstmBackwardOp lstm_backward;
LstmForwardBothOp lstm_forward_both;
LstmBackwardBothOp lstm_backward_both;

// What there is on the CPU alone.
std::tuple<Tensor, Tensor, Tensor> lstm_infer(const Tensor& x, const std::optional<Tensor>& h0,
                                              const std::optional<Tensor>& c0,
                                              const std::vector<Tensor>& weights, bool bias,
                                              bool projected, bool bidirectional,
                                              const std::optional<Tensor>& lengths,
                                              const std::optional<Tensor>& reset);

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lstm_variant_forward(
    const Tensor& x, const Tensor& h0, const Tensor& c0, const Tensor& w_ih, const Tensor& w_hh,
    const std::optional<Tensor>& b_ih, const std::optional<Tensor>& b_hh,
    const std::optional<Tensor>& w_hr, const std::optional<Tensor>& lengths,
    const std::optional<Tensor>& reset, bool reverse, const std::optional<Tensor>& norm_ih,
    const std::optional<Tensor>& norm_hh, const std::optional<Tensor>& norm_c,
    const std::optional<Tensor>& norm_c_bias, const std::optional<Tensor>& recurrent_mask,
    const std::optional<Tensor>& kept_hidden, const std::optional<Tensor>& kept_cell,
    double zoneout_hidden, double zoneout_cell, int64_t save);

// A tuple and no list: torch's transforms know how to take those alone apart.
typedef std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
                   Tensor>
    LstmVariantGradients;
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
    const Tensor& y, const Tensor& products, const Tensor& cells, bool needs_x, bool needs_weights);

std::tuple<Tensor, Tensor, Tensor, Tensor> lstm_cell(const Tensor& x, const Tensor& h0,
                                                     const Tensor& c0, const Tensor& w_ih,
                                                     const Tensor& w_hh,
                                                     const std::optional<Tensor>& b_ih,
                                                     const std::optional<Tensor>& b_hh, bool save);

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> lstm_cell_backward(
    const std::optional<Tensor>& grad_h, const std::optional<Tensor>& grad_c, const Tensor& x,
    const Tensor& h0, const Tensor& c0, const Tensor& w_ih, const Tensor& w_hh, const Tensor& gates,
    const Tensor& cells, bool needs_x, bool needs_h0, bool needs_weights);

namespace cuda {

LstmForwardOp lstm_forward;
LstmBackwardOp lstm_backward;
LstmForwardBothOp lstm_forward_both;
LstmBackwardBothOp lstm_backward_both;

}  // namespace cuda
}  // namespace fast_s2s
