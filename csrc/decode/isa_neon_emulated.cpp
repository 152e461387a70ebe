// The decode kernels for NEON with dot products of int8, those in C++: so that they run, in the
// tests, on machines that are no Arm.

#include "decode_cpu_includes.h"

#if defined(__x86_64__)
#define FAST_S2S_ISA neon_emulated
#define FAST_S2S_VECTOR_BYTES 16
#define FAST_S2S_INT8_DOT
#define FAST_S2S_EMULATED_DOTS
#include "kernels_cpu.h"
#endif
