// Chooses the kernels for this machine's instruction set.

#include "../cpu/isa.h"
#include "lstm.h"
#include "matrix_product.h"
#include "variant.h"

namespace fast_s2s {

#define FAST_S2S_DECLARE(isa)                                                                     \
  namespace isa {                                                                                 \
  void lstm_forward(const LstmForwardArgs& args, int threads);                                    \
  void lstm_forward(const LstmForwardArgs& first, const LstmForwardArgs& second, int threads);    \
  void lstm_backward(const LstmBackwardArgs& args, int threads);                                  \
  void lstm_backward(const LstmBackwardArgs& first, const LstmBackwardArgs& second, int threads); \
  void lstm_variant_forward(const LstmVariantForwardArgs& args, int threads);                     \
  void lstm_variant_backward(const LstmVariantBackwardArgs& args, int threads);                   \
  void multiply(const MatrixProduct& product, bool add, int threads);                             \
  void sum_over_rows(const MatrixProduct& product, int threads);                                  \
  }
FAST_S2S_DECLARE(generic)
#if defined(__x86_64__)
FAST_S2S_DECLARE(avx2)
FAST_S2S_DECLARE(avx512)
FAST_S2S_DECLARE(avx512_bf16)
FAST_S2S_DECLARE(amx)
FAST_S2S_DECLARE(amx_emulated)
FAST_S2S_DECLARE(neon_emulated)
#define FAST_S2S_CASES(call)   \
  case Isa::kAmx:              \
    return amx::call;          \
  case Isa::kAmxEmulated:      \
    return amx_emulated::call; \
  case Isa::kAvx512Bf16:       \
    return avx512_bf16::call;  \
  case Isa::kAvx512:           \
    return avx512::call;       \
  case Isa::kAvx2:             \
    return avx2::call;         \
  case Isa::kNeonEmulated:     \
    return neon_emulated::call;
#elif defined(__aarch64__)
FAST_S2S_DECLARE(neon_bf16)
#define FAST_S2S_CASES(call) \
  case Isa::kNeonBf16:       \
    return neon_bf16::call;
#else
#define FAST_S2S_CASES(call)
#endif

void lstm_forward_cpu(const LstmForwardArgs& args, int threads) {
  FAST_S2S_DISPATCH(lstm_forward(args, threads))
}

void lstm_forward_cpu(const LstmForwardArgs& first, const LstmForwardArgs& second, int threads) {
  FAST_S2S_DISPATCH(lstm_forward(first, second, threads))
}

void lstm_backward_cpu(const LstmBackwardArgs& args, int threads) {
  FAST_S2S_DISPATCH(lstm_backward(args, threads))
}

void lstm_backward_cpu(const LstmBackwardArgs& first, const LstmBackwardArgs& second, int threads) {
  FAST_S2S_DISPATCH(lstm_backward(first, second, threads))
}

void lstm_variant_forward_cpu(const LstmVariantForwardArgs& args, int threads) {
  FAST_S2S_DISPATCH(lstm_variant_forward(args, threads))
}

void lstm_variant_backward_cpu(const LstmVariantBackwardArgs& args, int threads) {
  FAST_S2S_DISPATCH(lstm_variant_backward(args, threads))
}

void multiply_cpu(const MatrixProduct& product, bool add, int threads) {
  FAST_S2S_DISPATCH(multiply(product, add, threads))
}

void sum_over_rows_cpu(const MatrixProduct& product, int threads) {
  FAST_S2S_DISPATCH(sum_over_rows(product, threads))
}

}  // namespace fast_s2s
