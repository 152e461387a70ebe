// The forward CPU kernel of variants. Included once per instruction set.
//
// One parallel region per sequence. In a step threads first own panels of hidden units, for the
// products, and then rows, which layer norm needs whole: so a step has two barriers (three with a
// projection). The input's products are made for a chunk of steps at once.

namespace fast_s2s {
namespace FAST_S2S_ISA {

template <class Io>
class VariantForward {
  typedef typename Accumulate<Io>::Type A;
  typedef typename Operand<Io>::Type Value;
  typedef typename Simd<A>::Vec V;
  static constexpr int kWidth = Simd<A>::kWidth;

 public:
  VariantForward(const LstmVariantForwardArgs& args, int threads)
      : args_(args),
        s_(args.shape),
        rows_(s_),
        parameters_(s_, args.weights, args.variant),
        zoneout_h_(args.variant.kept_hidden, args.variant.zoneout_hidden),
        zoneout_c_(args.variant.kept_cell, args.variant.zoneout_cell),
        projected_(args.weights.w_hr != nullptr),
        packed_(s_.steps > kUnpackedSteps || s_.steps * s_.batch >= kPackedRows),
        unit_panels_(ceil_div(s_.hidden, kWidth)),
        chunk_(chunk_steps(s_, s_.batch)),
        threads_(team_size(s_, threads, unit_panels_)),
        // training changes the weights between calls
        keeps_packed_(args.cells == nullptr),
        w_ih_(args.weights.w_ih, s_.hidden, s_.input, packed_, keeps_packed_),
        w_hh_(args.weights.w_hh, s_.hidden, s_.output, packed_, keeps_packed_),
        w_hr_(args.weights.w_hr, s_, packed_, keeps_packed_),
        from_x_(chunk_ * s_.batch * 4 * s_.hidden),
        from_h_(s_.batch * 4 * s_.hidden),
        h_(s_.batch * s_.output),
        fed_(s_.batch * s_.output),
        c_(s_.batch * s_.hidden),
        new_c_(threads_ * s_.hidden),
        unprojected_(projected_ ? s_.batch * s_.hidden : 0) {}

  int threads() const { return threads_; }

  void run_thread(int thread, int threads) {
    const Share units(unit_panels_, thread, threads), outputs(w_hr_.count(), thread, threads);
    prepare(units, outputs, thread, threads);
    barrier_.wait(threads);
    ChunkRows<Io> x(s_.input);
    int64_t in_chunk = 0;  // rows of the chunk in the steps before this one
    for (int64_t step = 0; step < s_.steps; ++step) {
      const int64_t t = s_.reverse ? s_.steps - 1 - step : step, running = rows_.running(t);
      if (step % chunk_ == 0) {
        in_chunk = 0;
        multiply_inputs(step, units, x);
      }
      A* from_x = from_x_.get() + in_chunk * 4 * s_.hidden;
      for_panels(units, step, 1,
                 [&](int64_t panel, int64_t) { multiply_hidden(running, panel, from_x); });
      barrier_.wait(threads);
      const Share mine(running, thread, threads);
      for (int64_t j = mine.begin; j < mine.end; ++j)
        finish_row(t, j, from_x + j * 4 * s_.hidden, new_c_.get() + thread * s_.hidden);
      barrier_.wait(threads);
      if (projected_) {
        for (int64_t panel = outputs.begin; panel < outputs.end; ++panel)
          project(t, running, panel);
        barrier_.wait(threads);
      }
      in_chunk += running;
    }
  }

 private:
  // Packs the thread's weights and lays out the states.
  void prepare(const Share& units, const Share& outputs, int thread, int threads) {
    for (int64_t panel = units.begin; panel < units.end; ++panel) {
      w_ih_.pack(panel);
      w_hh_.pack(panel);
    }
    for (int64_t panel = outputs.begin; projected_ && panel < outputs.end; ++panel)
      w_hr_.pack(panel);
    const Share mine(s_.batch, thread, threads);
    for (int64_t j = mine.begin; j < mine.end; ++j) begin_row(j);
    zero_finished<Io>(args_.y, rows_, s_, s_.output, thread, threads, args_.y_stride);
    zero_finished<Io>(args_.gates, rows_, s_, products_size(s_.hidden, parameters_.normed()),
                      thread, threads);
    zero_finished<A>(args_.cells, rows_, s_, s_.hidden, thread, threads);
  }

  void begin_row(int64_t j) {
    const int64_t row = rows_.row(j);
    const Io* h0 = static_cast<const Io*>(args_.h0) + row * s_.output;
    const Io* c0 = static_cast<const Io*>(args_.c0) + row * s_.hidden;
    if (rows_.length(j) == 0) {
      std::copy(h0, h0 + s_.output, static_cast<Io*>(args_.h_n) + row * s_.output);
      std::copy(c0, c0 + s_.hidden, static_cast<Io*>(args_.c_n) + row * s_.hidden);
      return;
    }
    const bool zero = rows_.resets(rows_.first(j), j);
    for (int64_t k = 0; k < s_.output; k += kWidth) {
      const int count = lanes(s_.output, k, kWidth);
      set_hidden(j, k, count, zero ? V{} : load<V>(h0 + k, count));
    }
    for (int64_t k = 0; k < s_.hidden; ++k) c_.get()[j * s_.hidden + k] = zero ? A{} : widen(c0[k]);
  }

  // The h that the next step begins with.
  FAST_S2S_INLINE void set_hidden(int64_t j, int64_t unit, int count, V h) {
    store(h_.get() + j * s_.output + unit, h, count);
    store(fed_.get() + j * s_.output + unit,
          round_to<Io>(parameters_.masked(h, rows_.row(j), unit, count)), count);
  }

  // W_ih·x of the thread's units, for the chunk of steps that begins at `step`.
  void multiply_inputs(int64_t step, const Share& units, ChunkRows<Io>& x) {
    x.clear();
    for (int64_t s = step; s < std::min(step + chunk_, s_.steps); ++s) {
      const int64_t t = s_.reverse ? s_.steps - 1 - s : s;
      for (int64_t j = 0; j < rows_.running(t); ++j)
        x.add(static_cast<const Io*>(args_.x) + rows_.padded(t, j) * s_.input);
    }
    x.widen_all();
    for (int64_t panel = units.begin; panel < units.end; ++panel) {
      const int64_t unit = panel * kWidth;
      const int count = lanes(s_.hidden, unit, kWidth);
      const Gates<V> bias = parameters_.normed()
                                ? Gates<V>{}
                                : load_gate_vectors<V>(parameters_.bias() + unit, s_.hidden, count);
      for_row_tiles(x.size(), [&](auto tile, int64_t r0) {
        V sums[tile.value][kPanelVectors];
        for (int r = 0; r < tile.value; ++r)
          sums[r][0] = bias.i, sums[r][1] = bias.f, sums[r][2] = bias.g, sums[r][3] = bias.o;
        w_ih_.multiply(row_tile<tile.value>(x.pointers() + r0), panel, sums);
        store_gates(sums, from_x_.get() + r0 * 4 * s_.hidden, 4 * s_.hidden, s_.hidden, unit,
                    count);
      });
    }
  }

  // W_hh·h of a panel, added to what is from the input unless each has a layer norm of its own.
  void multiply_hidden(int64_t running, int64_t panel, const A* from_x) {
    const int64_t unit = panel * kWidth, width = 4 * s_.hidden;
    const int count = lanes(s_.hidden, unit, kWidth);
    for_row_tiles(running, [&](auto tile, int64_t r0) {
      V sums[tile.value][kPanelVectors] = {};
      if (!parameters_.normed())
        for (int r = 0; r < tile.value; ++r)
          for (int gate = 0; gate < 4; ++gate)
            sums[r][gate] = load<V>(from_x + (r0 + r) * width + gate * s_.hidden + unit, count);
      w_hh_.multiply(row_tile<tile.value>(fed_.get() + r0 * s_.output, s_.output), panel, sums);
      store_gates(sums, from_h_.get() + r0 * width, width, s_.hidden, unit, count);
    });
  }

  // Gates and state of a row. `new_c`: [H], the thread's.
  void finish_row(int64_t t, int64_t j, const A* from_x, A* new_c) {
    const int64_t row = rows_.padded(t, j);
    A* pre = from_h_.get() + j * 4 * s_.hidden;
    save_products(row, from_x, pre);
    if (parameters_.normed()) add_normed(from_x, pre);
    const A* c_before = c_.get() + j * s_.hidden;
    A* out_gate = pre + 3 * s_.hidden;
    for (int64_t unit = 0; unit < s_.hidden; unit += kWidth) {
      const int count = lanes(s_.hidden, unit, kWidth);
      const Gates<V> gates = activate<Math>(load_gate_vectors<V>(pre + unit, s_.hidden, count));
      store(new_c + unit, next_cell(gates, load<V>(c_before + unit, count)), count);
      store(out_gate + unit, gates.o, count);
    }
    const Moments<A> of_c = parameters_.normed() ? moments(new_c, s_.hidden) : Moments<A>{};
    for (int64_t unit = 0; unit < s_.hidden; unit += kWidth) {
      const int count = lanes(s_.hidden, unit, kWidth);
      const V c = load<V>(new_c + unit, count);
      V seen = c;
      if (parameters_.normed())
        seen = of_c.normed(c) * load<V>(parameters_.norm_c + unit, count) +
               load<V>(parameters_.norm_c_bias + unit, count);
      const V h = load<V>(out_gate + unit, count) * Math::tanh(seen);
      if (projected_) {
        store(unprojected_.get() + j * s_.hidden + unit, round_to<Io>(h), count);
      } else {
        emit(t, j, unit, count, h);
      }
      emit_cell(t, j, unit, count, c);
    }
  }

  void save_products(int64_t row, const A* from_x, const A* from_h) {
    if (args_.gates == nullptr) return;
    const int64_t width = 4 * s_.hidden;
    Io* out = static_cast<Io*>(args_.gates) + row * products_size(s_.hidden, parameters_.normed());
    for (int64_t k = 0; k < width; k += kWidth) {
      const int count = lanes(width, k, kWidth);
      if (parameters_.normed()) {
        store(out + k, load<V>(from_x + k, count), count);
        store(out + width + k, load<V>(from_h + k, count), count);
      } else {
        store(out + k, load<V>(from_h + k, count), count);
      }
    }
  }

  // The gates' pre-activations, over the products with h.
  void add_normed(const A* from_x, A* from_h) const {
    const int64_t width = 4 * s_.hidden;
    const Moments<A> of_x = moments(from_x, width), of_h = moments(from_h, width);
    for (int64_t k = 0; k < width; k += kWidth) {
      const int count = lanes(width, k, kWidth);
      const V x = of_x.normed(load<V>(from_x + k, count)) * load<V>(parameters_.norm_ih + k, count);
      const V h = of_h.normed(load<V>(from_h + k, count)) * load<V>(parameters_.norm_hh + k, count);
      store(from_h + k, load<V>(parameters_.bias() + k, count) + x + h, count);
    }
  }

  // c_t where it is wanted: for the backward pass, as the final state, for the next step.
  FAST_S2S_INLINE void emit_cell(int64_t t, int64_t j, int64_t unit, int count, V c) {
    const int64_t at = rows_.padded(t, j) * s_.hidden + unit;
    A* state = c_.get() + j * s_.hidden + unit;
    c = zoneout_c_.mix(load<V>(state, count), c, at, count);
    if (args_.cells != nullptr) store(static_cast<A*>(args_.cells) + at, c, count);
    if (t == rows_.last(j))
      store(static_cast<Io*>(args_.c_n) + rows_.row(j) * s_.hidden + unit, c, count);
    store(state, forgets_after(t, j) ? V{} : c, count);
  }

  // h_t likewise.
  FAST_S2S_INLINE void emit(int64_t t, int64_t j, int64_t unit, int count, V h) {
    const int64_t row = rows_.padded(t, j);
    const V before = load<V>(h_.get() + j * s_.output + unit, count);
    h = round_to<Io>(zoneout_h_.mix(before, round_to<Io>(h), row * s_.output + unit, count));
    store(static_cast<Io*>(args_.y) + row * args_.y_stride + unit, h, count);
    if (t == rows_.last(j))
      store(static_cast<Io*>(args_.h_n) + rows_.row(j) * s_.output + unit, h, count);
    set_hidden(j, unit, count, forgets_after(t, j) ? V{} : h);
  }

  // Whether the state after step t is forgotten before the next one.
  bool forgets_after(int64_t t, int64_t j) const {
    return s_.reset != nullptr && t != rows_.last(j) && rows_.resets(rows_.following(t), j);
  }

  void project(int64_t t, int64_t running, int64_t panel) {
    w_hr_.multiply(unprojected_.get(), running, panel,
                   [&](int64_t j, int64_t output, int count, V h)
                       __attribute__((always_inline)) { emit(t, j, output, count, h); });
  }

  const LstmVariantForwardArgs& args_;
  const LstmShape& s_;
  const Rows rows_;
  const VariantParameters<Io> parameters_;
  const Zoneout<A> zoneout_h_, zoneout_c_;
  const bool projected_, packed_;
  const int64_t unit_panels_, chunk_;
  const int threads_;
  Barrier barrier_;
  const bool keeps_packed_;
  GateWeights<Io> w_ih_, w_hh_;
  OutputWeights<Io> w_hr_;
  Scratch<A> from_x_;           // [row of the chunk, 4H]: W_ih·x
  Scratch<A> from_h_;           // [B, 4H]: W_hh·h, then the pre-activations
  Scratch<A> h_;                // [B, R]
  Scratch<Value> fed_;          // [B, R]: h as it meets W_hh
  Scratch<A> c_;                // [B, H]
  Scratch<A> new_c_;            // [thread, H]
  Scratch<Value> unprojected_;  // [B, H]
};

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
