// How a decoder is laid over a GPU: a pure function of the device and the problem.
//
// Every matrix of a step is cut into tiles of 16 rows (of gates: 4 units), which go in turns to the
// blocks that share one copy of the weights ("ranks"). As much of a block's share as fits stays in
// its shared memory for the whole generation; the rest comes from L2 in every step. Groups of rows
// go to different groups of blocks, which never wait for each other.
#pragma once

#include <cstdint>
#include <string>

#include "../lstm/plan.h"
#include "../lstm_math.h"
#include "decode.h"

namespace fast_s2s {

struct DecodeProblem {
  WeightType weights;
  int64_t layers, hidden, output, vocab, inputs;  // as in PackedHeader
  bool projected, table;
  int64_t rows, width;
  bool beam;
  // attention's, as in PackedHeader; S steps to look at
  int64_t heads = 0, keys = 0, values = 0;
  bool additive = false, feeding = false;
  int64_t steps = 0;
};

// One product of a step: `tiles` of 16 rows, each `k_tiles` deep, the first `x_tiles` of those over
// the layer's input, or over what attention found. Units are 512 bytes: a tile along one k-tile;
// with int8 weights one more, of the rows' scales.
struct DecodeStage {
  int tiles, k_tiles, x_tiles;
  int second;     // k-tile where another matrix begins, whose rows have scales of their own
  int units;      // of a tile
  int64_t first;  // unit in the packed weights
  int local;      // unit in a block's share
};

// What the kernel needs to know. Strides are in floats; offsets in bytes of shared memory.
struct DecodeLayout {
  int hidden, output, layers;
  bool projected, table;
  int64_t vocab;
  int states;  // hidden states of a slot: the layers' and, with feeding, what attention found
  int heads, keys, values;
  bool additive, feeding;
  int ranks, k;           // blocks to one copy; depth of a k-tile
  int group_rows, units;  // of one group; units of choice: rows of beams, else slots
  int slots;              // of a group
  int hidden_stride, output_stride, input_stride, logits_stride, values_stride;
  int x_tiles, fed_tiles, output_k_tiles, hidden_k_tiles, value_k_tiles;
  int gate_tiles, output_tiles, key_tiles, vocab_tiles;
  int scale_units;  // of a tile: 1 for int8 weights
  int resident;     // units of a block's share in shared memory
  bool cluster;
  int partial, reduce, live, begins, weights;  // offsets
  int64_t biases, score, inputs;               // bytes in the packed weights

  // The products of a step: gates and projection of each layer, attention's query and output, the
  // vocabulary.
  FAST_S2S_HD DecodeStage gates(int layer) const {
    const int first_k = x_tiles + fed_tiles + output_k_tiles, others_k = 2 * output_k_tiles;
    const int64_t before =
        layer == 0
            ? 0
            : first_k + scale_units + static_cast<int64_t>(layer - 1) * (others_k + scale_units);
    const int64_t projections =
        projected ? static_cast<int64_t>(layer) * (hidden_k_tiles + scale_units) : 0;
    const int k_tiles = layer == 0 ? first_k : others_k;
    return {gate_tiles,
            k_tiles,
            layer == 0 ? x_tiles : output_k_tiles,
            k_tiles - output_k_tiles,
            k_tiles + scale_units,
            before * gate_tiles + projections * output_tiles,
            static_cast<int>(before * share(gate_tiles) + projections * share(output_tiles))};
  }
  FAST_S2S_HD DecodeStage projection(int layer) const {
    return after(gates(layer), output_tiles, hidden_k_tiles);
  }
  FAST_S2S_HD DecodeStage query() const { return after(last_layer(), key_tiles, output_k_tiles); }
  FAST_S2S_HD DecodeStage attended() const {
    const DecodeStage last = additive ? query() : last_layer();
    DecodeStage stage = after(last, output_tiles, value_k_tiles + output_k_tiles);
    stage.x_tiles = value_k_tiles;
    return stage;
  }
  FAST_S2S_HD DecodeStage vocabulary() const {
    return after(heads > 0 ? attended() : last_layer(), vocab_tiles, output_k_tiles);
  }
  // Tiles of a block, at most.
  FAST_S2S_HD int share(int tiles) const { return (tiles + ranks - 1) / ranks; }

 private:
  FAST_S2S_HD DecodeStage last_layer() const {
    return projected ? projection(layers - 1) : gates(layers - 1);
  }
  FAST_S2S_HD DecodeStage after(const DecodeStage& last, int tiles, int k_tiles) const {
    return {tiles,
            k_tiles,
            0,
            k_tiles,
            k_tiles + scale_units,
            last.first + static_cast<int64_t>(last.tiles) * last.units,
            last.local + share(last.tiles) * last.units};
  }
};

struct DecodePlan {
  Variant variant;  // kBlock, kCluster or kGrid
  DecodeLayout layout;
  int64_t row_tiles;  // of 8 slots, multiplied at once: 1 or 4
  int64_t groups;     // in one launch
  int64_t launches;   // one after another, for the rows beyond those
  int64_t shared_bytes;
  int64_t resident_bytes, streamed_bytes;  // of a block's share of the weights
  int64_t memory_bytes;                    // what a block reads of the rows' memory in a step
  double estimated_ns;                     // of a step with all rows; a model, not a measurement
};

constexpr int kDecodeWarps = 8;
// tiles of 16 rows by 8 slots that a warp multiplies at once
constexpr int kDecodeTiles = 4;
constexpr int64_t kMostGroupSlots = 1024;

// Raises std::invalid_argument for sizes below 1, more slots in a row than a group has, a memory
// beyond what is counted in 31 bits, or a device that cannot run it.
DecodePlan plan_decode(const Device& device, const DecodeProblem& problem);
std::string explain(const DecodePlan& plan);

// Bytes of the packed weights; sets their offsets in `layout`.
int64_t packed_decode_bytes(const DecodeProblem& problem, DecodeLayout& layout);

}  // namespace fast_s2s
