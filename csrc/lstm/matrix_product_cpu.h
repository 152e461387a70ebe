// The kernels of matrix_product.h. Included once per instruction set.
//
// The order of every sum is that of the rows or columns summed over, for any number of threads.

namespace fast_s2s {
namespace FAST_S2S_ISA {

// Rows `stride` apart, of no more than `columns`.
template <class A, class V, int Rows, int Vectors>
FAST_S2S_INLINE void load_tile(const A* from, int64_t stride, int64_t columns,
                               V (&sums)[Rows][Vectors]) {
  constexpr int kWidth = Simd<A>::kWidth;
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < Vectors; ++v)
      sums[r][v] = load<V>(from + r * stride + v * kWidth, lanes(columns, v * kWidth, kWidth));
}
template <class A, class V, int Rows, int Vectors>
FAST_S2S_INLINE void store_tile(A* to, int64_t stride, int64_t columns,
                                const V (&sums)[Rows][Vectors]) {
  constexpr int kWidth = Simd<A>::kWidth;
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < Vectors; ++v)
      store(to + r * stride + v * kWidth, sums[r][v], lanes(columns, v * kWidth, kWidth));
}

inline int product_team(const MatrixProduct& p, int threads, int64_t tiles) {
  return static_cast<int>(
      std::max<int64_t>(1, std::min<int64_t>({threads, tiles, 2 * p.n * p.k * p.m / kWorthHelp})));
}

struct ProductArgs : MatrixProduct {
  bool add;
};

// Threads own rows of the result.
template <class A>
class Multiply {
  typedef typename Simd<A>::Vec V;
  static constexpr int64_t kColumns = panel_columns<A>();

 public:
  Multiply(const ProductArgs& args, int threads)
      : p_(args),
        panels_(ceil_div(p_.m, kColumns)),
        tiles_(ceil_div(p_.n, kTileRows)),
        threads_(product_team(p_, threads, tiles_)),
        b_(panels_ * p_.k * kColumns) {}

  int threads() const { return threads_; }

  void run_thread(int thread, int threads) {
    const Share packs(panels_, thread, threads), tiles(tiles_, thread, threads);
    for (int64_t panel = packs.begin; panel < packs.end; ++panel)
      pack_columns(static_cast<const A*>(p_.b), p_.k, p_.m, panel * kColumns, b(panel));
    barrier_.wait(threads);
    // so many rows stay near while one panel after the other meets them
    constexpr int64_t kBlock = 16;
    for (int64_t tile = tiles.begin; tile < tiles.end; tile += kBlock) {
      const int64_t end = std::min(tile + kBlock, tiles.end) * kTileRows;
      for (int64_t panel = 0; panel < panels_; ++panel)
        multiply(tile * kTileRows, std::min(p_.n, end), panel);
    }
  }

 private:
  void multiply(int64_t begin, int64_t end, int64_t panel) {
    const int64_t columns = p_.m - panel * kColumns;
    const A* a = static_cast<const A*>(p_.a) + begin * p_.k;
    A* out = static_cast<A*>(p_.out) + begin * p_.m + panel * kColumns;
    with_vectors<A>(columns, [&](auto vectors) {
      for_row_tiles(end - begin, [&](auto tile, int64_t r0) {
        V sums[tile.value][decltype(vectors)::value] = {};
        if (p_.add) load_tile<A>(out + r0 * p_.m, p_.m, columns, sums);
        multiply_rows(row_tile<tile.value>(a + r0 * p_.k, p_.k), b(panel), p_.k, sums);
        store_tile<A>(out + r0 * p_.m, p_.m, columns, sums);
      });
    });
  }

  A* b(int64_t panel) const { return b_.get() + panel * p_.k * kColumns; }

  const ProductArgs& p_;
  const int64_t panels_, tiles_;
  const int threads_;
  Barrier barrier_;
  Scratch<A> b_;  // [panel][K][4W]
};

// Threads own rows of the result: columns of `a`.
template <class A>
class SumOverRows {
  typedef typename Simd<A>::Vec V;
  static constexpr int64_t kColumns = panel_columns<A>();
  // rows at a time: enough to repay loading and storing sums, few enough for a panel to stay near
  static constexpr int64_t kBlock = 256;

 public:
  SumOverRows(const ProductArgs& args, int threads)
      : p_(args),
        tiles_(ceil_div(p_.k, kTileRows)),
        threads_(product_team(p_, threads, tiles_)),
        b_(threads_ * block() * kColumns) {}

  int threads() const { return threads_; }

  void run_thread(int thread, int threads) {
    const Share tiles(tiles_, thread, threads);
    const int64_t begin = tiles.begin * kTileRows, end = std::min(p_.k, tiles.end * kTileRows);
    if (p_.n == 0) std::fill_n(static_cast<A*>(p_.out) + begin * p_.m, (end - begin) * p_.m, A{});
    A* panel = b_.get() + thread * block() * kColumns;
    for (int64_t n = 0; n < p_.n; n += block())
      for (int64_t column = 0; column < p_.m; column += kColumns) {
        const int64_t rows = std::min(block(), p_.n - n);
        pack_columns(static_cast<const A*>(p_.b) + n * p_.m, rows, p_.m, column, panel);
        add_block(n, rows, begin, end, column, panel);
      }
  }

 private:
  int64_t block() const { return std::min(kBlock, p_.n); }

  void add_block(int64_t n, int64_t rows, int64_t begin, int64_t end, int64_t column,
                 const A* panel) {
    const int64_t columns = p_.m - column;
    const A* a = static_cast<const A*>(p_.a) + n * p_.k + begin;
    A* out = static_cast<A*>(p_.out) + begin * p_.m + column;
    with_vectors<A>(columns, [&](auto vectors) {
      for_row_tiles(end - begin, [&](auto tile, int64_t r0) {
        V sums[tile.value][decltype(vectors)::value] = {};
        if (n > 0) load_tile<A>(out + r0 * p_.m, p_.m, columns, sums);
        multiply_columns(a + r0, panel, rows, sums);
        store_tile<A>(out + r0 * p_.m, p_.m, columns, sums);
      });
    });
  }

  // sums[r] += column r of `a` · panel
  template <int Rows, int Vectors>
  FAST_S2S_INLINE void multiply_columns(const A* a, const A* panel, int64_t rows,
                                        V (&sums)[Rows][Vectors]) const {
    V s[Rows][Vectors];
    for (int r = 0; r < Rows; ++r)
      for (int v = 0; v < Vectors; ++v) s[r][v] = sums[r][v];
    const int64_t stride = p_.k;
    for (int64_t n = 0; n < rows; ++n) {
      // each row is on a page of its own, where nothing is fetched ahead
      __builtin_prefetch(a + n * stride + 2 * kTileRows);
      V b[Vectors];
      for (int v = 0; v < Vectors; ++v)
        b[v] = load_full<V>(panel + (n * kPanelVectors + v) * Simd<A>::kWidth);
      for (int r = 0; r < Rows; ++r) {
        const A x = a[n * stride + r];
        for (int v = 0; v < Vectors; ++v) s[r][v] += x * b[v];
      }
    }
    for (int r = 0; r < Rows; ++r)
      for (int v = 0; v < Vectors; ++v) sums[r][v] = s[r][v];
  }

  const ProductArgs& p_;
  const int64_t tiles_;
  const int threads_;
  Scratch<A> b_;  // [thread][row of the block][4W]
};

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
