// The decode kernels for AVX-512 with dot products of int8.

#include "decode_cpu_includes.h"

// after the standard headers, whose inline functions other files share
#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx512vnni,avx2,fma")
#define FAST_S2S_ISA avx512_bf16
#define FAST_S2S_VECTOR_BYTES 64
#define FAST_S2S_BF16_PAIRS
#define FAST_S2S_INT8_DOT
#include "kernels_cpu.h"
#pragma GCC pop_options
#endif
