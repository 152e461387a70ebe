// Chooses the kernels for this machine's instruction set.

#include "../cpu/isa.h"
#include "lstm.h"

namespace fast_s2s {

#define FAST_S2S_DECLARE(isa)                                    \
  namespace isa {                                                \
  void lstm_forward(const LstmForwardArgs& args, int threads);   \
  void lstm_backward(const LstmBackwardArgs& args, int threads); \
  }
FAST_S2S_DECLARE(generic)
#if defined(__x86_64__)
FAST_S2S_DECLARE(avx2)
FAST_S2S_DECLARE(avx512)
FAST_S2S_DECLARE(avx512_bf16)
FAST_S2S_DECLARE(amx)
#endif

void lstm_forward_cpu(const LstmForwardArgs& args, int threads) {
  switch (current_isa()) {
#if defined(__x86_64__)
    case Isa::kAmx:
      return amx::lstm_forward(args, threads);
    case Isa::kAvx512Bf16:
      return avx512_bf16::lstm_forward(args, threads);
    case Isa::kAvx512:
      return avx512::lstm_forward(args, threads);
    case Isa::kAvx2:
      return avx2::lstm_forward(args, threads);
#endif
    default:
      return generic::lstm_forward(args, threads);
  }
}

void lstm_backward_cpu(const LstmBackwardArgs& args, int threads) {
  switch (current_isa()) {
#if defined(__x86_64__)
    case Isa::kAmx:
      return amx::lstm_backward(args, threads);
    case Isa::kAvx512Bf16:
      return avx512_bf16::lstm_backward(args, threads);
    case Isa::kAvx512:
      return avx512::lstm_backward(args, threads);
    case Isa::kAvx2:
      return avx2::lstm_backward(args, threads);
#endif
    default:
      return generic::lstm_backward(args, threads);
  }
}

}  // namespace fast_s2s
