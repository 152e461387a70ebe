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
