// The decode ops on CPU tensors. Schemas: fast_s2s/decoding/ops.py; meaning of the lists:
// fast_s2s/decoding/contract.py.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <vector>

namespace fast_s2s {

torch::stable::Tensor decode_pack(const std::vector<torch::stable::Tensor>& matrices,
                                  const std::vector<torch::stable::Tensor>& scales,
                                  const std::vector<torch::stable::Tensor>& biases,
                                  const torch::stable::Tensor& inputs, int64_t num_layers,
                                  bool projected, bool table);

// With attention of so many heads, and what each row attends to: values, keys, lengths.
torch::stable::Tensor decode_pack_attending(const std::vector<torch::stable::Tensor>& matrices,
                                            const std::vector<torch::stable::Tensor>& scales,
                                            const std::vector<torch::stable::Tensor>& biases,
                                            const torch::stable::Tensor& inputs, int64_t num_layers,
                                            bool projected, bool table, int64_t heads,
                                            bool additive, bool feeding);

std::vector<torch::stable::Tensor> decode_attending(
    const torch::stable::Tensor& packed, const std::vector<torch::stable::Tensor>& state,
    const std::vector<torch::stable::Tensor>& memory,
    const std::vector<torch::stable::Tensor>& rules, const std::vector<int64_t>& options,
    const std::vector<double>& parameters, int64_t max_steps);

std::vector<torch::stable::Tensor> decode(const torch::stable::Tensor& packed,
                                          const std::vector<torch::stable::Tensor>& state,
                                          const std::vector<torch::stable::Tensor>& rules,
                                          const std::vector<int64_t>& options,
                                          const std::vector<double>& parameters, int64_t max_steps);

}  // namespace fast_s2s
