// The network of a step: products of packed weights and the states of the slots that run.
#pragma once

#include "../lstm/operand_cuda.cuh"
#include "kernels_cuda.h"

namespace fast_s2s {

constexpr int kDecodeThreads = 32 * kDecodeWarps;

struct alignas(8) Pair {
  float v[2];
};

// A k-tile of weights is 32 bytes of a row, as in the LSTM's kernels. Which value of a row meets
// which place of a fragment is ours to choose: a lane reads neighbours of the float32 state, and
// pack_stage_cuda lays the weights out alike. Lane (g, t) takes kLaneValues values at t ·
// kLaneValues of row g. The state is multiplied in parts whose sum is float32's 24 bits.
struct DecodeFp32 {
  typedef float Io;
  static constexpr int kDepth = 8, kLaneValues = 2;
  struct State {
    uint32_t high[2], low[2];
  };
  FAST_S2S_DEVICE static State read(const float* at, bool there) {
    Pair values{};
    if (there) values = load(reinterpret_cast<const Pair*>(at));
    const uint32_t words[2] = {bit_copy<uint32_t>(values.v[0]), bit_copy<uint32_t>(values.v[1])};
    State state;
    OperandFp32::split(words, state.high, state.low);
    return state;
  }
  FAST_S2S_DEVICE static void multiply(float (&d)[4], const uint32_t (&a)[4], const State& b) {
    uint32_t high[4], low[4];
    OperandFp32::split(a, high, low);
    mma_tf32(d, low, b.high);
    mma_tf32(d, high, b.low);
    mma_tf32(d, high, b.high);
  }
};

// bfloat16 weights; the state's parts of 8 bits each make the products exact.
struct DecodeBf16 {
  typedef Bf16 Io;
  static constexpr int kDepth = 16, kLaneValues = 4;
  struct State {
    uint32_t part[3][2];
  };
  FAST_S2S_DEVICE static State read(const float* at, bool there) {
    Words words{};
    if (there) words = load(reinterpret_cast<const Words*>(at));
    float left[4];
    for (int i = 0; i < 4; ++i) left[i] = bit_copy<float>(words.w[i]);
    State state;
#pragma unroll
    for (int part = 0; part < 3; ++part) {
      uint32_t bits[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const Bf16 rounded = from_float<Bf16>(left[i]);
        bits[i] = rounded.bits;
        left[i] -= to_float(rounded);
      }
      state.part[part][0] = bits[0] | bits[1] << 16;
      state.part[part][1] = bits[2] | bits[3] << 16;
    }
    return state;
  }
  FAST_S2S_DEVICE static void multiply(float (&d)[4], const uint32_t (&a)[4], const State& b) {
    for (int part = 2; part >= 0; --part) mma_bf16(d, a, b.part[part]);
  }
};

// What a group of blocks works on.
struct Group {
  int rank, index;
  int64_t first_row;
  int rows;
  FAST_S2S_DEVICE explicit Group(const DecodeCudaArgs& args)
      : rank(block_rank() % args.layout.ranks), index(block_rank() / args.layout.ranks) {
    first_row = args.first_row + static_cast<int64_t>(index) * args.layout.group_rows;
    const int64_t left = args.call.rows - first_row;
    rows = left < 0
               ? 0
               : static_cast<int>(left < args.layout.group_rows ? left : args.layout.group_rows);
  }
};

// Barrier of the blocks of a group: all that one wrote is there for the others.
class GroupBarrier {
 public:
  FAST_S2S_DEVICE GroupBarrier(const DecodeCudaArgs& args, const Group& group)
      : ranks_(args.layout.ranks),
        cluster_(args.layout.cluster),
        counter_(args.counters + group.index) {}
  FAST_S2S_DEVICE void wait() {
    if (ranks_ == 1) {
      sync_threads();
    } else if (cluster_) {
      // the barrier takes whole warps
      sync_warp();
      cluster_arrive();
      cluster_wait();
    } else {
      counter_arrive(counter_);
      counter_wait(counter_, static_cast<uint32_t>(ranks_) * ++passed_);
    }
  }

 private:
  const int ranks_;
  const bool cluster_;
  uint32_t* counter_;
  uint32_t passed_ = 0;
};

// Slots that a step computes, in shared memory: which each is, where the states of the step before
// lie, its input. The same in every block of the group.
class LiveSlots {
 public:
  FAST_S2S_DEVICE explicit LiveSlots(const DecodeLayout& layout) : l_(layout) {}
  FAST_S2S_DEVICE int slot(int i) const { return shared_load<int>(at(0, i)); }
  FAST_S2S_DEVICE int parent(int i) const { return shared_load<int>(at(1, i)); }
  FAST_S2S_DEVICE int token(int i) const { return shared_load<int>(at(2, i)); }
  // Of a unit of choice; one past the last unit, too.
  FAST_S2S_DEVICE int begin(int unit) const { return shared_load<int>(l_.begins + 4 * unit); }
  FAST_S2S_DEVICE void set(int i, int slot, int parent, int token) const {
    shared_store(at(0, i), slot);
    shared_store(at(1, i), parent);
    shared_store(at(2, i), token);
  }
  FAST_S2S_DEVICE void set_begin(int unit, int first) const {
    shared_store(l_.begins + 4 * unit, first);
  }

 private:
  FAST_S2S_DEVICE uint32_t at(int array, int i) const {
    return l_.live + 4 * (array * l_.slots + i);
  }
  const DecodeLayout& l_;
};

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
        weights_(reinterpret_cast<const Words*>(packed_ + kDecodeHeaderBytes)) {
    const int64_t states = 2 * static_cast<int64_t>(l_.layers) * l_.slots;
    h_ = args.h + group.index * states * l_.output_stride;
    c_ = args.c + group.index * states * l_.hidden_stride;
    const int64_t slots = static_cast<int64_t>(group.index) * l_.slots;
    logits_ = args.logits + slots * l_.logits_stride;
    unprojected_ = l_.projected ? args.unprojected + slots * l_.hidden_stride : nullptr;
  }

  // The block's share of the weights, as far as there is room.
  FAST_S2S_DEVICE void load_weights() const {
    for (int layer = 0; layer < l_.layers; ++layer) {
      load_stage(l_.gates(layer));
      if (l_.projected) load_stage(l_.projection(layer));
    }
    load_stage(l_.vocabulary());
  }

  // States before the step, at where a slot's lie; and after it, at the slots' own indices.
  FAST_S2S_DEVICE float* hidden(int after, int layer, int at) const {
    const int64_t buffer = turn_ ^ after;
    return h_ + ((buffer * l_.layers + layer) * l_.slots + at) * l_.output_stride;
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
    const auto h = [&](int i) { return hidden(0, layer, live_.parent(i)); };
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

  // Logits as choices are made by: NaN, which is never chosen, as -inf; +inf as the largest number;
  // -inf past the vocabulary.
  FAST_S2S_DEVICE void vocabulary(int count) {
    const auto none = [](int) { return static_cast<float*>(nullptr); };
    const auto h = [&](int i) { return hidden(1, l_.layers - 1, i); };
    product(l_.vocabulary(), count, none, h, [&](int tile, int first, int tiles) {
      for_sums(tile, first, tiles, count, [&](int row, int i, float sum) {
        const float bias =
            load(biases() + 16 * static_cast<int64_t>(l_.layers) * l_.gate_tiles + row);
        float logit = sum + bias;
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
    return weights_ + (stage.first + tile * stage.k_tiles + k) * 32 + lane();
  }

  // Each lane reads back only what it wrote itself.
  FAST_S2S_DEVICE void load_stage(const DecodeStage& stage) const {
    for (int i = 0; i < share(stage); ++i)
      for (int k = warp(); k < stage.k_tiles; k += kDecodeWarps) {
        const int unit = stage.local + i * stage.k_tiles + k;
        if (unit < l_.resident)
          shared_store(resident_at(unit), load_constant(packed_at(stage, i, k)));
      }
  }

  FAST_S2S_DEVICE void fetch(uint32_t (&a)[4], const DecodeStage& stage, int i, int k) const {
    const int unit = stage.local + i * stage.k_tiles + k;
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
        for (int k = warp(); k < stage.k_tiles; k += kDecodeWarps)
          add(stage, i0, mine, k, from_x, from_h, sums);
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
  int turn_ = 0, partial_turn_ = 0, depth_ = 0;
};

}  // namespace fast_s2s
