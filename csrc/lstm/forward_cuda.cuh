// The forward kernel: a strip is 8 units, whose gates i, f and g, o make two tiles of W of 16 rows,
// so that a thread ends up with all four gates of unit lane / 4 for rows 2·(lane % 4) and the next.
// With a projection what the gates give is exchanged, multiplied by W_hr and exchanged once more.
#pragma once

#include <type_traits>

#include "elements_cuda.cuh"
#include "projection_cuda.cuh"

namespace fast_s2s {

template <class Operand, Variant kVariant, int kRowTiles, bool kProjected>
class ForwardKernel {
  typedef typename Operand::Io Io;
  static constexpr int kStripUnits = 8;
  static constexpr int kHeld =
      (kProjected ? projected_registers(kRowTiles, false) : weight_registers(kVariant, kRowTiles)) /
      8;
  static constexpr int kStripBytes = kStripUnits * sizeof(Io);
  // of the strips that make the state: with a projection the second product's
  static constexpr int kStateBytes = kProjected ? 16 * sizeof(Io) : kStripBytes;

 public:
  FAST_S2S_DEVICE explicit ForwardKernel(const ForwardArgs& args)
      : args_(args),
        l_(args.layout),
        place_(args),
        d_(args.directions[place_.direction]),
        rows_(l_, d_.shape, place_.row0, place_.rows),
        share_(l_),
        weights_(l_, share_, d_.w_hh, place_.rank * l_.strips_per_block),
        exchange_(args, kProjected ? args.projection : l_, place_),
        depth_(l_, share_),
        projection_(args, place_) {}

  FAST_S2S_DEVICE void run() {
    rows_.load();
    const bool begins = args_.first_phase == 0;
    const int64_t last = args_.first_phase + args_.phases - 1;
    load_bias();
    weights_.load();
    if constexpr (kProjected) projection_.load();
    exchange_.clear_padding();
    sync_threads();
    if (begins) {
      for_each([&](int row, int unit) { begin(row, unit); });
      for_each_output([&](int row, int output) { begin_output(row, output); });
      zero_past_the_tile();
    } else {
      carry(false);
    }
    // without a step nobody would wait for what peers are given, and they may have ended
    if (begins && rows_.steps() > 0) {
      publish_initial();
      exchange_.arrive();
      prefetch(0, 0, 0);
      exchange_.wait(0);
    } else if (!begins && args_.first_phase <= rows_.steps()) {
      prefetch(static_cast<int>(args_.first_phase) - 1, 0, 0);
    }
    // phase 0 publishes the initial state, phase s + 1 makes step s
    for (int s = begins ? 0 : static_cast<int>(args_.first_phase) - 1;
         s < rows_.steps() && s + 1 <= last; ++s) {
      const int kept = step(s);
      const bool goes_on = s + 1 < rows_.steps() && s + 2 <= last;
      if (goes_on) exchange_.arrive();
      if constexpr (!kProjected) save_kept(s, kept, last_row());
      if (!goes_on) continue;
      prefetch(s + 1, 0, 0);
      exchange_.wait(s + 1);
    }
    if (args_.carried != nullptr) carry(true);
  }

 private:
  // f(row, unit) of the tile's rows and this block's units, spread over the threads
  template <class F>
  FAST_S2S_DEVICE void for_each(const F& f) const {
    const int units = l_.strips_per_block * kStripUnits;
    for (int i = thread_rank(); i < place_.rows * units; i += block_threads()) {
      const int unit = first_unit() + i % units;
      if (unit < l_.hidden) f(i / units, unit);
    }
  }

  // the same of the outputs that this block computes
  template <class F>
  FAST_S2S_DEVICE void for_each_output(const F& f) const {
    if constexpr (kProjected) {
      const int outputs = args_.projection.strips_per_block * 16;
      for (int i = thread_rank(); i < place_.rows * outputs; i += block_threads()) {
        const int output = place_.rank * outputs + i % outputs;
        if (output < l_.outputs) f(i / outputs, output);
      }
    } else {
      for_each(f);
    }
  }

  FAST_S2S_DEVICE int last_row() const { return l_.rows - 8 * kRowTiles; }
  FAST_S2S_DEVICE int first_unit() const { return place_.rank * l_.strips_per_block * kStripUnits; }
  FAST_S2S_DEVICE uint32_t cell_at(int row, int unit) const {
    return l_.state + ((unit - first_unit()) * l_.rows + row) * 4;
  }
  FAST_S2S_DEVICE uint32_t bias_at(int gate, int unit) const {
    return l_.bias + (gate * l_.strips_per_block * kStripUnits + unit - first_unit()) * 4;
  }
  FAST_S2S_DEVICE int64_t cell_state_at(int row, int unit) const {
    return (place_.row0 + row) * l_.hidden + unit;
  }
  FAST_S2S_DEVICE int64_t state_at(int row, int output) const {
    return (place_.row0 + row) * l_.outputs + output;
  }
  template <class T>
  FAST_S2S_DEVICE static float read(const T* from, int64_t at) {
    return to_float(load_constant(from + at));
  }
  FAST_S2S_DEVICE const Io* io(const void* data) const { return static_cast<const Io*>(data); }
  FAST_S2S_DEVICE Io* io(void* data) const { return static_cast<Io*>(data); }

  FAST_S2S_DEVICE void load_bias() const {
    const int units = l_.strips_per_block * kStripUnits;
    for (int i = thread_rank(); i < 4 * units; i += block_threads()) {
      const int gate = i / units, unit = first_unit() + i % units;
      float sum = 0;
      if (unit < l_.hidden) {
        const int64_t at = static_cast<int64_t>(gate) * l_.hidden + unit;
        if (d_.b_ih != nullptr) sum += read(io(d_.b_ih), at);
        if (d_.b_hh != nullptr) sum += read(io(d_.b_hh), at);
      }
      shared_store(bias_at(gate, unit), sum);
    }
  }

  FAST_S2S_DEVICE void begin(int row, int unit) const {
    const float c = read(io(d_.c0), cell_state_at(row, unit));
    shared_store(cell_at(row, unit), c);
    if (rows_.length(row) == 0) store(io(d_.c_n) + cell_state_at(row, unit), from_float<Io>(c));
  }

  FAST_S2S_DEVICE void begin_output(int row, int output) const {
    if (rows_.length(row) > 0) return;
    store(io(d_.h_n) + state_at(row, output), load_constant(io(d_.h0) + state_at(row, output)));
  }

  // Steps that no row of the tile reaches.
  FAST_S2S_DEVICE void zero_past_the_tile() const {
    for (int t = rows_.steps(); t < d_.shape.steps; ++t) {
      for_each([&](int row, int unit) { save(t, row, unit, Made<Io>{}); });
      for_each_output([&](int row, int output) { save_output(t, row, output, Io{}); });
    }
  }

  FAST_S2S_DEVICE void save_output(int t, int row, int output, Io h) const {
    const int64_t stride = static_cast<int64_t>(l_.directions) * l_.outputs;
    store(io(d_.y) + rows_.at(t, row) * stride + output, h);
  }

  FAST_S2S_DEVICE void save(int t, int row, int unit, const Made<Io>& made) const {
    const int64_t at = rows_.at(t, row);
    if (d_.cells != nullptr) store(d_.cells + at * l_.hidden + unit, made.c);
    if (d_.gates == nullptr) return;
    Io* out = io(d_.gates) + at * 4 * l_.hidden + unit;
    for (int gate = 0; gate < 4; ++gate) store(out + gate * l_.hidden, made.gates[gate]);
  }

  // Cells of a stepwise plan, from one launch to the next.
  FAST_S2S_DEVICE void carry(bool out) const {
    const int units = l_.strips * kStripUnits;
    const int64_t base = static_cast<int64_t>(place_.group) * l_.rows * units;
    sync_threads();
    for_each([&](int row, int unit) {
      float* at = args_.carried + base + static_cast<int64_t>(row) * units + unit;
      if (out) {
        store(at, shared_load<float>(cell_at(row, unit)));
      } else {
        shared_store(cell_at(row, unit), load(at));
      }
    });
    sync_threads();
  }

  FAST_S2S_DEVICE bool inside(int row, int unit) const {
    return row < place_.rows && unit < l_.hidden;
  }

  // f(strip, its index in the warp, first row) of all that this warp computes
  template <class F>
  FAST_S2S_DEVICE void for_strips(const F& f) const {
    for (int s = 0; s < share_.strips(l_); ++s)
      for (int row = 0; row < l_.rows; row += 8 * kRowTiles) f(s, row);
  }

  FAST_S2S_DEVICE void publish_initial() {
    if constexpr (kProjected) {
      projection_.for_each([&](int row, int output) { put_initial(row, output); },
                           [&](int row, int strip) { exchange_.strip_done(0, row, strip); });
    } else {
      for_strips([&](int s, int row) {
        if (share_.k_group > 0 || !weights_.exists(s)) return;
        for (int n = 0; n < kRowTiles; ++n) {
          const Pair at(weights_.strip(s), row + 8 * n);
          for (int e = 0; e < 2; ++e) put_initial(at.row(e), at.unit);
        }
        exchange_.strip_done(0, row, weights_.strip(s));
      });
    }
  }

  FAST_S2S_DEVICE void put_initial(int row, int output) {
    const bool there = row < place_.rows && output < l_.outputs && !forgets(0, row);
    put(0, row, output, there ? load_constant(io(d_.h0) + state_at(row, output)) : Io{});
  }

  FAST_S2S_DEVICE void put(int n, int row, int output, Io h) {
    exchange_.put(n, row, output * static_cast<int>(sizeof(Io)), h);
  }

  // Whether the row's state is zero before step s.
  FAST_S2S_DEVICE bool forgets(int s, int row) const {
    const int t = rows_.time(s);
    return rows_.runs(t, row) && rows_.resets(t, row);
  }

  // What the warp's strip takes in step s. That of its first is fetched while the ranks exchange
  // step s - 1.
  FAST_S2S_DEVICE void prefetch(int s, int strip, int row) {
    if (share_.k_group == 0 && weights_.exists(strip)) fetch(s, weights_.strip(strip), row);
  }

  // Loads alone, one after another: of a row or unit past the last the last one's, and masked where
  // they are used.
  FAST_S2S_DEVICE void fetch(int s, int strip, int row) {
    const Pair at(strip, row);
    const int t = rows_.time(s), unit = at.unit < l_.hidden ? at.unit : l_.hidden - 1;
    for (int e = 0; e < 2; ++e) {
      const Io* from =
          io(d_.gates_x) + rows_.at(t, rows_.nearest(at.row(e))) * 4 * l_.hidden + unit;
      for (int gate = 0; gate < 4; ++gate)
        ahead_.x[e][gate] = load_constant(from + gate * l_.hidden);
    }
    if (!rows_.may_reset()) return;
    for (int e = 0; e < 2; ++e) {
      const int r = rows_.nearest(at.row(e));
      ahead_.reset[e] = rows_.reset_byte(t, r);
      if (s + 1 < rows_.steps()) ahead_.reset_next[e] = rows_.reset_byte(rows_.time(s + 1), r);
    }
  }

  // Returns the strip whose results are kept, the warp's last, to be saved once the ranks have what
  // they wait for; -1 for none. More tiles of rows than one leave no registers for that.
  FAST_S2S_DEVICE int step(int s) {
    int kept = -1;
    for_strips([&](int i, int row) {
      if (i > 0 || row > 0) prefetch(s, i, row);
      float sums[2][kRowTiles][4] = {};
      if (weights_.exists(i)) weights_.multiply(i, exchange_.state(s, row), sums);
      depth_.add(sums);
      // else those of the strip before would take registers until here
      for (int e = 0; e < 2; ++e) kept_[e] = {};
      if (share_.k_group > 0 || !weights_.exists(i)) return;
      const int strip = weights_.strip(i);
#pragma unroll
      for (int n = 0; n < kRowTiles; ++n) {
        if (n > 0) fetch(s, strip, row + 8 * n);
        finish(s, Pair(strip, row + 8 * n), sums[0][n], sums[1][n]);
        if (kRowTiles > 1) save_kept(s, strip, row + 8 * n);
      }
      if constexpr (kProjected) {
        projection_.strip_done(s, row, strip);
      } else if (s + 1 < rows_.steps()) {
        exchange_.strip_done(s + 1, row, strip);
      }
      if (kRowTiles > 1) return;
      if (i + 1 == share_.strips(l_) && row == last_row()) {
        kept = strip;
      } else {
        save_kept(s, strip, row);
      }
    });
    if constexpr (kProjected) project(s, kept);
    return kept;
  }

  FAST_S2S_DEVICE void project(int s, int kept) {
    projection_.multiply(
        s, [&] { save_kept(s, kept, last_row()); },
        [&](int row, int output, float sum) {
          Io h = Io{};
          if (row < place_.rows && output < l_.outputs)
            h = finish_output(s, row, output, from_float<Io>(sum));
          if (s + 1 < rows_.steps()) put(s + 1, row, output, h);
        },
        [&](int row, int strip) {
          if (s + 1 < rows_.steps()) exchange_.strip_done(s + 1, row, strip);
        });
  }

  // One output of one row behind a projection: results, and the h that the next step sees.
  FAST_S2S_DEVICE Io finish_output(int s, int row, int output, Io h) const {
    const int t = rows_.time(s);
    const bool runs = rows_.runs(t, row);
    if (!runs) h = Io{};
    save_state(t, row, output, h, runs);
    if (s + 1 < rows_.steps() && forgets(s + 1, row)) return Io{};
    return runs ? h : resting(row, output);
  }

  // The h of a row that does not run: in reverse one that has not begun yet. One that has ended is
  // looked at by nobody.
  FAST_S2S_DEVICE Io resting(int row, int output) const {
    return d_.shape.reverse ? load_constant(io(d_.h0) + state_at(row, output)) : Io{};
  }

  FAST_S2S_DEVICE void save_state(int t, int row, int output, Io h, bool runs) const {
    save_output(t, row, output, h);
    if (runs && t == rows_.last(row)) store(io(d_.h_n) + state_at(row, output), h);
  }

  // Two elements: cell states and what the other ranks wait for. `i_f` and `g_o`: the products of
  // their gates. Both are computed before anything is stored, which the compiler moves no load
  // across.
  FAST_S2S_DEVICE void finish(int s, const Pair& at, const float (&i_f)[4], const float (&g_o)[4]) {
    const int t = rows_.time(s);
    bool runs[2], forgotten[2];
    for (int e = 0; e < 2; ++e) {
      const int length = at.row(e) < place_.rows ? rows_.length(at.row(e)) : 0;
      runs[e] = t < length && at.unit < l_.hidden;
      forgotten[e] = rows_.may_reset() && s + 1 < rows_.steps() && rows_.time(s + 1) < length &&
                     ahead_.reset_next[e] != 0;
    }
    for (int e = 0; e < 2; ++e)
      kept_[e] = make(at, e, runs[e], Gates<float>{i_f[e], i_f[2 + e], g_o[e], g_o[2 + e]});
    for (int e = 0; e < 2; ++e) {
      if (runs[e]) shared_store(cell_at(at.row(e), at.unit), kept_[e].c);
      pass_on(s, at.row(e), at.unit, kept_[e].h, runs[e], forgotten[e]);
    }
  }

  FAST_S2S_DEVICE Made<Io> make(const Pair& at, int e, bool runs, Gates<float> pre) const {
    const Io(&x)[4] = ahead_.x[e];
    pre.i += to_float(x[0]) + shared_load<float>(bias_at(0, at.unit));
    pre.f += to_float(x[1]) + shared_load<float>(bias_at(1, at.unit));
    pre.g += to_float(x[2]) + shared_load<float>(bias_at(2, at.unit));
    pre.o += to_float(x[3]) + shared_load<float>(bias_at(3, at.unit));
    const bool resets = rows_.may_reset() && ahead_.reset[e] != 0;
    const float c_prev = runs && !resets ? shared_load<float>(cell_at(at.row(e), at.unit)) : 0.0f;
    return runs ? made_of<Io>(pre, c_prev) : Made<Io>{};
  }

  // h to the projection, or to the next step.
  FAST_S2S_DEVICE void pass_on(int s, int row, int unit, Io h, bool runs, bool forgotten) {
    if constexpr (kProjected) {
      projection_.put(s, row, unit, h);
    } else if (s + 1 < rows_.steps()) {
      if (!runs && inside(row, unit)) h = resting(row, unit);
      put(s + 1, row, unit, forgotten ? Io{} : h);
    }
  }

  FAST_S2S_DEVICE void save_kept(int s, int strip, int row) const {
    if (strip < 0) return;
    const Pair at(strip, row);
    for (int e = 0; e < 2; ++e)
      if (inside(at.row(e), at.unit)) save_made(rows_.time(s), at.row(e), at.unit, kept_[e]);
  }

  FAST_S2S_DEVICE void save_made(int t, int row, int unit, const Made<Io>& made) const {
    const bool runs = rows_.runs(t, row);
    save(t, row, unit, made);
    if (runs && t == rows_.last(row))
      store(io(d_.c_n) + cell_state_at(row, unit), from_float<Io>(made.c));
    if constexpr (!kProjected) save_state(t, row, unit, made.h, runs);
  }

  const ForwardArgs& args_;
  const Layout& l_;
  const Place<ForwardDirection> place_;
  const ForwardDirection& d_;
  TileRows rows_;
  const WarpShare share_;
  WarpWeights<Operand, 2, kRowTiles, kHeld> weights_;
  Exchange<kVariant, kStateBytes, kRowTiles> exchange_;
  DepthSum<2, kRowTiles> depth_;
  std::conditional_t<kProjected, Projection<Operand, kVariant, kRowTiles, kStripBytes>,
                     NoProjection>
      projection_;
  PairInput<Io> ahead_;
  Made<Io> kept_[2];
};

template <class Operand, Variant kVariant, int kRowTiles, bool kProjected>
FAST_S2S_KERNEL(kThreads)
lstm_forward_kernel(const FAST_S2S_GRID_CONSTANT ForwardArgs args) {
  ForwardKernel<Operand, kVariant, kRowTiles, kProjected>(args).run();
}

}  // namespace fast_s2s
