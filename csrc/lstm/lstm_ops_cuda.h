// The LSTM ops on CUDA tensors. Schemas and meaning: fast_s2s/ops.py; the same signatures as on the
// CPU (lstm_ops.h).
#pragma once

#include <vector>

#include "lstm_ops.h"

namespace fast_s2s {
namespace cuda {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lstm_forward(
    const Tensor& x, const Tensor& h0, const Tensor& c0, const Tensor& w_ih, const Tensor& w_hh,
    const std::optional<Tensor>& b_ih, const std::optional<Tensor>& b_hh,
    const std::optional<Tensor>& w_hr, const std::optional<Tensor>& lengths,
    const std::optional<Tensor>& reset, bool reverse, int64_t save);

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> lstm_backward(
    const std::optional<Tensor>& grad_y, const std::optional<Tensor>& grad_h_n,
    const std::optional<Tensor>& grad_c_n, const Tensor& x, const Tensor& h0, const Tensor& c0,
    const Tensor& w_ih, const Tensor& w_hh, const std::optional<Tensor>& b_ih,
    const std::optional<Tensor>& b_hh, const std::optional<Tensor>& w_hr,
    const std::optional<Tensor>& lengths, const std::optional<Tensor>& reset, bool reverse,
    const Tensor& y, const Tensor& gates, const Tensor& cells, bool needs_x, bool needs_weights);

// Both directions of a layer at once. Weights are w_ih, w_hh, with `bias` b_ih and b_hh, and
// perhaps w_hr.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lstm_forward_both(
    const Tensor& x, const Tensor& h0, const Tensor& c0, const std::vector<Tensor>& weights,
    const std::vector<Tensor>& weights_reverse, bool bias, const std::optional<Tensor>& lengths,
    const std::optional<Tensor>& reset, const std::optional<Tensor>& reset_reverse, int64_t save);

std::vector<Tensor> lstm_backward_both(
    const std::optional<Tensor>& grad_y, const std::optional<Tensor>& grad_h_n,
    const std::optional<Tensor>& grad_c_n, const Tensor& x, const Tensor& h0, const Tensor& c0,
    const std::vector<Tensor>& weights, const std::vector<Tensor>& weights_reverse, bool bias,
    const std::optional<Tensor>& lengths, const std::optional<Tensor>& reset,
    const std::optional<Tensor>& reset_reverse, const Tensor& y, const Tensor& gates,
    const Tensor& cells, bool needs_x, bool needs_weights);

// Defined beside the registration: the stream of the current device that torch works on.
void* current_stream();
// Whether float32 may be multiplied as tf32.
bool allows_tf32();

}  // namespace cuda
}  // namespace fast_s2s
