// Matrix products of the backward pass that take all rows of a sequence at once.
#pragma once

#include <cstdint>

#include "lstm.h"

namespace fast_s2s {

// Dense and row-major, of float32 or float64; N is the number of rows of `a`.
struct MatrixProduct {
  DType dtype;
  int64_t n, k, m;
  const void* a;  // [N, K]
  const void* b;
  void* out;
};

// out [N, M] = a · b, of b [K, M]; or `add` it.
void multiply_cpu(const MatrixProduct& product, bool add, int threads);
// out [K, M] = aᵀ · b, of b [N, M].
void sum_over_rows_cpu(const MatrixProduct& product, int threads);

}  // namespace fast_s2s
