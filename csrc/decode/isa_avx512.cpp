// The decode kernels for AVX512.

#include "decode_cpu_includes.h"

// after the standard headers, whose inline functions other files share
#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#define FAST_S2S_ISA avx512
#define FAST_S2S_VECTOR_BYTES 64
#include "kernels_cpu.h"
#pragma GCC pop_options
#endif
