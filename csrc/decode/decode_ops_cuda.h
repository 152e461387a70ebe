// The decode ops on CUDA tensors; the same signatures as on the CPU (decode_ops.h).
#pragma once

#include "decode_ops.h"

namespace fast_s2s {
namespace cuda {

torch::stable::Tensor decode_pack(const std::vector<torch::stable::Tensor>& matrices,
                                  const std::vector<torch::stable::Tensor>& scales,
                                  const std::vector<torch::stable::Tensor>& biases,
                                  const torch::stable::Tensor& inputs, int64_t num_layers,
                                  bool projected, bool table);

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

}  // namespace cuda
}  // namespace fast_s2s
