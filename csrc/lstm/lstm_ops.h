// The LSTM ops on CPU tensors. Schemas and meaning: fast_s2s/ops.py; shapes of every tensor:
// lstm.h.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>

namespace fast_s2s {

std::tuple<torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor,
           torch::stable::Tensor, torch::stable::Tensor>
lstm_forward(const torch::stable::Tensor& gates_x, const torch::stable::Tensor& h0,
             const torch::stable::Tensor& c0, const torch::stable::Tensor& w_hh,
             const std::optional<torch::stable::Tensor>& w_hr,
             const std::optional<torch::stable::Tensor>& lengths,
             const std::optional<torch::stable::Tensor>& reset, bool reverse, int64_t save);

std::tuple<torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor,
           torch::stable::Tensor>
lstm_backward(const std::optional<torch::stable::Tensor>& grad_y,
              const std::optional<torch::stable::Tensor>& grad_h_n,
              const std::optional<torch::stable::Tensor>& grad_c_n,
              const torch::stable::Tensor& gates, const torch::stable::Tensor& cells,
              const torch::stable::Tensor& c0, const torch::stable::Tensor& w_hh,
              const std::optional<torch::stable::Tensor>& w_hr,
              const std::optional<torch::stable::Tensor>& lengths,
              const std::optional<torch::stable::Tensor>& reset, bool reverse);

}  // namespace fast_s2s
