// One step for a few rows: a warp per hidden unit, its lanes along the depth. Reads each weight
// once for kRows rows, needs no packing, no product by torch and no exchange.
#pragma once

#include "operand_cuda.cuh"

namespace fast_s2s {

template <class Io, int kRows>
class CellKernel {
 public:
  FAST_S2S_DEVICE explicit CellKernel(const CellArgs& args) : args_(args) {}

  FAST_S2S_DEVICE void run() const {
    const int64_t warps = static_cast<int64_t>(block_count()) * kWarps;
    for (int64_t unit = block_rank() * kWarps + warp(); unit < args_.hidden; unit += warps)
      for (int64_t row = 0; row < args_.batch; row += kRows) rows(unit, row);
  }

 private:
  FAST_S2S_DEVICE static float read(const void* from, int64_t at) {
    return to_float(load_constant(static_cast<const Io*>(from) + at));
  }

  FAST_S2S_DEVICE void rows(int64_t unit, int64_t row) const {
    float sums[4][kRows] = {};
    add(args_.w_ih, args_.x, args_.input, unit, row, sums);
    add(args_.w_hh, args_.h, args_.hidden, unit, row, sums);
#pragma unroll
    for (int gate = 0; gate < 4; ++gate)
#pragma unroll
      for (int r = 0; r < kRows; ++r)
        for (int mask = 16; mask > 0; mask /= 2) sums[gate][r] += shuffle_xor(sums[gate][r], mask);
#pragma unroll
    for (int r = 0; r < kRows; ++r)
      if (lane() == r && row + r < args_.batch)
        finish(unit, row + r, {sums[0][r], sums[1][r], sums[2][r], sums[3][r]});
  }

  FAST_S2S_DEVICE void add(const void* weights, const void* values, int64_t depth, int64_t unit,
                           int64_t row, float (&sums)[4][kRows]) const {
    for (int64_t k = lane(); k < depth; k += 32) {
      float w[4];
      for (int gate = 0; gate < 4; ++gate)
        w[gate] = read(weights, (gate * args_.hidden + unit) * depth + k);
      for (int r = 0; r < kRows; ++r) {
        // no break: it would keep the sums from registers
        const float value = row + r < args_.batch ? read(values, (row + r) * depth + k) : 0.0f;
        for (int gate = 0; gate < 4; ++gate) sums[gate][r] += w[gate] * value;
      }
    }
  }

  FAST_S2S_DEVICE void finish(int64_t unit, int64_t row, Gates<float> pre) const {
    for (const void* bias : {args_.b_ih, args_.b_hh}) {
      if (bias == nullptr) continue;
      pre.i += read(bias, unit);
      pre.f += read(bias, args_.hidden + unit);
      pre.g += read(bias, 2 * args_.hidden + unit);
      pre.o += read(bias, 3 * args_.hidden + unit);
    }
    const int64_t at = row * args_.hidden + unit;
    const Gates<float> gates = activate<DeviceMath>(pre);
    const float c = next_cell(gates, read(args_.c, at));
    store(static_cast<Io*>(args_.h_next) + at, from_float<Io>(next_hidden<DeviceMath>(gates, c)));
    store(static_cast<Io*>(args_.c_next) + at, from_float<Io>(c));
    if (args_.cells != nullptr) store(args_.cells + at, c);
    if (args_.gates == nullptr) return;
    const float parts[4] = {gates.i, gates.f, gates.g, gates.o};
    for (int gate = 0; gate < 4; ++gate)
      store(static_cast<Io*>(args_.gates) + (row * 4 + gate) * args_.hidden + unit,
            from_float<Io>(parts[gate]));
  }

  const CellArgs& args_;
};

template <class Io, int kRows>
FAST_S2S_KERNEL(32 * kWarps)
lstm_cell_kernel(const FAST_S2S_GRID_CONSTANT CellArgs args) {
  CellKernel<Io, kRows>(args).run();
}

}  // namespace fast_s2s
