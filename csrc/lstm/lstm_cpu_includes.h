// What the kernels take from outside, included before any instruction set is switched on.
#pragma once

#include <omp.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <numeric>
#include <type_traits>
#include <utility>
#include <vector>

#include "../cpu/barrier.h"
#include "../cpu/packing_count.h"
#include "../cpu/scratch.h"
#include "lstm.h"
#include "matrix_product.h"
#include "rows.h"
#include "variant.h"
