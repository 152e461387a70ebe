// Whether float32 may be multiplied as tf32: FAST_S2S_TF32, or torch's own switch.

#include <torch/csrc/stable/ops.h>

#include <array>
#include <cstdlib>
#include <string>

#include "layer_cuda.h"

namespace fast_s2s {
namespace cuda {

bool allows_tf32() {
  static const std::string setting = [] {
    const char* value = std::getenv("FAST_S2S_TF32");
    return std::string(value == nullptr ? "" : value);
  }();
  if (!setting.empty()) return setting == "1";
  // no function of the stable ABI tells; this op is written in Python (fast_s2s/ops.py)
  std::array<StableIValue, 1> stack{};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("fast_s2s::tf32_is_allowed", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<bool>(stack[0]);
}

}  // namespace cuda
}  // namespace fast_s2s
