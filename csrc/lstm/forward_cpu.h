// The forward CPU kernel. Included once per instruction set.
//
// One parallel region per sequence. Threads own panels of hidden units: the input's share of their
// gates needs no other thread, and is computed for a chunk of steps at once; then the steps are
// taken one by one, with one barrier each (two with a projection). Or, where each core has room for
// all weights, threads own parts of the rows, and need no barriers.

namespace fast_s2s {
namespace FAST_S2S_ISA {

// So few steps read the weights where they lie; more repay packing them, and so do so many rows in
// all steps together.
constexpr int64_t kUnpackedSteps = 4, kPackedRows = 32;

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
        parts_(parts(s_, threads)),
        rows_(args.shape, parts_),
        projected_(args.weights.w_hr != nullptr),
        packed_(s_.steps > kUnpackedSteps || s_.steps * s_.batch >= kPackedRows),
        unit_panels_(ceil_div(s_.hidden, kWidth)),
        chunk_(chunk_steps(s_, ceil_div(s_.batch, parts_))),
        threads_(team(s_, threads)),
        // training changes the weights between calls
        keeps_packed_(args.cells == nullptr),
        inputs_(args, chunk_ * s_.batch, packed_, keeps_packed_),
        hidden_(args, packed_, keeps_packed_),
        w_hr_(args.weights.w_hr, s_, packed_, keeps_packed_),
        input_(unit_panels_ * chunk_ * s_.batch * panel_columns<A>()),
        c_(s_.batch * s_.hidden),
        unprojected_(projected_ ? s_.batch * s_.hidden : 0) {}

  // How many of `threads` a call is worth.
  static int team(const LstmShape& shape, int threads) {
    return std::max(parts(shape, threads), unit_team(shape, threads));
  }
  int threads() const { return threads_; }

  void run_thread(int thread, int threads) {
    const Share units(unit_panels_, thread, threads), outputs(w_hr_.count(), thread, threads);
    prepare(units, outputs, thread, threads);
    if (parts_ == 1) return run_rows({0, units, outputs, thread, threads});
    barrier_.wait(threads);
    for (int part = thread; part < parts_; part += threads)
      run_rows({part, Share(unit_panels_, 0, 1), Share(w_hr_.count(), 0, 1), 0, 1});
  }

 private:
  // A thread's share of the work: panels of a part of the rows, which it shares with others.
  struct Work {
    int64_t part;
    Share units, outputs;
    int thread, threads;
  };

  static int unit_team(const LstmShape& shape, int threads) {
    return team_size(shape, threads, ceil_div(shape.hidden, kWidth));
  }

  // How many threads had better own rows; 1 if none, or where more can own panels.
  static int parts(const LstmShape& shape, int threads) {
    constexpr int64_t kRows = 4;  // fewer wait for their weights
    const int64_t weights = 4 * shape.hidden * (shape.input + shape.output) * sizeof(Io);
    if (!Inputs::kByRows || shape.steps <= kUnpackedSteps || weights > kNear) return 1;
    const int64_t parts = std::min<int64_t>(
        {threads, shape.batch / kRows, shape.steps * step_work(shape) / kWorthHelp});
    return parts < unit_team(shape, threads) ? 1 : static_cast<int>(std::max<int64_t>(1, parts));
  }

  void run_rows(const Work& work) {
    MatrixUnit unit;
    typename Inputs::Chunk x(inputs_, work.thread, work.threads);
    gather_inputs(0, work.part, x);
    barrier_.wait(work.threads);
    for (int64_t step = 0; step < s_.steps; ++step) {
      const int64_t t = time(step), first = rows_.begin(work.part);
      if (step % chunk_ == 0) multiply_inputs(unit, work, x);
      const int64_t rows = rows_.running(t, work.part), half = step % 2;
      const Step now = this->step(t, work.part, 1 - half);
      // j counts all rows, the chunk only those of the part that run
      const int64_t in_chunk = chunk_row(step, work.part) - first;
      const auto input = [&](int64_t panel, int64_t j) {
        return this->input(panel, work.part, in_chunk + j);
      };
      const auto begins = [&](int64_t j) { return rows_.first(j) == t; };
      const auto finish = [now](int64_t panel, int64_t j, const Gates<V>& pre)
                              __attribute__((always_inline)) { finish_units(now, panel, j, pre); };
      for_panels(work.units, step, hidden_.group(rows), [&](int64_t panel, int64_t count) {
        hidden_.step(unit, half, first, rows, begins, panel, count, input, finish);
      });
      if ((step + 1) % chunk_ == 0 && step + 1 < s_.steps) gather_inputs(step + 1, work.part, x);
      barrier_.wait(work.threads);
      if (projected_) {
        for (int64_t panel = work.outputs.begin; panel < work.outputs.end; ++panel)
          project(now, first, rows, panel);
        barrier_.wait(work.threads);
      }
    }
  }

  int64_t time(int64_t step) const { return s_.reverse ? s_.steps - 1 - step : step; }

  // Where the rows of a step begin in its chunk.
  int64_t chunk_row(int64_t step, int64_t part) const {
    const int64_t first = time(step - step % chunk_), t = time(step);
    return s_.reverse ? rows_.offset(first + 1, part) - rows_.offset(t + 1, part)
                      : rows_.offset(t, part) - rows_.offset(first, part);
  }

  // Packs the thread's weights and lays out the states.
  void prepare(const Share& units, const Share& outputs, int thread, int threads) {
    for (int64_t panel = units.begin; panel < units.end; ++panel) {
      inputs_.pack(panel);
      hidden_.pack(panel);
    }
    for (int64_t panel = outputs.begin; projected_ && panel < outputs.end; ++panel)
      w_hr_.pack(panel);
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
  void gather_inputs(int64_t step, int64_t part, typename Inputs::Chunk& x) const {
    x.clear();
    const int64_t first = rows_.begin(part);
    for (int64_t s = step; s < std::min(step + chunk_, s_.steps); ++s)
      for (int64_t j = first; j < first + rows_.running(time(s), part); ++j)
        x.add(static_cast<const Io*>(args_.x) + rows_.padded(time(s), j) * s_.input);
    x.finish();
  }

  // x·W_ihᵀ + biases of the thread's units, for a chunk of steps.
  void multiply_inputs(MatrixUnit& matrix_unit, const Work& work, const typename Inputs::Chunk& x) {
    for (int64_t panel = work.units.begin; panel < work.units.end; ++panel) {
      const int64_t unit = panel * kWidth;
      V bias[kPanelVectors];
      load_bias<Io>(args_.weights, s_.hidden, unit, lanes(s_.hidden, unit, kWidth), bias);
      inputs_.multiply(matrix_unit, x, panel, bias, input(panel, work.part, 0));
    }
  }

  // `row`: of those of the part in the chunk
  A* input(int64_t panel, int64_t part, int64_t row) const {
    const int64_t first = chunk_ * (panel * s_.batch + rows_.begin(part));
    return input_.get() + (first + row) * panel_columns<A>();
  }

  // Where the gates and states of a step go. Values of its own and no reference to the kernel:
  // after a store through a pointer the compiler would read all of that again, for each vector of
  // units.
  struct Step {
    const Forward* kernel;  // for rows that end or forget
    int64_t t, hidden, y_stride;
    const int64_t* order;
    A* c;
    Io* y;
    Io* gates;
    A* cells;
    Value* unprojected;
    typename Hidden::States next;
    bool changes;  // whether a row ends with this step, or may forget its state after it
  };

  Step step(int64_t t, int64_t part, int64_t next_half) {
    const auto rows_of = [&](auto* array, int64_t width) {
      return array == nullptr ? nullptr : array + t * s_.batch * width;
    };
    return {this,
            t,
            s_.hidden,
            args_.y_stride,
            rows_.order(),
            c_.get(),
            rows_of(static_cast<Io*>(args_.y), args_.y_stride),
            rows_of(static_cast<Io*>(args_.gates), 4 * s_.hidden),
            rows_of(static_cast<A*>(args_.cells), s_.hidden),
            projected_ ? unprojected_.get() : nullptr,
            hidden_.states(next_half),
            s_.reset != nullptr || rows_.ends(t, part)};
  }

  static FAST_S2S_INLINE void finish_units(const Step& step, int64_t panel, int64_t j,
                                           const Gates<V>& pre) {
    const int64_t unit = panel * kWidth;
    const int count = lanes(step.hidden, unit, kWidth);
    const Gates<V> gates = activate<Math>(pre);
    A* c_state = step.c + j * step.hidden + unit;
    const V c = next_cell(gates, load<V>(c_state, count));
    const V h = next_hidden<Math>(gates, c);
    store(c_state, c, count);
    save(step, step.order[j], unit, count, gates, c);
    if (step.unprojected != nullptr) {
      store(step.unprojected + j * step.hidden + unit, round_to<Io>(h), count);
    } else {
      emit(step, j, unit, count, h);
    }
    if (step.changes) step.kernel->change_cell(step.t, j, unit, count);
  }

  static FAST_S2S_INLINE void save(const Step& step, int64_t row, int64_t unit, int count,
                                   const Gates<V>& gates, V c) {
    if (step.gates != nullptr) {
      Io* out = step.gates + row * 4 * step.hidden + unit;
      store(out, gates.i, count);
      store(out + step.hidden, gates.f, count);
      store(out + 2 * step.hidden, gates.g, count);
      store(out + 3 * step.hidden, gates.o, count);
    }
    if (step.cells != nullptr) store(step.cells + row * step.hidden + unit, c, count);
  }

  // h_t where it is wanted: the output, the final state, the next step's half of the states.
  static FAST_S2S_INLINE void emit(const Step& step, int64_t j, int64_t unit, int count, V h) {
    store(step.y + step.order[j] * step.y_stride + unit, h, count);
    step.next.store(j, unit, count, h);
    if (step.changes) step.kernel->change_hidden(step, j, unit, count);
  }

  // The final state of a row that ends, and zero for the next step of one that forgets. Apart from
  // the rest and after it, when no vector is held in a register across the call.
  __attribute__((noinline)) void change_cell(int64_t t, int64_t j, int64_t unit, int count) const {
    A* c_state = c_.get() + j * s_.hidden + unit;
    if (t == rows_.last(j))
      store(static_cast<Io*>(args_.c_n) + rows_.row(j) * s_.hidden + unit, load<V>(c_state, count),
            count);
    if (forgets_after(t, j)) store(c_state, V{}, count);
  }
  __attribute__((noinline)) void change_hidden(const Step& step, int64_t j, int64_t unit,
                                               int count) const {
    const Io* h = step.y + step.order[j] * step.y_stride + unit;
    if (step.t == rows_.last(j))
      store(static_cast<Io*>(args_.h_n) + rows_.row(j) * s_.output + unit, load<V>(h, count),
            count);
    if (forgets_after(step.t, j)) step.next.store(j, unit, count, V{});
  }

  // Whether the state after step t is forgotten before the next one.
  bool forgets_after(int64_t t, int64_t j) const {
    return t != rows_.last(j) && rows_.resets(rows_.following(t), j);
  }

  void project(const Step& step, int64_t first, int64_t rows, int64_t panel) {
    w_hr_.multiply(unprojected_.get() + first * s_.hidden, rows, panel,
                   [&](int64_t r, int64_t output, int count, V h)
                       __attribute__((always_inline)) { emit(step, first + r, output, count, h); });
  }

  const LstmForwardArgs& args_;
  const LstmShape& s_;
  const int parts_;  // of the rows
  const Rows rows_;
  const bool projected_, packed_;
  const int64_t unit_panels_, chunk_;
  const int threads_;
  Barrier barrier_;
  const bool keeps_packed_;
  Inputs inputs_;
  Hidden hidden_;
  OutputWeights<Io> w_hr_;
  Scratch<A> input_;  // [panel][part][row of the chunk][4W]: the input's share of the gates
  Scratch<A> c_;      // [B, H]
  Scratch<Value> unprojected_;  // [B, H]
};

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
