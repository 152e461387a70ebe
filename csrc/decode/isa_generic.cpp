// The decode kernels for any machine.

#include "decode_cpu_includes.h"

#define FAST_S2S_ISA generic
#define FAST_S2S_VECTOR_BYTES 16
#include "kernels_cpu.h"
