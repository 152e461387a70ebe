// The backward kernel. A phase multiplies W_hhᵀ by the gates' gradients of a step, which gives that
// of the h before, and goes on to the gates' gradients of the step before. A strip is 16 units, one
// tile of W_hhᵀ of 16 rows; the gates' gradients of a unit lie beside each other in the exchange.
// With a projection the product gives the gradients of outputs, which are exchanged and multiplied
// by W_hrᵀ; a strip is then 16 outputs.
#pragma once

#include <type_traits>

#include "elements_cuda.cuh"
#include "projection_cuda.cuh"

namespace fast_s2s {

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
    } else {
      carry(false);
    }
    // phase 0 publishes the gates' gradients of the last step, phase p multiplies publication p -
    // 1, of the step that many before
    const int64_t end = args_.first_phase + args_.phases;
    const int phases = rows_.steps() > 0 ? rows_.steps() + 1 : 0;
    const int first = static_cast<int>(args_.first_phase);
    if (first < phases) prefetch(first, 0, 0);
    for (int p = first; p < phases && p < end; ++p) {
      const int kept = phase(p);
      if (p < rows_.steps()) unproject(p);
      const bool delivers = p < rows_.steps() && p + 1 < end;
      if (delivers) exchange_.arrive();
      save_kept(p, kept, last_row());
      if (!delivers) continue;
      prefetch(p + 1, 0, 0);
      exchange_.wait(p);
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
  FAST_S2S_DEVICE int last_row() const { return l_.rows - 8 * kRowTiles; }
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

  // What the warp's strip s takes in phase p. That of its first is fetched while the ranks exchange
  // the phase before.
  FAST_S2S_DEVICE void prefetch(int p, int s, int row) {
    if (share_.k_group == 0 && weights_.exists(s)) fetch(p, weights_.strip(s), row);
  }

  // Loads alone, one after another: of a row or unit past the last the last one's, and masked where
  // they are used.
  FAST_S2S_DEVICE void fetch(int p, int strip, int row) {
    const Elements at(strip, row);
    const int rows[2] = {rows_.nearest(at.row(0)), rows_.nearest(at.row(1))};
    if (rows_.may_reset() && p > 0)
      for (int i = 0; i < 2; ++i) ahead_.reset_after[i] = rows_.reset_byte(time_of(p - 1), rows[i]);
    if (p == rows_.steps()) return;
    const int t = time_of(p);
    if (rows_.may_reset())
      for (int i = 0; i < 2; ++i) ahead_.reset[i] = rows_.reset_byte(t, rows[i]);
    if (d_.grad_y != nullptr)
      for_elements(at, [&](int e, int, int output) {
        ahead_.grad_y[e] = load_constant(grad_y_at(t, rows[e % 2], nearest(output)));
      });
    if constexpr (!kProjected) {
      for_elements(at, [&](int e, int, int unit) {
        ahead_.element[e] = saved(t, rows[e % 2], nearest(unit));
      });
      for_elements(at, [&](int e, int, int unit) {
        if (t == rows_.first(rows[e % 2]))
          ahead_.element[e].c_prev = read(d_.c0, rows[e % 2], nearest(unit));
      });
    }
  }
  FAST_S2S_DEVICE int nearest(int output) const {
    return output < l_.outputs ? output : l_.outputs - 1;
  }
  FAST_S2S_DEVICE const Io* grad_y_at(int t, int row, int output) const {
    const int64_t stride = static_cast<int64_t>(l_.directions) * l_.outputs;
    return io(d_.grad_y) + rows_.at(t, row) * stride + output;
  }

  // but for the cell that a row begins with
  FAST_S2S_DEVICE SavedElement<Io> saved(int t, int row, int unit) const {
    const Io* gates = io(d_.gates) + rows_.at(t, row) * 4 * l_.hidden + unit;
    SavedElement<Io> from;
    for (int gate = 0; gate < 4; ++gate) from.gates[gate] = load_constant(gates + gate * l_.hidden);
    const int before = rows_.preceding(t);
    const bool there = before >= 0 && before < rows_.steps();
    from.c = load_constant(d_.cells + rows_.at(t, row) * l_.hidden + unit);
    from.c_prev = load_constant(d_.cells + rows_.at(there ? before : t, row) * l_.hidden + unit);
    return from;
  }

  // From the gates' gradients of one step, publication p - 1, to those of the step before. Returns
  // the strip whose results are kept, the warp's last, to be saved once the ranks have what they
  // wait for; -1 for none. More tiles of rows than one leave no registers for that.
  FAST_S2S_DEVICE int phase(int p) {
    int kept = -1;
    for_strips([&](int s, int row) {
      if (s > 0 || row > 0) prefetch(p, s, row);
      float sums[1][kRowTiles][4] = {};
      if (p > 0) {
        if (weights_.exists(s)) weights_.multiply(s, exchange_.state(p - 1, row), sums);
        depth_.add(sums);
      }
      // else those of the strip before would take registers until here
      for (int e = 0; e < 4; ++e) kept_[e] = {};
      if (share_.k_group > 0 || !weights_.exists(s)) return;
      const int strip = weights_.strip(s);
#pragma unroll
      for (int n = 0; n < kRowTiles; ++n) {
        if (n > 0) fetch(p, strip, row + 8 * n);
        finish(p, strip, row + 8 * n, sums[0][n]);
        if (kRowTiles > 1 && p < rows_.steps()) save_kept(p, strip, row + 8 * n);
      }
      if (p == rows_.steps()) return;
      strip_done(p, row, strip);
      if (kRowTiles > 1) return;
      if (s + 1 == share_.strips(l_) && row == last_row()) {
        kept = strip;
      } else {
        save_kept(p, strip, row);
      }
    });
    return kept;
  }

  FAST_S2S_DEVICE void finish(int p, int strip, int row, const float (&product)[4]) {
    Elements at(strip, row);
    for (int i = 0; i < 2; ++i)
      at.length[i] = at.row(i) < place_.rows ? rows_.length(at.row(i)) : 0;
    float dh[4];
    before(p, at, product, dh);
    if (p < rows_.steps()) pass_on(p, at, dh);
  }

  // The gradients of the states before the step whose product this is; in phase 0 those that the
  // sequence ends with.
  FAST_S2S_DEVICE void before(int p, const Elements& at, const float (&product)[4],
                              float (&dh)[4]) const {
    // a row that did not run keeps the gradient of its final, or in reverse initial, state
    const auto ran = [&](int e) { return p > 0 && time_of(p - 1) < at.length[e % 2]; };
    for_elements(at, [&](int e, int row, int output) {
      const bool resets = rows_.may_reset() && ahead_.reset_after[e % 2] != 0;
      dh[e] = resets ? 0.0f : product[e];
      if (inside(row, output) && !ran(e)) dh[e] = shared_load<float>(dh_at(row, output));
    });
    for_elements(at, [&](int e, int row, int output) {
      if (inside(row, output) && ran(e)) shared_store(dh_at(row, output), dh[e]);
    });
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

  // The gradients of outputs go to the gates of their units, or first through the projection.
  FAST_S2S_DEVICE void pass_on(int p, const Elements& at, float (&dh)[4]) {
    const int t = time_of(p);
    if (d_.grad_y != nullptr)
      for (int e = 0; e < 4; ++e) dh[e] += to_float(ahead_.grad_y[e]);
    if constexpr (kProjected) {
      for_elements(at, [&](int e, int row, int output) {
        const bool runs = t < at.length[e % 2] && output < l_.outputs;
        const Io d = runs ? from_float<Io>(dh[e]) : Io{};
        if (inside(row, output)) save_output(t, row, output, d);
        projection_.put(p, row, output, d);
      });
    } else {
      gates_of_step(p, at, dh);
    }
  }

  FAST_S2S_DEVICE void unproject(int p) {
    if constexpr (kProjected)
      projection_.multiply(
          p, [] {}, [&](int row, int unit, float dh) { gates_of_element(p, row, unit, dh); },
          [&](int row, int strip) { exchange_.strip_done(p, row, strip); });
  }

  // `dh`: the whole gradients of the units' h. All that is read comes before what is written, which
  // the compiler may not move it across.
  FAST_S2S_DEVICE void gates_of_step(int p, const Elements& at, const float (&dh)[4]) {
    const int t = time_of(p);
    const auto runs = [&](int e) { return t < at.length[e % 2] && at.unit(e) < l_.hidden; };
    float dc[4];
    for_elements(at, [&](int e, int row, int unit) {
      dc[e] = runs(e) ? shared_load<float>(dc_at(row, unit)) : 0.0f;
    });
    for (int e = 0; e < 4; ++e) {
      const bool resets = rows_.may_reset() && ahead_.reset[e % 2] != 0;
      kept_[e] = gradients(ahead_.element[e], resets, dh[e], dc[e]);
      if (!runs(e)) kept_[e] = {};
    }
    for_elements(at, [&](int e, int row, int unit) {
      if (runs(e)) shared_store(dc_at(row, unit), dc[e]);
      exchange_.put(p, row, unit * static_cast<int>(sizeof(kept_[e])), kept_[e]);
    });
  }

  // Behind a projection all gradients of gates are saved where they are computed.
  FAST_S2S_DEVICE void save_kept(int p, int strip, int row) const {
    if (kProjected || strip < 0) return;
    for_elements(Elements(strip, row), [&](int e, int r, int unit) {
      if (inside(r, unit)) save(time_of(p), r, unit, kept_[e]);
    });
  }

  // The same of one element, behind a projection.
  FAST_S2S_DEVICE void gates_of_element(int p, int row, int unit, float dh) {
    const int t = time_of(p);
    const bool there = row < place_.rows && unit < l_.hidden;
    FourGates<Io> d = {};
    if (there && rows_.runs(t, row)) {
      float dc = shared_load<float>(dc_at(row, unit));
      SavedElement<Io> from = saved(t, row, unit);
      if (t == rows_.first(row)) from.c_prev = read(d_.c0, row, unit);
      d = gradients(from, rows_.resets(t, row), dh, dc);
      shared_store(dc_at(row, unit), dc);
    }
    if (there) save(t, row, unit, d);
    exchange_.put(p, row, unit * static_cast<int>(sizeof(d)), d);
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
  SavedElements<Io> ahead_;
  FourGates<Io> kept_[4];
};

template <class Operand, Variant kVariant, int kRowTiles, bool kProjected>
FAST_S2S_KERNEL(kThreads)
lstm_backward_kernel(const FAST_S2S_GRID_CONSTANT BackwardArgs args) {
  BackwardKernel<Operand, kVariant, kRowTiles, kProjected>(args).run();
}

}  // namespace fast_s2s
