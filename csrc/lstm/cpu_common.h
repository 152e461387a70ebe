// What the forward and backward CPU kernels share. Included once per instruction set.

namespace fast_s2s {
namespace FAST_S2S_ISA {

// What a step has to do, in floating-point operations.
inline int64_t step_work(const LstmShape& shape) {
  // the gates of a unit take as long as so many operations of a product
  constexpr int64_t kGateWork = 400;
  return shape.batch * shape.hidden * (8 * shape.output + kGateWork);
}

// How many threads a sequence is worth: each needs a panel of its own, and work enough in a step
// to repay a barrier, which costs a fifth of a microsecond at best and a time slice where cores
// are short.
inline int team_size(const LstmShape& shape, int threads, int64_t panels) {
  constexpr int64_t kWorkPerThread = 1 << 16;
  return static_cast<int>(std::max<int64_t>(
      1, std::min<int64_t>({threads, panels, step_work(shape) / kWorkPerThread})));
}

// Bytes of weights that stay in a core's own cache, by and large.
constexpr int64_t kNear = 1536 << 10;

// So much work, in the same measure, is worth another thread that need not be waited for but once.
constexpr int64_t kWorthHelp = 1 << 19;

// Runs a kernel on its team, whose threads wait for each other at the end: OpenMP would too, but
// never tell that one of them had no core.
template <class Kernel, class Args>
void run(int threads, const Args& args) {
  Kernel kernel(args, threads);
  Barrier end;
#pragma omp parallel num_threads(kernel.threads())
  {
    const int count = omp_get_num_threads();
    kernel.run_thread(omp_get_thread_num(), count);
    end.wait(count);
  }
}

// Whether two calls of one shape had better take half of the threads each than all of them in turn:
// not where one thread is done before another has come to help, nor where threads would be left
// over that a single call could use.
template <class Kernel>
bool side_by_side(const LstmShape& shape, int threads) {
  return threads > 1 && shape.steps * step_work(shape) >= kWorthHelp &&
         2 * Kernel::team(shape, threads / 2) >= Kernel::team(shape, threads);
}

// Runs two calls of one shape that do not need each other.
template <class Kernel, class Args>
void run(int threads, const Args& first, const Args& second) {
  if (!side_by_side<Kernel>(first.shape, threads)) {
    run<Kernel>(threads, first);
    return run<Kernel>(threads, second);
  }
  Kernel one(first, threads / 2), other(second, threads / 2);
  Barrier end;
#pragma omp parallel num_threads(one.threads() + other.threads())
  {
    const int thread = omp_get_thread_num(), count = omp_get_num_threads(), team = count / 2;
    if (team == 0) {  // OpenMP may give fewer than it is asked for
      one.run_thread(0, 1);
      other.run_thread(0, 1);
    } else if (thread < 2 * team) {
      (thread < team ? one : other).run_thread(thread % team, team);
    }
    end.wait(count);
  }
}

// Calls `panels(first, count)` for a thread's panels, `group` at a time: upwards in one step and
// downwards in the next, for those used last, which are still near, to be the first used again.
template <class F>
FAST_S2S_INLINE void for_panels(const Share& share, int64_t step, int64_t group, const F& panels) {
  const int64_t groups = ceil_div(share.end - share.begin, group);
  for (int64_t i = 0; i < groups; ++i) {
    const int64_t first = share.begin + (step % 2 == 0 ? i : groups - 1 - i) * group;
    panels(first, std::min(group, share.end - first));
  }
}

// Rows of `width` values, `stride` apart (0: as wide as they are).
template <class Io>
void zero_finished(void* data, const Rows& rows, const LstmShape& shape, int64_t width, int thread,
                   int threads, int64_t stride = 0) {
  if (data == nullptr || shape.lengths == nullptr) return;
  const Share mine(shape.steps, thread, threads);
  for (int64_t t = mine.begin; t < mine.end; ++t)
    for (int64_t j = 0; j < shape.batch; ++j)
      if (t >= rows.length(j))
        std::memset(static_cast<Io*>(data) + rows.padded(t, j) * (stride == 0 ? width : stride), 0,
                    sizeof(Io) * width);
}

// Steps taken together for products that need not wait for the recurrence: enough rows to reuse
// weights while they are near, few enough to stay near themselves.
inline int64_t chunk_steps(const LstmShape& shape, int64_t rows) {
  constexpr int64_t kChunkRows = 96;
  return std::min(shape.steps, std::max<int64_t>(1, kChunkRows / std::max<int64_t>(1, rows)));
}

// Rows of a chunk as operands of a product, wherever they lie: pointers into the source, or into
// widened copies.
template <class Io>
class ChunkRows {
  typedef typename Operand<Io>::Type A;

 public:
  explicit ChunkRows(int64_t width) : width_(width) {}
  void clear() { sources_.clear(); }
  void add(const Io* row) { sources_.push_back(row); }
  int64_t size() const { return static_cast<int64_t>(sources_.size()); }

  // To be called after the last `add`.
  void widen_all() {
    if constexpr (!std::is_same_v<Io, A>) {
      widened_.resize(size() * width_);
      pointers_.resize(size());
      for (int64_t r = 0; r < size(); ++r) {
        A* out = widened_.data() + r * width_;
        for (int64_t k = 0; k < width_; ++k) out[k] = widen(sources_[r][k]);
        pointers_[r] = out;
      }
    }
  }
  const A* const* pointers() const {
    if constexpr (std::is_same_v<Io, A>) {
      return sources_.data();
    } else {
      return pointers_.data();
    }
  }

 private:
  int64_t width_;
  std::vector<const Io*> sources_;
  std::vector<const A*> pointers_;
  std::vector<A> widened_;
};

// Row `row` of an array of rows of `size`, as A; zero where there is no array.
template <class Io, class A>
void widen_row(const void* source, int64_t row, int64_t size, A* out) {
  const Io* in = static_cast<const Io*>(source) + row * size;
  for (int64_t k = 0; k < size; ++k) out[k] = source == nullptr ? A{} : widen(in[k]);
}

template <class A, class Io>
void narrow_row(const A* in, int64_t size, Io* out) {
  typedef typename Simd<A>::Vec V;
  constexpr int kWidth = Simd<A>::kWidth;
  for (int64_t k = 0; k < size; k += kWidth) {
    const int count = lanes(size, k, kWidth);
    store(out + k, load<V>(in + k, count), count);
  }
}

// The gates of W units in a row of all gates.
template <class V, class T>
FAST_S2S_INLINE Gates<V> load_gate_vectors(const T* at, int64_t hidden, int count) {
  return {load<V>(at, count), load<V>(at + hidden, count), load<V>(at + 2 * hidden, count),
          load<V>(at + 3 * hidden, count)};
}
template <class V, class T>
FAST_S2S_INLINE void store_gate_vectors(T* at, int64_t hidden, const Gates<V>& gates, int count) {
  store(at, gates.i, count);
  store(at + hidden, gates.f, count);
  store(at + 2 * hidden, gates.g, count);
  store(at + 3 * hidden, gates.o, count);
}

// The gates' weights by panels of W units: vector v of a panel holds gate v of the units.
template <class Io>
class GateWeights {
  typedef typename Accumulate<Io>::Type A;
  typedef typename Simd<A>::Vec V;
  static constexpr int kWidth = Simd<A>::kWidth;

 public:
  typedef typename Operand<Io>::Type Value;

  // `keep`: see PackedPanels.
  GateWeights(const void* w, int64_t hidden, int64_t k_size, bool packed, bool keep = false)
      : w_(static_cast<const Io*>(w)),
        hidden_(hidden),
        k_size_(k_size),
        packed_(packed),
        panels_(w_, packed ? ceil_div(hidden, kWidth) : 0, k_size, keep) {}

  void pack(int64_t panel) {
    if (packed_) panels_.pack(panel, columns(panel));
  }

  // With `Vectors / 4` neighbouring panels; more than one only if packed.
  template <int Rows, int Vectors>
  FAST_S2S_INLINE void multiply(const RowTile<Rows, Value>& a, int64_t panel,
                                V (&sums)[Rows][Vectors]) const {
    if constexpr (Vectors == kPanelVectors) {
      if (!packed_) return multiply_rows_unpacked(a, w_, columns(panel), k_size_, sums);
    }
    multiply_rows(a, panels_.at(panel), k_size_, sums, panels_.panel_size());
  }

 private:
  PanelColumns columns(int64_t panel) const {
    const int count = lanes(hidden_, panel * kWidth, kWidth);
    return {panel * kWidth, hidden_, {count, count, count, count}};
  }

  const Io* w_;
  int64_t hidden_, k_size_;
  bool packed_;
  PackedPanels<Io> panels_;
};

// The projection's weights by panels of neighbouring outputs.
template <class Io>
class OutputWeights {
  typedef typename Accumulate<Io>::Type A;
  typedef typename Operand<Io>::Type Value;
  typedef typename Simd<A>::Vec V;
  static constexpr int kWidth = Simd<A>::kWidth;

 public:
  // `w`: [outputs, hidden], or null: there is none. `keep`: see PackedPanels.
  OutputWeights(const void* w, const LstmShape& shape, bool packed, bool keep)
      : w_(static_cast<const Io*>(w)),
        hidden_(shape.hidden),
        output_(shape.output),
        packed_(packed),
        panels_(w_, w != nullptr && packed ? count() : 0, hidden_, keep) {}

  int64_t count() const { return ceil_div(output_, panel_columns<A>()); }

  void pack(int64_t panel) {
    if (w_ != nullptr && packed_) panels_.pack(panel, columns(panel));
  }

  // Of dense rows of hidden units: calls `emit(row, first output, outputs, vector)`.
  template <class Emit>
  FAST_S2S_INLINE void multiply(const Value* a, int64_t rows, int64_t panel,
                                const Emit& emit) const {
    for_row_tiles(rows, [&](auto tile, int64_t r0) {
      V sums[tile.value][kPanelVectors] = {};
      const auto of_tile = row_tile<tile.value>(a + r0 * hidden_, hidden_);
      const PanelColumns of_panel = columns(panel);
      if (packed_) {
        multiply_rows(of_tile, panels_.at(panel), hidden_, sums);
      } else {
        multiply_rows_unpacked(of_tile, w_, of_panel, hidden_, sums);
      }
      for (int r = 0; r < tile.value; ++r)
        for (int v = 0; v < kPanelVectors && of_panel.count[v] > 0; ++v)
          emit(r0 + r, of_panel.first + v * kWidth, of_panel.count[v], sums[r][v]);
    });
  }

 private:
  PanelColumns columns(int64_t panel) const {
    PanelColumns columns{panel * panel_columns<A>(), kWidth, {}};
    for (int v = 0; v < kPanelVectors; ++v)
      columns.count[v] = std::max(0, lanes(output_, columns.first + v * kWidth, kWidth));
    return columns;
  }

  const Io* w_;
  int64_t hidden_, output_;
  bool packed_;
  PackedPanels<Io> panels_;
};

// b_ih + b_hh of W units from `unit` on, a vector for each gate.
template <class Io, class V>
FAST_S2S_INLINE void load_bias(const LstmWeights& weights, int64_t hidden, int64_t unit, int count,
                               V (&bias)[kPanelVectors]) {
  for (int gate = 0; gate < 4; ++gate) {
    bias[gate] = V{};
    for (const void* b : {weights.b_ih, weights.b_hh})
      if (b != nullptr)
        bias[gate] += load<V>(static_cast<const Io*>(b) + gate * hidden + unit, count);
  }
}

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
