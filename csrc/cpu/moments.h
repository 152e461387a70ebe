// Mean and deviation of a row, for layer norm. Included once per instruction set.

namespace fast_s2s {
namespace FAST_S2S_ISA {

template <class A>
struct Moments {
  A mean{}, scale{1};  // the inverse standard deviation

  FAST_S2S_INLINE typename Simd<A>::Vec normed(typename Simd<A>::Vec x) const {
    return (x - mean) * scale;
  }
};

template <class A, class V>
FAST_S2S_INLINE A sum_of_lanes(V v) {
  A sum{};
  for (int lane = 0; lane < Simd<A>::kWidth; ++lane) sum += v[lane];
  return sum;
}

// Formula: torch.nn.functional.layer_norm.
template <class A>
Moments<A> moments(const A* x, int64_t size) {
  typedef typename Simd<A>::Vec V;
  constexpr int kWidth = Simd<A>::kWidth;
  constexpr A kEpsilon = 1e-5;
  const int64_t whole = size / kWidth * kWidth;
  V sums{};
  for (int64_t k = 0; k < size; k += kWidth) sums += load<V>(x + k, lanes(size, k, kWidth));
  const A mean = sum_of_lanes<A>(sums) / size;
  V squares{};
  for (int64_t k = 0; k < whole; k += kWidth) {
    const V d = load_full<V>(x + k) - mean;
    squares += d * d;
  }
  A square = sum_of_lanes<A>(squares);
  for (int64_t k = whole; k < size; ++k) square += (x[k] - mean) * (x[k] - mean);
  return {mean, 1 / std::sqrt(square / size + kEpsilon)};
}

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
