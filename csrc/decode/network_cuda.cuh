// The network of a step: products of packed weights and the states of the slots that run.
#pragma once

#include "product_cuda.cuh"

namespace fast_s2s {

template <class Operand, int kRowTiles>
class Network : Product<Operand, kRowTiles> {
  typedef Product<Operand, kRowTiles> Base;
  using Base::for_places, Base::for_sums, Base::kThreadSums, Base::kTiles, Base::l_;
  using Base::load_stage, Base::packed_, Base::product, Base::sum, Base::sum_at;
  struct Biases {
    float of[kThreadSums];
  };
  // A unit of a slot, whose gates a thread finishes.
  struct Unit {
    int m, n, u, column, unit, i;
    bool there;
  };
  struct BeforeUnit {
    float start[4], c;
  };

 public:
  FAST_S2S_DEVICE Network(const DecodeCudaArgs& args, const Group& group, const LiveSlots& live)
      : Base(args, group), live_(live) {
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
    const auto begin = [&](int tile, int first, int tiles) {
      return begin_unit(layer, unit_of(tile, first, tiles, count));
    };
    product(l_.gates(layer), count, x, h, begin,
            [&](int tile, int first, int tiles, const BeforeUnit& before) {
              finish_unit(layer, unit_of(tile, first, tiles, count), before);
            });
  }

  FAST_S2S_DEVICE void project(int layer, int count) {
    const auto none = [](int) { return static_cast<float*>(nullptr); };
    const auto h = [&](int i) { return unprojected(i); };
    product(l_.projection(layer), count, none, h, [&](int tile, int first, int tiles) {
      for_sums(tile, first, tiles, count, [&](int, int row, int i, float sum) {
        if (row < l_.output) store(hidden(1, layer, i) + row, sum);
      });
    });
  }

  // Of additive attention; else the last layer's hidden state is the query.
  FAST_S2S_DEVICE void find_queries(int count) {
    const auto none = [](int) { return static_cast<float*>(nullptr); };
    const auto h = [&](int i) { return hidden(1, l_.layers - 1, i); };
    product(l_.query(), count, none, h, [&](int tile, int first, int tiles) {
      for_sums(tile, first, tiles, count, [&](int, int row, int i, float sum) {
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
      for_sums(tile, first, tiles, count, [&](int, int row, int i, float sum) {
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
    const float* bias = biases() + 16 * static_cast<int64_t>(l_.layers) * l_.gate_tiles;
    const auto begin = [&](int tile, int first, int tiles) {
      Biases found = {};
      for_places(tile, first, tiles, count,
                 [&](int at, int row, int, uint32_t) { found.of[at] = load(bias + row); });
      return found;
    };
    product(l_.vocabulary(), count, none, h, begin,
            [&](int tile, int first, int tiles, const Biases& before) {
              for_sums(tile, first, tiles, count, [&](int at, int row, int i, float sum) {
                float logit = sum + before.of[at];
                keep(i, row, logit);
                if (!(logit == logit) || row >= l_.vocab) logit = -HUGE_VALF;
                if (logit > 3.402823466e38f) logit = 3.402823466e38f;
                store(logits(i) + row, logit);
              });
            });
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

  FAST_S2S_DEVICE Unit unit_of(int tile, int first, int tiles, int count) const {
    constexpr int kPairs = kRowTiles * 32;
    const int at = thread_rank(), m = at / kPairs, n = at / 32 % kRowTiles, u = at / 8 % 4;
    const int unit = 4 * (tile + m * l_.ranks) + u, i = first + 8 * n + at % 8;
    const bool there = m < tiles && m < kTiles && unit < l_.hidden && i < count;
    return {m, n, u, at % 8, unit, i, there};
  }
  FAST_S2S_DEVICE BeforeUnit begin_unit(int layer, const Unit& at) const {
    BeforeUnit before = {};
    if (!at.there) return before;
    const bool looked_up = layer == 0 && l_.table;
    const float* start = looked_up ? input(live_.token(at.i))
                                   : biases() + 16 * static_cast<int64_t>(layer) * l_.gate_tiles;
    start += at.unit / 4 * 16 + at.u;
#pragma unroll
    for (int gate = 0; gate < 4; ++gate) before.start[gate] = load(start + 4 * gate);
    before.c = load(cell(0, layer, live_.parent(at.i)) + at.unit);
    return before;
  }
  FAST_S2S_DEVICE void finish_unit(int layer, const Unit& at, const BeforeUnit& before) {
    if (!at.there) return;
    float pre[4];
#pragma unroll
    for (int gate = 0; gate < 4; ++gate)
      pre[gate] = before.start[gate] + sum(sum_at(at.m, at.n, 4 * gate + at.u, at.column));
    const Gates<float> gates = activate<DeviceMath>(Gates<float>{pre[0], pre[1], pre[2], pre[3]});
    const float c = next_cell(gates, before.c);
    store(cell(1, layer, at.i) + at.unit, c);
    store((l_.projected ? unprojected(at.i) : hidden(1, layer, at.i)) + at.unit,
          next_hidden<DeviceMath>(gates, c));
  }

  const LiveSlots& live_;
  float *h_, *c_, *logits_, *unprojected_;
  float *queries_ = nullptr, *contexts_ = nullptr, *attended_ = nullptr;
  int turn_ = 0;
};

}  // namespace fast_s2s
