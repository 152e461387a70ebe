// CUDA registration of every op, by torch's stable ABI, in a library of its own: it loads only
// where torch has CUDA. Schemas: fast_s2s/ops.py and decoding/ops.py. No logic here.

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/shim_utils.h>

#include <type_traits>

#include "decode/decode_ops.h"
#include "lstm/lstm_ops.h"
#include "lstm/sequence_launch.h"

namespace fast_s2s {
namespace cuda {

Stream current_stream() {
  void* stream = nullptr;
  // the STABLE_ form came after torch 2.11
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(
      torch::stable::accelerator::getCurrentDeviceIndex(), &stream));
  return static_cast<Stream>(stream);
}

namespace {

template <class First, class... Rest>
const Tensor& first_tensor(const First& first, const Rest&... rest) {
  if constexpr (std::is_same_v<First, Tensor>) {
    return first;
  } else {
    return first_tensor(rest...);
  }
}

// An op on the device of its first argument that is a tensor, neither optional nor in a list.
template <auto kOp>
struct OnDevice;
template <class Result, class... Arguments, Result (*kOp)(Arguments...)>
struct OnDevice<kOp> {
  static Result run(Arguments... arguments) {
    const torch::stable::accelerator::DeviceGuard guard(first_tensor(arguments...).get_device());
    return kOp(arguments...);
  }
};

}  // namespace
}  // namespace cuda
}  // namespace fast_s2s

STABLE_TORCH_LIBRARY_IMPL(fast_s2s, CUDA, m) {
  using namespace fast_s2s::cuda;
  m.impl("lstm_forward", TORCH_BOX(&OnDevice<lstm_forward>::run));
  m.impl("lstm_backward", TORCH_BOX(&OnDevice<lstm_backward>::run));
  m.impl("lstm_forward_both", TORCH_BOX(&OnDevice<lstm_forward_both>::run));
  m.impl("lstm_backward_both", TORCH_BOX(&OnDevice<lstm_backward_both>::run));
  m.impl("decode_pack", TORCH_BOX(&OnDevice<decode_pack>::run));
  m.impl("decode", TORCH_BOX(&OnDevice<decode>::run));
}
