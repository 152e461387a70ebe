// Matrix products of a few rows with a packed matrix, for one thread.
//
// A packed panel is [K][4 vectors]: one pass over K gives 4·W output columns of a row in registers.
// Sums run over K in ascending order for every row alike, so a row's result does not depend on the
// rows beside it.

namespace fast_s2s {
namespace FAST_S2S_ISA {

constexpr int kPanelVectors = 4;
// 32 vector registers hold 6 rows of 4 sums, 16 hold 3
constexpr int kTileRows = FAST_S2S_VECTOR_BYTES == 64 ? 6 : 3;

template <class A>
constexpr int64_t panel_columns() {
  return kPanelVectors * Simd<A>::kWidth;
}

// sums[row] += a[row] (K values, rows `stride` apart) · panel
template <int Rows, class A>
FAST_S2S_INLINE void multiply_rows(const A* a, int64_t stride, const A* panel, int64_t k_size,
                                   typename Simd<A>::Vec (&sums)[Rows][kPanelVectors]) {
  typedef typename Simd<A>::Vec V;
  V s[Rows][kPanelVectors];
  for (int row = 0; row < Rows; ++row)
    for (int v = 0; v < kPanelVectors; ++v) s[row][v] = sums[row][v];
  for (int64_t k = 0; k < k_size; ++k) {
    V w[kPanelVectors];
    for (int v = 0; v < kPanelVectors; ++v)
      w[v] = load_full<V>(panel + (k * kPanelVectors + v) * Simd<A>::kWidth);
    for (int row = 0; row < Rows; ++row) {
      const A x = a[row * stride + k];
      for (int v = 0; v < kPanelVectors; ++v) s[row][v] += x * w[v];
    }
  }
  for (int row = 0; row < Rows; ++row)
    for (int v = 0; v < kPanelVectors; ++v) sums[row][v] = s[row][v];
}

template <class V, int... Lane>
FAST_S2S_INLINE auto add_halves(V v, std::integer_sequence<int, Lane...>) {
  constexpr int kHalf = sizeof...(Lane);
  return __builtin_shufflevector(v, v, Lane...) + __builtin_shufflevector(v, v, (Lane + kHalf)...);
}

// The sum of a vector's elements, by halves.
template <class V>
FAST_S2S_INLINE auto horizontal_sum(V v) {
  constexpr int kWidth = sizeof(V) / sizeof(v[0]);
  if constexpr (kWidth == 2) {
    return v[0] + v[1];
  } else {
    return horizontal_sum(add_halves(v, std::make_integer_sequence<int, kWidth / 2>{}));
  }
}

// sums[row][i] = a[row] · w[i]: K values each, rows of `a` `stride` apart, those of `w` `w_stride`.
// Reads the weights where they lie: worth it when they are used too few times to pay for packing.
// The order of summation differs from `multiply_rows`, and is the same for every row.
template <int Rows, class A, class Io>
FAST_S2S_INLINE void dot_rows(const A* a, int64_t stride, const Io* w, int64_t w_stride,
                              int64_t k_size, A (&sums)[Rows][kPanelVectors]) {
  typedef typename Simd<A>::Vec V;
  constexpr int kWidth = Simd<A>::kWidth;
  V s[Rows][kPanelVectors] = {};
  const auto add = [&](int64_t k, int count) __attribute__((always_inline)) {
    V weights[kPanelVectors];
    for (int i = 0; i < kPanelVectors; ++i) weights[i] = load<V>(w + i * w_stride + k, count);
    for (int row = 0; row < Rows; ++row) {
      const V x = load<V>(a + row * stride + k, count);
      for (int i = 0; i < kPanelVectors; ++i) s[row][i] += x * weights[i];
    }
  };
  int64_t k = 0;
  for (; k + kWidth <= k_size; k += kWidth) add(k, kWidth);
  if (k < k_size) add(k, static_cast<int>(k_size - k));
  for (int row = 0; row < Rows; ++row)
    for (int i = 0; i < kPanelVectors; ++i) sums[row][i] = horizontal_sum(s[row][i]);
}

// Calls `tile(std::integral_constant<int, Rows>, first_row)` over all rows, in tiles as tall as
// they go.
template <int Rows = kTileRows, class F>
FAST_S2S_INLINE void for_row_tiles(int64_t first, int64_t rows, const F& tile) {
  for (; rows - first >= Rows; first += Rows) tile(std::integral_constant<int, Rows>{}, first);
  if constexpr (Rows > 1) {
    if (first < rows) for_row_tiles<Rows - 1>(first, rows, tile);
  }
}

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
