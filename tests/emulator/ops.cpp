// The CUDA ops on CPU tensors, run by the emulator: the host code of the library and all its
// kernels. Also what tests set and ask.

#include "decode/decode_ops.h"
#include "lstm/lstm_ops.h"
#include "lstm/sequence_launch.h"

#include "emulator.h"
#include "emulator_ops.h"
#include "machine.h"

namespace fast_s2s::cuda {

Stream current_stream() { return nullptr; }

}  // namespace fast_s2s::cuda

// a fragment: the other macro of torch 2.10 takes a namespace's name as it is spelt
STABLE_TORCH_LIBRARY_FRAGMENT(EMULATOR_NAMESPACE, m) {
#define LAYER                                                                                      \
  "Tensor x, Tensor h0, Tensor c0, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor? " \
  "w_hr, Tensor? lengths, Tensor? reset, bool reverse"
#define BOTH                                                                                \
  "Tensor x, Tensor h0, Tensor c0, Tensor[] weights, Tensor[] weights_reverse, bool bias, " \
  "Tensor? "                                                                                \
  "lengths, Tensor? reset, Tensor? reset_reverse"
#define GRADS "Tensor? grad_y, Tensor? grad_h_n, Tensor? grad_c_n, "
#define SAVED ", Tensor y, Tensor gates, Tensor cells, bool needs_x, bool needs_weights) -> "
  m.def("lstm_forward(" LAYER ", int save) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("lstm_backward(" GRADS LAYER SAVED
        "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("lstm_forward_both(" BOTH ", int save) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("lstm_backward_both(" GRADS BOTH SAVED "Tensor[]");
#undef LAYER
#undef BOTH
#undef GRADS
#undef SAVED
  m.def(
      "decode_pack(Tensor[] matrices, Tensor[] scales, Tensor[] biases, Tensor[] norms, Tensor "
      "inputs, int num_layers, bool projected, bool table, int heads, bool additive, bool feeding, "
      "float zoneout_hidden, float zoneout_cell) -> Tensor");
  m.def(
      "decode(Tensor packed, int[] header, Tensor[] state, Tensor[] memory, Tensor[] rules, int[] "
      "options, float[] parameters, int max_steps) -> Tensor[]");
}

STABLE_TORCH_LIBRARY_IMPL(EMULATOR_NAMESPACE, CPU, m) {
  m.impl("lstm_forward", TORCH_BOX(&fast_s2s::cuda::lstm_forward));
  m.impl("lstm_backward", TORCH_BOX(&fast_s2s::cuda::lstm_backward));
  m.impl("lstm_forward_both", TORCH_BOX(&fast_s2s::cuda::lstm_forward_both));
  m.impl("lstm_backward_both", TORCH_BOX(&fast_s2s::cuda::lstm_backward_both));
  m.impl("decode_pack", TORCH_BOX(&fast_s2s::cuda::decode_pack));
  m.impl("decode", TORCH_BOX(&fast_s2s::cuda::decode));
}

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT void emulator_set(uint64_t seed, int sms, int shared_bytes, int max_cluster, int cooperative,
                         int weight_registers, int only, int row_tiles, int resident,
                         int occupancy) {
  fast_s2s::emulator::properties() = {
      seed, sms,       shared_bytes, max_cluster, cooperative != 0, weight_registers,
      only, row_tiles, resident,     occupancy};
}

// launches, threads, products, barriers
EXPORT void emulator_counts(uint64_t* out) {
  const auto& counts = fast_s2s::emulator::counts();
  out[0] = counts.launches;
  out[1] = counts.threads;
  out[2] = counts.products;
  out[3] = counts.barriers;
}

// `count` pieces of whole pages that host code must not touch.
EXPORT void emulator_guard(void* const* at, const uint64_t* bytes, int count) {
  std::vector<std::pair<void*, size_t>> pages;
  for (int i = 0; i < count; ++i) pages.emplace_back(at[i], bytes[i]);
  fast_s2s::emulator::guard_memory(pages);
}
