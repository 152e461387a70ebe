// CUDA registration of every op, by torch's stable ABI, in a library of its own: it loads only
// where torch has CUDA. Schemas: fast_s2s/ops.py and decoding/ops.py. No logic here.

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/shim_utils.h>

#include "decode/decode_ops.h"
#include "lstm/lstm_ops_cuda.h"

namespace fast_s2s {
namespace cuda {

void* current_stream() {
  void* stream = nullptr;
  // the STABLE_ form came after torch 2.11
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(
      torch::stable::accelerator::getCurrentDeviceIndex(), &stream));
  return stream;
}

namespace {

using torch::stable::accelerator::DeviceGuard;

auto lstm_forward_on_device(const Tensor& x, const Tensor& h0, const Tensor& c0, const Tensor& w_ih,
                            const Tensor& w_hh, const std::optional<Tensor>& b_ih,
                            const std::optional<Tensor>& b_hh, const std::optional<Tensor>& w_hr,
                            const std::optional<Tensor>& lengths,
                            const std::optional<Tensor>& reset, bool reverse, int64_t save) {
  const DeviceGuard guard(x.get_device());
  return lstm_forward(x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, lengths, reset, reverse, save);
}

auto lstm_backward_on_device(
    const std::optional<Tensor>& grad_y, const std::optional<Tensor>& grad_h_n,
    const std::optional<Tensor>& grad_c_n, const Tensor& x, const Tensor& h0, const Tensor& c0,
    const Tensor& w_ih, const Tensor& w_hh, const std::optional<Tensor>& b_ih,
    const std::optional<Tensor>& b_hh, const std::optional<Tensor>& w_hr,
    const std::optional<Tensor>& lengths, const std::optional<Tensor>& reset, bool reverse,
    const Tensor& y, const Tensor& gates, const Tensor& cells, bool needs_x, bool needs_weights) {
  const DeviceGuard guard(x.get_device());
  return lstm_backward(grad_y, grad_h_n, grad_c_n, x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, lengths,
                       reset, reverse, y, gates, cells, needs_x, needs_weights);
}

auto lstm_forward_both_on_device(const Tensor& x, const Tensor& h0, const Tensor& c0,
                                 const std::vector<Tensor>& weights,
                                 const std::vector<Tensor>& weights_reverse, bool bias,
                                 const std::optional<Tensor>& lengths,
                                 const std::optional<Tensor>& reset,
                                 const std::optional<Tensor>& reset_reverse, int64_t save) {
  const DeviceGuard guard(x.get_device());
  return lstm_forward_both(x, h0, c0, weights, weights_reverse, bias, lengths, reset, reset_reverse,
                           save);
}

auto lstm_backward_both_on_device(
    const std::optional<Tensor>& grad_y, const std::optional<Tensor>& grad_h_n,
    const std::optional<Tensor>& grad_c_n, const Tensor& x, const Tensor& h0, const Tensor& c0,
    const std::vector<Tensor>& weights, const std::vector<Tensor>& weights_reverse, bool bias,
    const std::optional<Tensor>& lengths, const std::optional<Tensor>& reset,
    const std::optional<Tensor>& reset_reverse, const Tensor& y, const Tensor& gates,
    const Tensor& cells, bool needs_x, bool needs_weights) {
  const DeviceGuard guard(x.get_device());
  return lstm_backward_both(grad_y, grad_h_n, grad_c_n, x, h0, c0, weights, weights_reverse, bias,
                            lengths, reset, reset_reverse, y, gates, cells, needs_x, needs_weights);
}

auto decode_pack_on_device(const std::vector<Tensor>& matrices, const std::vector<Tensor>& scales,
                           const std::vector<Tensor>& biases, const Tensor& inputs,
                           int64_t num_layers, bool projected, bool table, int64_t heads,
                           bool additive, bool feeding) {
  const DeviceGuard guard(inputs.get_device());
  return decode_pack(matrices, scales, biases, inputs, num_layers, projected, table, heads,
                     additive, feeding);
}

auto decode_on_device(const Tensor& packed, const std::vector<int64_t>& header,
                      const std::vector<Tensor>& state, const std::vector<Tensor>& memory,
                      const std::vector<Tensor>& rules, const std::vector<int64_t>& options,
                      const std::vector<double>& parameters, int64_t max_steps) {
  const DeviceGuard guard(packed.get_device());
  return decode(packed, header, state, memory, rules, options, parameters, max_steps);
}

}  // namespace
}  // namespace cuda
}  // namespace fast_s2s

STABLE_TORCH_LIBRARY_IMPL(fast_s2s, CUDA, m) {
  m.impl("lstm_forward", TORCH_BOX(&fast_s2s::cuda::lstm_forward_on_device));
  m.impl("lstm_backward", TORCH_BOX(&fast_s2s::cuda::lstm_backward_on_device));
  m.impl("lstm_forward_both", TORCH_BOX(&fast_s2s::cuda::lstm_forward_both_on_device));
  m.impl("lstm_backward_both", TORCH_BOX(&fast_s2s::cuda::lstm_backward_both_on_device));
  m.impl("decode_pack", TORCH_BOX(&fast_s2s::cuda::decode_pack_on_device));
  m.impl("decode", TORCH_BOX(&fast_s2s::cuda::decode_on_device));
}
