// Matrix products by precision, and what one warp of a step multiplies.
#pragma once

#include <cmath>

#include "../cuda/launch.cuh"
#include "kernels_cuda.h"

namespace fast_s2s {

// A k-tile is 32 bytes of a row in every precision, and fragments lie alike: register r of lane
// (g, t) = (lane / 4, lane % 4) holds row g + 8·(r % 2) at byte 4t + 16·(r / 2).
struct OperandBf16 {
  typedef Bf16 Io;
  static constexpr Precision kPrecision = Precision::kBf16;
  FAST_S2S_DEVICE static void multiply(float (&d)[4], const uint32_t (&a)[4],
                                       const uint32_t (&b)[2]) {
    mma_bf16(d, a, b);
  }
};

struct OperandFp16 {
  typedef Fp16 Io;
  static constexpr Precision kPrecision = Precision::kFp16;
  FAST_S2S_DEVICE static void multiply(float (&d)[4], const uint32_t (&a)[4],
                                       const uint32_t (&b)[2]) {
    mma_fp16(d, a, b);
  }
};

struct OperandTf32 {
  typedef float Io;
  static constexpr Precision kPrecision = Precision::kTf32;
  FAST_S2S_DEVICE static void multiply(float (&d)[4], const uint32_t (&a)[4],
                                       const uint32_t (&b)[2]) {
    uint32_t high_a[4], high_b[2];
    for (int i = 0; i < 4; ++i) high_a[i] = to_tf32(bit_copy<float>(opaque(a[i])));
    for (int i = 0; i < 2; ++i) high_b[i] = to_tf32(bit_copy<float>(b[i]));
    mma_tf32(d, high_a, high_b);
  }
};

// float32 by three products of tf32: what is left out is 2^-22 of a product.
struct OperandFp32 {
  typedef float Io;
  static constexpr Precision kPrecision = Precision::kFp32;
  template <int kCount>
  FAST_S2S_DEVICE static void split(const uint32_t (&value)[kCount], uint32_t (&high)[kCount],
                                    uint32_t (&low)[kCount]) {
    for (int i = 0; i < kCount; ++i) {
      // else the compiler would split weights in registers once, and keep twice as many
      const float whole = bit_copy<float>(opaque(value[i]));
      high[i] = to_tf32(whole);
      low[i] = to_tf32(whole - bit_copy<float>(high[i]));
    }
  }
  FAST_S2S_DEVICE static void multiply(float (&d)[4], const uint32_t (&a)[4],
                                       const uint32_t (&b)[2]) {
    uint32_t high_a[4], low_a[4], high_b[2], low_b[2];
    split(a, high_a, low_a);
    split(b, high_b, low_b);
    mma_tf32(d, low_a, high_b);
    mma_tf32(d, high_a, low_b);
    mma_tf32(d, high_a, high_b);
  }
};

struct DeviceMath {
  FAST_S2S_DEVICE static float sigmoid(float x) { return 1.0f / (1.0f + ::expf(-x)); }
  FAST_S2S_DEVICE static float tanh(float x) { return ::tanhf(x); }
};

// A warp's part of W: its strips, its share of the depth.
struct WarpShare {
  int m_group, m_groups;  // strips m_group, m_group + m_groups, ... of the block's
  int k_group, k_first, k_count;

  FAST_S2S_DEVICE explicit WarpShare(const Layout& l)
      : m_group(warp() / l.k_groups),
        m_groups(static_cast<int>(kWarps) / l.k_groups),
        k_group(warp() % l.k_groups) {
    const int chunk = (l.k_tiles + l.k_groups - 1) / l.k_groups;
    k_first = k_group * chunk;
    const int left = l.k_tiles - k_first;
    k_count = left < 0 ? 0 : left < chunk ? left : chunk;
  }
  FAST_S2S_DEVICE int strips(const Layout& l) const {
    return (l.strips_per_block + m_groups - 1) / m_groups;
  }
};

// W where it is kept: the first tiles of a warp's first strip in registers, what comes next in
// shared memory, the rest in L2. kHeld: tiles there are registers for.
template <class Operand, int kTiles, int kRowTiles, int kHeld>
class WarpWeights {
  static_assert(kHeld % 2 == 0, "tiles in registers are multiplied in pairs");
  // Sums of one tile of rows would wait for each other's products: k-tiles go to two by turns,
  // wherever they are kept, and in whatever order the two are added the result is the same.
  static constexpr int kParts = kTiles == 1 ? 2 : 1;
  typedef float Parts[kParts][kTiles][kRowTiles][4];

 public:
  FAST_S2S_DEVICE WarpWeights(const Layout& layout, const WarpShare& share, const Words* packed,
                              int first_strip)
      : l_(layout), share_(share), packed_(packed), first_strip_(first_strip) {}

  FAST_S2S_DEVICE void load() {
    const bool any = exists(0);
#pragma unroll
    for (int j = 0; j < kHeld; ++j)
      if (any && j < held()) fetch(held_[j], 0, j);
    // each lane reads back only what it wrote itself
    int at = 0;
    for (int s = 0; s < share_.strips(l_) && exists(s); ++s)
      for (int j = s == 0 ? held() : 0; j < share_.k_count && at < l_.shared_tiles; ++j, ++at) {
        uint32_t a[kTiles][4];
        fetch(a, s, j);
        for (int m = 0; m < kTiles; ++m)
          shared_store(shared_tile(at, m), Words{{a[m][0], a[m][1], a[m][2], a[m][3]}});
      }
  }

  // Whether the warp's s-th strip is one of the layer's.
  FAST_S2S_DEVICE bool exists(int s) const {
    const int in_block = share_.m_group + s * share_.m_groups;
    return in_block < l_.strips_per_block && first_strip_ + in_block < l_.strips;
  }
  FAST_S2S_DEVICE int strip(int s) const {
    return first_strip_ + share_.m_group + s * share_.m_groups;
  }

  // sums = W[strip] · state. `State` gives the fragments of a k-tile of the state.
  template <class State>
  FAST_S2S_DEVICE void multiply(int s, const State& state,
                                float (&sums)[kTiles][kRowTiles][4]) const {
    const auto own = state.of_lane(share_.k_first);
    Parts parts = {};
    int j = 0;
    if (s == 0) {
      multiply_held(own, parts);
      j = held();
      if (j % 2 == 1) rotate(parts);
    }
    const int at = s == 0 ? 0 : s * share_.k_count - held();
    const int in_shared = smaller(share_.k_count - j, l_.shared_tiles - at);
#pragma unroll 4
    for (int i = 0; i < in_shared; ++i) {
      uint32_t a[kTiles][4];
      for (int m = 0; m < kTiles; ++m) {
        const Words words = shared_load<Words>(shared_tile(at + i, m));
        for (int r = 0; r < 4; ++r) a[m][r] = words.w[r];
      }
      add(a, own, j + i, parts[0]);
      rotate(parts);
    }
    for (j += in_shared > 0 ? in_shared : 0; j < share_.k_count; ++j) {
      uint32_t a[kTiles][4];
      fetch(a, s, j);
      add(a, own, j, parts[0]);
      rotate(parts);
    }
    for (int m = 0; m < kTiles; ++m)
      for (int n = 0; n < kRowTiles; ++n)
        for (int i = 0; i < 4; ++i)
          sums[m][n][i] = kParts == 1 ? parts[0][m][n][i] : parts[0][m][n][i] + parts[1][m][n][i];
  }

 private:
  FAST_S2S_DEVICE static int smaller(int a, int b) { return a < b ? a : b; }
  FAST_S2S_DEVICE int held() const { return smaller(l_.register_tiles, share_.k_count); }
  FAST_S2S_DEVICE uint32_t shared_tile(int at, int m) const {
    return l_.weights + (((warp() * l_.shared_tiles + at) * kTiles + m) * 32 + lane()) * 16;
  }
  FAST_S2S_DEVICE void fetch(uint32_t (&a)[kTiles][4], int s, int j) const {
    const int64_t tile = static_cast<int64_t>(strip(s)) * l_.k_tiles + share_.k_first + j;
    for (int m = 0; m < kTiles; ++m) {
      const Words words = load_constant(packed_ + (tile * kTiles + m) * 32 + lane());
      for (int i = 0; i < 4; ++i) a[m][i] = words.w[i];
    }
  }
  // Tiles in registers, without a branch between where all of them, or half, are used.
  template <class Own>
  FAST_S2S_DEVICE void multiply_held(const Own& own, Parts& parts) const {
    if (held() == kHeld) return multiply_first<kHeld>(own, parts);
    if constexpr (kHeld % 4 == 0)
      if (held() == kHeld / 2) return multiply_first<kHeld / 2>(own, parts);
#pragma unroll
    for (int j = 0; j < kHeld; ++j)
      if (j < held()) add(held_[j], own, j, parts[j % kParts]);
  }
  template <int kCount, class Own>
  FAST_S2S_DEVICE void multiply_first(const Own& own, Parts& parts) const {
#pragma unroll
    for (int j = 0; j < kCount; j += 2) {
      uint32_t b[2][kRowTiles][2];
      own.two(j, b);
      for (int i = 0; i < 2; ++i) multiply_tile(held_[j + i], b[i], parts[i % kParts]);
    }
  }
  template <class Own>
  FAST_S2S_DEVICE void add(const uint32_t (&a)[kTiles][4], const Own& own, int j,
                           float (&sums)[kTiles][kRowTiles][4]) const {
    uint32_t b[kRowTiles][2];
    own.one(j, b);
    multiply_tile(a, b, sums);
  }
  FAST_S2S_DEVICE static void multiply_tile(const uint32_t (&a)[kTiles][4],
                                            const uint32_t (&b)[kRowTiles][2],
                                            float (&sums)[kTiles][kRowTiles][4]) {
    for (int n = 0; n < kRowTiles; ++n)
      for (int m = 0; m < kTiles; ++m) Operand::multiply(sums[m][n], a[m], b[n]);
  }
  FAST_S2S_DEVICE static void rotate(Parts& parts) {
    if constexpr (kParts == 2)
      for (int m = 0; m < kTiles; ++m)
        for (int n = 0; n < kRowTiles; ++n)
          for (int i = 0; i < 4; ++i) {
            const float first = parts[0][m][n][i];
            parts[0][m][n][i] = parts[1][m][n][i];
            parts[1][m][n][i] = first;
          }
  }

  const Layout& l_;
  // a copy: a reference into the kernel's own state would keep all of it from registers
  const WarpShare share_;
  const Words* packed_;
  const int first_strip_;
  uint32_t held_[kHeld][kTiles][4];
};

// The state in shared memory, [rows][stride] from byte `at`; `of_lane`: from a k-tile on, with what
// depends on the lane added once, so that k-tiles in registers are at constant distances.
template <int kRowTiles>
struct SharedState {
  uint32_t at;
  int stride;
  FAST_S2S_DEVICE SharedState of_lane(int k_tile) const {
    // rows of one tile lie in the next 16 bytes of two k-tiles, of more tiles in those of one
    const int row = kRowTiles == 1 ? lane() % 8 : 8 * (lane() / 16) + lane() % 8;
    const int sixteen = kRowTiles == 1 ? lane() / 8 : lane() / 8 % 2;
    return {at + row * stride + k_tile * 32 + sixteen * 16, stride};
  }
  // the fragments of the j-th k-tile
  FAST_S2S_DEVICE void one(int j, uint32_t (&b)[kRowTiles][2]) const {
    if constexpr (kRowTiles == 1) {
      load_matrices<2>(b[0], at + j * 32);
    } else {
      for (int n = 0; n < kRowTiles; n += 2) {
        uint32_t both[4];
        load_matrices<4>(both, at + 8 * n * stride + j * 32);
        for (int i = 0; i < 4; ++i) b[n + i / 2][i % 2] = both[i];
      }
    }
  }
  // and of the next
  FAST_S2S_DEVICE void two(int j, uint32_t (&b)[2][kRowTiles][2]) const {
    if constexpr (kRowTiles == 1) {
      uint32_t both[4];
      load_matrices<4>(both, at + j * 32);
      for (int i = 0; i < 4; ++i) b[i / 2][0][i % 2] = both[i];
    } else {
      one(j, b[0]);
      one(j + 1, b[1]);
    }
  }
};

// The state in global memory, where other blocks wrote it.
template <int kRowTiles>
struct GlobalState {
  const unsigned char* at;
  int64_t stride;
  FAST_S2S_DEVICE GlobalState of_lane(int k_tile) const {
    // computed here each time: in registers it would take room from W
    const int own = opaque(lane());
    return {at + own / 4 * stride + k_tile * 32 + own % 4 * 4, stride};
  }
  FAST_S2S_DEVICE void one(int j, uint32_t (&b)[kRowTiles][2]) const {
    for (int n = 0; n < kRowTiles; ++n)
      for (int half = 0; half < 2; ++half)
        b[n][half] =
            load_l2(reinterpret_cast<const uint32_t*>(at + 8 * n * stride + j * 32 + half * 16));
  }
  FAST_S2S_DEVICE void two(int j, uint32_t (&b)[2][kRowTiles][2]) const {
    one(j, b[0]);
    one(j + 1, b[1]);
  }
};

}  // namespace fast_s2s
