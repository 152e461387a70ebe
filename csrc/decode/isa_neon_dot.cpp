// The decode kernels for Arm's NEON with dot products of int8. NEON alone is what the kernels for
// any machine become on Arm.

#include "decode_cpu_includes.h"

// after the standard headers, whose inline functions other files share
#if defined(__aarch64__)
#pragma GCC push_options
// where the compiler's flags ask for more, this would be less
#ifndef __ARM_FEATURE_DOTPROD
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif
#define FAST_S2S_ISA neon_dot
#define FAST_S2S_VECTOR_BYTES 16
#define FAST_S2S_INT8_DOT
#include "kernels_cpu.h"
#pragma GCC pop_options
#endif
