// The backward CPU kernel. Included once per instruction set.
//
// One parallel region per sequence. Threads own panels of units, of outputs and of hidden units
// alike, so a step needs one barrier (two with a projection): between the gradients of the gates
// and their product with W_hh. Where weights are small, half of the threads take half of the rows,
// and wait only for each other: two threads not at all.
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
        chunk_(chunk_steps(s_, s_.batch)),
        threads_(team(s_, threads)),
        gate_w_ih_(args.weights.w_ih, s_.hidden, s_.input, recomputes_),
        gate_w_hh_(args.weights.w_hh, s_.hidden, s_.output, recomputes_),
        w_hh_(multiplies_ ? output_panels_ * 4 * s_.hidden * panel_columns<A>() : 0),
        w_hr_(projected_ ? unit_panels_ * s_.output * panel_columns<A>() : 0),
        gates_(recomputes_ ? chunk_ * halves_ * ceil_div(s_.batch, halves_) * 4 * s_.hidden : 0),
        d_gates_(kDirect ? 0 : 2 * s_.batch * 4 * s_.hidden),
        d_bias_(halves_ * 4 * s_.hidden),
        d_h_(s_.batch * s_.output),
        d_c_(s_.batch * s_.hidden),
        zeros_(recomputes_ ? s_.output : 0) {}

  // How many of `threads` a call is worth.
  static int team(const LstmShape& shape, int threads) {
    const int64_t panels = ceil_div(shape.hidden, panel_columns<A>()), halves_of = halves(shape);
    const int team = team_size(shape, threads, halves_of * panels);
    return team - team % static_cast<int>(std::min<int64_t>(team, halves_of));
  }
  int threads() const { return threads_; }

  void run_thread(int thread, int threads) {
    prepare(thread, threads);
    barrier_.wait(threads);
    for (int64_t half = thread % halves_; half < halves_; half += threads) {
      // those that take the same half: all of them, if OpenMP gave fewer than there are halves
      const int member = static_cast<int>(thread / halves_);
      const int members = std::max<int64_t>(1, ceil_div(threads - half, halves_));
      run_half({half, Share(output_panels_, member, members), Share(unit_panels_, member, members),
                members});
    }
    barrier_.wait(threads);
    const Share mine(s_.batch, thread, threads);
    for (int64_t j = mine.begin; j < mine.end; ++j) {
      const int64_t row = rows_.row(j);
      if (multiplies_)
        narrow_row(d_h_.get() + j * s_.output, s_.output,
                   static_cast<Io*>(args_.d_h0) + row * s_.output);
      narrow_row(d_c_.get() + j * s_.hidden, s_.hidden,
                 static_cast<Io*>(args_.d_c0) + row * s_.hidden);
    }
    if (thread > 0) return;
    A* d_bias = d_bias_.get();
    for (int64_t k = 4 * s_.hidden; k < halves_ * 4 * s_.hidden; ++k)
      d_bias[k - 4 * s_.hidden] += d_bias[k];
    narrow_row(d_bias, 4 * s_.hidden, static_cast<Io*>(args_.d_bias));
  }

 private:
  // 2 where each core has room for the weights and the rows are many: a matter of the sizes alone,
  // not of the threads, since each half has sums of its own for the biases.
  static int64_t halves(const LstmShape& shape) {
    const int64_t weights = 4 * shape.hidden * shape.output * sizeof(Io);
    return weights <= kNear && shape.batch >= 8 ? 2 : 1;
  }

  // A thread's share of the work: panels of one half of the rows.
  struct Work {
    int64_t half;
    Share outputs, units;
    int threads;  // that share the half
  };

  void run_half(const Work& work) {
    Barrier& barrier = barriers_[work.half];
    ChunkRows<Io> x(s_.input), h_prev(s_.output);
    int64_t in_chunk = 0;  // rows of the half in the steps of the chunk before this one
    for (int64_t step = 0; step < s_.steps; ++step) {
      const RowsOfHalf rows = rows_at(step, work.half);
      if (step % chunk_ == 0) {
        in_chunk = 0;
        if (recomputes_) recompute(step, work, x, h_prev);
      }
      for (int64_t panel = work.outputs.begin; panel < work.outputs.end; ++panel)
        add_grad_y(rows, panel);
      if (projected_) barrier.wait(work.threads);
      A* d_gates = d_gates_of(step, rows.t);
      for (int64_t panel = work.units.begin; panel < work.units.end; ++panel)
        step_units(rows, panel, recomputed(work.half, in_chunk), d_gates);
      in_chunk += rows.count;
      barrier.wait(work.threads);
      if (!multiplies_) continue;
      for_panels(work.outputs, step, 1,
                 [&](int64_t panel, int64_t) { to_previous(rows, panel, d_gates); });
    }
  }

  // The rows of a half that run at step t: every second one, so that long and short ones are in
  // both; or all.
  struct RowsOfHalf {
    int64_t t, half, halves, count;
    int64_t at(int64_t r) const { return half + r * halves; }
  };
  RowsOfHalf rows_at(int64_t step, int64_t half) const {
    const int64_t t = time(step);
    return {t, half, halves_, (rows_.running(t) - half + halves_ - 1) / halves_};
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
      const Share gates(ceil_div(s_.hidden, kWidth), thread, threads);
      for (int64_t panel = gates.begin; panel < gates.end; ++panel) {
        gate_w_ih_.pack(panel);
        gate_w_hh_.pack(panel);
      }
      if (thread == 0) std::fill(zeros_.get(), zeros_.get() + s_.output, Io{});
    }
    const Share mine(s_.batch, thread, threads), biases(4 * s_.hidden, thread, threads);
    for (int64_t j = mine.begin; j < mine.end; ++j) {
      widen_row<Io>(args_.grad_h_n, rows_.row(j), s_.output, d_h_.get() + j * s_.output);
      widen_row<Io>(args_.grad_c_n, rows_.row(j), s_.hidden, d_c_.get() + j * s_.hidden);
    }
    for (int64_t half = 0; half < halves_; ++half)
      std::fill(d_bias_.get() + half * 4 * s_.hidden + biases.begin,
                d_bias_.get() + half * 4 * s_.hidden + biases.end, A{});
  }

  // Where the gates are that were computed again for a half, from so many rows of the chunk on.
  A* recomputed(int64_t half, int64_t in_chunk) const {
    const int64_t rows_before = half * chunk_ * ceil_div(s_.batch, halves_);
    return gates_.get() + (rows_before + in_chunk) * 4 * s_.hidden;
  }

  // The activated gates of a thread's units, for the chunk of steps that begins at `step`: every h
  // is known by now, so this is one product of many rows.
  void recompute(int64_t step, const Work& work, ChunkRows<Io>& x, ChunkRows<Io>& h_prev) {
    x.clear();
    h_prev.clear();
    for (int64_t s = step; s < std::min(step + chunk_, s_.steps); ++s) {
      const RowsOfHalf rows = rows_at(s, work.half);
      for (int64_t r = 0; r < rows.count; ++r) {
        x.add(static_cast<const Io*>(args_.x) + rows_.padded(rows.t, rows.at(r)) * s_.input);
        h_prev.add(previous_hidden(rows.t, rows.at(r)));
      }
    }
    x.widen_all();
    h_prev.widen_all();
    // panels of W units in those of 4W
    const int64_t end = std::min(work.units.end * kPanelVectors, ceil_div(s_.hidden, kWidth));
    for (int64_t panel = work.units.begin * kPanelVectors; panel < end; ++panel) {
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
          store_gate_vectors(recomputed(work.half, r0 + r) + unit, s_.hidden, gates, count);
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
  void add_grad_y(const RowsOfHalf& rows, int64_t panel) {
    const Io* grad_y = static_cast<const Io*>(args_.grad_y);
    Io* d_h_out = static_cast<Io*>(args_.d_h);
    const int64_t end = std::min((panel + 1) * panel_columns<A>(), s_.output);
    for (int64_t r = 0; r < rows.count; ++r)
      for (int64_t j = rows.at(r), k = panel * panel_columns<A>(); k < end; k += kWidth) {
        const int count = lanes(end, k, kWidth);
        A* d_h = d_h_.get() + j * s_.output + k;
        V sum = load<V>(d_h, count);
        if (grad_y != nullptr)
          sum += load<V>(grad_y + rows_.padded(rows.t, j) * args_.y_stride + k, count);
        store(d_h, sum, count);
        if (projected_) store(d_h_out + (rows_.offset(rows.t) + j) * s_.output + k, sum, count);
      }
  }

  // `recomputed`: the gates of the step's rows, unless they have been saved.
  void step_units(const RowsOfHalf& rows, int64_t panel, const A* recomputed, A* d_gates) {
    for_row_tiles(rows.count, [&](auto tile, int64_t r0) {
      V sums[tile.value][kPanelVectors] = {};
      if (projected_)
        multiply_rows(
            row_tile<tile.value>(d_h_.get() + rows.at(r0) * s_.output, rows.halves * s_.output),
            packed_w_hr(panel), s_.output, sums);
      for (int v = 0; v < kPanelVectors; ++v) {
        const int64_t unit = panel * panel_columns<A>() + v * kWidth;
        if (unit >= s_.hidden) break;
        const int count = lanes(s_.hidden, unit, kWidth);
        Gates<V> total{};
        for (int r = 0; r < tile.value; ++r) {
          const int64_t j = rows.at(r0 + r);
          const V dh = projected_ ? sums[r][v] : load<V>(d_h_.get() + j * s_.output + unit, count);
          const Gates<V> gates =
              recomputes_ ? load_gate_vectors<V>(recomputed + (r0 + r) * 4 * s_.hidden + unit,
                                                 s_.hidden, count)
                          : load_gate_vectors<V>(static_cast<const Io*>(args_.gates) +
                                                     rows_.padded(rows.t, j) * 4 * s_.hidden + unit,
                                                 s_.hidden, count);
          const Gates<V> d =
              step_unit(rows.t, j, unit, count, gates, dh, d_gates + j * 4 * s_.hidden);
          total = {total.i + d.i, total.f + d.f, total.g + d.g, total.o + d.o};
        }
        add_bias(rows.half, unit, count, total);
      }
    });
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
  void to_previous(const RowsOfHalf& rows, int64_t panel, const A* d_gates) {
    const int64_t first = panel * panel_columns<A>();
    with_vectors<A>(s_.output - first, [&](auto vectors) {
      constexpr int kVectors = decltype(vectors)::value;
      for_row_tiles(rows.count, [&](auto tile, int64_t r0) {
        V sums[tile.value][kVectors] = {};
        multiply_rows(row_tile<tile.value>(d_gates + rows.at(r0) * 4 * s_.hidden,
                                           rows.halves * 4 * s_.hidden),
                      packed_w_hh(panel), 4 * s_.hidden, sums);
        for (int r = 0; r < tile.value; ++r)
          for (int v = 0; v < kVectors; ++v) {
            const int64_t j = rows.at(r0 + r), k = first + v * kWidth;
            if (k >= s_.output) break;
            store(d_h_.get() + j * s_.output + k, rows_.resets(rows.t, j) ? V{} : sums[r][v],
                  lanes(s_.output, k, kWidth));
          }
      });
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
  Barrier barrier_, barriers_[2];  // of all threads; of those that take a half
  GateWeights<Io> gate_w_ih_, gate_w_hh_;
  Scratch<Io> w_hh_, w_hr_;  // packed
  Scratch<A> gates_;         // [half][row of the chunk, 4H]
  Scratch<A> d_gates_;       // [2][B, 4H]
  Scratch<A> d_bias_;        // [halves, 4H]
  Scratch<A> d_h_;           // [B, R]
  Scratch<A> d_c_;           // [B, H]
  Scratch<Io> zeros_;        // [R]
};

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
