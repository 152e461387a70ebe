// Tensors of all running rows, for the products of the backward pass that take them at once.
#pragma once

#include "../cpu/thread_count.h"
#include "layer_cpu.h"
#include "rows.h"
#include "tensor_products.h"

namespace fast_s2s {

// The x of all running rows, (N, I): in the same order in both directions.
inline Tensor input_rows(const Layer& layer, int64_t n) {
  const LstmShape& s = layer.shape;
  if (s.lengths == nullptr) return by_rows(layer.x, n, s.input);
  Tensor rows = empty(layer.x, {n, s.input});
  gather_rows(s, layer.x.const_data_ptr(), rows.mutable_data_ptr(), layer.row_bytes(s.input),
              thread_count());
  return rows;
}

// (T, B, I), zero past a row's length, of what `fill` writes into the rows (N, I).
template <class Fill>
Tensor padded_input(const Layer& layer, int64_t n, const Fill& fill) {
  const LstmShape& s = layer.shape;
  Tensor padded = empty(layer.x, {s.steps, s.batch, s.input});
  const bool packed = s.lengths != nullptr;
  const Tensor rows = packed ? empty(layer.x, {n, s.input}) : by_rows(padded, n, s.input);
  fill(rows);
  if (packed)
    scatter_rows(s, rows.const_data_ptr(), padded.mutable_data_ptr(), layer.row_bytes(s.input),
                 thread_count());
  return padded;
}

}  // namespace fast_s2s
