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

// `Inputs` and `Hidden` multiply with W_ih and W_hh: see row_products_cpu.h.
template <class Io, class Inputs = RowInputs<Io>, class Hidden = RowHidden<Io>>
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
        threads_(team(s_, threads)),
        // training changes the weights between calls
        keeps_packed_(args.cells == nullptr),
        inputs_(args, chunk_ * s_.batch, packed_, keeps_packed_),
        hidden_(args, packed_, keeps_packed_),
        w_hr_(w_hr(), projected_ && packed_ ? output_panels_ : 0, s_.hidden, keeps_packed_),
        input_(unit_panels_ * chunk_ * s_.batch * panel_columns<A>()),
        c_(s_.batch * s_.hidden),
        unprojected_(projected_ ? s_.batch * s_.hidden : 0) {}

  // How many of `threads` a call is worth.
  static int team(const LstmShape& shape, int threads) {
    return team_size(shape, threads, ceil_div(shape.hidden, kWidth));
  }
  int threads() const { return threads_; }

  void run_thread(int thread, int threads) {
    const Share units(unit_panels_, thread, threads), outputs(output_panels_, thread, threads);
    MatrixUnit unit;
    typename Inputs::Chunk x(inputs_, thread, threads);
    prepare(units, outputs, thread, threads);
    gather_inputs(0, x);
    barrier_.wait(threads);
    for (int64_t step = 0; step < s_.steps; ++step) {
      const int64_t t = time(step);
      if (step % chunk_ == 0) multiply_inputs(unit, units, x);
      const int64_t in_chunk = chunk_row(step), rows = rows_.running(t), half = step % 2;
      const auto input = [&](int64_t panel, int64_t j) { return this->input(panel, in_chunk + j); };
      const auto begins = [&](int64_t j) { return rows_.first(j) == t; };
      const auto finish = [&](int64_t panel, int64_t j, const Gates<V>& pre)
                              __attribute__((always_inline)) {
                                const int64_t first = panel * kWidth;
                                const int count = lanes(s_.hidden, first, kWidth);
                                finish_units(t, j, first, count, pre, 1 - half);
                              };
      for_panels(units, step, hidden_.group(rows), [&](int64_t panel, int64_t count) {
        hidden_.step(unit, half, rows, begins, panel, count, input, finish);
      });
      if ((step + 1) % chunk_ == 0 && step + 1 < s_.steps) gather_inputs(step + 1, x);
      barrier_.wait(threads);
      if (projected_) {
        for (int64_t panel = outputs.begin; panel < outputs.end; ++panel)
          project(t, panel, 1 - half);
        barrier_.wait(threads);
      }
    }
  }

 private:
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
      inputs_.pack(panel);
      hidden_.pack(panel);
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
    // a row that begins late finds its state in the half of the step before its first
    const int64_t step = s_.reverse ? s_.steps - rows_.length(j) : 0;
    const Io* h0 = static_cast<const Io*>(args_.h0);
    hidden_.begin_row(step % 2, j, zero || h0 == nullptr ? nullptr : h0 + row * s_.output);
    A* c = c_.get() + j * s_.hidden;
    for (int64_t k = 0; k < s_.hidden; ++k)
      c[k] = zero ? A{} : widen(initial(args_.c0, row * s_.hidden + k));
  }

  static Io initial(const void* state, int64_t at) {
    return state == nullptr ? Io{} : static_cast<const Io*>(state)[at];
  }

  // The rows of x of the chunk of steps that begins at `step`.
  void gather_inputs(int64_t step, typename Inputs::Chunk& x) const {
    x.clear();
    for (int64_t s = step; s < std::min(step + chunk_, s_.steps); ++s)
      for (int64_t j = 0; j < rows_.running(time(s)); ++j)
        x.add(static_cast<const Io*>(args_.x) + rows_.padded(time(s), j) * s_.input);
    x.finish();
  }

  // x·W_ihᵀ + biases of the thread's units, for a chunk of steps.
  void multiply_inputs(MatrixUnit& matrix_unit, const Share& units,
                       const typename Inputs::Chunk& x) {
    for (int64_t panel = units.begin; panel < units.end; ++panel) {
      const int64_t unit = panel * kWidth;
      V bias[kPanelVectors];
      load_bias<Io>(args_.weights, s_.hidden, unit, lanes(s_.hidden, unit, kWidth), bias);
      inputs_.multiply(matrix_unit, x, panel, bias, input(panel, 0));
    }
  }

  A* input(int64_t panel, int64_t row) const {
    return input_.get() + (panel * chunk_ * s_.batch + row) * panel_columns<A>();
  }

  FAST_S2S_INLINE void finish_units(int64_t t, int64_t j, int64_t unit, int count,
                                    const Gates<V>& pre, int64_t next) {
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
      emit(t, j, unit, count, h, forget, next);
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

  // h_t where it is wanted: the output, the final state, the next step's half of the states.
  FAST_S2S_INLINE void emit(int64_t t, int64_t j, int64_t unit, int count, V h, bool forget,
                            int64_t next) {
    store(static_cast<Io*>(args_.y) + rows_.padded(t, j) * args_.y_stride + unit, h, count);
    if (t == rows_.last(j))
      store(static_cast<Io*>(args_.h_n) + rows_.row(j) * s_.output + unit, h, count);
    hidden_.store_state(next, j, unit, count, forget ? V{} : h);
  }

  void project(int64_t t, int64_t panel, int64_t next) {
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
               forgets_after(t, j0 + r), next);
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
  Inputs inputs_;
  Hidden hidden_;
  PackedPanels<Io> w_hr_;
  Scratch<A> input_;            // [panel][row of the chunk][4W]: the input's share of the gates
  Scratch<A> c_;                // [B, H]
  Scratch<Value> unprojected_;  // [B, H]
};

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
