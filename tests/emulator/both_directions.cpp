// Both directions of a layer in one launch, for tests: what an op for them would do between the
// products over whole sequences.

#include <torch/csrc/stable/library.h>

#include "emulator_ops.h"
#include "lstm/sequence_launch.h"

namespace fast_s2s {

namespace {

using cuda::input;
using cuda::output;
using torch::stable::select;

// direction i of a tensor that has one more dimension in front
const void* input_of(const Tensor& tensor, int64_t i) {
  input(tensor);
  return static_cast<const char*>(tensor.const_data_ptr()) +
         i * (tensor.numel() / 2) * tensor.element_size();
}

template <class T = void>
T* output_of(Tensor& tensor, int64_t i) {
  if (i == 0) output(tensor);
  return reinterpret_cast<T*>(static_cast<char*>(tensor.mutable_data_ptr()) +
                              i * (tensor.numel() / 2) * tensor.element_size());
}

Precision precision_of(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::BFloat16 ? Precision::kBf16 : Precision::kFp32;
}

cuda::Sequence sequence_of(const Tensor& like, const Tensor& w_hh) {
  Tensor weights = w_hh;
  return {precision_of(like),
          like.size(1),
          like.size(2),
          w_hh.size(2),
          {select(weights, 0, 0), select(weights, 0, 1)},
          nullptr};
}

}  // namespace

// gates_x (2, T, B, 4H), bias (2, 4H), h0, c0 (2, B, H), w_hh (2, 4H, H), lengths (B): -> y (2, T,
// B, H), h_n, c_n (2, B, H), gates (2, T, B, 4H), cells (2, T, B, H)
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> both_forward(const Tensor& gates_x,
                                                                const Tensor& bias,
                                                                const Tensor& h0, const Tensor& c0,
                                                                const Tensor& w_hh,
                                                                const Tensor& lengths) {
  emulator::forget_memory();
  const int64_t t = gates_x.size(1), b = gates_x.size(2), h = w_hh.size(2);
  Tensor y = empty(gates_x, {2, t, b, h}), h_n = empty(h0, {2, b, h}), c_n = empty(h0, {2, b, h});
  Tensor gates = empty(gates_x, {2, t, b, 4 * h});
  Tensor cells = torch::stable::new_empty(gates_x, {2, t, b, h}, ScalarType::Float);
  std::vector<ForwardDirection> directions;
  for (int64_t i = 0; i < 2; ++i) {
    const SequenceShape shape{t, b, static_cast<const int64_t*>(input(lengths)), nullptr, i == 1};
    directions.push_back({shape, input_of(gates_x, i), input_of(bias, i), nullptr, nullptr,
                          input_of(h0, i), input_of(c0, i), output_of(y, i), output_of(h_n, i),
                          output_of(c_n, i), output_of(gates, i), output_of<float>(cells, i)});
  }
  cuda::run_forward(sequence_of(gates_x, w_hh), directions);
  emulator::forget_memory();
  return {y, h_n, c_n, gates, cells};
}

// grad_y (2, T, B, H), grad_h_n, grad_c_n (2, B, H), and as above: -> d_gates (2, T, B, 4H), d_h0,
// d_c0 (2, B, H)
std::tuple<Tensor, Tensor, Tensor> both_backward(const Tensor& grad_y, const Tensor& grad_h_n,
                                                 const Tensor& grad_c_n, const Tensor& gates,
                                                 const Tensor& cells, const Tensor& c0,
                                                 const Tensor& w_hh, const Tensor& lengths) {
  emulator::forget_memory();
  const int64_t t = gates.size(1), b = gates.size(2), h = w_hh.size(2);
  Tensor d_gates = empty(gates, {2, t, b, 4 * h});
  Tensor d_h0 = empty(c0, {2, b, h}), d_c0 = empty(c0, {2, b, h});
  std::vector<BackwardDirection> directions;
  for (int64_t i = 0; i < 2; ++i) {
    const SequenceShape shape{t, b, static_cast<const int64_t*>(input(lengths)), nullptr, i == 1};
    directions.push_back({shape, nullptr, input_of(grad_y, i), input_of(grad_h_n, i),
                          input_of(grad_c_n, i), input_of(gates, i),
                          static_cast<const float*>(input_of(cells, i)), input_of(c0, i),
                          output_of(d_gates, i), output_of(d_h0, i), output_of(d_c0, i)});
  }
  cuda::run_backward(sequence_of(gates, w_hh), directions);
  emulator::forget_memory();
  return {d_gates, d_h0, d_c0};
}

}  // namespace fast_s2s

STABLE_TORCH_LIBRARY_FRAGMENT(EMULATOR_NAMESPACE, m) {
  m.def(
      "both_forward(Tensor gates_x, Tensor bias, Tensor h0, Tensor c0, Tensor w_hh, Tensor "
      "lengths) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "both_backward(Tensor grad_y, Tensor grad_h_n, Tensor grad_c_n, Tensor gates, Tensor cells, "
      "Tensor c0, Tensor w_hh, Tensor lengths) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(EMULATOR_NAMESPACE, CPU, m) {
  m.impl("both_forward", TORCH_BOX(&fast_s2s::both_forward));
  m.impl("both_backward", TORCH_BOX(&fast_s2s::both_backward));
}
