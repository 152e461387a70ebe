// What the kernels take from outside, included before any instruction set is switched on.
#pragma once

#include <omp.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <new>
#include <numeric>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "../cpu/barrier.h"
#include "../cpu/scratch.h"
#include "decode.h"
#include "forecast.h"
#include "linear.h"
#include "read.h"
#include "transducer.h"
#include "transducer_beam.h"
