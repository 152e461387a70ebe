// The forward CPU kernel. Included once per instruction set.
//
// One parallel region per sequence. Threads own panels of hidden units: the input's share of their
// gates needs no other thread, and is computed for a chunk of steps at once; then the steps are
// taken one by one, with one barrier each (two with a projection).

namespace fast_s2s {
namespace FAST_S2S_ISA {

// So few steps read the weights where they lie; more repay packing them. Not a matter of the
// batch, so that a row's bits do not depend on the rows beside it.
constexpr int64_t kUnpackedSteps = 4;

template <class Io>
class Forward {
  typedef typename Accumulate<Io>::Type A;
  typedef typename Operand<Io>::Type Value;
  typedef typename Simd<A>::Vec V;
  static constexpr int kWidth = Simd<A>::kWidth;

 public:
  Forward(const LstmForwardArgs& args, int threads)
      : args_(args),
        s_(args.shape),
        rows_(args.shape),
        projected_(args.weights.w_hr != nullptr),
        packed_(s_.steps > kUnpackedSteps),
        unit_panels_(ceil_div(s_.hidden, kWidth)),
        output_panels_(ceil_div(s_.output, panel_columns<A>())),
        chunk_(chunk_steps(s_)),
        threads_(team_size(s_, threads, unit_panels_)),
        // training changes the weights between calls
        keeps_packed_(args.cells == nullptr),
        w_ih_(args.weights.w_ih, s_.hidden, s_.input, packed_, keeps_packed_),
        w_hh_(args.weights.w_hh, s_.hidden, s_.output, packed_, keeps_packed_),
        w_hr_(w_hr(), projected_ && packed_ ? output_panels_ : 0, s_.hidden, keeps_packed_),
        input_(unit_panels_ * chunk_ * s_.batch * panel_columns<A>()),
        h_(2 * s_.batch * s_.output),
        c_(s_.batch * s_.hidden),
        unprojected_(projected_ ? s_.batch * s_.hidden : 0) {}

  void run() {
#pragma omp parallel num_threads(threads_)
    run_thread(omp_get_thread_num(), omp_get_num_threads());
  }

 private:
  void run_thread(int thread, int threads) {
    const Share units(unit_panels_, thread, threads), outputs(output_panels_, thread, threads);
    prepare(units, outputs, thread, threads);
    ChunkRows<Io> x(s_.input);
    barrier_.wait(threads);
    Value* h = h_.get();
    Value* h_next = h + s_.batch * s_.output;
    for (int64_t step = 0; step < s_.steps; ++step) {
      const int64_t t = time(step);
      if (step % chunk_ == 0) multiply_inputs(step, units, x);
      const int64_t in_chunk = chunk_row(step);
      const bool pairs = packed_ && rows_.running(t) <= kPairRows;
      for_panels(units, step, pairs ? 2 : 1, [&](int64_t panel, int64_t count) {
        if (count == 2) {
          step_units<kPairRows, 2>(t, panel, in_chunk, h, h_next);
        } else {
          step_units<kTileRows, 1>(t, panel, in_chunk, h, h_next);
        }
      });
      barrier_.wait(threads);
      if (projected_) {
        for (int64_t panel = outputs.begin; panel < outputs.end; ++panel) project(t, panel, h_next);
        barrier_.wait(threads);
      }
      std::swap(h, h_next);
    }
  }

  int64_t time(int64_t step) const { return s_.reverse ? s_.steps - 1 - step : step; }

  // Where the rows of a step begin in its chunk.
  int64_t chunk_row(int64_t step) const {
    const int64_t first = time(step - step % chunk_), t = time(step);
    return s_.reverse ? rows_.offset(first + 1) - rows_.offset(t + 1)
                      : rows_.offset(t) - rows_.offset(first);
  }

  // Packs the thread's weights and lays out the states.
  void prepare(const Share& units, const Share& outputs, int thread, int threads) {
    for (int64_t panel = units.begin; panel < units.end; ++panel) {
      w_ih_.pack(panel);
      w_hh_.pack(panel);
    }
    if (projected_ && packed_) {
      for (int64_t panel = outputs.begin; panel < outputs.end; ++panel)
        w_hr_.pack(panel, output_columns(panel));
    }
    const Share mine(s_.batch, thread, threads);
    for (int64_t j = mine.begin; j < mine.end; ++j) begin_row(j);
    zero_finished<Io>(args_.y, rows_, s_, s_.output, thread, threads, args_.y_stride);
    zero_finished<Io>(args_.gates, rows_, s_, 4 * s_.hidden, thread, threads);
    zero_finished<A>(args_.cells, rows_, s_, s_.hidden, thread, threads);
  }

  void begin_row(int64_t j) {
    const int64_t row = rows_.row(j);
    if (rows_.length(j) == 0) {
      for (int64_t k = 0; k < s_.output; ++k)
        static_cast<Io*>(args_.h_n)[row * s_.output + k] = initial(args_.h0, row * s_.output + k);
      for (int64_t k = 0; k < s_.hidden; ++k)
        static_cast<Io*>(args_.c_n)[row * s_.hidden + k] = initial(args_.c0, row * s_.hidden + k);
      return;
    }
    const bool zero = rows_.resets(rows_.first(j), j);
    // a row that begins late finds its state in the buffer of the step before its first
    const int64_t step = s_.reverse ? s_.steps - rows_.length(j) : 0;
    Value* h = h_.get() + ((step % 2) * s_.batch + j) * s_.output;
    for (int64_t k = 0; k < s_.output; ++k)
      h[k] = zero ? Value{} : operand(initial(args_.h0, row * s_.output + k));
    A* c = c_.get() + j * s_.hidden;
    for (int64_t k = 0; k < s_.hidden; ++k)
      c[k] = zero ? A{} : widen(initial(args_.c0, row * s_.hidden + k));
  }

  static Io initial(const void* state, int64_t at) {
    return state == nullptr ? Io{} : static_cast<const Io*>(state)[at];
  }

  static Value operand(Io x) {
    if constexpr (std::is_same_v<Io, Value>) {
      return x;
    } else {
      return widen(x);
    }
  }

  // x·W_ihᵀ + biases of the thread's units, for the chunk of steps that begins at `step`.
  void multiply_inputs(int64_t step, const Share& units, ChunkRows<Io>& x) {
    x.clear();
    for (int64_t s = step; s < std::min(step + chunk_, s_.steps); ++s)
      for (int64_t j = 0; j < rows_.running(time(s)); ++j)
        x.add(static_cast<const Io*>(args_.x) + rows_.padded(time(s), j) * s_.input);
    x.widen_all();
    for (int64_t panel = units.begin; panel < units.end; ++panel) {
      const int64_t unit = panel * kWidth;
      V bias[kPanelVectors];
      load_bias<Io>(args_.weights, s_.hidden, unit, lanes(s_.hidden, unit, kWidth), bias);
      for_row_tiles(x.size(), [&](auto tile, int64_t r0) {
        V sums[tile.value][kPanelVectors];
        for (int r = 0; r < tile.value; ++r)
          for (int gate = 0; gate < 4; ++gate) sums[r][gate] = bias[gate];
        w_ih_.multiply(row_tile<tile.value>(x.pointers() + r0), panel, sums);
        for (int r = 0; r < tile.value; ++r)
          for (int gate = 0; gate < 4; ++gate)
            store_full(input(panel, r0 + r) + gate * kWidth, sums[r][gate]);
      });
    }
  }

  A* input(int64_t panel, int64_t row) const {
    return input_.get() + (panel * chunk_ * s_.batch + row) * panel_columns<A>();
  }

  // One step of the units of `Panels` neighbouring panels; tiles of at most `MaxRows` rows.
  template <int MaxRows, int Panels>
  void step_units(int64_t t, int64_t panel, int64_t in_chunk, const Value* h, Value* h_next) {
    for_row_tiles<MaxRows>(rows_.running(t), [&](auto tile, int64_t j0) {
      V sums[tile.value][Panels * kPanelVectors];
      for (int r = 0; r < tile.value; ++r)
        for (int v = 0; v < Panels * kPanelVectors; ++v)
          sums[r][v] = load_full<V>(input(panel + v / kPanelVectors, in_chunk + j0 + r) +
                                    v % kPanelVectors * kWidth);
      w_hh_.multiply(row_tile<tile.value>(h + j0 * s_.output, s_.output), panel, sums);
      for (int p = 0; p < Panels; ++p) {
        const int64_t unit = (panel + p) * kWidth;
        const int count = lanes(s_.hidden, unit, kWidth);
        for (int r = 0; r < tile.value; ++r) {
          const V* pre = sums[r] + p * kPanelVectors;
          finish_units(t, j0 + r, unit, count, {pre[0], pre[1], pre[2], pre[3]}, h_next);
        }
      }
    });
  }

  FAST_S2S_INLINE void finish_units(int64_t t, int64_t j, int64_t unit, int count,
                                    const Gates<V>& pre, Value* h_next) {
    const Gates<V> gates = activate<Math>(pre);
    A* c_state = c_.get() + j * s_.hidden + unit;
    const V c = next_cell(gates, load<V>(c_state, count));
    const V h = next_hidden<Math>(gates, c);
    const bool forget = forgets_after(t, j);
    store(c_state, forget ? V{} : c, count);
    if (t == rows_.last(j))
      store(static_cast<Io*>(args_.c_n) + rows_.row(j) * s_.hidden + unit, c, count);
    save(rows_.padded(t, j), unit, count, gates, c);
    if (projected_) {
      store(unprojected_.get() + j * s_.hidden + unit, round_to<Io>(h), count);
    } else {
      emit(t, j, unit, count, h, forget, h_next);
    }
  }

  // Whether the state after step t is forgotten before the next one.
  bool forgets_after(int64_t t, int64_t j) const {
    return t != rows_.last(j) && rows_.resets(rows_.following(t), j);
  }

  FAST_S2S_INLINE void save(int64_t at, int64_t unit, int count, const Gates<V>& gates, V c) {
    if (args_.gates != nullptr) {
      Io* out = static_cast<Io*>(args_.gates) + at * 4 * s_.hidden + unit;
      store(out, gates.i, count);
      store(out + s_.hidden, gates.f, count);
      store(out + 2 * s_.hidden, gates.g, count);
      store(out + 3 * s_.hidden, gates.o, count);
    }
    if (args_.cells != nullptr)
      store(static_cast<A*>(args_.cells) + at * s_.hidden + unit, c, count);
  }

  // h_t where it is wanted: the output, the final state, the next step.
  FAST_S2S_INLINE void emit(int64_t t, int64_t j, int64_t unit, int count, V h, bool forget,
                            Value* h_next) {
    store(static_cast<Io*>(args_.y) + rows_.padded(t, j) * args_.y_stride + unit, h, count);
    if (t == rows_.last(j))
      store(static_cast<Io*>(args_.h_n) + rows_.row(j) * s_.output + unit, h, count);
    store(h_next + j * s_.output + unit, forget ? V{} : round_to<Io>(h), count);
  }

  void project(int64_t t, int64_t panel, Value* h_next) {
    for_row_tiles(rows_.running(t), [&](auto tile, int64_t j0) {
      V sums[tile.value][kPanelVectors] = {};
      const auto a = row_tile<tile.value>(unprojected_.get() + j0 * s_.hidden, s_.hidden);
      const PanelColumns columns = output_columns(panel);
      if (packed_) {
        multiply_rows(a, w_hr_.at(panel), s_.hidden, sums);
      } else {
        multiply_rows_unpacked(a, w_hr(), columns, s_.hidden, sums);
      }
      for (int r = 0; r < tile.value; ++r)
        for (int v = 0; v < kPanelVectors && columns.count[v] > 0; ++v)
          emit(t, j0 + r, columns.first + v * kWidth, columns.count[v], sums[r][v],
               forgets_after(t, j0 + r), h_next);
    });
  }

  const Io* w_hr() const { return static_cast<const Io*>(args_.weights.w_hr); }
  // A panel of the projection holds neighbouring outputs.
  PanelColumns output_columns(int64_t panel) const {
    PanelColumns columns{panel * panel_columns<A>(), kWidth, {}};
    for (int v = 0; v < kPanelVectors; ++v)
      columns.count[v] = std::max(0, lanes(s_.output, columns.first + v * kWidth, kWidth));
    return columns;
  }

  const LstmForwardArgs& args_;
  const LstmShape& s_;
  const Rows rows_;
  const bool projected_, packed_;
  const int64_t unit_panels_, output_panels_, chunk_;
  const int threads_;
  Barrier barrier_;
  const bool keeps_packed_;
  GateWeights<Io> w_ih_, w_hh_;
  PackedPanels<Io> w_hr_;
  Scratch<A> input_;  // [panel][row of the chunk][4W]: the input's share of the gates
  Scratch<Value> h_;  // [2][B, R]: the state before a step and after it, forgotten where reset
  Scratch<A> c_;      // [B, H]
  Scratch<Value> unprojected_;  // [B, H]
};

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
