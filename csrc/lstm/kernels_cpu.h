// All CPU kernels of the LSTM, for the instruction set that the including file has switched on.

// clang-format off: each needs the ones before it
#include "../lstm_math.h"
#include "../cpu/simd.h"
#include "../cpu/gemm.h"
#include "../cpu/work.h"
#include "../cpu/fingerprint.h"
#include "../cpu/packed_panels.h"
#include "cpu_common.h"
#include "row_products_cpu.h"
#include "forward_cpu.h"
#include "backward_cpu.h"
// clang-format on

namespace fast_s2s {
namespace FAST_S2S_ISA {

template <template <class...> class Kernel, class Args>
void dispatch_dtype(const Args& args, int threads) {
  switch (args.shape.dtype) {
    case DType::kFloat32:
      return Kernel<float>(args, threads).run();
    case DType::kFloat64:
      return Kernel<double>(args, threads).run();
    case DType::kBFloat16:
      return Kernel<bfloat16>(args, threads).run();
  }
}

void lstm_forward(const LstmForwardArgs& args, int threads) {
  dispatch_dtype<Forward>(args, threads);
}
void lstm_backward(const LstmBackwardArgs& args, int threads) {
  dispatch_dtype<Backward>(args, threads);
}

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
