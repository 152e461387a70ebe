// CUDA registration of every op, by torch's stable ABI, in a library of its own: it loads only where
// torch has CUDA. Schemas: fast_s2s/ops.py. No logic here.

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "lstm/lstm_ops_cuda.h"

namespace fast_s2s {
namespace cuda {

void* current_stream() {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(
      torch::stable::accelerator::getCurrentDeviceIndex(), &stream));
  return stream;
}

namespace {

typedef torch::stable::accelerator::DeviceGuard Guard;

}  // namespace
}  // namespace cuda
}  // namespace fast_s2s
