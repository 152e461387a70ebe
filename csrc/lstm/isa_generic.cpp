// The CPU kernels for any machine.

#include "lstm_cpu_includes.h"

#define FAST_S2S_ISA generic
#define FAST_S2S_VECTOR_BYTES 16
// clang-format off: each needs the ones before it
#include "../lstm_math.h"
#include "../cpu/simd.h"
#include "../cpu/gemm.h"
#include "lstm_cpu_kernel.h"
// clang-format on
