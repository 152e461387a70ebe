// The CPU kernels. Included once per instruction set: see isa_*.cpp.
//
// One parallel region per sequence. Threads own panels of hidden units and meet at one barrier a
// step (two with a projection). Rows are kept in order of falling length, so those still running
// are a prefix.

namespace fast_s2s {
namespace FAST_S2S_ISA {

// Aligned scratch memory, freed at scope end.
template <class A>
class Scratch {
 public:
  explicit Scratch(int64_t count)
      : data_(static_cast<A*>(::operator new(sizeof(A) * (count + 1), std::align_val_t{64}))) {}
  ~Scratch() { ::operator delete(data_, std::align_val_t{64}); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  A* get() { return data_; }

 private:
  A* data_;
};

FAST_S2S_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

FAST_S2S_INLINE int lanes(int64_t size, int64_t first, int width) {
  return static_cast<int>(size - first < width ? size - first : width);
}

// Rows in order of falling length, and how many of them run at each step.
class Rows {
 public:
  explicit Rows(const LstmShape& shape) : shape_(shape), order_(shape.batch) {
    std::iota(order_.begin(), order_.end(), 0);
    if (shape.lengths == nullptr) return;
    std::stable_sort(order_.begin(), order_.end(),
                     [&](int64_t a, int64_t b) { return shape.lengths[a] > shape.lengths[b]; });
    running_.assign(shape.steps, 0);
    for (int64_t t = 0, n = shape.batch; t < shape.steps; ++t) {
      while (n > 0 && shape.lengths[order_[n - 1]] <= t) --n;
      running_[t] = n;
    }
  }
  int64_t row(int64_t j) const { return order_[j]; }
  int64_t length(int64_t j) const {
    return shape_.lengths == nullptr ? shape_.steps : shape_.lengths[order_[j]];
  }
  int64_t running(int64_t t) const { return running_.empty() ? shape_.batch : running_[t]; }
  // the step at which the j-th row begins, and the one at which it ends
  int64_t first(int64_t j) const { return shape_.reverse ? length(j) - 1 : 0; }
  int64_t last(int64_t j) const { return shape_.reverse ? 0 : length(j) - 1; }
  int64_t following(int64_t t) const { return shape_.reverse ? t - 1 : t + 1; }
  int64_t preceding(int64_t t) const { return shape_.reverse ? t + 1 : t - 1; }
  // whether the j-th row forgets its state before step t
  bool resets(int64_t t, int64_t j) const {
    return shape_.reset != nullptr && shape_.reset[t * shape_.batch + order_[j]];
  }

 private:
  const LstmShape& shape_;
  std::vector<int64_t> order_, running_;
};

// The share [begin, end) of `count` items that thread `thread` of `threads` owns.
struct Share {
  int64_t begin, end;
  Share(int64_t count, int thread, int threads)
      : begin(count * thread / threads), end(count * (thread + 1) / threads) {}
};

// How many threads a sequence is worth: each needs a panel of its own, and work enough in a step to
// repay a barrier, which costs a third of a microsecond at best and a time slice where cores are
// short.
inline int team_size(const LstmShape& shape, int threads, int64_t panels) {
  constexpr int64_t kWorkPerThread = 1 << 16;  // floating-point operations
  const int64_t work = 8 * shape.batch * shape.hidden * shape.output;
  return static_cast<int>(
      std::max<int64_t>(1, std::min<int64_t>({threads, panels, work / kWorkPerThread})));
}

template <class Io>
void zero_finished(Io* data, const Rows& rows, const LstmShape& shape, int64_t width, int thread,
                   int threads) {
  if (data == nullptr || shape.lengths == nullptr) return;
  const Share mine(shape.steps, thread, threads);
  for (int64_t t = mine.begin; t < mine.end; ++t)
    for (int64_t j = rows.running(t); j < shape.batch; ++j)
      std::memset(static_cast<void*>(data + (t * shape.batch + rows.row(j)) * width), 0,
                  sizeof(Io) * width);
}

// Packs columns [first, first + 4W) of `source` transposed: panel[k][v][lane] = source[column][k],
// where vector v begins at column first + v·`vector_stride` and columns past `limit` within a
// vector are zero.
template <class Io, class A>
void pack_transposed(const Io* source, int64_t k_size, int64_t first, int64_t vector_stride,
                     int64_t limit, bool limit_all, A* panel) {
  constexpr int kWidth = Simd<A>::kWidth;
  for (int v = 0; v < kPanelVectors; ++v) {
    const int64_t begin = first + v * vector_stride;
    for (int lane = 0; lane < kWidth; ++lane) {
      const bool inside = limit_all ? begin + lane < limit : first + lane < limit;
      A* out = panel + v * kWidth + lane;
      const Io* in = source + (begin + lane) * k_size;
      for (int64_t k = 0; k < k_size; ++k)
        out[k * kPanelVectors * kWidth] = inside ? widen(in[k]) : A{};
    }
  }
}

// Packs columns [first, first + 4W) of `source` (k_size, columns): panel[k][column] =
// source[k][first + column].
template <class Io, class A>
void pack_columns(const Io* source, int64_t k_size, int64_t columns, int64_t first, A* panel) {
  const int64_t width = panel_columns<A>();
  const int64_t count = std::min(columns - first, width);
  for (int64_t k = 0; k < k_size; ++k) {
    for (int64_t column = 0; column < count; ++column)
      panel[k * width + column] = widen(source[k * columns + first + column]);
    std::fill(panel + k * width + count, panel + (k + 1) * width, A{});
  }
}

// So few steps read the weights where they lie; more repay packing them. Not a matter of the batch,
// so that a row's bits do not depend on the rows beside it.
constexpr int64_t kUnpackedSteps = 4;

template <class Io>
class Forward {
  typedef typename Accumulate<Io>::Type A;
  typedef typename Simd<A>::Vec V;
  static constexpr int kWidth = Simd<A>::kWidth;

 public:
  Forward(const LstmForwardArgs& args, int threads)
      : args_(args),
        s_(args.shape),
        rows_(args.shape),
        projected_(args.w_hr != nullptr),
        packed_(s_.steps > kUnpackedSteps),
        unit_panels_(ceil_div(s_.hidden, kWidth)),
        output_panels_(ceil_div(s_.output, panel_columns<A>())),
        threads_(team_size(s_, threads, unit_panels_)),
        w_hh_(packed_ ? unit_panels_ * s_.output * panel_columns<A>() : 0),
        w_hr_(projected_ && packed_ ? output_panels_ * s_.hidden * panel_columns<A>() : 0),
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
#pragma omp barrier
    A* h = h_.get();
    A* h_next = h + s_.batch * s_.output;
    for (int64_t step = 0; step < s_.steps; ++step) {
      const int64_t t = s_.reverse ? s_.steps - 1 - step : step;
      for (int64_t panel = units.begin; panel < units.end; ++panel) step_units(t, panel, h, h_next);
#pragma omp barrier
      if (projected_) {
        for (int64_t panel = outputs.begin; panel < outputs.end; ++panel) project(t, panel, h_next);
#pragma omp barrier
      }
      std::swap(h, h_next);
    }
  }

  // Packs the thread's weights and lays out the states.
  void prepare(const Share& units, const Share& outputs, int thread, int threads) {
    if (packed_) pack(units, outputs);
    const Share mine(s_.batch, thread, threads);
    for (int64_t j = mine.begin; j < mine.end; ++j) begin_row(j);
    zero_finished(static_cast<Io*>(args_.y), rows_, s_, s_.output, thread, threads);
    zero_finished(static_cast<Io*>(args_.gates), rows_, s_, 4 * s_.hidden, thread, threads);
    zero_finished(static_cast<A*>(args_.cells), rows_, s_, s_.hidden, thread, threads);
  }

  void pack(const Share& units, const Share& outputs) {
    const Io* w_hh = static_cast<const Io*>(args_.w_hh);
    for (int64_t panel = units.begin; panel < units.end; ++panel)
      pack_transposed(w_hh, s_.output, panel * kWidth, s_.hidden, s_.hidden, false,
                      w_hh_.get() + panel * s_.output * panel_columns<A>());
    if (projected_) {
      const Io* w_hr = static_cast<const Io*>(args_.w_hr);
      for (int64_t panel = outputs.begin; panel < outputs.end; ++panel)
        pack_transposed(w_hr, s_.hidden, panel * panel_columns<A>(), kWidth, s_.output, true,
                        w_hr_.get() + panel * s_.hidden * panel_columns<A>());
    }
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
    // a row that begins late finds its state in the buffer of the step before its first
    const int64_t step = s_.reverse ? s_.steps - rows_.length(j) : 0;
    A* h = h_.get() + ((step % 2) * s_.batch + j) * s_.output;
    for (int64_t k = 0; k < s_.output; ++k) h[k] = zero ? A{} : widen(h0[k]);
    A* c = c_.get() + j * s_.hidden;
    for (int64_t k = 0; k < s_.hidden; ++k) c[k] = zero ? A{} : widen(c0[k]);
  }

  void step_units(int64_t t, int64_t panel, const A* h, A* h_next) {
    const A* weights = w_hh_.get() + panel * s_.output * panel_columns<A>();
    const int64_t unit = panel * kWidth;
    const int count = lanes(s_.hidden, unit, kWidth);
    for_row_tiles(0, rows_.running(t), [&](auto tile, int64_t j0) {
      V sums[tile.value][kPanelVectors];
      for (int r = 0; r < tile.value; ++r) {
        const Io* x = gates_row(args_.gates_x, t, j0 + r) + unit;
        for (int gate = 0; gate < 4; ++gate) sums[r][gate] = load<V>(x + gate * s_.hidden, count);
      }
      const A* a = h + j0 * s_.output;
      if (packed_) {
        multiply_rows<tile.value>(a, s_.output, weights, s_.output, sums);
      } else {
        // a vector holds one gate of neighbouring units, whose weights are one row apart
        dot_columns<tile.value>(a, s_.output, static_cast<const Io*>(args_.w_hh) + unit * s_.output,
                                s_.hidden, count, sums);
      }
      for (int r = 0; r < tile.value; ++r)
        finish_units(t, j0 + r, unit, count, {sums[r][0], sums[r][1], sums[r][2], sums[r][3]},
                     h_next);
    });
  }

  // sums[row][v][lane] += a[row] · w[v·`vector_rows` + lane], rows of `w` being K long.
  template <int Rows>
  FAST_S2S_INLINE void dot_columns(const A* a, int64_t k_size, const Io* w, int64_t vector_rows,
                                   int count, V (&sums)[Rows][kPanelVectors]) {
    A dots[Rows][kPanelVectors][kWidth] = {};
    for (int lane = 0; lane < count; ++lane) {
      A column[Rows][kPanelVectors];
      dot_rows<Rows>(a, k_size, w + lane * k_size, vector_rows * k_size, k_size, column);
      for (int r = 0; r < Rows; ++r)
        for (int v = 0; v < kPanelVectors; ++v) dots[r][v][lane] = column[r][v];
    }
    for (int r = 0; r < Rows; ++r)
      for (int v = 0; v < kPanelVectors; ++v) sums[r][v] += load_full<V>(dots[r][v]);
  }

  FAST_S2S_INLINE void finish_units(int64_t t, int64_t j, int64_t unit, int count,
                                    const Gates<V>& pre, A* h_next) {
    const Gates<V> gates = activate<Math>(pre);
    A* c_state = c_.get() + j * s_.hidden + unit;
    const V c = next_cell(gates, load<V>(c_state, count));
    const V h = next_hidden<Math>(gates, c);
    const bool forget = t != rows_.last(j) && rows_.resets(rows_.following(t), j);
    store(c_state, forget ? V{} : c, count);
    if (t == rows_.last(j))
      store(static_cast<Io*>(args_.c_n) + rows_.row(j) * s_.hidden + unit, c, count);
    if (args_.gates != nullptr) save(t, j, unit, count, gates, c);
    if (projected_) {
      store(unprojected_.get() + j * s_.hidden + unit, round_to<Io>(h), count);
    } else {
      emit(t, j, unit, count, h, forget, h_next);
    }
  }

  FAST_S2S_INLINE void save(int64_t t, int64_t j, int64_t unit, int count, const Gates<V>& gates,
                            V c) {
    Io* out = const_cast<Io*>(gates_row(args_.gates, t, j)) + unit;
    store(out, gates.i, count);
    store(out + s_.hidden, gates.f, count);
    store(out + 2 * s_.hidden, gates.g, count);
    store(out + 3 * s_.hidden, gates.o, count);
    const int64_t at = t * s_.batch + rows_.row(j);
    store(static_cast<A*>(args_.cells) + at * s_.hidden + unit, c, count);
  }

  // h_t where it is wanted: the output, the final state, the next step.
  FAST_S2S_INLINE void emit(int64_t t, int64_t j, int64_t unit, int count, V h, bool forget,
                            A* h_next) {
    const int64_t row = rows_.row(j);
    store(static_cast<Io*>(args_.y) + (t * s_.batch + row) * s_.output + unit, h, count);
    if (t == rows_.last(j)) store(static_cast<Io*>(args_.h_n) + row * s_.output + unit, h, count);
    store(h_next + j * s_.output + unit, forget ? V{} : round_to<Io>(h), count);
  }

  void project(int64_t t, int64_t panel, A* h_next) {
    const A* weights = w_hr_.get() + panel * s_.hidden * panel_columns<A>();
    for_row_tiles(0, rows_.running(t), [&](auto tile, int64_t j0) {
      V sums[tile.value][kPanelVectors] = {};
      const A* a = unprojected_.get() + j0 * s_.hidden;
      const int64_t first = panel * panel_columns<A>();
      if (packed_) {
        multiply_rows<tile.value>(a, s_.hidden, weights, s_.hidden, sums);
      } else {
        project_unpacked<tile.value>(a, first, sums);
      }
      for (int r = 0; r < tile.value; ++r) {
        const int64_t j = j0 + r;
        const bool forget = t != rows_.last(j) && rows_.resets(rows_.following(t), j);
        for (int v = 0; v < kPanelVectors; ++v) {
          const int64_t unit = first + v * kWidth;
          if (unit < s_.output)
            emit(t, j, unit, lanes(s_.output, unit, kWidth), sums[r][v], forget, h_next);
        }
      }
    });
  }

  template <int Rows>
  FAST_S2S_INLINE void project_unpacked(const A* a, int64_t first, V (&sums)[Rows][kPanelVectors]) {
    const Io* w = static_cast<const Io*>(args_.w_hr);
    A dots[Rows][panel_columns<A>()] = {};
    const int64_t count = std::min(s_.output - first, panel_columns<A>());
    for (int64_t column = 0; column < count; column += kPanelVectors) {
      // the last ones again rather than some past the end
      const int64_t start = std::max(std::min(column, count - kPanelVectors), int64_t{0});
      const int64_t stride = count < kPanelVectors ? 0 : s_.hidden;
      A part[Rows][kPanelVectors];
      for (int64_t i = 0; i < (stride == 0 ? count : 1); ++i) {
        dot_rows<Rows>(a, s_.hidden, w + (first + start + i) * s_.hidden, stride, s_.hidden, part);
        for (int r = 0; r < Rows; ++r)
          for (int v = 0; v < (stride == 0 ? 1 : kPanelVectors); ++v)
            dots[r][start + i + v] = part[r][v];
      }
    }
    for (int r = 0; r < Rows; ++r)
      for (int v = 0; v < kPanelVectors; ++v) sums[r][v] = load_full<V>(dots[r] + v * kWidth);
  }

  const Io* gates_row(const void* data, int64_t t, int64_t j) const {
    return static_cast<const Io*>(data) + (t * s_.batch + rows_.row(j)) * 4 * s_.hidden;
  }

  const LstmForwardArgs& args_;
  const LstmShape& s_;
  const Rows rows_;
  const bool projected_, packed_;
  const int64_t unit_panels_, output_panels_;
  const int threads_;
  Scratch<A> w_hh_, w_hr_;  // packed
  Scratch<A> h_;  // [2][B, R]: the state before a step and after it, forgotten where reset
  Scratch<A> c_;  // [B, H]
  Scratch<A> unprojected_;  // [B, H]
};

template <class Io>
class Backward {
  typedef typename Accumulate<Io>::Type A;
  typedef typename Simd<A>::Vec V;
  static constexpr int kWidth = Simd<A>::kWidth;

 public:
  Backward(const LstmBackwardArgs& args, int threads)
      : args_(args),
        s_(args.shape),
        rows_(args.shape),
        projected_(args.w_hr != nullptr),
        output_panels_(ceil_div(s_.output, panel_columns<A>())),
        unit_panels_(ceil_div(s_.hidden, panel_columns<A>())),
        threads_(team_size(s_, threads, unit_panels_)),
        w_hh_(output_panels_ * 4 * s_.hidden * panel_columns<A>()),
        w_hr_(projected_ ? unit_panels_ * s_.output * panel_columns<A>() : 0),
        d_gates_(2 * s_.batch * 4 * s_.hidden),
        d_h_(s_.batch * s_.output),
        d_c_(s_.batch * s_.hidden) {}

  void run() {
#pragma omp parallel num_threads(threads_)
    run_thread(omp_get_thread_num(), omp_get_num_threads());
  }

 private:
  void run_thread(int thread, int threads) {
    const Share outputs(output_panels_, thread, threads), units(unit_panels_, thread, threads);
    prepare(outputs, units, thread, threads);
#pragma omp barrier
    A* d_gates = d_gates_.get();
    for (int64_t step = 0; step < s_.steps; ++step) {
      const int64_t t = s_.reverse ? step : s_.steps - 1 - step;
      for (int64_t panel = outputs.begin; panel < outputs.end; ++panel) add_grad_y(t, panel);
      if (projected_) {
#pragma omp barrier
      }
      for (int64_t panel = units.begin; panel < units.end; ++panel) step_units(t, panel, d_gates);
#pragma omp barrier
      for (int64_t panel = outputs.begin; panel < outputs.end; ++panel)
        to_previous(t, panel, d_gates);
      // the other half, so that a thread still reading this one is not overtaken
      d_gates = d_gates_.get() + ((step + 1) % 2) * s_.batch * 4 * s_.hidden;
    }
#pragma omp barrier
    const Share mine(s_.batch, thread, threads);
    for (int64_t j = mine.begin; j < mine.end; ++j) end_row(j);
  }

  void prepare(const Share& outputs, const Share& units, int thread, int threads) {
    for (int64_t panel = outputs.begin; panel < outputs.end; ++panel)
      pack_columns(static_cast<const Io*>(args_.w_hh), 4 * s_.hidden, s_.output,
                   panel * panel_columns<A>(),
                   w_hh_.get() + panel * 4 * s_.hidden * panel_columns<A>());
    if (projected_) {
      for (int64_t panel = units.begin; panel < units.end; ++panel)
        pack_columns(static_cast<const Io*>(args_.w_hr), s_.output, s_.hidden,
                     panel * panel_columns<A>(),
                     w_hr_.get() + panel * s_.output * panel_columns<A>());
    }
    const Share mine(s_.batch, thread, threads);
    for (int64_t j = mine.begin; j < mine.end; ++j) {
      widen_row(args_.grad_h_n, rows_.row(j), s_.output, d_h_.get() + j * s_.output);
      widen_row(args_.grad_c_n, rows_.row(j), s_.hidden, d_c_.get() + j * s_.hidden);
    }
    zero_finished(static_cast<Io*>(args_.d_gates), rows_, s_, 4 * s_.hidden, thread, threads);
    zero_finished(static_cast<Io*>(args_.d_h), rows_, s_, s_.output, thread, threads);
  }

  static void widen_row(const void* source, int64_t row, int64_t size, A* out) {
    const Io* in = static_cast<const Io*>(source) + row * size;
    for (int64_t k = 0; k < size; ++k) out[k] = source == nullptr ? A{} : widen(in[k]);
  }

  void end_row(int64_t j) {
    narrow_row(d_h_.get() + j * s_.output, s_.output,
               static_cast<Io*>(args_.d_h0) + rows_.row(j) * s_.output);
    narrow_row(d_c_.get() + j * s_.hidden, s_.hidden,
               static_cast<Io*>(args_.d_c0) + rows_.row(j) * s_.hidden);
  }

  static void narrow_row(const A* in, int64_t size, Io* out) {
    for (int64_t k = 0; k < size; k += kWidth) {
      const int count = lanes(size, k, kWidth);
      store(out + k, load<V>(in + k, count), count);
    }
  }

  // d_h += what this step's output receives; with a projection it is an output itself.
  void add_grad_y(int64_t t, int64_t panel) {
    const Io* grad_y = static_cast<const Io*>(args_.grad_y);
    Io* d_h_out = static_cast<Io*>(args_.d_h);
    const int64_t end = std::min((panel + 1) * panel_columns<A>(), s_.output);
    for (int64_t j = 0; j < rows_.running(t); ++j) {
      const int64_t at = (t * s_.batch + rows_.row(j)) * s_.output;
      for (int64_t k = panel * panel_columns<A>(); k < end; k += kWidth) {
        const int count = lanes(end, k, kWidth);
        A* d_h = d_h_.get() + j * s_.output + k;
        V sum = load<V>(d_h, count);
        if (grad_y != nullptr) sum += load<V>(grad_y + at + k, count);
        store(d_h, sum, count);
        if (projected_) store(d_h_out + at + k, sum, count);
      }
    }
  }

  void step_units(int64_t t, int64_t panel, A* d_gates) {
    const A* weights = w_hr_.get() + panel * s_.output * panel_columns<A>();
    for_row_tiles(0, rows_.running(t), [&](auto tile, int64_t j0) {
      V sums[tile.value][kPanelVectors] = {};
      if (projected_)
        multiply_rows<tile.value>(d_h_.get() + j0 * s_.output, s_.output, weights, s_.output, sums);
      for (int r = 0; r < tile.value; ++r)
        for (int v = 0; v < kPanelVectors; ++v) {
          const int64_t unit = panel * panel_columns<A>() + v * kWidth;
          if (unit >= s_.hidden) break;
          const int count = lanes(s_.hidden, unit, kWidth);
          const V dh =
              projected_ ? sums[r][v] : load<V>(d_h_.get() + (j0 + r) * s_.output + unit, count);
          step_unit(t, j0 + r, unit, count, dh, d_gates + (j0 + r) * 4 * s_.hidden);
        }
    });
  }

  FAST_S2S_INLINE void step_unit(int64_t t, int64_t j, int64_t unit, int count, V dh, A* d_gates) {
    const int64_t at = t * s_.batch + rows_.row(j);
    const Io* saved = static_cast<const Io*>(args_.gates) + at * 4 * s_.hidden + unit;
    const Gates<V> gates{load<V>(saved, count), load<V>(saved + s_.hidden, count),
                         load<V>(saved + 2 * s_.hidden, count),
                         load<V>(saved + 3 * s_.hidden, count)};
    const V c = load<V>(static_cast<const A*>(args_.cells) + at * s_.hidden + unit, count);
    A* d_c_state = d_c_.get() + j * s_.hidden + unit;
    V d_c = load<V>(d_c_state, count);
    const Gates<V> d = step_backward<Math>(gates, c, previous_cell(t, j, unit, count), dh, d_c);
    store(d_c_state, rows_.resets(t, j) ? V{} : d_c, count);
    Io* out = static_cast<Io*>(args_.d_gates) + at * 4 * s_.hidden + unit;
    const V parts[4] = {d.i, d.f, d.g, d.o};
    for (int gate = 0; gate < 4; ++gate) {
      store(d_gates + gate * s_.hidden + unit, parts[gate], count);
      store(out + gate * s_.hidden, parts[gate], count);
    }
  }

  FAST_S2S_INLINE V previous_cell(int64_t t, int64_t j, int64_t unit, int count) const {
    if (rows_.resets(t, j)) return V{};
    if (t == rows_.first(j))
      return load<V>(static_cast<const Io*>(args_.c0) + rows_.row(j) * s_.hidden + unit, count);
    const int64_t at = rows_.preceding(t) * s_.batch + rows_.row(j);
    return load<V>(static_cast<const A*>(args_.cells) + at * s_.hidden + unit, count);
  }

  // d_h of the step before: d_gates · W_hh
  void to_previous(int64_t t, int64_t panel, const A* d_gates) {
    const A* weights = w_hh_.get() + panel * 4 * s_.hidden * panel_columns<A>();
    for_row_tiles(0, rows_.running(t), [&](auto tile, int64_t j0) {
      V sums[tile.value][kPanelVectors] = {};
      multiply_rows<tile.value>(d_gates + j0 * 4 * s_.hidden, 4 * s_.hidden, weights, 4 * s_.hidden,
                                sums);
      for (int r = 0; r < tile.value; ++r)
        for (int v = 0; v < kPanelVectors; ++v) {
          const int64_t k = panel * panel_columns<A>() + v * kWidth;
          if (k >= s_.output) break;
          store(d_h_.get() + (j0 + r) * s_.output + k, rows_.resets(t, j0 + r) ? V{} : sums[r][v],
                lanes(s_.output, k, kWidth));
        }
    });
  }

  const LstmBackwardArgs& args_;
  const LstmShape& s_;
  const Rows rows_;
  const bool projected_;
  const int64_t output_panels_, unit_panels_;
  const int threads_;
  Scratch<A> w_hh_, w_hr_;  // packed
  Scratch<A> d_gates_;      // [2][B, 4H]
  Scratch<A> d_h_;          // [B, R]
  Scratch<A> d_c_;          // [B, H]
};

template <template <class> class Kernel, class Args>
void dispatch_dtype(const Args& args, int threads) {
  switch (args.shape.dtype) {
    case DType::kFloat32:
      return Kernel<float>(args, threads).run();
    case DType::kFloat64:
      return Kernel<double>(args, threads).run();
    case DType::kBFloat16:
      return Kernel<bfloat16>(args, threads).run();
  }
}

void lstm_forward(const LstmForwardArgs& args, int threads) {
  dispatch_dtype<Forward>(args, threads);
}
void lstm_backward(const LstmBackwardArgs& args, int threads) {
  dispatch_dtype<Backward>(args, threads);
}

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
