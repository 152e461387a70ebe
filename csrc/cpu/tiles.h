// Products on the matrix unit (AMX), which multiplies tiles of bfloat16 into sums in float32.
// Included for the instruction sets "amx" and "amx_emulated".
//
// A float32 is the sum of three bfloat16, a = a1 + a2 + a3, exactly: each takes the next eight bits
// by truncation. Of the nine products of a·w six are taken, a1w1, a1w2, a2w1, a1w3, a2w2 and a3w1;
// what is left out is less than 2^-21 |a·w|, and about 2^-24 on average. The sums of a row do not
// depend on the rows beside it, nor on how rows are cut into tiles.

namespace fast_s2s {
namespace FAST_S2S_ISA {

// A tile: at most 16 rows of 32 values, or 16 pairs of values for 16 columns, or 16x16 sums.
constexpr int kTileHeight = 16;
constexpr int kTileDepth = 32;
constexpr int64_t kTileBytes = 1024;
constexpr int64_t kTileLine = 64;  // bytes of a row

template <class Io>
constexpr int kTileParts = std::is_same_v<Io, float> ? 3 : 1;

// The matrix unit of one thread, from first use to scope end.
class MatrixUnit {
 public:
  MatrixUnit() = default;
  MatrixUnit(const MatrixUnit&) = delete;
  MatrixUnit& operator=(const MatrixUnit&) = delete;
  ~MatrixUnit() {
    if (first_ > 0) tile_release();
  }

  // Sets the heights of tiles of rows: with `second` > 0 for `multiply_two`, else for
  // `multiply_one`.
  void set_heights(int first, int second) {
    if (first == first_ && second == second_) return;
    first_ = first;
    second_ = second;
    TileSizes sizes;
    for (int tile = 0; tile < kTileCount; ++tile) {
      const bool of_second = second > 0 && (tile == 2 || tile == 3 || tile == 5);
      const bool weights = tile == 7 || (second > 0 && tile == 6);
      sizes.bytes[tile] = kTileLine;
      sizes.rows[tile] = weights ? kTileHeight : of_second ? second : first;
    }
    tile_configure(sizes);
  }

 private:
  int first_ = 0, second_ = 0;
};

// The next eight bits of x, and what is left of it. NaN stays a (quiet) NaN, infinity is whole.
FAST_S2S_INLINE VecHalfU next_part(VecF& x) {
  const VecU bits = bit_cast<VecU>(x);
  const VecU top = ((x == x) ? bits : bits | 0x400000u) & 0xffff0000u;
  x = (bits & 0x7f800000u) == 0x7f800000u ? VecF{} : x - bit_cast<VecF>(top);
  return __builtin_convertvector(top >> 16, VecHalfU);
}

FAST_S2S_INLINE void split(VecF x, VecHalfU (&parts)[3]) {
  for (VecHalfU& part : parts) part = next_part(x);
}
FAST_S2S_INLINE void split(VecF x, VecHalfU (&part)[1]) { part[0] = to_bfloat16(x); }

FAST_S2S_INLINE bool any_infinite(VecU bits) {
  const VecI found = (bits & 0x7fffffffu) == 0x7f800000u;
  return _mm512_movepi32_mask(bit_cast<__m512i>(found)) != 0;
}

// Rows of a product, in tiles of `height` rows: [rows/height][K/32][part][height][32].
template <class Io>
class TileRows {
  static constexpr int kParts = kTileParts<Io>;

 public:
  TileRows(int64_t rows, int64_t k_size, int height)
      : height_(height),
        depth_(ceil_div(k_size, kTileDepth)),
        blocks_(ceil_div(rows, height)),
        memory_(blocks_ * block_size()),
        infinite_(blocks_ * height) {}

  int height() const { return height_; }
  int64_t depth() const { return depth_; }
  int64_t part_size() const { return height_ * kTileDepth; }
  // the height_ rows from `row` on, a multiple of it
  const uint16_t* block(int64_t row) const { return memory_.get() + row / height_ * block_size(); }
  int64_t block_size() const { return depth_ * kParts * part_size(); }

  // Values k.. of a row, k being a multiple of 16; zeros behind `count` of them.
  FAST_S2S_INLINE void store(int64_t row, int64_t k, int count, VecF values) {
    VecHalfU parts[kParts];
    split(values, parts);
    uint16_t* to = at(row, k);
    for (int p = 0; p < kParts; ++p) {
      VecHalfU part = parts[p];
      for (int lane = count; lane < Simd<float>::kWidth; ++lane) part[lane] = 0;
      __builtin_memcpy(to + p * part_size(), &part, sizeof(part));
    }
  }

  // A whole row, with zeros past K; null: zero. Keeps whether an infinity is in it.
  void store_row(int64_t row, const Io* values, int64_t k_size) {
    bool infinite = false;
    for (int64_t k = 0; k < depth_ * kTileDepth; k += Simd<float>::kWidth) {
      const int count = std::max(0, lanes(k_size, k, Simd<float>::kWidth));
      const VecF v = values == nullptr ? VecF{} : load<VecF>(values + k, count);
      infinite |= any_infinite(bit_cast<VecU>(v));
      store(row, k, count, v);
    }
    infinite_.get()[row] = infinite;
  }

  bool infinite(int64_t row) const { return infinite_.get()[row]; }

  // The values of a row, put together again.
  void restore_row(int64_t row, int64_t k_size, float* out) const {
    for (int64_t k = 0; k < k_size; ++k) {
      out[k] = 0;
      // the smallest first: each sum is exact
      for (int p = kParts - 1; p >= 0; --p) out[k] += widen(bfloat16{at(row, k)[p * part_size()]});
    }
  }

 private:
  uint16_t* at(int64_t row, int64_t k) const {
    return memory_.get() + row / height_ * block_size() + k / kTileDepth * kParts * part_size() +
           row % height_ * kTileDepth + k % kTileDepth;
  }

  int height_;
  int64_t depth_, blocks_;
  Scratch<uint16_t> memory_;
  Scratch<char> infinite_;
};

// A panel of weights in tiles, [K/32][4 vectors][part][16 pairs of K][16 columns][2], and behind
// them whether there is an infinity: its parts would be multiplied with parts that are zero.
template <class Io>
struct TilePanel {
  static constexpr int kParts = kTileParts<Io>;
  static constexpr int kTag = 1;
  static constexpr int64_t kStep = kPanelVectors * kParts * kTileBytes;

  static int64_t bytes(int64_t k_size) { return ceil_div(k_size, kTileDepth) * kStep + kTileLine; }
  static char& infinite(char* panel, int64_t k_size) { return panel[bytes(k_size) - kTileLine]; }

  static void pack(const Io* w, const PanelColumns& columns, int64_t k_size, char* panel) {
    constexpr int kWidth = Simd<float>::kWidth;
    bool found = false;
    char* out = panel;
    for (int64_t k = 0; k < k_size; k += kTileDepth)
      for (int v = 0; v < kPanelVectors; ++v) {
        const Io* rows = w + (columns.first + v * columns.vector_rows) * k_size + k;
        VecF pairs[kParts][kWidth];
        for (int lane = 0; lane < kWidth; ++lane) {
          VecHalfU parts[2][kParts];
          for (int half = 0; half < 2; ++half) {
            const int count = lanes(k_size - k, half * kWidth, kWidth);
            const VecF x = lane < columns.count[v]
                               ? load<VecF>(rows + lane * k_size + half * kWidth, count)
                               : VecF{};
            found |= any_infinite(bit_cast<VecU>(x));
            split(x, parts[half]);
          }
          for (int p = 0; p < kParts; ++p) {
            const VecHalfU both[2] = {parts[0][p], parts[1][p]};
            __builtin_memcpy(&pairs[p][lane], both, sizeof(both));
          }
        }
        for (int p = 0; p < kParts; ++p, out += kTileBytes) {
          transpose(pairs[p]);
          __builtin_memcpy(out, pairs[p], kTileBytes);
        }
      }
    infinite(panel, k_size) = found && kParts > 1;
  }
};

// Where sums begin, 4W for each row, and where they go; the strides are in bytes.
struct TileSums {
  const float* first;
  int64_t first_stride;
  float* out;
};
constexpr int64_t kSumsStride = kPanelVectors * kTileLine;

// Adds the products of one tile of rows. Its parts stay, those of the weights pass by.
template <class Io>
void multiply_one(const uint16_t* a, int64_t part_size, int64_t depth, const char* w,
                  const TileSums& sums) {
  typedef TilePanel<Io> Panel;
  const auto tile_at = [&](int vector, int part) {
    return w + (vector * Panel::kParts + part) * kTileBytes;
  };
  const auto add = [&](auto vector) __attribute__((always_inline)) {
    constexpr int v = vector.value;
    if constexpr (Panel::kParts == 3) {
      tile_load<7>(tile_at(v, 2), kTileLine);
      tile_multiply<v, 4, 7>();
      tile_load<7>(tile_at(v, 1), kTileLine);
      tile_multiply<v, 4, 7>();
      tile_multiply<v, 5, 7>();
      tile_load<7>(tile_at(v, 0), kTileLine);
      tile_multiply<v, 5, 7>();
      tile_multiply<v, 6, 7>();
      tile_multiply<v, 4, 7>();
    } else {
      tile_load<7>(tile_at(v, 0), kTileLine);
      tile_multiply<v, 4, 7>();
    }
  };
  const auto for_vectors = [](const auto& f) __attribute__((always_inline)) {
    f(std::integral_constant<int, 0>{});
    f(std::integral_constant<int, 1>{});
    f(std::integral_constant<int, 2>{});
    f(std::integral_constant<int, 3>{});
  };
  constexpr int kWidth = Simd<float>::kWidth;
  for_vectors([&](auto v) __attribute__((always_inline)) {
    tile_load<v.value>(sums.first + v.value * kWidth, sums.first_stride);
  });
  for (int64_t k = 0; k < depth; ++k, a += Panel::kParts * part_size, w += Panel::kStep) {
    tile_load<4>(a, kTileLine);
    if constexpr (Panel::kParts == 3) {
      tile_load<5>(a + part_size, kTileLine);
      tile_load<6>(a + 2 * part_size, kTileLine);
    }
    for_vectors(add);
  }
  for_vectors([&](auto v) __attribute__((always_inline)) {
    tile_store<v.value>(sums.out + v.value * kWidth, kSumsStride);
  });
}

// The same for two tiles of rows, the second `next` values behind the first, and two vectors at a
// time: each tile that is loaded is multiplied with two.
template <class Io>
void multiply_two(const uint16_t* rows, int64_t next, int64_t part_size, int64_t depth,
                  const char* panel, int height, const TileSums& sums) {
  typedef TilePanel<Io> Panel;
  constexpr int kWidth = Simd<float>::kWidth;
  const int64_t first_next = height * sums.first_stride / static_cast<int64_t>(sizeof(float));
  for (int v = 0; v < kPanelVectors; v += 2) {
    const uint16_t* a = rows;
    const char* w = panel + v * Panel::kParts * kTileBytes;
    const float* first = sums.first + v * kWidth;
    tile_load<0>(first, sums.first_stride);
    tile_load<1>(first + kWidth, sums.first_stride);
    tile_load<2>(first + first_next, sums.first_stride);
    tile_load<3>(first + first_next + kWidth, sums.first_stride);
    const auto load_rows = [&](int part) __attribute__((always_inline)) {
      tile_load<4>(a + part * part_size, kTileLine);
      tile_load<5>(a + next + part * part_size, kTileLine);
    };
    const auto load_weights = [&](int part) __attribute__((always_inline)) {
      tile_load<6>(w + part * kTileBytes, kTileLine);
      tile_load<7>(w + (Panel::kParts + part) * kTileBytes, kTileLine);
    };
    const auto multiply = []() __attribute__((always_inline)) {
      tile_multiply<0, 4, 6>();
      tile_multiply<1, 4, 7>();
      tile_multiply<2, 5, 6>();
      tile_multiply<3, 5, 7>();
    };
    for (int64_t k = 0; k < depth; ++k, a += Panel::kParts * part_size, w += Panel::kStep) {
      load_rows(0);
      // in the order of `multiply_one`
      if constexpr (Panel::kParts == 3) {
        load_weights(2);
        multiply();
        load_weights(1);
        multiply();
        load_rows(1);
        multiply();
        load_weights(0);
        multiply();
        load_rows(2);
        multiply();
        load_rows(0);
        multiply();
      } else {
        load_weights(0);
        multiply();
      }
    }
    float* out = sums.out + v * kWidth;
    const int64_t out_next = height * kPanelVectors * kWidth;
    tile_store<0>(out, kSumsStride);
    tile_store<1>(out + kWidth, kSumsStride);
    tile_store<2>(out + out_next, kSumsStride);
    tile_store<3>(out + out_next + kWidth, kSumsStride);
  }
}

// out[r] = first[r] + a[r] · panel for the first `rows` rows.
template <class Io>
void multiply_tiles(MatrixUnit& unit, const TileRows<Io>& a, int64_t rows, const char* panel,
                    const TileSums& sums) {
  const int64_t height = a.height();
  for (int64_t r = 0; r < rows; r += 2 * height) {
    const int first = static_cast<int>(std::min(height, rows - r));
    const int second = static_cast<int>(std::min(height, rows - r - first));
    const TileSums part{sums.first + r * sums.first_stride / static_cast<int64_t>(sizeof(float)),
                        sums.first_stride, sums.out + r * kPanelVectors * Simd<float>::kWidth};
    unit.set_heights(first, second);
    if (second > 0) {
      multiply_two<Io>(a.block(r), a.block_size(), a.part_size(), a.depth(), panel, first, part);
    } else {
      multiply_one<Io>(a.block(r), a.part_size(), a.depth(), panel, part);
    }
  }
}

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
