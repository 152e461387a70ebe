// The CPU kernels that use the matrix unit, on one in C++: so that they run, in the tests, on any
// machine with AVX-512.

#include "lstm_cpu_includes.h"

// after the standard headers, whose inline functions other files share
#if defined(__x86_64__)
namespace fast_s2s::avx512 {
void lstm_forward(const LstmForwardArgs& args, int threads);
void lstm_forward(const LstmForwardArgs& first, const LstmForwardArgs& second, int threads);
void lstm_backward(const LstmBackwardArgs& args, int threads);
void lstm_backward(const LstmBackwardArgs& first, const LstmBackwardArgs& second, int threads);
void lstm_variant_forward(const LstmVariantForwardArgs& args, int threads);
void lstm_variant_backward(const LstmVariantBackwardArgs& args, int threads);
void multiply(const MatrixProduct& product, bool add, int threads);
void sum_over_rows(const MatrixProduct& product, int threads);
}  // namespace fast_s2s::avx512
namespace fast_s2s::amx_emulated {
namespace without_tiles = avx512;
}

#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#define FAST_S2S_ISA amx_emulated
#define FAST_S2S_VECTOR_BYTES 64
#define FAST_S2S_AMX
#define FAST_S2S_AMX_EMULATED
#include "kernels_amx.h"
#pragma GCC pop_options
#endif
