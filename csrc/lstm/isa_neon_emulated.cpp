// The CPU kernels for NEON with dot products of bfloat16 pairs, those in C++: so that they run, in
// the tests, on machines that are no Arm.

#include "lstm_cpu_includes.h"

#if defined(__x86_64__)
#define FAST_S2S_ISA neon_emulated
#define FAST_S2S_VECTOR_BYTES 16
#define FAST_S2S_BF16_PAIRS
#define FAST_S2S_EMULATED_DOTS
#include "kernels_cpu.h"
#endif
