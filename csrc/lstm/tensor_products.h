// Matrix products of tensors, those of bfloat16 and few rows by torch's own CPU kernel. By the C
// functions of these few ops: `torch::stable::matmul` and its like look an op up by its name at
// every call, which takes as long as the product of a few rows.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <initializer_list>

#include "../cpu/thread_count.h"
#include "layer_cpu.h"
#include "matrix_product.h"
#include "tensors.h"

namespace fast_s2s {

// From value `first` on.
inline Tensor strided(const Tensor& tensor, std::initializer_list<int64_t> sizes,
                      std::initializer_list<int64_t> strides, int64_t first = 0) {
  AtenTensorHandle view;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch__reinterpret_tensor(tensor.get(), static_cast<int64_t>(sizes.size()),
                                     sizes.begin(), strides.begin(), first, &view));
  return Tensor(view);
}

// A dense tensor by rows, (N, C).
inline Tensor by_rows(const Tensor& dense, int64_t rows, int64_t columns) {
  return strided(dense, {rows, columns}, {columns, 1});
}

inline MatrixProduct matrix_product(const Tensor& a, const Tensor& b, const Tensor& out) {
  return {to_dtype(a),
          a.size(0),
          a.size(1),
          b.size(1),
          a.const_data_ptr(),
          b.const_data_ptr(),
          out.mutable_data_ptr()};
}

// out (N, M) = a (N, K) · b (K, M), all dense; or `add` it. Few rows do not repay packing b.
inline void multiply(const Tensor& a, const Tensor& b, const Tensor& out, bool add = false) {
  constexpr int64_t kPackedRows = 16;
  if (a.scalar_type() != ScalarType::BFloat16 && a.size(0) >= kPackedRows)
    return multiply_cpu(matrix_product(a, b, out), add, thread_count());
  if (add) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_addmm_out(out.get(), out.get(), a.get(), b.get(), 1, 1));
  } else {
    TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(out.get(), a.get(), b.get()));
  }
}

inline Tensor product(const Tensor& a, const Tensor& b) {
  Tensor out = empty(a, {a.size(0), b.size(1)});
  multiply(a, b, out);
  return out;
}

// aᵀ · b, of a (N, K) and b (N, M), both dense.
inline Tensor product_over_rows(const Tensor& a, const Tensor& b) {
  Tensor out = empty(a, {a.size(1), b.size(1)});
  if (a.scalar_type() != ScalarType::BFloat16) {
    sum_over_rows_cpu(matrix_product(a, b, out), thread_count());
  } else {
    const Tensor transposed = strided(a, {a.size(1), a.size(0)}, {1, a.size(1)});
    TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(out.get(), transposed.get(), b.get()));
  }
  return out;
}

}  // namespace fast_s2s
