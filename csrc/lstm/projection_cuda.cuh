// The second product of a step, where there is a projection: by W_hr in forward, by its transpose
// in backward. A strip is 16 rows of the matrix, one tile; its operand is exchanged like a state.
#pragma once

#include "sequence_cuda.cuh"

namespace fast_s2s {

// kSourceBytes: of a row of a strip of the first product, which makes the operand.
template <class Operand, Variant kVariant, int kRowTiles, int kSourceBytes>
class Projection {
  static constexpr int kStripRows = 16;
  static constexpr int kHeld = projected_registers(kRowTiles, true) / 4;

 public:
  template <class Direction>
  FAST_S2S_DEVICE Projection(const SequenceArgs<Direction>& args, const Place<Direction>& place)
      : l_(args.projection),
        share_(l_),
        weights_(l_, share_, args.directions[place.direction].w_hr,
                 place.rank * l_.strips_per_block),
        exchange_(l_, args.layout, place.rank, place.group, args.projection_exchange,
                  args.projection_counters, false),
        depth_(l_, share_) {}

  FAST_S2S_DEVICE void load() {
    weights_.load();
    exchange_.clear_padding();
  }

  template <class T>
  FAST_S2S_DEVICE void put(int n, int row, int64_t column, T value) {
    exchange_.put(n, row, static_cast<int>(column * sizeof(T)), value);
  }

  // A warp has put a strip of the first product.
  FAST_S2S_DEVICE void strip_done(int n, int row, int strip) {
    exchange_.strip_done(n, row, strip);
  }

  // Waits for all of publication n, doing `meanwhile` what no rank waits for, and multiplies it.
  // f(row, row of the matrix, sum), past the tile's rows and the matrix's, too; then
  // done(first row, strip).
  template <class Meanwhile, class F, class Done>
  FAST_S2S_DEVICE void multiply(int n, const Meanwhile& meanwhile, const F& f, const Done& done) {
    exchange_.arrive();
    meanwhile();
    exchange_.wait(n);
    for_strips([&](int s, int row) {
      float sums[1][kRowTiles][4] = {};
      if (weights_.exists(s)) weights_.multiply(s, exchange_.state(n, row), sums);
      depth_.add(sums);
      if (share_.k_group > 0 || !weights_.exists(s)) return;
      for_elements(s, row, [&](int t, int e, int r, int index) { f(r, index, sums[0][t][e]); });
      done(row, weights_.strip(s));
    });
  }

  // f(row, row of the matrix) and done(first row, strip) where `multiply` would call them.
  template <class F, class Done>
  FAST_S2S_DEVICE void for_each(const F& f, const Done& done) const {
    for_strips([&](int s, int row) {
      if (share_.k_group > 0 || !weights_.exists(s)) return;
      for_elements(s, row, [&](int, int, int r, int index) { f(r, index); });
      done(row, weights_.strip(s));
    });
  }

 private:
  template <class F>
  FAST_S2S_DEVICE void for_strips(const F& f) const {
    for (int s = 0; s < share_.strips(l_); ++s)
      for (int row = 0; row < l_.rows; row += 8 * kRowTiles) f(s, row);
  }
  template <class F>
  FAST_S2S_DEVICE void for_elements(int s, int row, const F& f) const {
    const int first = weights_.strip(s) * kStripRows + lane() / 4;
#pragma unroll
    for (int t = 0; t < kRowTiles; ++t)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        f(t, e, row + 8 * t + 2 * (lane() % 4) + e % 2, first + 8 * (e / 2));
  }

  const Layout& l_;
  const WarpShare share_;
  WarpWeights<Operand, 1, kRowTiles, kHeld> weights_;
  Exchange<kVariant, kSourceBytes, kRowTiles> exchange_;
  DepthSum<1, kRowTiles> depth_;
};

// In its place where there is none.
struct NoProjection {
  template <class Args, class At>
  FAST_S2S_DEVICE NoProjection(const Args&, const At&) {}
};

}  // namespace fast_s2s
