// The CUDA ops on CPU tensors, run by the emulator: the host code of the library and all its
// kernels. Also what tests set and ask.

#include "lstm/lstm_ops_cuda.h"

#include "emulator.h"
#include "emulator_ops.h"

namespace fast_s2s::cuda {

void* current_stream() { return nullptr; }
bool allows_tf32() { return emulator::properties().tf32; }

}  // namespace fast_s2s::cuda

STABLE_TORCH_LIBRARY(EMULATOR_NAMESPACE, m) {
#define LAYER                                                                                      \
  "Tensor x, Tensor h0, Tensor c0, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor? " \
  "w_hr, Tensor? lengths, Tensor? reset, bool reverse"
  m.def("lstm_forward(" LAYER ", int save) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("lstm_backward(Tensor? grad_y, Tensor? grad_h_n, Tensor? grad_c_n, " LAYER
        ", Tensor y, Tensor gates, Tensor cells, bool needs_x, bool needs_weights) -> (Tensor, "
        "Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
#undef LAYER
}

STABLE_TORCH_LIBRARY_IMPL(EMULATOR_NAMESPACE, CPU, m) {
  m.impl("lstm_forward", TORCH_BOX(&fast_s2s::cuda::lstm_forward));
  m.impl("lstm_backward", TORCH_BOX(&fast_s2s::cuda::lstm_backward));
}

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT void emulator_set(uint64_t seed, int sms, int shared_bytes, int max_cluster, int cooperative,
                         int weight_registers, int only, int row_tiles, int tf32) {
  fast_s2s::emulator::properties() = {
      seed, sms,       shared_bytes, max_cluster, cooperative != 0, weight_registers,
      only, row_tiles, tf32 != 0};
}

// launches, threads, products, barriers
EXPORT void emulator_counts(uint64_t* out) {
  const auto& counts = fast_s2s::emulator::counts();
  out[0] = counts.launches;
  out[1] = counts.threads;
  out[2] = counts.products;
  out[3] = counts.barriers;
}
