// Weights in panels: their layout by type, and their products with a few rows.
// Included once per instruction set.
//
// A panel is K values of four vectors of W columns, as in cpu/gemm.h: the four gates of W units, or
// 4W outputs. Sums run over K in one order, whatever the number of rows and panels taken at once,
// so a row's result does not depend on the rows beside it.
//
// Each format has `multiply`: sums[p][r] += values k0.. of row `rows[r]` of `a` · panel p, over
// k_size values, panels being `stride` bytes apart. With kPairs two panels
// may be taken at once, with kBlocks K may be cut at any even value.

namespace fast_s2s {
namespace FAST_S2S_ISA {

// Where a panel of a matrix (rows, K) comes from, and its rows' scales, if any.
struct PanelSource {
  const void* matrix;
  const float* scales;
  PanelColumns columns;
  int64_t k_size;

  template <class T>
  T at(int vector, int lane, int64_t k) const {
    if (lane >= columns.count[vector] || k >= k_size) return T{};
    const int64_t row = columns.first + vector * columns.vector_rows + lane;
    return static_cast<const T*>(matrix)[row * k_size + k];
  }
  float scale(int vector, int lane) const {
    if (lane >= columns.count[vector]) return 0;
    return scales[columns.first + vector * columns.vector_rows + lane];
  }
};

template <int Panels, int Rows, class A>
using PanelSums = typename Simd<A>::Vec[Panels][Rows][kPanelVectors];

// Row pointers as they are: operands of all formats that multiply in Acc.
template <class A>
struct PlainRows {
  typedef A Value;
  explicit PlainRows(int64_t, int64_t) {}
  void set(const A* const* rows, int64_t, int64_t) { rows_ = rows; }
  const A* row(int64_t r) const { return rows_[r]; }

 private:
  const A* const* rows_ = nullptr;
};

// float and double: [K][4 vectors].
template <class A>
struct FloatPanel {
  typedef A Acc;
  typedef PlainRows<A> Operand;
  static constexpr int kMaxRows = kTileRows;
  static constexpr bool kPairs = true, kBlocks = true;
  static int64_t bytes(int64_t k_size) { return k_size * panel_columns<A>() * sizeof(A); }

  static void pack(const PanelSource& source, void* out) {
    A* panel = static_cast<A*>(out);
    for (int64_t k = 0; k < source.k_size; ++k)
      for (int v = 0; v < kPanelVectors; ++v)
        for (int lane = 0; lane < Simd<A>::kWidth; ++lane) *panel++ = source.at<A>(v, lane, k);
  }

  template <int Panels, int Rows>
  static FAST_S2S_INLINE void multiply(const Operand& a, const int64_t* rows, int64_t k0,
                                       const char* panel, int64_t stride, int64_t k_size,
                                       PanelSums<Panels, Rows, A>& sums) {
    typedef typename Simd<A>::Vec V;
    V s[Panels][Rows][kPanelVectors];
    __builtin_memcpy(s, sums, sizeof(s));
    const A* row[Rows];
    for (int r = 0; r < Rows; ++r) row[r] = a.row(rows[r]) + k0;
    const A* w = reinterpret_cast<const A*>(panel);
    const int64_t step = stride / static_cast<int64_t>(sizeof(A));
    for (int64_t k = 0; k < k_size; ++k, w += panel_columns<A>())
      for (int p = 0; p < Panels; ++p)
        for (int v = 0; v < kPanelVectors; ++v) {
          const V weights = load_full<V>(w + p * step + v * Simd<A>::kWidth);
          for (int r = 0; r < Rows; ++r) s[p][r][v] += row[r][k] * weights;
        }
    __builtin_memcpy(sums, s, sizeof(s));
  }
};

// bfloat16, widened: [K/2][4 vectors][W lanes][2], so that a shift and a mask widen two vectors.
struct Bfloat16Panel {
  typedef float Acc;
  typedef PlainRows<float> Operand;
  static constexpr int kMaxRows = kTileRows;
  static constexpr bool kPairs = true, kBlocks = true;
  static constexpr int kWidth = Simd<float>::kWidth;
  static constexpr int64_t kPairBytes = kPanelVectors * kWidth * 4;
  static int64_t bytes(int64_t k_size) { return (k_size + 1) / 2 * kPairBytes; }

  static void pack(const PanelSource& source, void* out) {
    bfloat16* panel = static_cast<bfloat16*>(out);
    for (int64_t k = 0; k < source.k_size; k += 2)
      for (int v = 0; v < kPanelVectors; ++v)
        for (int lane = 0; lane < kWidth; ++lane)
          for (int i = 0; i < 2; ++i) *panel++ = source.at<bfloat16>(v, lane, k + i);
  }

  template <int Panels, int Rows>
  static FAST_S2S_INLINE void multiply(const Operand& a, const int64_t* rows, int64_t k0,
                                       const char* panel, int64_t stride, int64_t k_size,
                                       PanelSums<Panels, Rows, float>& sums) {
    VecF s[Panels][Rows][kPanelVectors];
    __builtin_memcpy(s, sums, sizeof(s));
    const float* row[Rows];
    for (int r = 0; r < Rows; ++r) row[r] = a.row(rows[r]) + k0;
    const auto add = [&](int64_t k, bool whole) __attribute__((always_inline)) {
      for (int p = 0; p < Panels; ++p)
        for (int v = 0; v < kPanelVectors; ++v) {
          const VecU pairs = load_full<VecU>(panel + p * stride + v * sizeof(VecU));
          const VecF first = bit_cast<VecF>(pairs << 16);
          const VecF second = bit_cast<VecF>(pairs & 0xffff0000u);
          for (int r = 0; r < Rows; ++r) {
            s[p][r][v] += row[r][k] * first;
            if (whole) s[p][r][v] += row[r][k + 1] * second;
          }
        }
      panel += kPairBytes;
    };
    int64_t k = 0;
    for (; k + 2 <= k_size; k += 2) add(k, true);
    if (k < k_size) add(k, false);
    __builtin_memcpy(sums, s, sizeof(s));
  }
};

#ifdef FAST_S2S_INT8_DOT

// Rows of float as integers of 24 bits of the row's largest, in three bytes: sums of their products
// with int8 are exact, so that the whole is as good as a sum in float.
class DigitRows {
 public:
  DigitRows(int64_t rows, int64_t k_size)
      : stride_((k_size + 63) / 64 * 64), bytes_(kDigits * rows * stride_), scales_(rows) {}

  void set(const float* const* rows, int64_t count, int64_t k_size) {
    for (int64_t r = 0; r < count; ++r) set_row(rows[r], r, k_size);
  }
  const uint8_t* digit(int64_t r, int index) const {
    return bytes_.get() + (r * kDigits + index) * stride_;
  }
  float scale(int64_t r) const { return scales_.get()[r]; }

 private:
  void set_row(const float* x, int64_t r, int64_t k_size) {
    constexpr int kWidth = Simd<float>::kWidth;
    VecF most{};
    for (int64_t k = 0; k < k_size; k += kWidth) {
      const VecF v = load<VecF>(x + k, lanes(k_size, k, kWidth));
      const VecF size = v < 0.f ? -v : v;
      // a NaN is larger than anything, and stays so
      most = (size <= most) | (most != most) ? most : size;
    }
    float largest = 0;
    for (int lane = 0; lane < kWidth; ++lane)
      largest = most[lane] <= largest || largest != largest ? largest : most[lane];
    scales_.get()[r] = largest / kLargestInteger;
    // times zero infinity would be no number
    constexpr float kMost = std::numeric_limits<float>::max();
    const float factor = largest > 0 ? std::min(kLargestInteger / largest, kMost) : 0;
    uint8_t* out = const_cast<uint8_t*>(digit(r, 0));
    for (int64_t k = 0; k < k_size; k += kWidth) {
      const VecU digits = to_digits(load<VecF>(x + k, lanes(k_size, k, kWidth)) * factor);
      for (int i = 0; i < kDigits; ++i) {
        const VecDigits one = low_bytes(digits >> (8 * i));
        __builtin_memcpy(out + i * stride_ + k, &one, sizeof(one));
      }
    }
  }

  int64_t stride_;
  Scratch<uint8_t> bytes_;
  Scratch<float> scales_;
};

// int8 for dot products of four: [K/4][4 vectors][W lanes][4], then the columns' sums and scales.
struct Int8Panel {
  typedef float Acc;
  typedef DigitRows Operand;
  // three sums for each
  static constexpr int kMaxRows = 2;
  static constexpr bool kPairs = false, kBlocks = false;
  static constexpr int kWidth = Simd<float>::kWidth, kColumns = kPanelVectors * kWidth;
  static int64_t bytes(int64_t k_size) { return ((k_size + 3) / 4 + 2) * 4 * kColumns; }

  static void pack(const PanelSource& source, void* out) {
    int8_t* panel = static_cast<int8_t*>(out);
    int32_t totals[kColumns] = {};
    float scales[kColumns];
    for (int64_t k = 0; k < source.k_size; k += 4)
      for (int v = 0; v < kPanelVectors; ++v)
        for (int lane = 0; lane < kWidth; ++lane)
          for (int i = 0; i < 4; ++i) {
            *panel = source.at<int8_t>(v, lane, k + i);
            totals[v * kWidth + lane] += *panel++;
          }
    for (int v = 0; v < kPanelVectors; ++v)
      for (int lane = 0; lane < kWidth; ++lane) scales[v * kWidth + lane] = source.scale(v, lane);
    __builtin_memcpy(panel, totals, sizeof(totals));
    __builtin_memcpy(panel + sizeof(totals), scales, sizeof(scales));
  }

  template <int Panels, int Rows>
  static FAST_S2S_INLINE void multiply(const Operand& a, const int64_t* rows, int64_t k0,
                                       const char* panel, int64_t, int64_t k_size,
                                       PanelSums<Panels, Rows, float>& sums) {
    static_assert(Panels == 1);
    // as vectors of integers: those of intrinsics the compiler stores in each turn
    VecI s[Rows][kDigits][kPanelVectors] = {};
    const uint8_t* digit[Rows][kDigits];
    for (int r = 0; r < Rows; ++r)
      for (int i = 0; i < kDigits; ++i) digit[r][i] = a.digit(rows[r], i) + k0;
    for (int64_t k = 0; k < k_size; k += 4, panel += 4 * kColumns) {
      VecI w[kPanelVectors];
      for (int v = 0; v < kPanelVectors; ++v) w[v] = load_full<VecI>(panel + v * sizeof(VecI));
      for (int r = 0; r < Rows; ++r)
        for (int i = 0; i < kDigits; ++i) {
          int32_t four;
          __builtin_memcpy(&four, digit[r][i] + k, sizeof(four));
          const VecI x = VecI{} + four;
          for (int v = 0; v < kPanelVectors; ++v) s[r][i][v] = dot_fours(s[r][i][v], x, w[v]);
        }
    }
    for (int v = 0; v < kPanelVectors; ++v) {
      const VecI totals = load_full<VecI>(panel + v * sizeof(VecI));
      const VecF scales = load_full<VecF>(panel + 4 * kColumns + v * sizeof(VecF));
      for (int r = 0; r < Rows; ++r) {
        const VecI high = top_sum(s[r][2][v], totals);
        const VecF exact =
            to_float(s[r][0][v]) + to_float(s[r][1][v]) * 256.f + to_float(high) * 65536.f;
        sums[0][r][v] += exact * (scales * a.scale(rows[r]));
      }
    }
  }

 private:
  static FAST_S2S_INLINE VecF to_float(VecI v) { return __builtin_convertvector(v, VecF); }
};

#else

// int8, widened: [K][4 vectors], then the columns' scales.
struct Int8Panel {
  typedef float Acc;
  typedef PlainRows<float> Operand;
  static constexpr int kMaxRows = kTileRows;
  static constexpr bool kPairs = false, kBlocks = false;
  static constexpr int kWidth = Simd<float>::kWidth, kColumns = kPanelVectors * kWidth;
  typedef int8_t VecByte __attribute__((vector_size(kWidth)));
  static int64_t bytes(int64_t k_size) { return (k_size + 4) * kColumns; }

  static void pack(const PanelSource& source, void* out) {
    int8_t* panel = static_cast<int8_t*>(out);
    float scales[kColumns];
    for (int64_t k = 0; k < source.k_size; ++k)
      for (int v = 0; v < kPanelVectors; ++v)
        for (int lane = 0; lane < kWidth; ++lane) *panel++ = source.at<int8_t>(v, lane, k);
    for (int v = 0; v < kPanelVectors; ++v)
      for (int lane = 0; lane < kWidth; ++lane) scales[v * kWidth + lane] = source.scale(v, lane);
    __builtin_memcpy(panel, scales, sizeof(scales));
  }

  template <int Panels, int Rows>
  static FAST_S2S_INLINE void multiply(const Operand& a, const int64_t* rows, int64_t k0,
                                       const char* panel, int64_t, int64_t k_size,
                                       PanelSums<Panels, Rows, float>& sums) {
    static_assert(Panels == 1);
    VecF s[Rows][kPanelVectors] = {};
    const float* row[Rows];
    for (int r = 0; r < Rows; ++r) row[r] = a.row(rows[r]) + k0;
    for (int64_t k = 0; k < k_size; ++k, panel += kColumns)
      for (int v = 0; v < kPanelVectors; ++v) {
        const VecF w = widen_bytes(panel + v * kWidth);
        for (int r = 0; r < Rows; ++r) s[r][v] += row[r][k] * w;
      }
    for (int v = 0; v < kPanelVectors; ++v) {
      const VecF scales = load_full<VecF>(panel + v * sizeof(VecF));
      for (int r = 0; r < Rows; ++r) sums[0][r][v] += s[r][v] * scales;
    }
  }

 private:
  static FAST_S2S_INLINE VecF widen_bytes(const char* p) {
#if FAST_S2S_VECTOR_BYTES == 64
    const __m512i wide = _mm512_maskz_cvtepi8_epi32(0xffff, load_full<__m128i>(p));
    return __builtin_convertvector(bit_cast<VecI>(wide), VecF);
#elif FAST_S2S_VECTOR_BYTES == 32
    const __m256i wide = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    return __builtin_convertvector(bit_cast<VecI>(wide), VecF);
#else
    return __builtin_convertvector(load_full<VecByte>(p), VecF);
#endif
  }
};

#endif

// sums[i] += row named[i] of `a` · panel. In blocks of K that stay near while all rows pass.
template <class Panel>
void multiply_rows(const typename Panel::Operand& a, const int64_t* named, int64_t count,
                   int64_t k_size, const char* weights, typename Panel::Acc* sums) {
  typedef typename Panel::Acc A;
  constexpr int64_t kBlock = 128;
  const int64_t block = Panel::kBlocks && count > Panel::kMaxRows ? kBlock : k_size;
  for (int64_t k0 = 0; k0 < k_size; k0 += block) {
    const char* panel = weights + (k0 == 0 ? 0 : Panel::bytes(k0));
    const int64_t size = std::min(block, k_size - k0);
    for_row_tiles<Panel::kMaxRows>(count, [&](auto rows, int64_t first) {
      PanelSums<1, rows.value, A> part;
      A* start = sums + first * panel_columns<A>();
      __builtin_memcpy(part, start, sizeof(part));
      Panel::template multiply<1, rows.value>(a, named + first, k0, panel, 0, size, part);
      __builtin_memcpy(start, part, sizeof(part));
    });
  }
}

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
