// What one thread computes of a strip in a tile of 8 rows, as fragments have it: in forward one
// unit of two rows, in backward two units of two rows; and what it loads for that. Values from
// memory are kept as they lie there: what is made of a value waits for its load.
#pragma once

#include "operand_cuda.cuh"

namespace fast_s2s {

// Where a thread's elements of forward lie, past the tile's rows and the layer's units, too.
struct Pair {
  int first_row, unit;

  FAST_S2S_DEVICE Pair(int strip, int row) {
    // what depends on the lane is computed once more each time: it would take registers from W
    const int own = opaque(lane());
    first_row = row + 2 * (own % 4);
    unit = strip * 8 + own / 4;
  }
  FAST_S2S_DEVICE int row(int e) const { return first_row + e; }
};

template <class Io>
struct PairInput {
  Io x[2][4];
  unsigned char reset[2], reset_next[2];  // of the rows, in the step and in the one after
};

// What a step makes of an element; zeros where its row does not run.
template <class Io>
struct Made {
  Io gates[4];
  float c;
  Io h;
};

template <class Io>
FAST_S2S_DEVICE Made<Io> made_of(const Gates<float>& pre, float c_prev) {
  const Gates<float> gates = activate<DeviceMath>(pre);
  const float c = next_cell(gates, c_prev);
  return {{from_float<Io>(gates.i), from_float<Io>(gates.f), from_float<Io>(gates.g),
           from_float<Io>(gates.o)},
          c,
          from_float<Io>(next_hidden<DeviceMath>(gates, c))};
}

template <class Io>
struct alignas(4 * sizeof(Io)) FourGates {
  Io gate[4];
};

// What the gates' gradients of an element take.
template <class Io>
struct SavedElement {
  Io gates[4];
  float c, c_prev;
};

template <class Io>
struct SavedElements {
  Io grad_y[4];
  SavedElement<Io> element[4];
  unsigned char reset[2], reset_after[2];  // of the rows, in the step and in the one after
};

// Where a thread's elements of backward lie, as `Pair` has those of forward.
struct Elements {
  int first_row, first_unit;
  int length[2];  // of the rows, 0 past the tile's; where they are looked at

  FAST_S2S_DEVICE Elements(int strip, int row) {
    const int own = opaque(lane());
    first_row = row + 2 * (own % 4);
    first_unit = strip * 16 + own / 4;
  }
  FAST_S2S_DEVICE int row(int e) const { return first_row + e % 2; }
  FAST_S2S_DEVICE int unit(int e) const { return first_unit + 8 * (e / 2); }
};

// f(e, row, unit)
template <class F>
FAST_S2S_DEVICE void for_elements(const Elements& at, const F& f) {
#pragma unroll
  for (int e = 0; e < 4; ++e) f(e, at.row(e), at.unit(e));
}

// Of one element. `dh`: of h before any projection. `dc`: of the cell, then of the one before.
template <class Io>
FAST_S2S_DEVICE FourGates<Io> gradients(const SavedElement<Io>& from, bool resets, float dh,
                                        float& dc) {
  const Gates<float> gates{to_float(from.gates[0]), to_float(from.gates[1]),
                           to_float(from.gates[2]), to_float(from.gates[3])};
  const Gates<float> d =
      step_backward<DeviceMath>(gates, from.c, resets ? 0.0f : from.c_prev, dh, dc);
  if (resets) dc = 0;
  return {{from_float<Io>(d.i), from_float<Io>(d.f), from_float<Io>(d.g), from_float<Io>(d.o)}};
}

}  // namespace fast_s2s
