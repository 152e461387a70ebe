// Matrix products by torch's own CPU kernel. By the C functions of these few ops:
// `torch::stable::matmul` and its like look an op up by its name at every call, which takes as long
// as the product of a few rows.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <initializer_list>

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

// out (N, M) = a (N, K) · b (K, M).
inline void multiply(const Tensor& a, const Tensor& b, const Tensor& out) {
  TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(out.get(), a.get(), b.get()));
}

// out += a · b
inline void add_product(const Tensor& a, const Tensor& b, const Tensor& out) {
  TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_addmm_out(out.get(), out.get(), a.get(), b.get(), 1, 1));
}

inline Tensor product(const Tensor& a, const Tensor& b) {
  Tensor out = empty(a, {a.size(0), b.size(1)});
  multiply(a, b, out);
  return out;
}

// aᵀ · b, of a (N, K), dense, and b (N, M).
inline Tensor product_over_rows(const Tensor& a, const Tensor& b) {
  return product(strided(a, {a.size(1), a.size(0)}, {1, a.size(1)}), b);
}

}  // namespace fast_s2s
