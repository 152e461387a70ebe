// The small kernels around a sequence: packing weights, what each step started from, activations.
#pragma once

#include "operand_cuda.cuh"

namespace fast_s2s {

constexpr int kElementwiseThreads = 256;

struct PackArgs {
  const void* w_hh;
  Words* packed;
  int hidden, outputs, k_tiles;
  int64_t words;
};

// A matrix [rows, depth], or read transposed, in strips of 16 rows.
struct PackMatrixArgs {
  const void* matrix;
  Words* packed;
  int rows, depth, k_tiles;
  int64_t row_stride, depth_stride;
  int64_t words;
};

// f(i) for i < count, over the whole grid
template <class F>
FAST_S2S_DEVICE void for_each_of(int64_t count, const F& f) {
  const int64_t stride = static_cast<int64_t>(block_count()) * block_threads();
  for (int64_t i = static_cast<int64_t>(block_rank()) * block_threads() + thread_rank(); i < count;
       i += stride)
    f(i);
}

// The element of A at a row and a depth of a strip; zero past the layer's units and outputs.
// Forward: rows are gates 2m and 2m + 1 of 8 units each. Backward: rows are 16 outputs, the depth
// goes over the four gates of a unit, then over units.
template <class Io, bool kBackward>
FAST_S2S_DEVICE Io element_of(const PackArgs& args, int64_t strip, int m, int row, int64_t k) {
  const int64_t h = args.hidden;
  int64_t gate, unit, column;
  if constexpr (kBackward) {
    gate = k % 4, unit = k / 4, column = strip * 16 + row;
  } else {
    gate = 2 * m + row / 8, unit = strip * 8 + row % 8, column = k;
  }
  if (unit >= h || column >= args.outputs) return Io{};
  return load_constant(static_cast<const Io*>(args.w_hh) + (gate * h + unit) * args.outputs +
                       column);
}

// The words of A's fragments, tile by tile, from f(tile, row, depth within the strip) of tiles of
// `k_tiles` to a strip and `kTiles` beside each other.
template <class Io, class F>
FAST_S2S_DEVICE void pack_fragments(int lane, int64_t k_tile, Words* packed, const F& f) {
  constexpr int kPerWord = 4 / sizeof(Io);
  Words words;
  for (int r = 0; r < 4; ++r) {
    const int row = lane / 4 + 8 * (r % 2), byte = 4 * (lane % 4) + 16 * (r / 2);
    const int64_t k = (k_tile * 32 + byte) / static_cast<int>(sizeof(Io));
    Io parts[kPerWord];
    for (int part = 0; part < kPerWord; ++part) parts[part] = f(row, k + part);
    words.w[r] = bit_copy<uint32_t>(parts);
  }
  store(packed, words);
}

template <class Io, bool kBackward>
FAST_S2S_KERNEL(kElementwiseThreads)
pack_kernel(const FAST_S2S_GRID_CONSTANT PackArgs args) {
  constexpr int kTiles = kBackward ? 1 : 2;
  for_each_of(args.words, [&](int64_t i) {
    const int m = i / 32 % kTiles;
    const int64_t tile = i / (32 * kTiles), strip = tile / args.k_tiles;
    pack_fragments<Io>(i % 32, tile % args.k_tiles, args.packed + i, [&](int row, int64_t k) {
      return element_of<Io, kBackward>(args, strip, m, row, k);
    });
  });
}

template <class Io>
FAST_S2S_KERNEL(kElementwiseThreads)
pack_matrix_kernel(const FAST_S2S_GRID_CONSTANT PackMatrixArgs args) {
  for_each_of(args.words, [&](int64_t i) {
    const int64_t tile = i / 32, first_row = tile / args.k_tiles * 16;
    pack_fragments<Io>(i % 32, tile % args.k_tiles, args.packed + i, [&](int r, int64_t k) {
      const int64_t row = first_row + r;
      if (row >= args.rows || k >= args.depth) return Io{};
      return load_constant(static_cast<const Io*>(args.matrix) + row * args.row_stride +
                           k * args.depth_stride);
    });
  });
}

// Length of a row, as the sequence kernels take it.
FAST_S2S_DEVICE int64_t length_of(const SequenceShape& shape, int64_t row) {
  if (shape.lengths == nullptr) return shape.steps;
  const int64_t length = load_constant(shape.lengths + row);
  return length < 0 ? 0 : length < shape.steps ? length : shape.steps;
}

template <class Io>
FAST_S2S_KERNEL(kElementwiseThreads)
previous_hidden_kernel(const FAST_S2S_GRID_CONSTANT PreviousHidden args) {
  const SequenceShape& s = args.shape;
  const int64_t y_stride = args.directions * args.outputs;
  for_each_of(s.steps * s.batch * args.outputs, [&](int64_t i) {
    const int64_t at = i / args.outputs, unit = i % args.outputs;
    const int64_t t = at / s.batch, row = at % s.batch;
    const int64_t length = length_of(s, row), first = s.reverse ? length - 1 : 0;
    const int64_t before = at + (s.reverse ? s.batch : -s.batch);
    Io h = Io{};
    if (t < length && !(s.reset != nullptr && load_constant(s.reset + at)))
      h = t == first ? load_constant(static_cast<const Io*>(args.h0) + row * args.outputs + unit)
                     : load_constant(static_cast<const Io*>(args.y) + before * y_stride + unit);
    store(static_cast<Io*>(args.out) + i, h);
  });
}

template <class Io>
FAST_S2S_KERNEL(kElementwiseThreads)
unprojected_kernel(const FAST_S2S_GRID_CONSTANT Unprojected args) {
  const SequenceShape& s = args.shape;
  for_each_of(s.steps * s.batch * args.hidden, [&](int64_t i) {
    const int64_t at = i / args.hidden, unit = i % args.hidden;
    Io h = Io{};
    // gates that were computed again may be no numbers past the end
    if (at / s.batch < length_of(s, at % s.batch)) {
      const Io* o = static_cast<const Io*>(args.gates) + (at * 4 + 3) * args.hidden + unit;
      Gates<float> gates = {};
      gates.o = to_float(load_constant(o));
      h = from_float<Io>(next_hidden<DeviceMath>(gates, load_constant(args.cells + i)));
    }
    store(static_cast<Io*>(args.out) + i, h);
  });
}

template <class Io>
FAST_S2S_KERNEL(kElementwiseThreads)
running_kernel(const FAST_S2S_GRID_CONSTANT Running args) {
  const SequenceShape& s = args.shape;
  for_each_of(s.steps * s.batch * args.width, [&](int64_t i) {
    const int64_t at = i / args.width;
    const bool runs = at / s.batch < length_of(s, at % s.batch);
    store(static_cast<Io*>(args.out) + i,
          runs ? load_constant(static_cast<const Io*>(args.values) + i) : Io{});
  });
}

template <class Io>
FAST_S2S_KERNEL(kElementwiseThreads)
activate_kernel(const FAST_S2S_GRID_CONSTANT Activate args) {
  for_each_of(args.rows * args.hidden, [&](int64_t i) {
    const int64_t at = i / args.hidden, unit = i % args.hidden;
    const auto pre = [&](int gate) {
      const int64_t column = gate * args.hidden + unit, from = at * 4 * args.hidden + column;
      float sum = to_float(load_constant(static_cast<const Io*>(args.gates_x) + from)) +
                  to_float(load_constant(static_cast<const Io*>(args.gates_h) + from));
      for (const void* bias : {args.b_ih, args.b_hh})
        if (bias != nullptr) sum += to_float(load_constant(static_cast<const Io*>(bias) + column));
      return sum;
    };
    const Gates<float> gates = activate<DeviceMath>(Gates<float>{pre(0), pre(1), pre(2), pre(3)});
    const float parts[4] = {gates.i, gates.f, gates.g, gates.o};
    for (int gate = 0; gate < 4; ++gate)
      store(static_cast<Io*>(args.out) + at * 4 * args.hidden + gate * args.hidden + unit,
            from_float<Io>(parts[gate]));
  });
}

}  // namespace fast_s2s
