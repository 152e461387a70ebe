// The backward kernel. A phase multiplies W_hhᵀ by the gates' gradients of a step, which gives that
// of the h before, and goes on to the gates' gradients of the step before. A strip is 16 units, one
// tile of W_hhᵀ of 16 rows; the gates' gradients of a unit lie beside each other in the exchange.
// With a projection the product gives the gradients of outputs, which are exchanged and multiplied
// by W_hrᵀ; a strip is then 16 outputs.
#pragma once

#include <type_traits>

#include "projection_cuda.cuh"

namespace fast_s2s {

template <class Io>
struct alignas(4 * sizeof(Io)) FourGates {
  Io gate[4];
};

template <class Operand, Variant kVariant, int kRowTiles, bool kProjected>
class BackwardKernel {
  typedef typename Operand::Io Io;
  static constexpr int kStripUnits = 16;
  static constexpr int kHeld =
      (kProjected ? projected_registers(kRowTiles, false) : weight_registers(kVariant, kRowTiles)) /
      4;

 public:
  FAST_S2S_DEVICE explicit BackwardKernel(const BackwardArgs& args)
      : args_(args),
        l_(args.layout),
        place_(args),
        d_(args.directions[place_.direction]),
        rows_(l_, d_.shape, place_.row0, place_.rows),
        share_(l_),
        weights_(l_, share_, d_.w_hh, place_.rank * l_.strips_per_block),
        exchange_(args, of_units(), place_),
        depth_(l_, share_),
        projection_(args, place_) {}

  FAST_S2S_DEVICE void run() {
    rows_.load();
    weights_.load();
    if constexpr (kProjected) projection_.load();
    exchange_.clear_padding();
    sync_threads();
    const bool begins = args_.first_phase == 0;
    if (begins) {
      for_each_output([&](int row, int output) {
        shared_store(dh_at(row, output), read_output(d_.grad_h_n, row, output));
      });
      for_each(
          [&](int row, int unit) { shared_store(dc_at(row, unit), read(d_.grad_c_n, row, unit)); });
      zero_past_the_tile();
      sync_threads();
      if (rows_.steps() > 0) {
        for_strips([&](int s, int row) { last_step(s, row); });
        unproject(0);
        exchange_.deliver(0);
      }
    } else {
      carry(false);
    }
    // phase p multiplies publication p - 1, of the step that many before the last
    const int64_t end = args_.first_phase + args_.phases;
    for (int p = begins ? 1 : static_cast<int>(args_.first_phase); p <= rows_.steps() && p < end;
         ++p) {
      for_strips([&](int s, int row) { previous_step(p, s, row); });
      if (p < rows_.steps()) unproject(p);
      if (p < rows_.steps() && p + 1 < end) exchange_.deliver(p);
    }
    sync_threads();
    if (args_.carried != nullptr) carry(true);
    // of a stepwise plan: what a later launch writes again
    for_each_output([&](int row, int output) {
      store(io(d_.d_h0) + output_at(row, output),
            from_float<Io>(shared_load<float>(dh_at(row, output))));
    });
    for_each([&](int row, int unit) {
      store(io(d_.d_c0) + state_at(row, unit),
            from_float<Io>(shared_load<float>(dc_at(row, unit))));
    });
  }

 private:
  // the layout that says whose the units are
  FAST_S2S_DEVICE const Layout& of_units() const {
    return kProjected ? args_.projection : args_.layout;
  }
  // f(row, index) of the tile's rows and of this block's share of `count` units or outputs
  template <class F>
  FAST_S2S_DEVICE void for_share(int in_block, int count, const F& f) const {
    for (int i = thread_rank(); i < place_.rows * in_block; i += block_threads()) {
      const int index = place_.rank * in_block + i % in_block;
      if (index < count) f(i / in_block, index);
    }
  }
  template <class F>
  FAST_S2S_DEVICE void for_each(const F& f) const {
    for_share(of_units().strips_per_block * kStripUnits, l_.hidden, f);
  }
  template <class F>
  FAST_S2S_DEVICE void for_each_output(const F& f) const {
    for_share(l_.strips_per_block * kStripUnits, l_.outputs, f);
  }
  template <class F>
  FAST_S2S_DEVICE void for_strips(const F& f) {
    for (int s = 0; s < share_.strips(l_); ++s)
      for (int row = 0; row < l_.rows; row += 8 * kRowTiles) f(s, row);
  }
  // f(n, element of the fragment, row, unit), past the tile's rows and the layer's units, too
  template <class F>
  FAST_S2S_DEVICE void for_elements(int row, int strip, const F& f) const {
#pragma unroll
    for (int n = 0; n < kRowTiles; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        f(n, e, row + 8 * n + 2 * (lane() % 4) + e % 2,
          strip * kStripUnits + lane() / 4 + 8 * (e / 2));
  }

  FAST_S2S_DEVICE bool inside(int row, int output) const {
    return row < place_.rows && output < l_.outputs;
  }
  FAST_S2S_DEVICE uint32_t dh_at(int row, int output) const {
    const int first = place_.rank * l_.strips_per_block * kStripUnits;
    return l_.state + ((output - first) * l_.rows + row) * 4;
  }
  // behind the gradients of the outputs
  FAST_S2S_DEVICE uint32_t dc_at(int row, int unit) const {
    const int first = place_.rank * of_units().strips_per_block * kStripUnits;
    const int outputs = l_.strips_per_block * kStripUnits;
    return l_.state + ((outputs + unit - first) * l_.rows + row) * 4;
  }
  FAST_S2S_DEVICE int64_t state_at(int row, int unit) const {
    return (place_.row0 + row) * l_.hidden + unit;
  }
  FAST_S2S_DEVICE int64_t output_at(int row, int output) const {
    return (place_.row0 + row) * l_.outputs + output;
  }
  FAST_S2S_DEVICE const Io* io(const void* data) const { return static_cast<const Io*>(data); }
  FAST_S2S_DEVICE Io* io(void* data) const { return static_cast<Io*>(data); }
  // of [B, H], null meaning zero
  FAST_S2S_DEVICE float read(const void* data, int row, int unit) const {
    return data == nullptr ? 0.0f : to_float(load_constant(io(data) + state_at(row, unit)));
  }
  // of [B, R]
  FAST_S2S_DEVICE float read_output(const void* data, int row, int output) const {
    return data == nullptr ? 0.0f : to_float(load_constant(io(data) + output_at(row, output)));
  }
  FAST_S2S_DEVICE float grad_y(int t, int row, int output) const {
    if (d_.grad_y == nullptr) return 0;
    const int64_t stride = static_cast<int64_t>(l_.directions) * l_.outputs;
    return to_float(load_constant(io(d_.grad_y) + rows_.at(t, row) * stride + output));
  }

  FAST_S2S_DEVICE void zero_past_the_tile() const {
    for (int t = rows_.steps(); t < d_.shape.steps; ++t) {
      for_each([&](int row, int unit) { save(t, row, unit, FourGates<Io>{}); });
      if constexpr (kProjected)
        for_each_output([&](int row, int output) { save_output(t, row, output, Io{}); });
    }
  }

  FAST_S2S_DEVICE void save_output(int t, int row, int output, Io d) const {
    store(io(d_.d_h) + rows_.at(t, row) * l_.outputs + output, d);
  }

  FAST_S2S_DEVICE void save(int t, int row, int unit, const FourGates<Io>& d) const {
    Io* out = io(d_.d_gates) + rows_.at(t, row) * 4 * l_.hidden + unit;
    for (int gate = 0; gate < 4; ++gate) store(out + gate * l_.hidden, d.gate[gate]);
  }

  FAST_S2S_DEVICE void carry(bool out) const {
    const int units = l_.strips * kStripUnits;
    const int64_t half = static_cast<int64_t>(block_count() / l_.ranks) * l_.rows * units;
    const int64_t base = static_cast<int64_t>(place_.group) * l_.rows * units;
    for_each([&](int row, int unit) {
      float* at = args_.carried + base + static_cast<int64_t>(row) * units + unit;
      if (out) {
        store(at, shared_load<float>(dh_at(row, unit)));
        store(at + half, shared_load<float>(dc_at(row, unit)));
      } else {
        shared_store(dh_at(row, unit), load(at));
        shared_store(dc_at(row, unit), load(at + half));
      }
    });
    sync_threads();
  }

  FAST_S2S_DEVICE void last_step(int s, int row) {
    if (share_.k_group > 0 || !weights_.exists(s)) return;
    const int strip = weights_.strip(s);
    for_elements(row, strip, [&](int, int, int r, int unit) {
      const float dh = inside(r, unit) ? shared_load<float>(dh_at(r, unit)) : 0.0f;
      pass_on(0, r, unit, dh);
    });
    strip_done(0, row, strip);
  }

  // From the gates' gradients of one step, publication p - 1, to those of the step before.
  FAST_S2S_DEVICE void previous_step(int p, int s, int row) {
    float sums[1][kRowTiles][4] = {};
    if (weights_.exists(s)) weights_.multiply(s, exchange_.state(p - 1, row), sums);
    depth_.add(sums);
    if (share_.k_group > 0 || !weights_.exists(s)) return;
    const int strip = weights_.strip(s), t = time_of(p - 1);
    for_elements(row, strip, [&](int n, int e, int r, int unit) {
      float dh = 0;
      if (inside(r, unit)) {
        // a row that did not run at t keeps the gradient of its final, or in reverse initial, state
        if (!rows_.runs(t, r)) {
          dh = shared_load<float>(dh_at(r, unit));
        } else {
          dh = rows_.resets(t, r) ? 0.0f : sums[0][n][e];
          shared_store(dh_at(r, unit), dh);
        }
      }
      if (p < rows_.steps()) pass_on(p, r, unit, dh);
    });
    if (p < rows_.steps()) strip_done(p, row, strip);
  }

  // what `pass_on` has put
  FAST_S2S_DEVICE void strip_done(int p, int row, int strip) {
    if constexpr (kProjected) {
      projection_.strip_done(p, row, strip);
    } else {
      exchange_.strip_done(p, row, strip);
    }
  }

  // the time of publication p
  FAST_S2S_DEVICE int time_of(int p) const { return rows_.time(rows_.steps() - 1 - p); }

  // The gradient of an output goes to the gates of its unit, or first through the projection.
  FAST_S2S_DEVICE void pass_on(int p, int row, int output, float dh) {
    const int t = time_of(p);
    if (inside(row, output) && rows_.runs(t, row)) dh += grad_y(t, row, output);
    if constexpr (kProjected) {
      Io d = Io{};
      if (inside(row, output)) {
        if (rows_.runs(t, row)) d = from_float<Io>(dh);
        save_output(t, row, output, d);
      }
      projection_.put(p, row, output, d);
    } else {
      gates_of_step(p, row, output, dh);
    }
  }

  FAST_S2S_DEVICE void unproject(int p) {
    if constexpr (kProjected)
      projection_.multiply(
          p, [&](int row, int unit, float dh) { gates_of_step(p, row, unit, dh); },
          [&](int row, int strip) { exchange_.strip_done(p, row, strip); });
  }

  // `dh`: the whole gradient of the unit's h, before any projection.
  FAST_S2S_DEVICE void gates_of_step(int p, int row, int unit, float dh) {
    FourGates<Io> d = {};
    if (row < place_.rows && unit < l_.hidden) {
      const int t = time_of(p);
      if (rows_.runs(t, row)) d = gradients(t, row, unit, dh);
      save(t, row, unit, d);
    }
    exchange_.put(p, row, unit * static_cast<int>(sizeof(d)), d);
  }

  FAST_S2S_DEVICE FourGates<Io> gradients(int t, int row, int unit, float dh) const {
    const int64_t at = rows_.at(t, row);
    const Io* from = io(d_.gates) + at * 4 * l_.hidden + unit;
    const Gates<float> gates{to_float(load_constant(from)),
                             to_float(load_constant(from + l_.hidden)),
                             to_float(load_constant(from + 2 * l_.hidden)),
                             to_float(load_constant(from + 3 * l_.hidden))};
    const bool resets = rows_.resets(t, row);
    float c_prev = 0;
    if (!resets) {
      c_prev = t == rows_.first(row)
                   ? read(d_.c0, row, unit)
                   : load_constant(d_.cells + rows_.at(rows_.preceding(t), row) * l_.hidden + unit);
    }
    float dc = shared_load<float>(dc_at(row, unit));
    const Gates<float> d = step_backward<DeviceMath>(
        gates, load_constant(d_.cells + at * l_.hidden + unit), c_prev, dh, dc);
    shared_store(dc_at(row, unit), resets ? 0.0f : dc);
    return {{from_float<Io>(d.i), from_float<Io>(d.f), from_float<Io>(d.g), from_float<Io>(d.o)}};
  }

  const BackwardArgs& args_;
  const Layout& l_;
  const Place<BackwardDirection> place_;
  const BackwardDirection& d_;
  TileRows rows_;
  const WarpShare share_;
  WarpWeights<Operand, 1, kRowTiles, kHeld> weights_;
  Exchange<kVariant, kStripUnits * 4 * sizeof(Io), kRowTiles> exchange_;
  DepthSum<1, kRowTiles> depth_;
  std::conditional_t<kProjected, Projection<Operand, kVariant, kRowTiles, kStripUnits * sizeof(Io)>,
                     NoProjection>
      projection_;
};

template <class Operand, Variant kVariant, int kRowTiles, bool kProjected>
FAST_S2S_KERNEL(kThreads)
lstm_backward_kernel(const FAST_S2S_GRID_CONSTANT BackwardArgs args) {
  BackwardKernel<Operand, kVariant, kRowTiles, kProjected>(args).run();
}

}  // namespace fast_s2s
