// A product of a step: packed weights, whose tiles blocks share, by the states of the slots.
#pragma once

#include "group_cuda.cuh"
#include "operands_cuda.cuh"

namespace fast_s2s {

template <class Operand, int kRowTiles>
class Product {
 protected:
  // tiles of weights that share a fragment of the state
  static constexpr int kTiles = kDecodeTiles / kRowTiles;
  // of a chunk of tiles, those that a thread finishes
  static constexpr int kThreadSums = kDecodeTiles * 128 / kDecodeThreads;

  FAST_S2S_DEVICE Product(const DecodeCudaArgs& args, const Group& group)
      : l_(args.layout),
        group_(group),
        packed_(static_cast<const unsigned char*>(args.call.packed)),
        weights_(reinterpret_cast<const Words*>(packed_)) {}

  // Each lane reads back what it wrote itself; but all warps read the scales.
  FAST_S2S_DEVICE void load_stage(const DecodeStage& stage) const {
    for (int i = 0; i < share(stage); ++i)
      for (int k = warp(); k < stage.units; k += kDecodeWarps) {
        const int unit = stage.local + i * stage.units + k;
        if (unit < l_.resident)
          shared_store(resident_at(unit), load_constant(packed_at(stage, i, k)));
      }
  }

  // All of a stage's tiles that this block owns, for all slots. `x(i)` and `h(i)` point to what
  // slot i multiplies; finish(first tile, first slot, tiles, before) is called by all threads once
  // sums are there, with what begin(first tile, first slot, tiles) read before: its loads need not
  // be waited for after the product. Warps share the depth, by k-tiles in turns: a sum depends on
  // nothing but the depth.
  template <class X, class H, class Begin, class Finish>
  FAST_S2S_DEVICE void product(const DecodeStage& stage, int count, const X& x, const H& h,
                               const Begin& begin, const Finish& finish) {
    depth_ = sums_depth(stage);
    const int mine = share(stage);
    for (int first = 0; first < count; first += 8 * kRowTiles) {
      const float* from_x[kRowTiles];
      const float* from_h[kRowTiles];
#pragma unroll
      for (int n = 0; n < kRowTiles; ++n) {
        const int i = first + 8 * n + lane() / 4;
        const int offset = lane() % 4 * Operand::kLaneValues;
        from_x[n] = i < count && stage.x_tiles > 0 ? x(i) + offset : nullptr;
        from_h[n] = i < count ? h(i) + offset : nullptr;
      }
      for (int i0 = 0; i0 < mine; i0 += kTiles) {
        partial_turn_ ^= 1;
        const int tile = group_.rank + i0 * l_.ranks;
        const auto before = begin(tile, first, mine - i0);
        Sums sums = {};
        int k = warp();
        if constexpr (Operand::kScaled) {
          Sums of_second = {};
          add(stage, i0, mine, k, stage.second, from_x, from_h, sums);
          add(stage, i0, mine, k, stage.k_tiles, from_x, from_h, of_second);
          scale(stage, i0, mine, sums, of_second);
        } else {
          add(stage, i0, mine, k, stage.k_tiles, from_x, from_h, sums);
        }
        if (warp() < depth_) put_partial(sums);
        sync_threads();
        finish(tile, first, mine - i0, before);
      }
    }
  }
  // The same where nothing is read before.
  template <class X, class H, class Finish>
  FAST_S2S_DEVICE void product(const DecodeStage& stage, int count, const X& x, const H& h,
                               const Finish& finish) {
    product(
        stage, count, x, h, [](int, int, int) { return 0; },
        [&](int tile, int first, int tiles, int) { finish(tile, first, tiles); });
  }

  // Where warp 0's partial sum lies; that of the next is kDecodeTiles tiles further.
  FAST_S2S_DEVICE uint32_t sum_at(int m, int n, int row, int column) const {
    return partial_at(0, m, n) + (row * 8 + column) * 4;
  }
  FAST_S2S_DEVICE float sum(uint32_t at) const {
    float total = 0;
    for (int w = 0; w < depth_; ++w) total += shared_load<float>(at + w * kDecodeTiles * 512);
    return total;
  }

  // f(which of the thread's, row of the matrix, slot, where warp 0's partial sum lies) of up to
  // kTiles tiles, spread over the threads
  template <class F>
  FAST_S2S_DEVICE void for_places(int tile, int first, int tiles, int count, const F& f) const {
    const int there = (tiles < kTiles ? tiles : kTiles) * kRowTiles * 128;
#pragma unroll
    for (int which = 0; which < kThreadSums; ++which) {
      const int at = thread_rank() + which * kDecodeThreads;
      const int n = at / 128 % kRowTiles, m = at / (128 * kRowTiles);
      const int row = at / 8 % 16, column = at % 8, i = first + 8 * n + column;
      if (at < there && i < count)
        f(which, 16 * (tile + m * l_.ranks) + row, i, sum_at(m, n, row, column));
    }
  }
  // f(which of the thread's, row of the matrix, slot, sum)
  template <class F>
  FAST_S2S_DEVICE void for_sums(int tile, int first, int tiles, int count, const F& f) const {
    for_places(tile, first, tiles, count,
               [&](int which, int row, int i, uint32_t at) { f(which, row, i, sum(at)); });
  }

  const DecodeLayout& l_;
  const Group& group_;
  const unsigned char* packed_;

 private:
  typedef float Sums[kTiles][kRowTiles][4];
  // k-tiles whose states are read before the first of them is multiplied: with tiles of rows beside
  // each other four loads are under way anyway
  static constexpr int kAhead = 4 / kRowTiles;
  struct Values {
    typename Operand::Values of[kRowTiles];
  };

  FAST_S2S_DEVICE int sums_depth(const DecodeStage& stage) const {
    return stage.k_tiles < kDecodeWarps ? stage.k_tiles : kDecodeWarps;
  }
  FAST_S2S_DEVICE int share(const DecodeStage& stage) const {
    const int left = stage.tiles - group_.rank;
    return left <= 0 ? 0 : (left + l_.ranks - 1) / l_.ranks;
  }
  FAST_S2S_DEVICE uint32_t resident_at(int unit) const {
    return l_.weights + unit * 512 + lane() * 16;
  }
  FAST_S2S_DEVICE const Words* packed_at(const DecodeStage& stage, int i, int k) const {
    const int64_t tile = group_.rank + static_cast<int64_t>(i) * l_.ranks;
    return weights_ + (stage.first + tile * stage.units + k) * 32 + lane();
  }

  FAST_S2S_DEVICE void fetch(uint32_t (&a)[4], const DecodeStage& stage, int i, int k) const {
    const int unit = stage.local + i * stage.units + k;
    const Words words = unit < l_.resident ? shared_load<Words>(resident_at(unit))
                                           : load_constant(packed_at(stage, i, k));
    for (int r = 0; r < 4; ++r) a[r] = words.w[r];
  }

  // A warp's k-tiles from k to the end. States come from L2, for which one load after the other
  // would be waited.
  FAST_S2S_DEVICE void add(const DecodeStage& stage, int i0, int mine, int& k, int end,
                           const float* const (&from_x)[kRowTiles],
                           const float* const (&from_h)[kRowTiles], Sums& sums) const {
    while (k < end) {
      Values values[kAhead];
#pragma unroll
      for (int ahead = 0; ahead < kAhead; ++ahead)
        read(stage, k + ahead * kDecodeWarps, end, from_x, from_h, values[ahead]);
      // not unrolled: most of this code runs once a step, and would have to be fetched
#pragma unroll 1
      for (int done = 0; done < kAhead && k < end; ++done, k += kDecodeWarps) {
        multiply(stage, i0, mine, k, values[0], sums);
#pragma unroll
        for (int ahead = 1; ahead < kAhead; ++ahead) values[ahead - 1] = values[ahead];
      }
    }
  }

  FAST_S2S_DEVICE void read(const DecodeStage& stage, int k, int end,
                            const float* const (&from_x)[kRowTiles],
                            const float* const (&from_h)[kRowTiles], Values& values) const {
#pragma unroll
    for (int n = 0; n < kRowTiles; ++n) {
      const float* from = k < stage.x_tiles ? from_x[n] + k * Operand::kDepth
                                            : from_h[n] + (k - stage.x_tiles) * Operand::kDepth;
      values.of[n] = Operand::read(from, k < end && from_h[n] != nullptr);
    }
  }

  FAST_S2S_DEVICE void multiply(const DecodeStage& stage, int i0, int mine, int k,
                                const Values& values, Sums& sums) const {
    typename Operand::State b[kRowTiles];
#pragma unroll
    for (int n = 0; n < kRowTiles; ++n) b[n] = Operand::split(values.of[n]);
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
      if (i0 + m >= mine) continue;
      uint32_t a[4];
      fetch(a, stage, i0 + m, k);
#pragma unroll
      for (int n = 0; n < kRowTiles; ++n) Operand::multiply(sums[m][n], a, b[n]);
    }
  }

  // Sums over two matrices by their rows' scales: those of rows g and g + 8 in the first, then in
  // the second.
  FAST_S2S_DEVICE void scale(const DecodeStage& stage, int i0, int mine, Sums& sums,
                             const Sums& of_second) const {
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
      if (i0 + m >= mine) continue;
      uint32_t scales[4];
      fetch(scales, stage, i0 + m, stage.k_tiles);
#pragma unroll
      for (int n = 0; n < kRowTiles; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          sums[m][n][i] = sums[m][n][i] * bit_copy<float>(scales[i / 2]) +
                          of_second[m][n][i] * bit_copy<float>(scales[2 + i / 2]);
    }
  }

  // Partial sums of each warp: [16 rows, 8 slots] of each tile.
  FAST_S2S_DEVICE uint32_t partial_at(int w, int m, int n) const {
    return l_.partial +
           ((partial_turn_ * kDecodeWarps + w) * kDecodeTiles + m * kRowTiles + n) * 512;
  }
  FAST_S2S_DEVICE void put_partial(const Sums& sums) const {
#pragma unroll
    for (int m = 0; m < kTiles; ++m)
#pragma unroll
      for (int n = 0; n < kRowTiles; ++n) {
        const uint32_t at = partial_at(warp(), m, n) + lane() * 8;
        shared_store(at, Pair{{sums[m][n][0], sums[m][n][1]}});
        shared_store(at + 256, Pair{{sums[m][n][2], sums[m][n][3]}});
      }
  }

  const Words* weights_;
  int partial_turn_ = 0, depth_ = 0;
};

}  // namespace fast_s2s
