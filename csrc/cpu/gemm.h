// Matrix products of a few rows with a weight matrix, for one thread.
//
// Sums run over K in the same order for every row, so a row's result does not depend on the rows
// beside it.

namespace fast_s2s {
namespace FAST_S2S_ISA {

// A panel is [K][4 vectors]: one pass over K gives 4·W output columns of a row in registers.
constexpr int kPanelVectors = 4;
#if FAST_S2S_VECTOR_BYTES == 64 || defined(__aarch64__)
constexpr int kVectorRegisters = 32;
#else
constexpr int kVectorRegisters = 16;
#endif
// as many rows of 4 sums as leave registers for the weights
constexpr int kTileRows = kVectorRegisters == 32 ? 6 : 3;
// So few rows have too few sums to hide an addition's latency, and take two panels at once.
constexpr int kPairRows = kVectorRegisters == 32 ? 2 : 1;

template <class A>
constexpr int64_t panel_columns() {
  return kPanelVectors * Simd<A>::kWidth;
}

FAST_S2S_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How many of `width` lanes from `first` on are inside `size`.
FAST_S2S_INLINE int lanes(int64_t size, int64_t first, int width) {
  return static_cast<int>(size - first < width ? size - first : width);
}

template <int Rows, class A>
struct RowTile {
  const A* row[Rows];
};

// Rows `stride` apart.
template <int Rows, class A>
FAST_S2S_INLINE RowTile<Rows, A> row_tile(const A* first, int64_t stride) {
  RowTile<Rows, A> tile;
  for (int r = 0; r < Rows; ++r) tile.row[r] = first + r * stride;
  return tile;
}

// Rows wherever they are.
template <int Rows, class A>
FAST_S2S_INLINE RowTile<Rows, A> row_tile(const A* const* rows) {
  RowTile<Rows, A> tile;
  for (int r = 0; r < Rows; ++r) tile.row[r] = rows[r];
  return tile;
}

// sums[r] += a.row[r] · panel, over K values; with 8 vectors of sums two panels, `stride` apart.
template <int Rows, int Vectors, class A, class Io>
FAST_S2S_INLINE void multiply_rows(const RowTile<Rows, A>& a, const Io* panel, int64_t k_size,
                                   typename Simd<A>::Vec (&sums)[Rows][Vectors],
                                   int64_t stride = 0) {
  typedef typename Simd<A>::Vec V;
  V s[Rows][Vectors];
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < Vectors; ++v) s[r][v] = sums[r][v];
  for (int64_t k = 0; k < k_size; ++k) {
    V w[Vectors];
    for (int v = 0; v < Vectors; ++v)
      w[v] = load_full<V>(panel + v / kPanelVectors * stride +
                          (k * kPanelVectors + v % kPanelVectors) * Simd<A>::kWidth);
    for (int r = 0; r < Rows; ++r) {
      const A x = a.row[r][k];
      for (int v = 0; v < Vectors; ++v) s[r][v] += x * w[v];
    }
  }
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < Vectors; ++v) sums[r][v] = s[r][v];
}

// The elements of two vectors by turns, from lane `First` on.
template <int First, class V, int... Lane>
FAST_S2S_INLINE V interleave(V a, V b, std::integer_sequence<int, Lane...>) {
  constexpr int kWidth = sizeof...(Lane);
  typedef decltype(a < b) Lanes;
  return __builtin_shuffle(a, b, Lanes{(First + Lane / 2 + Lane % 2 * kWidth)...});
}

// One vector with the sums of W vectors: two of them are folded into one at each turn.
template <class V, int kWidth>
FAST_S2S_INLINE V sum_lanes(V (&v)[kWidth]) {
  constexpr auto kLanes = std::make_integer_sequence<int, kWidth>{};
  for (int half = kWidth / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i)
      v[i] = interleave<0>(v[i], v[i + half], kLanes) +
             interleave<kWidth / 2>(v[i], v[i + half], kLanes);
  return v[0];
}

// The sum over the lanes of sums[r][i] is a.row[r] · w[i], over K values; rows of `w` are `stride`
// apart.
template <int Rows, class A, class Io>
FAST_S2S_INLINE void dot_rows(const RowTile<Rows, A>& a, const Io* w, int64_t stride,
                              int64_t k_size, typename Simd<A>::Vec (&sums)[Rows][kPanelVectors]) {
  typedef typename Simd<A>::Vec V;
  constexpr int kWidth = Simd<A>::kWidth;
  V s[Rows][kPanelVectors] = {};
  const auto add = [&](int64_t k, int count) __attribute__((always_inline)) {
    V weights[kPanelVectors];
    for (int i = 0; i < kPanelVectors; ++i) weights[i] = load<V>(w + i * stride + k, count);
    for (int r = 0; r < Rows; ++r) {
      const V x = load<V>(a.row[r] + k, count);
      for (int i = 0; i < kPanelVectors; ++i) s[r][i] += x * weights[i];
    }
  };
  int64_t k = 0;
  for (; k + kWidth <= k_size; k += kWidth) add(k, kWidth);
  if (k < k_size) add(k, static_cast<int>(k_size - k));
  for (int r = 0; r < Rows; ++r)
    for (int i = 0; i < kPanelVectors; ++i) sums[r][i] = s[r][i];
}

#ifdef FAST_S2S_BF16_PAIRS
// The pair of elements from `p` on in every lane; the second is zero past the end.
FAST_S2S_INLINE VecU broadcast_pair(const bfloat16* p, bool whole) {
  uint32_t pair = p[0].bits;
  if (whole) __builtin_memcpy(&pair, p, sizeof(pair));
  return VecU{} + pair;
}

// As above for a panel of pairs: [K/2][4 vectors][2], the last pair of an odd K filled with zero.
template <int Rows, int Vectors>
FAST_S2S_INLINE void multiply_rows(const RowTile<Rows, bfloat16>& a, const bfloat16* panel,
                                   int64_t k_size, VecF (&sums)[Rows][Vectors],
                                   int64_t stride = 0) {
  VecF s[Rows][Vectors];
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < Vectors; ++v) s[r][v] = sums[r][v];
  const auto add = [&](int64_t k, bool whole) __attribute__((always_inline)) {
    VecU w[Vectors];
    for (int v = 0; v < Vectors; ++v)
      __builtin_memcpy(&w[v],
                       panel + v / kPanelVectors * stride +
                           (k / 2 * kPanelVectors + v % kPanelVectors) * 2 * Simd<float>::kWidth,
                       sizeof(VecU));
    for (int r = 0; r < Rows; ++r) {
      const VecU x = broadcast_pair(a.row[r] + k, whole);
      for (int v = 0; v < Vectors; ++v) s[r][v] = dot_pairs(s[r][v], x, w[v]);
    }
  };
  for (int64_t k = 0; k + 2 <= k_size; k += 2) add(k, true);
  if (k_size % 2 == 1) add(k_size - 1, false);
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < Vectors; ++v) sums[r][v] = s[r][v];
}

FAST_S2S_INLINE VecU load_pairs(const bfloat16* p, int count) {
  VecU pairs{};
  __builtin_memcpy(&pairs, p, count * sizeof(bfloat16));
  return pairs;
}

template <int Rows>
FAST_S2S_INLINE void dot_rows(const RowTile<Rows, bfloat16>& a, const bfloat16* w, int64_t stride,
                              int64_t k_size, VecF (&sums)[Rows][kPanelVectors]) {
  constexpr int kPairs = 2 * Simd<float>::kWidth;
  VecF s[Rows][kPanelVectors] = {};
  const auto add = [&](int64_t k, int count) __attribute__((always_inline)) {
    VecU weights[kPanelVectors];
    for (int i = 0; i < kPanelVectors; ++i) weights[i] = load_pairs(w + i * stride + k, count);
    for (int r = 0; r < Rows; ++r) {
      const VecU x = load_pairs(a.row[r] + k, count);
      for (int i = 0; i < kPanelVectors; ++i) s[r][i] = dot_pairs(s[r][i], x, weights[i]);
    }
  };
  int64_t k = 0;
  for (; k + kPairs <= k_size; k += kPairs) add(k, kPairs);
  if (k < k_size) add(k, static_cast<int>(k_size - k));
  for (int r = 0; r < Rows; ++r)
    for (int i = 0; i < kPanelVectors; ++i) sums[r][i] = s[r][i];
}
#endif

// Columns of a transposed weight matrix that one panel holds: lane l of vector v is row
// first + v·vector_rows + l of the matrix (rows, K), for l < count[v].
struct PanelColumns {
  int64_t first, vector_rows;
  int count[kPanelVectors];
};

// sums[r] += a.row[r] · panel as `multiply_rows` does, but from the matrix as it lies: worth it
// where the weights are used too few times to pay for packing. The order of summation differs.
template <int Rows, class A, class Io>
FAST_S2S_INLINE void multiply_rows_unpacked(
    const RowTile<Rows, A>& a, const Io* w, const PanelColumns& columns, int64_t k_size,
    typename Simd<typename Accumulate<Io>::Type>::Vec (&sums)[Rows][kPanelVectors]) {
  typedef typename Simd<typename Accumulate<Io>::Type>::Vec V;
  constexpr int kWidth = Simd<typename Accumulate<Io>::Type>::kWidth;
  V partial[Rows][kPanelVectors][kWidth] = {};
  for (int lane = 0; lane < columns.count[0]; ++lane) {
    const Io* first = w + (columns.first + lane) * k_size;
    V part[Rows][kPanelVectors];
    if (lane < columns.count[kPanelVectors - 1]) {
      dot_rows(a, first, columns.vector_rows * k_size, k_size, part);
    } else {
      // the last panel of a matrix: some vectors have no such lane
      for (int v = 0; v < kPanelVectors && lane < columns.count[v]; ++v) {
        V one[Rows][kPanelVectors];
        dot_rows(a, first + v * columns.vector_rows * k_size, 0, k_size, one);
        for (int r = 0; r < Rows; ++r) part[r][v] = one[r][0];
      }
    }
    for (int v = 0; v < kPanelVectors && lane < columns.count[v]; ++v)
      for (int r = 0; r < Rows; ++r) partial[r][v][lane] = part[r][v];
  }
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < kPanelVectors; ++v) sums[r][v] += sum_lanes(partial[r][v]);
}

// Transposes W vectors of W elements: log2 W perfect shuffles.
template <class V, int kWidth>
FAST_S2S_INLINE void transpose(V (&v)[kWidth]) {
  constexpr auto kLanes = std::make_integer_sequence<int, kWidth>{};
  for (int round = 1; round < kWidth; round *= 2) {
    V next[kWidth];
    for (int i = 0; i < kWidth / 2; ++i) {
      next[2 * i] = interleave<0>(v[i], v[i + kWidth / 2], kLanes);
      next[2 * i + 1] = interleave<kWidth / 2>(v[i], v[i + kWidth / 2], kLanes);
    }
    for (int i = 0; i < kWidth; ++i) v[i] = next[i];
  }
}

// Packs the transposed columns of a matrix (rows, K) into a panel.
template <class Io>
void pack_transposed(const Io* w, const PanelColumns& columns, int64_t k_size, Io* panel) {
  typedef typename Accumulate<Io>::Type A;
  typedef typename Simd<A>::Vec V;
  constexpr int kWidth = Simd<A>::kWidth;
  for (int v = 0; v < kPanelVectors; ++v) {
    const Io* rows = w + (columns.first + v * columns.vector_rows) * k_size;
    for (int64_t k = 0; k < k_size; k += kWidth) {
      const int count = lanes(k_size, k, kWidth);
      V block[kWidth];
      for (int lane = 0; lane < kWidth; ++lane)
        block[lane] = lane < columns.count[v] ? load<V>(rows + lane * k_size + k, count) : V{};
      transpose(block);
      for (int i = 0; i < count; ++i)
        store_full(panel + (k + i) * panel_columns<A>() + v * kWidth, block[i]);
    }
  }
}

// Length of a panel that `pack_transposed` fills, in values of K.
template <class Io>
constexpr int64_t panel_length(int64_t k_size) {
  return std::is_same_v<typename Operand<Io>::Type, bfloat16> ? (k_size + 1) / 2 * 2 : k_size;
}

#ifdef FAST_S2S_BF16_PAIRS
// The same for a panel of pairs: pairs are transposed as if each were one value.
inline void pack_transposed(const bfloat16* w, const PanelColumns& columns, int64_t k_size,
                            bfloat16* panel) {
  constexpr int kWidth = Simd<float>::kWidth;
  for (int v = 0; v < kPanelVectors; ++v) {
    const bfloat16* rows = w + (columns.first + v * columns.vector_rows) * k_size;
    for (int64_t k = 0; k < k_size; k += 2 * kWidth) {
      const int count = lanes(k_size, k, 2 * kWidth);
      VecF block[kWidth];
      for (int lane = 0; lane < kWidth; ++lane)
        block[lane] = lane < columns.count[v]
                          ? bit_cast<VecF>(load_pairs(rows + lane * k_size + k, count))
                          : VecF{};
      transpose(block);
      for (int i = 0; i < (count + 1) / 2; ++i)
        __builtin_memcpy(panel + ((k / 2 + i) * kPanelVectors + v) * 2 * kWidth, &block[i],
                         sizeof(VecF));
    }
  }
}
#endif

// Packs columns [first, first + 4W) of a matrix (K, columns) into a panel.
template <class Io>
void pack_columns(const Io* w, int64_t k_size, int64_t columns, int64_t first, Io* panel) {
  const int64_t width = panel_columns<typename Accumulate<Io>::Type>();
  const int64_t count = std::min(columns - first, width);
  for (int64_t k = 0; k < k_size; ++k) {
    std::copy(w + k * columns + first, w + k * columns + first + count, panel + k * width);
    std::fill(panel + k * width + count, panel + (k + 1) * width, Io{});
  }
}

// Calls `tile(std::integral_constant<int, Rows>, first_row)` for `count` tiles of `rows` rows each.
template <int Rows, class F>
FAST_S2S_INLINE void for_tiles_of(int64_t rows, int64_t first, int64_t count, const F& tile) {
  if (rows == Rows) {
    for (int64_t i = 0; i < count; ++i) tile(std::integral_constant<int, Rows>{}, first + i * Rows);
  } else if constexpr (Rows > 1) {
    for_tiles_of<Rows - 1>(rows, first, count, tile);
  }
}

// Calls `tile` over all rows, in as few tiles as will do, none much lower than another: a low tile
// waits for its weights.
template <int MaxRows = kTileRows, class F>
FAST_S2S_INLINE void for_row_tiles(int64_t rows, const F& tile) {
  if (rows == 0) return;
  const int64_t tiles = ceil_div(rows, MaxRows), low = rows / tiles, high_tiles = rows % tiles;
  for_tiles_of<MaxRows>(low + 1, 0, high_tiles, tile);
  for_tiles_of<MaxRows>(low, high_tiles * (low + 1), tiles - high_tiles, tile);
}

// Calls `f(std::integral_constant<int, Vectors>)` for a panel with so many columns inside a matrix:
// 2 vectors where that is enough.
template <class A, class F>
FAST_S2S_INLINE void with_vectors(int64_t columns, const F& f) {
  if (columns <= 2 * Simd<A>::kWidth) {
    f(std::integral_constant<int, 2>{});
  } else {
    f(std::integral_constant<int, kPanelVectors>{});
  }
}

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
