// All CPU kernels of the LSTM, for the instruction set that the including file has switched on.

// clang-format off: each needs the ones before it
#include "../lstm_math.h"
#include "../cpu/simd.h"
#include "../cpu/dots.h"
#include "../cpu/gemm.h"
#include "../cpu/work.h"
#include "../cpu/moments.h"
#include "../cpu/zoneout.h"
#include "../cpu/fingerprint.h"
#include "../cpu/packed_panels.h"
#include "cpu_common.h"
#include "row_products_cpu.h"
#include "forward_cpu.h"
#include "backward_cpu.h"
#include "matrix_product_cpu.h"
#include "variant_cpu.h"
#include "variant_forward_cpu.h"
#include "variant_row_cpu.h"
#include "variant_backward_cpu.h"
// clang-format on

namespace fast_s2s {
namespace FAST_S2S_ISA {

// One call, or two of one shape.
template <template <class...> class Kernel, class Args, class... Second>
void dispatch_dtype(int threads, const Args& args, const Second&... second) {
  switch (args.shape.dtype) {
    case DType::kFloat32:
      return run<Kernel<float>>(threads, args, second...);
    case DType::kFloat64:
      return run<Kernel<double>>(threads, args, second...);
    case DType::kBFloat16:
      return run<Kernel<bfloat16>>(threads, args, second...);
  }
}

void lstm_forward(const LstmForwardArgs& args, int threads) {
  dispatch_dtype<Forward>(threads, args);
}
void lstm_forward(const LstmForwardArgs& first, const LstmForwardArgs& second, int threads) {
  dispatch_dtype<Forward>(threads, first, second);
}
void lstm_backward(const LstmBackwardArgs& args, int threads) {
  dispatch_dtype<Backward>(threads, args);
}
void lstm_backward(const LstmBackwardArgs& first, const LstmBackwardArgs& second, int threads) {
  dispatch_dtype<Backward>(threads, first, second);
}

void lstm_variant_forward(const LstmVariantForwardArgs& args, int threads) {
  dispatch_dtype<VariantForward>(threads, args);
}
void lstm_variant_backward(const LstmVariantBackwardArgs& args, int threads) {
  dispatch_dtype<VariantBackward>(threads, args);
}

template <template <class> class Kernel>
void dispatch_product(int threads, const ProductArgs& args) {
  if (args.dtype == DType::kFloat64) return run<Kernel<double>>(threads, args);
  run<Kernel<float>>(threads, args);
}
void multiply(const MatrixProduct& product, bool add, int threads) {
  dispatch_product<Multiply>(threads, {product, add});
}
void sum_over_rows(const MatrixProduct& product, int threads) {
  dispatch_product<SumOverRows>(threads, {product, false});
}

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
