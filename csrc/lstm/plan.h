// How an LSTM layer is laid over a GPU: a pure function of the device and the problem.
//
// A step multiplies W (the A operand of mma) by the state of a tile of rows (the B operand). W is
// cut into strips of units (8 in forward, whose 4 gates make two tiles of 16 rows; 16 in backward),
// strips go to the blocks that share one copy of W ("ranks"), and the tiles of a strip along the
// depth K (H in forward, 4H in backward) to the warps of a block. What a warp owns it keeps in
// registers and shared memory as far as there is room, and reads from L2 beyond that.
//
// A projection adds a second product to a step, by W_hr (R x H) or in backward its transpose, in
// strips of 16 and with an exchange of its own; the first one's sizes are then 4H x R.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace fast_s2s {

enum class Precision { kBf16, kFp16, kTf32, kFp32 };

// How the ranks exchange a step's result.
enum class Variant {
  kBlock,    // one rank: shared memory
  kCluster,  // into each other's shared memory, one cluster barrier a step
  kGrid,     // through L2 and a counter, then into shared memory
  kStream,   // through L2 and a counter, read there again for every strip
};

struct Device {
  int64_t sms;
  int64_t shared_bytes;            // the most a block may have
  int64_t max_cluster;             // 1: no clusters
  bool cooperative;                // can launch only if all blocks are resident at once
  int64_t weight_registers = 128;  // of a thread, at most so many for W
  // to measure or test one variant, one number of tiles of rows (0: any)
  std::optional<Variant> only = std::nullopt;
  int64_t row_tiles = 0;
};

struct Problem {
  Precision precision;
  int64_t hidden, batch;
  int64_t directions;  // 1, or 2 in one launch
  bool backward;
  int64_t projection = 0;  // outputs of a projection; 0: none

  int64_t outputs() const { return projection > 0 ? projection : hidden; }
};

// What the kernels need to know.
struct Layout {
  int hidden, outputs;  // of the layer: H, and R = H without a projection
  int directions, ranks, strips, strips_per_block;
  int rows;                          // of a block's tile
  int k_tiles, k_groups;             // along the depth; warps that share it
  int register_tiles, shared_tiles;  // of each warp
  int operand_stride;                // bytes of a row of the state in shared memory
  int operand, state, bias, lengths, partial, weights;  // offsets in shared memory
};

struct Plan {
  Variant variant;
  Layout layout;
  // of the second product of a step, where there is a projection: what it shares with the first is
  // the same
  Layout projection;
  int64_t row_tiles;        // of 8 rows, multiplied at once: 1 or 4
  int64_t tiles;            // of rows, in one launch
  int64_t launches;         // one after another, for the rows beyond those
  bool stepwise;            // one launch a step: blocks need not be resident
  int64_t shared_bytes;     // of a block
  int64_t workspace_bytes;  // state exchanged through L2, of one launch
  // of a block, a step: W held in registers and in shared memory, W read from L2, state exchanged
  int64_t register_bytes, resident_bytes, streamed_bytes, exchanged_bytes;
  double estimated_ns;  // of a step over the whole batch; a model, not a measurement
};

constexpr int64_t kWarps = 8;
// of a thread, for W; more rows at once leave fewer, and so does a state on its way from L2
constexpr int weight_registers(Variant variant, int row_tiles) {
  const bool streams = variant == Variant::kStream;
  return row_tiles == 1 ? (streams ? 96 : 128) : (streams ? 48 : 80);
}
// the same of a layer with a projection, whose step has two products
constexpr int projected_registers(int row_tiles, bool second) {
  return row_tiles == 1 ? (second ? 24 : 64) : (second ? 8 : 16);
}
constexpr int64_t kStepwiseState = 2;  // floats kept between launches, per row and unit

// Raises std::invalid_argument for sizes below 1 or a device that cannot run anything.
Plan plan_lstm(const Device& device, const Problem& problem);

const char* variant_name(Variant variant);
std::string explain(const Plan& plan);

}  // namespace fast_s2s
