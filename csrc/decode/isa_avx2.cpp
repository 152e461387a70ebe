// The decode kernels for AVX2.

#include "decode_cpu_includes.h"

// after the standard headers, whose inline functions other files share
#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define FAST_S2S_ISA avx2
#define FAST_S2S_VECTOR_BYTES 32
#include "kernels_cpu.h"
#pragma GCC pop_options
#endif
