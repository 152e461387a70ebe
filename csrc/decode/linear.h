// Contract of the linear kernel: rows times a packed matrix, plus a bias, or tanh of that.
//
// Packed weights of no layers, by decode_pack_cpu: a matrix (V, R) and its bias (V,). Sizes and
// `Acc` as in decode.h. Arrays are dense and row-major, none overlaps another, the caller owns
// them.
#pragma once

#include <cstdint>

namespace fast_s2s {

struct LinearArgs {
  const void* packed;
  const void* const* x;  // of each row: Acc [R]
  void* const* y;        // of each row: Acc [V]
  int64_t rows;
  bool tanh;  // of what comes out
};

// `threads`: at most so many are used.
void decode_linear_cpu(const LinearArgs& args, int threads);

}  // namespace fast_s2s
