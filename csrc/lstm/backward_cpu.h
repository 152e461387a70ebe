// The backward CPU kernel. Included once per instruction set.
//
// One parallel region per sequence. Threads own panels of units, of outputs and of hidden units
// alike, so a step needs one barrier (two with a projection): between the gradients of the gates
// and their product with W_hh. Of a layer of a single panel they own halves of the rows instead.
// Gradients of weights and of x are products of what this writes.

namespace fast_s2s {
namespace FAST_S2S_ISA {

template <class Io>
class Backward {
  typedef typename Accumulate<Io>::Type A;
  typedef typename Simd<A>::Vec V;
  static constexpr int kWidth = Simd<A>::kWidth;
  // the product with W_hh reads the gradients of the gates where they are returned, if they are A
  static constexpr bool kDirect = std::is_same_v<Io, A>;

 public:
  Backward(const LstmBackwardArgs& args, int threads)
      : args_(args),
        s_(args.shape),
        rows_(args.shape),
        projected_(args.weights.w_hr != nullptr),
        recomputes_(args.gates == nullptr),
        multiplies_(args.d_h0 != nullptr),
        halves_(halves(s_)),
        unit_panels_(ceil_div(s_.hidden, panel_columns<A>())),
        output_panels_(ceil_div(s_.output, panel_columns<A>())),
        chunk_(chunk_steps(s_)),
        threads_(team(s_, threads)),
        gate_w_ih_(args.weights.w_ih, s_.hidden, s_.input, recomputes_),
        gate_w_hh_(args.weights.w_hh, s_.hidden, s_.output, recomputes_),
        w_hh_(multiplies_ ? output_panels_ * 4 * s_.hidden * panel_columns<A>() : 0),
        w_hr_(projected_ ? unit_panels_ * s_.output * panel_columns<A>() : 0),
        gates_(recomputes_ ? chunk_ * s_.batch * 4 * s_.hidden : 0),
        d_gates_(kDirect ? 0 : 2 * s_.batch * 4 * s_.hidden),
        d_bias_(halves_ * 4 * s_.hidden),
        d_h_(s_.batch * s_.output),
        d_c_(s_.batch * s_.hidden),
        zeros_(recomputes_ ? s_.output : 0) {}

  // How many of `threads` a call is worth.
  static int team(const LstmShape& shape, int threads) {
    return team_size(shape, threads, halves(shape) * ceil_div(shape.hidden, panel_columns<A>()));
  }
  int threads() const { return threads_; }

  void run_thread(int thread, int threads) {
    const Share outputs(output_panels_ * halves_, thread, threads);
    const Share units(unit_panels_ * halves_, thread, threads);
    prepare(thread, threads);
    ChunkRows<Io> x(s_.input), h_prev(s_.output);
    barrier_.wait(threads);
    for (int64_t step = 0; step < s_.steps; ++step) {
      const int64_t t = time(step);
      if (recomputes_ && step % chunk_ == 0) {
        recompute(step, gate_panels(thread, threads), x, h_prev);
        if (halves_ > 1) barrier_.wait(threads);
      }
      for (int64_t item = outputs.begin; item < outputs.end; ++item) add_grad_y(t, item);
      if (projected_) barrier_.wait(threads);
      A* d_gates = d_gates_of(step, t);
      for (int64_t item = units.begin; item < units.end; ++item) step_units(step, t, item, d_gates);
      barrier_.wait(threads);
      if (!multiplies_) continue;
      for_panels(outputs, step, 1, [&](int64_t item, int64_t) { to_previous(t, item, d_gates); });
    }
    barrier_.wait(threads);
    const Share mine(s_.batch, thread, threads);
    for (int64_t j = mine.begin; j < mine.end; ++j) {
      const int64_t row = rows_.row(j);
      if (multiplies_)
        narrow(d_h_.get() + j * s_.output, s_.output,
               static_cast<Io*>(args_.d_h0) + row * s_.output);
      narrow(d_c_.get() + j * s_.hidden, s_.hidden, static_cast<Io*>(args_.d_c0) + row * s_.hidden);
    }
    if (thread > 0) return;
    A* d_bias = d_bias_.get();
    for (int64_t k = 4 * s_.hidden; k < halves_ * 4 * s_.hidden; ++k)
      d_bias[k - 4 * s_.hidden] += d_bias[k];
    narrow(d_bias, 4 * s_.hidden, static_cast<Io*>(args_.d_bias));
  }

 private:
  // 2 where the units of a layer make a single panel and the rows are many: a matter of the sizes
  // alone, not of the threads, since each half has sums of its own for the biases.
  static int64_t halves(const LstmShape& shape) {
    return shape.hidden <= panel_columns<A>() && shape.batch >= 4 * kTileRows ? 2 : 1;
  }

  // What a thread does at a time: a panel, of all rows or of half of them.
  struct Item {
    int64_t panel, half, first, count;  // `count` rows run, from `first` on
  };
  Item item_at(int64_t t, int64_t item) const {
    const int64_t half = item % halves_, running = rows_.running(t);
    const int64_t first = std::min(running, s_.batch * half / halves_);
    return {item / halves_, half, first,
            std::min(running, s_.batch * (half + 1) / halves_) - first};
  }

  int64_t time(int64_t step) const { return s_.reverse ? step : s_.steps - 1 - step; }

  // Where the step's gradients of the gates are for the product with W_hh: two halves in turn, so
  // that a thread still reading one is not overtaken.
  A* d_gates_of(int64_t step, int64_t t) const {
    if constexpr (kDirect) {
      return static_cast<A*>(args_.d_gates) + rows_.offset(t) * 4 * s_.hidden;
    } else {
      return d_gates_.get() + (step % 2) * s_.batch * 4 * s_.hidden;
    }
  }

  void prepare(int thread, int threads) {
    const Share outputs(output_panels_, thread, threads), units(unit_panels_, thread, threads);
    for (int64_t panel = outputs.begin; multiplies_ && panel < outputs.end; ++panel)
      pack_columns(static_cast<const Io*>(args_.weights.w_hh), 4 * s_.hidden, s_.output,
                   panel * panel_columns<A>(), packed_w_hh(panel));
    if (projected_) {
      for (int64_t panel = units.begin; panel < units.end; ++panel)
        pack_columns(static_cast<const Io*>(args_.weights.w_hr), s_.output, s_.hidden,
                     panel * panel_columns<A>(), packed_w_hr(panel));
    }
    if (recomputes_) {
      const Share gates = gate_panels(thread, threads);
      for (int64_t panel = gates.begin; panel < gates.end; ++panel) {
        gate_w_ih_.pack(panel);
        gate_w_hh_.pack(panel);
      }
      if (thread == 0) std::fill(zeros_.get(), zeros_.get() + s_.output, Io{});
    }
    const Share mine(s_.batch, thread, threads), biases(4 * s_.hidden, thread, threads);
    for (int64_t j = mine.begin; j < mine.end; ++j) {
      widen_row(args_.grad_h_n, rows_.row(j), s_.output, d_h_.get() + j * s_.output);
      widen_row(args_.grad_c_n, rows_.row(j), s_.hidden, d_c_.get() + j * s_.hidden);
    }
    for (int64_t half = 0; half < halves_; ++half)
      std::fill(d_bias_.get() + half * 4 * s_.hidden + biases.begin,
                d_bias_.get() + half * 4 * s_.hidden + biases.end, A{});
  }

  static void widen_row(const void* source, int64_t row, int64_t size, A* out) {
    const Io* in = static_cast<const Io*>(source) + row * size;
    for (int64_t k = 0; k < size; ++k) out[k] = source == nullptr ? A{} : widen(in[k]);
  }

  static void narrow(const A* in, int64_t size, Io* out) {
    for (int64_t k = 0; k < size; k += kWidth) {
      const int count = lanes(size, k, kWidth);
      store(out + k, load<V>(in + k, count), count);
    }
  }

  // The panels of W units whose gates a thread computes again: those inside its panels of 4W units,
  // which it then needs alone; or an equal share.
  Share gate_panels(int thread, int threads) const {
    const int64_t all = ceil_div(s_.hidden, kWidth);
    if (halves_ > 1) return Share(all, thread, threads);
    Share share(unit_panels_, thread, threads);
    share.begin = std::min(share.begin * kPanelVectors, all);
    share.end = std::min(share.end * kPanelVectors, all);
    return share;
  }

  // The activated gates of these panels, for the chunk of steps that begins at `step`: every h is
  // known by now, so this is one product of many rows.
  void recompute(int64_t step, const Share& panels, ChunkRows<Io>& x, ChunkRows<Io>& h_prev) {
    x.clear();
    h_prev.clear();
    for (int64_t s = step; s < std::min(step + chunk_, s_.steps); ++s)
      for (int64_t t = time(s), j = 0; j < rows_.running(t); ++j) {
        x.add(static_cast<const Io*>(args_.x) + rows_.padded(t, j) * s_.input);
        h_prev.add(previous_hidden(t, j));
      }
    x.widen_all();
    h_prev.widen_all();
    for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
      const int64_t unit = panel * kWidth;
      const int count = lanes(s_.hidden, unit, kWidth);
      V bias[kPanelVectors];
      load_bias<Io>(args_.weights, s_.hidden, unit, count, bias);
      for_row_tiles(x.size(), [&](auto tile, int64_t r0) {
        V sums[tile.value][kPanelVectors];
        for (int r = 0; r < tile.value; ++r)
          for (int gate = 0; gate < 4; ++gate) sums[r][gate] = bias[gate];
        gate_w_ih_.multiply(row_tile<tile.value>(x.pointers() + r0), panel, sums);
        gate_w_hh_.multiply(row_tile<tile.value>(h_prev.pointers() + r0), panel, sums);
        for (int r = 0; r < tile.value; ++r) {
          const Gates<V> gates =
              activate<Math>(Gates<V>{sums[r][0], sums[r][1], sums[r][2], sums[r][3]});
          A* out = gates_.get() + (r0 + r) * 4 * s_.hidden + unit;
          store(out, gates.i, count);
          store(out + s_.hidden, gates.f, count);
          store(out + 2 * s_.hidden, gates.g, count);
          store(out + 3 * s_.hidden, gates.o, count);
        }
      });
    }
  }

  const Io* previous_hidden(int64_t t, int64_t j) const {
    if (rows_.resets(t, j)) return zeros_.get();
    if (t == rows_.first(j)) return static_cast<const Io*>(args_.h0) + rows_.row(j) * s_.output;
    return static_cast<const Io*>(args_.y) + rows_.padded(rows_.preceding(t), j) * args_.y_stride;
  }

  // d_h += what this step's output receives; with a projection it is an output itself.
  void add_grad_y(int64_t t, int64_t item) {
    const Item mine = item_at(t, item);
    const int64_t panel = mine.panel;
    const Io* grad_y = static_cast<const Io*>(args_.grad_y);
    Io* d_h_out = static_cast<Io*>(args_.d_h);
    const int64_t end = std::min((panel + 1) * panel_columns<A>(), s_.output);
    for (int64_t j = mine.first; j < mine.first + mine.count; ++j)
      for (int64_t k = panel * panel_columns<A>(); k < end; k += kWidth) {
        const int count = lanes(end, k, kWidth);
        A* d_h = d_h_.get() + j * s_.output + k;
        V sum = load<V>(d_h, count);
        if (grad_y != nullptr)
          sum += load<V>(grad_y + rows_.padded(t, j) * args_.y_stride + k, count);
        store(d_h, sum, count);
        if (projected_) store(d_h_out + (rows_.offset(t) + j) * s_.output + k, sum, count);
      }
  }

  void step_units(int64_t step, int64_t t, int64_t item, A* d_gates) {
    const int64_t in_chunk = chunk_row(step);
    const Item mine = item_at(t, item);
    const int64_t panel = mine.panel;
    for_row_tiles(mine.count, [&](auto tile, int64_t r0) {
      const int64_t j0 = mine.first + r0;
      V sums[tile.value][kPanelVectors] = {};
      if (projected_)
        multiply_rows(row_tile<tile.value>(d_h_.get() + j0 * s_.output, s_.output),
                      packed_w_hr(panel), s_.output, sums);
      for (int v = 0; v < kPanelVectors; ++v) {
        const int64_t unit = panel * panel_columns<A>() + v * kWidth;
        if (unit >= s_.hidden) break;
        const int count = lanes(s_.hidden, unit, kWidth);
        Gates<V> total{};
        for (int r = 0; r < tile.value; ++r) {
          const int64_t j = j0 + r;
          const V dh = projected_ ? sums[r][v] : load<V>(d_h_.get() + j * s_.output + unit, count);
          const Gates<V> gates = load_gates(t, j, in_chunk + j, unit, count);
          const Gates<V> d = step_unit(t, j, unit, count, gates, dh, d_gates + j * 4 * s_.hidden);
          total = {total.i + d.i, total.f + d.f, total.g + d.g, total.o + d.o};
        }
        add_bias(mine.half, unit, count, total);
      }
    });
  }

  // Where the rows of a step begin in its chunk.
  int64_t chunk_row(int64_t step) const {
    const int64_t first = time(step - step % chunk_), t = time(step);
    return s_.reverse ? rows_.offset(t) - rows_.offset(first)
                      : rows_.offset(first + 1) - rows_.offset(t + 1);
  }

  FAST_S2S_INLINE Gates<V> load_gates(int64_t t, int64_t j, int64_t chunk_row, int64_t unit,
                                      int count) const {
    const auto load_from = [&](const auto* at) __attribute__((always_inline)) {
      return Gates<V>{load<V>(at, count), load<V>(at + s_.hidden, count),
                      load<V>(at + 2 * s_.hidden, count), load<V>(at + 3 * s_.hidden, count)};
    };
    if (recomputes_) return load_from(gates_.get() + chunk_row * 4 * s_.hidden + unit);
    return load_from(static_cast<const Io*>(args_.gates) + rows_.padded(t, j) * 4 * s_.hidden +
                     unit);
  }

  FAST_S2S_INLINE Gates<V> step_unit(int64_t t, int64_t j, int64_t unit, int count,
                                     const Gates<V>& gates, V dh, A* d_gates) {
    const int64_t packed_row = rows_.offset(t) + j;
    const V c =
        load<V>(static_cast<const A*>(args_.cells) + rows_.padded(t, j) * s_.hidden + unit, count);
    if (projected_)
      store(static_cast<Io*>(args_.unprojected) + packed_row * s_.hidden + unit,
            next_hidden<Math>(gates, c), count);
    A* d_c_state = d_c_.get() + j * s_.hidden + unit;
    V d_c = load<V>(d_c_state, count);
    const Gates<V> d = step_backward<Math>(gates, c, previous_cell(t, j, unit, count), dh, d_c);
    store(d_c_state, rows_.resets(t, j) ? V{} : d_c, count);
    Io* out = static_cast<Io*>(args_.d_gates) + packed_row * 4 * s_.hidden + unit;
    const V parts[4] = {d.i, d.f, d.g, d.o};
    for (int gate = 0; gate < 4; ++gate) {
      store(out + gate * s_.hidden, parts[gate], count);
      if constexpr (!kDirect) store(d_gates + gate * s_.hidden + unit, parts[gate], count);
    }
    return d;
  }

  FAST_S2S_INLINE void add_bias(int64_t half, int64_t unit, int count, const Gates<V>& d) {
    const V parts[4] = {d.i, d.f, d.g, d.o};
    for (int gate = 0; gate < 4; ++gate) {
      A* sum = d_bias_.get() + (4 * half + gate) * s_.hidden + unit;
      store(sum, load<V>(sum, count) + parts[gate], count);
    }
  }

  FAST_S2S_INLINE V previous_cell(int64_t t, int64_t j, int64_t unit, int count) const {
    if (rows_.resets(t, j)) return V{};
    if (t == rows_.first(j))
      return load<V>(static_cast<const Io*>(args_.c0) + rows_.row(j) * s_.hidden + unit, count);
    return load<V>(
        static_cast<const A*>(args_.cells) + rows_.padded(rows_.preceding(t), j) * s_.hidden + unit,
        count);
  }

  // d_h of the step before: d_gates · W_hh
  void to_previous(int64_t t, int64_t item, const A* d_gates) {
    const Item mine = item_at(t, item);
    const int64_t panel = mine.panel;
    for_row_tiles(mine.count, [&](auto tile, int64_t r0) {
      const int64_t j0 = mine.first + r0;
      V sums[tile.value][kPanelVectors] = {};
      multiply_rows(row_tile<tile.value>(d_gates + j0 * 4 * s_.hidden, 4 * s_.hidden),
                    packed_w_hh(panel), 4 * s_.hidden, sums);
      for (int r = 0; r < tile.value; ++r)
        for (int v = 0; v < kPanelVectors; ++v) {
          const int64_t k = panel * panel_columns<A>() + v * kWidth;
          if (k >= s_.output) break;
          store(d_h_.get() + (j0 + r) * s_.output + k, rows_.resets(t, j0 + r) ? V{} : sums[r][v],
                lanes(s_.output, k, kWidth));
        }
    });
  }

  Io* packed_w_hh(int64_t panel) const {
    return w_hh_.get() + panel * 4 * s_.hidden * panel_columns<A>();
  }
  Io* packed_w_hr(int64_t panel) const {
    return w_hr_.get() + panel * s_.output * panel_columns<A>();
  }

  const LstmBackwardArgs& args_;
  const LstmShape& s_;
  const Rows rows_;
  const bool projected_, recomputes_, multiplies_;
  const int64_t halves_, unit_panels_, output_panels_, chunk_;
  const int threads_;
  Barrier barrier_;
  GateWeights<Io> gate_w_ih_, gate_w_hh_;
  Scratch<Io> w_hh_, w_hr_;  // packed
  Scratch<A> gates_;         // [row of the chunk, 4H]
  Scratch<A> d_gates_;       // [2][B, 4H]
  Scratch<A> d_bias_;        // [halves, 4H]
  Scratch<A> d_h_;           // [B, R]
  Scratch<A> d_c_;           // [B, H]
  Scratch<Io> zeros_;        // [R]
};

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
