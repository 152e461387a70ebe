// The network of a step: products of packed weights and the states of the slots that run.
#pragma once

#include "group_cuda.cuh"
#include "operands_cuda.cuh"

namespace fast_s2s {

template <class Operand, int kRowTiles>
class Network {
  // tiles of weights that share a fragment of the state
  static constexpr int kTiles = kDecodeTiles / kRowTiles;
  typedef float Sums[kTiles][kRowTiles][4];

 public:
  FAST_S2S_DEVICE Network(const DecodeCudaArgs& args, const Group& group, const LiveSlots& live)
      : args_(args),
        l_(args.layout),
        group_(group),
        live_(live),
        packed_(static_cast<const unsigned char*>(args.call.packed)),
        weights_(reinterpret_cast<const Words*>(packed_)) {
    const int64_t slots = static_cast<int64_t>(group.index) * l_.slots;
    h_ = args.h + 2 * slots * l_.states * l_.output_stride;
    c_ = args.c + 2 * slots * l_.layers * l_.hidden_stride;
    logits_ = args.logits + slots * l_.logits_stride;
    unprojected_ = l_.projected ? args.unprojected + slots * l_.hidden_stride : nullptr;
    if (l_.heads == 0) return;
    queries_ = l_.additive ? args.queries + slots * l_.keys : nullptr;
    contexts_ = args.contexts + slots * l_.values_stride;
    attended_ = l_.feeding ? nullptr : args.attended + slots * l_.output_stride;
  }

  // The block's share of the weights, as far as there is room.
  FAST_S2S_DEVICE void load_weights() const {
    for (int layer = 0; layer < l_.layers; ++layer) {
      load_stage(l_.gates(layer));
      if (l_.projected) load_stage(l_.projection(layer));
    }
    if (l_.additive) load_stage(l_.query());
    if (l_.heads > 0) load_stage(l_.attended());
    load_stage(l_.vocabulary());
  }

  // States before the step, at where a slot's lie; and after it, at the slots' own indices. Behind
  // those of the layers: what attention found, which lies in front, so that the first layer reads
  // it and its own as one.
  FAST_S2S_DEVICE float* hidden(int after, int layer, int at) const {
    const int64_t buffer = turn_ ^ after;
    const int place = !l_.feeding ? layer : layer == l_.layers ? 0 : layer + 1;
    return h_ + ((buffer * l_.slots + at) * l_.states + place) * l_.output_stride;
  }
  FAST_S2S_DEVICE float* cell(int after, int layer, int at) const {
    const int64_t buffer = turn_ ^ after;
    return c_ + ((buffer * l_.layers + layer) * l_.slots + at) * l_.hidden_stride;
  }
  FAST_S2S_DEVICE float* logits(int at) const {
    return logits_ + static_cast<int64_t>(at) * l_.logits_stride;
  }
  FAST_S2S_DEVICE void swap_states() { turn_ ^= 1; }

  FAST_S2S_DEVICE void gates(int layer, int count) {
    const auto x = [&](int i) {
      return layer > 0 ? hidden(1, layer - 1, i) : l_.table ? nullptr : input(live_.token(i));
    };
    const int first = layer == 0 && l_.feeding ? l_.layers : layer;
    const auto h = [&](int i) { return hidden(0, first, live_.parent(i)); };
    product(l_.gates(layer), count, x, h, [&](int tile, int first, int tiles) {
      constexpr int kPairs = kRowTiles * 32;
      const int at = thread_rank(), m = at / kPairs, n = at / 32 % kRowTiles;
      const int u = at / 8 % 4, unit = 4 * (tile + m * l_.ranks) + u, i = first + 8 * n + at % 8;
      if (m < tiles && m < kTiles && unit < l_.hidden && i < count)
        finish_unit(layer, unit, i, m, n, u, at % 8);
    });
  }

  FAST_S2S_DEVICE void project(int layer, int count) {
    const auto none = [](int) { return static_cast<float*>(nullptr); };
    const auto h = [&](int i) { return unprojected(i); };
    product(l_.projection(layer), count, none, h, [&](int tile, int first, int tiles) {
      for_sums(tile, first, tiles, count, [&](int row, int i, float sum) {
        if (row < l_.output) store(hidden(1, layer, i) + row, sum);
      });
    });
  }

  // Of additive attention; else the last layer's hidden state is the query.
  FAST_S2S_DEVICE void find_queries(int count) {
    const auto none = [](int) { return static_cast<float*>(nullptr); };
    const auto h = [&](int i) { return hidden(1, l_.layers - 1, i); };
    product(l_.query(), count, none, h, [&](int tile, int first, int tiles) {
      for_sums(tile, first, tiles, count, [&](int row, int i, float sum) {
        if (row < l_.keys) store(query(i) + row, sum);
      });
    });
  }
  FAST_S2S_DEVICE float* query(int i) const {
    return l_.additive ? queries_ + static_cast<int64_t>(i) * l_.keys : hidden(1, l_.layers - 1, i);
  }
  // What attention finds in a slot's memory; zero at first behind its end.
  FAST_S2S_DEVICE float* context(int i) const {
    return contexts_ + static_cast<int64_t>(i) * l_.values_stride;
  }
  // Acc [A], additive attention's.
  FAST_S2S_DEVICE const float* score() const {
    return reinterpret_cast<const float*>(packed_ + l_.score);
  }
  // tanh(W_c [context; h]).
  FAST_S2S_DEVICE void join_contexts(int count) {
    const auto x = [&](int i) { return context(i); };
    const auto h = [&](int i) { return hidden(1, l_.layers - 1, i); };
    product(l_.attended(), count, x, h, [&](int tile, int first, int tiles) {
      for_sums(tile, first, tiles, count, [&](int row, int i, float sum) {
        if (row < l_.output) store(features(i) + row, DeviceMath::tanh(sum));
      });
    });
  }

  // Logits as choices are made by: NaN, which is never chosen, as -inf; +inf as the largest number;
  // -inf past the vocabulary.
  // `keep(i, row, logit)` gets them as they are.
  template <class Keep>
  FAST_S2S_DEVICE void vocabulary(int count, const Keep& keep) {
    const auto none = [](int) { return static_cast<float*>(nullptr); };
    const auto h = [&](int i) { return features(i); };
    product(l_.vocabulary(), count, none, h, [&](int tile, int first, int tiles) {
      for_sums(tile, first, tiles, count, [&](int row, int i, float sum) {
        const float bias =
            load(biases() + 16 * static_cast<int64_t>(l_.layers) * l_.gate_tiles + row);
        float logit = sum + bias;
        keep(i, row, logit);
        if (!(logit == logit) || row >= l_.vocab) logit = -HUGE_VALF;
        if (logit > 3.402823466e38f) logit = 3.402823466e38f;
        store(logits(i) + row, logit);
      });
    });
  }

  FAST_S2S_DEVICE int sums_depth(const DecodeStage& stage) const {
    return stage.k_tiles < kDecodeWarps ? stage.k_tiles : kDecodeWarps;
  }

 private:
  FAST_S2S_DEVICE const float* biases() const {
    return reinterpret_cast<const float*>(packed_ + l_.biases);
  }
  // A token's embedding, or its gates in the order of tiles.
  FAST_S2S_DEVICE float* input(int token) const {
    const bool known = token >= 0 && token < l_.vocab;
    const float* rows = reinterpret_cast<const float*>(packed_ + l_.inputs);
    // states and inputs are read alike, through pointers of one type
    return const_cast<float*>(rows) + (known ? token : 0) * static_cast<int64_t>(l_.input_stride);
  }
  // What the vocabulary reads.
  FAST_S2S_DEVICE float* features(int i) const {
    if (l_.heads > 0 && !l_.feeding) return attended_ + static_cast<int64_t>(i) * l_.output_stride;
    return hidden(1, l_.feeding ? l_.layers : l_.layers - 1, i);
  }
  FAST_S2S_DEVICE float* unprojected(int i) const {
    return unprojected_ + static_cast<int64_t>(i) * l_.hidden_stride;
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

  // Each lane reads back what it wrote itself; but all warps read the scales.
  FAST_S2S_DEVICE void load_stage(const DecodeStage& stage) const {
    for (int i = 0; i < share(stage); ++i)
      for (int k = warp(); k < stage.units; k += kDecodeWarps) {
        const int unit = stage.local + i * stage.units + k;
        if (unit < l_.resident)
          shared_store(resident_at(unit), load_constant(packed_at(stage, i, k)));
      }
  }

  FAST_S2S_DEVICE void fetch(uint32_t (&a)[4], const DecodeStage& stage, int i, int k) const {
    const int unit = stage.local + i * stage.units + k;
    const Words words = unit < l_.resident ? shared_load<Words>(resident_at(unit))
                                           : load_constant(packed_at(stage, i, k));
    for (int r = 0; r < 4; ++r) a[r] = words.w[r];
  }

  // All of a stage's tiles that this block owns, for all slots. `x(i)` and `h(i)` point to what
  // slot i multiplies; finish(first tile, first slot, tiles) is called by all threads once sums are
  // there. Warps share the depth, by k-tiles in turns: a sum depends on nothing but the depth.
  template <class X, class H, class Finish>
  FAST_S2S_DEVICE void product(const DecodeStage& stage, int count, const X& x, const H& h,
                               const Finish& finish) {
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
        Sums sums = {};
        int k = warp();
        const auto add_up_to = [&](int end, Sums& to) {
          for (; k < end; k += kDecodeWarps) add(stage, i0, mine, k, from_x, from_h, to);
        };
        if constexpr (Operand::kScaled) {
          Sums of_second = {};
          add_up_to(stage.second, sums);
          add_up_to(stage.k_tiles, of_second);
          scale(stage, i0, mine, sums, of_second);
        } else {
          add_up_to(stage.k_tiles, sums);
        }
        if (warp() < depth_) put_partial(sums);
        sync_threads();
        finish(group_.rank + i0 * l_.ranks, first, mine - i0);
      }
    }
  }

  FAST_S2S_DEVICE void add(const DecodeStage& stage, int i0, int mine, int k,
                           const float* const (&from_x)[kRowTiles],
                           const float* const (&from_h)[kRowTiles], Sums& sums) const {
    typename Operand::State b[kRowTiles];
#pragma unroll
    for (int n = 0; n < kRowTiles; ++n) {
      const float* from = k < stage.x_tiles ? from_x[n] + k * Operand::kDepth
                                            : from_h[n] + (k - stage.x_tiles) * Operand::kDepth;
      b[n] = Operand::read(from, from_h[n] != nullptr);
    }
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
  FAST_S2S_DEVICE float sum(int m, int n, int row, int column) const {
    float total = 0;
    for (int w = 0; w < depth_; ++w)
      total += shared_load<float>(partial_at(w, m, n) + (row * 8 + column) * 4);
    return total;
  }

  // f(row of the matrix, slot, sum) of up to kTiles tiles, spread over the threads
  template <class F>
  FAST_S2S_DEVICE void for_sums(int tile, int first, int tiles, int count, const F& f) const {
    const int there = (tiles < kTiles ? tiles : kTiles) * kRowTiles * 128;
    for (int at = thread_rank(); at < there; at += kDecodeThreads) {
      const int n = at / 128 % kRowTiles, m = at / (128 * kRowTiles);
      const int row = at / 8 % 16, column = at % 8, i = first + 8 * n + column;
      if (i < count) f(16 * (tile + m * l_.ranks) + row, i, sum(m, n, row, column));
    }
  }

  FAST_S2S_DEVICE void finish_unit(int layer, int unit, int i, int m, int n, int u, int column) {
    const bool looked_up = layer == 0 && l_.table;
    const float* start = looked_up ? input(live_.token(i))
                                   : biases() + 16 * static_cast<int64_t>(layer) * l_.gate_tiles;
    start += unit / 4 * 16 + u;
    float pre[4];
#pragma unroll
    for (int gate = 0; gate < 4; ++gate)
      pre[gate] = load(start + 4 * gate) + sum(m, n, 4 * gate + u, column);
    const Gates<float> gates = activate<DeviceMath>(Gates<float>{pre[0], pre[1], pre[2], pre[3]});
    const float c = next_cell(gates, load(cell(0, layer, live_.parent(i)) + unit));
    store(cell(1, layer, i) + unit, c);
    store((l_.projected ? unprojected(i) : hidden(1, layer, i)) + unit,
          next_hidden<DeviceMath>(gates, c));
  }

  const DecodeCudaArgs& args_;
  const DecodeLayout& l_;
  const Group& group_;
  const LiveSlots& live_;
  const unsigned char* packed_;
  const Words* weights_;
  float *h_, *c_, *logits_, *unprojected_;
  float *queries_ = nullptr, *contexts_ = nullptr, *attended_ = nullptr;
  int turn_ = 0, partial_turn_ = 0, depth_ = 0;
};

}  // namespace fast_s2s
