// The CPU kernels that use the matrix unit, where they are faster than those for AVX-512.

#include "lstm_cpu_includes.h"

// after the standard headers, whose inline functions other files share
#if defined(__x86_64__)
namespace fast_s2s::avx512_bf16 {
void lstm_forward(const LstmForwardArgs& args, int threads);
void lstm_forward(const LstmForwardArgs& first, const LstmForwardArgs& second, int threads);
void lstm_backward(const LstmBackwardArgs& args, int threads);
void lstm_backward(const LstmBackwardArgs& first, const LstmBackwardArgs& second, int threads);
void lstm_variant_forward(const LstmVariantForwardArgs& args, int threads);
void lstm_variant_backward(const LstmVariantBackwardArgs& args, int threads);
void multiply(const MatrixProduct& product, bool add, int threads);
void sum_over_rows(const MatrixProduct& product, int threads);
}  // namespace fast_s2s::avx512_bf16
namespace fast_s2s::amx {
namespace without_tiles = avx512_bf16;
}

#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx512vnni,avx2,fma")
#define FAST_S2S_ISA amx
#define FAST_S2S_VECTOR_BYTES 64
#define FAST_S2S_BF16_PAIRS
#define FAST_S2S_AMX
#include "kernels_amx.h"
#pragma GCC pop_options
#endif
