// The reading CPU kernel. Included once per instruction set.
//
// The network of a decode over tokens that are known, without attention and vocabulary. Threads own
// panels of hidden units, with a barrier after each layer; two directions have threads of their
// own, which never meet. Values are multiplied for many steps at once.

namespace fast_s2s {
namespace FAST_S2S_ISA {

template <class Panel>
class Reader {
  typedef typename Panel::Acc A;

 public:
  Reader(const PackedHeader& header, const ReadArgs& args, int64_t direction)
      : h_(header),
        args_(args),
        direction_(direction),
        network_(h_, {args.packed[direction], {}}, args.rows, /*width=*/1),
        chunk_(args.values == nullptr ? 0 : steps_at_once()),
        sums_(chunk_ * args.rows * network_.units_padded()) {
    if (chunk_ > 0) network_.begin_with(sums_.get());
    begin();
  }

  // About how long one thread takes.
  int64_t microseconds() const { return args_.steps * network_.step_microseconds(args_.rows); }
  int team(int threads) const {
    return network_.team(network_.step_microseconds(args_.rows), threads);
  }

  void run_thread(int thread, int threads) {
    typename Network<Panel>::Own own(network_);
    OwnInputs inputs(chunk_ > 0 ? h_.inputs : 0);
    while (live_.size() > 0) {
      if (chunk_ > 0 && step_ % chunk_ == 0) {
        sum_inputs(thread, threads, inputs);
        barrier_.wait(threads);
      }
      for (int64_t layer = 0; layer < h_.layers; ++layer) {
        const auto finish = [&] {
          if (layer == h_.layers - 1) finish_step();
        };
        network_.step_layer(layer, live_, thread, threads, own, barrier_);
        barrier_.wait(threads, finish);
      }
    }
  }

 private:
  // Rows of values that a thread multiplies at once, and where their sums go.
  static constexpr int64_t kInputRows = 96;
  struct OwnInputs {
    explicit OwnInputs(int64_t size)
        : rows(size > 0 ? kInputRows : 0, size),
          named(kInputRows),
          part(size > 0 ? kInputRows * Network<Panel>::kColumns : 0) {
      std::iota(named.begin(), named.end(), 0);
    }
    typename Panel::Operand rows;
    std::vector<int64_t> named, where;
    std::vector<const A*> values;
    Scratch<A> part;
  };

  // As many as have room for their sums near a core.
  int64_t steps_at_once() const {
    constexpr int64_t kBytes = 2 << 20;
    const int64_t bytes = std::max<int64_t>(1, args_.rows) * network_.units_padded() *
                          static_cast<int64_t>(sizeof(A));
    return std::clamp<int64_t>(kBytes / bytes, 1, std::max<int64_t>(1, args_.steps));
  }

  // Of the next steps.
  void sum_inputs(int thread, int threads, OwnInputs& own) {
    const auto finish = [&] {
      const int64_t count = static_cast<int64_t>(own.where.size());
      own.rows.set(own.values.data(), count, h_.inputs);
      network_.sum_inputs(own.rows, own.named.data(), own.where.data(), count, thread, threads,
                          own.part.get(), sums_.get());
      own.values.clear(), own.where.clear();
    };
    const A* values = static_cast<const A*>(args_.values);
    for (int64_t step = step_; step < std::min(step_ + chunk_, args_.steps); ++step)
      for (int64_t row = 0; row < args_.rows; ++row) {
        if (step >= args_.lengths[row]) continue;
        own.values.push_back(values + (row * args_.steps + place(row, step)) * h_.inputs);
        own.where.push_back(sums_of(row, step));
        if (own.where.size() == kInputRows) finish();
      }
    if (!own.where.empty()) finish();
  }
  int64_t sums_of(int64_t row, int64_t step) const { return step % chunk_ * args_.rows + row; }

  void begin() {
    for (int64_t row = 0; row < args_.rows; ++row) {
      if (args_.outputs != nullptr)
        for (int64_t at = args_.lengths[row]; at < args_.steps; ++at)
          std::fill_n(output(row, at), h_.output, A{});
      const bool runs = args_.lengths[row] > 0;
      const int64_t index = live_.size();
      for (int64_t layer = 0; layer < h_.layers; ++layer) {
        std::copy_n(hidden(args_.h, layer, row), h_.output,
                    runs ? network_.now().hidden(layer, index) : hidden(args_.h_n, layer, row));
        std::copy_n(cell(args_.c, layer, row), h_.hidden,
                    runs ? network_.now().cell(layer, index) : cell(args_.c_n, layer, row));
      }
      if (runs) live_.add(row, row, index, token(row));
    }
  }

  // What the step found, and which rows take another.
  void finish_step() {
    network_.swap_states();
    const LayerStates<A>& now = network_.now();
    following_.clear();
    for (int64_t index = 0; index < live_.size(); ++index) {
      const int64_t row = live_.slot[index];
      if (args_.outputs != nullptr)
        std::copy_n(now.hidden(h_.layers - 1, index), h_.output, output(row, place(row, step_)));
    }
    ++step_;
    for (int64_t index = 0; index < live_.size(); ++index) {
      const int64_t row = live_.slot[index];
      if (step_ < args_.lengths[row]) {
        following_.add(row, row, index, token(row));
        continue;
      }
      for (int64_t layer = 0; layer < h_.layers; ++layer) {
        std::copy_n(now.hidden(layer, index), h_.output, hidden(args_.h_n, layer, row));
        std::copy_n(now.cell(layer, index), h_.hidden, cell(args_.c_n, layer, row));
      }
    }
    std::swap(live_, following_);
  }

  // Which of its inputs a row reads in a step.
  int64_t place(int64_t row, int64_t step) const {
    return direction_ == 0 ? step : args_.lengths[row] - 1 - step;
  }
  // What the first layer looks up.
  int64_t token(int64_t row) const {
    if (chunk_ > 0) return sums_of(row, step_);
    return args_.tokens[row * args_.steps + place(row, step_)];
  }

  template <class T>
  auto state(T* states, int64_t layer, int64_t row, int64_t size) const {
    typedef std::conditional_t<std::is_const_v<T>, const A, A> Value;
    return static_cast<Value*>(states) +
           ((direction_ * h_.layers + layer) * args_.rows + row) * size;
  }
  template <class T>
  auto hidden(T* states, int64_t layer, int64_t row) const {
    return state(states, layer, row, h_.output);
  }
  template <class T>
  auto cell(T* states, int64_t layer, int64_t row) const {
    return state(states, layer, row, h_.hidden);
  }
  A* output(int64_t row, int64_t place) const {
    return static_cast<A*>(args_.outputs) +
           ((row * args_.steps + place) * args_.directions + direction_) * h_.output;
  }

  const PackedHeader& h_;
  const ReadArgs& args_;
  const int64_t direction_;
  Network<Panel> network_;
  const int64_t chunk_;  // steps whose values are multiplied at once; 0: it reads tokens
  Scratch<A> sums_;      // [chunk][B][padded 4H]
  LiveSlots live_, following_;
  int64_t step_ = 0;
  Barrier barrier_;
};

// One direction or two, with threads if there is enough work to repay them.
template <class Panel>
void read_directions(const PackedHeader& header, const ReadArgs& args, int threads) {
  constexpr int64_t kUsPerDirection = 60;
  Reader<Panel> first(header, args, 0);
  std::optional<Reader<Panel>> second;
  if (args.directions == 2) second.emplace(header, args, 1);
  const bool apart = second && threads >= 2 && first.microseconds() >= kUsPerDirection;
  const int team = apart ? 2 * first.team(threads / 2) : first.team(threads);
  Barrier end;
#pragma omp parallel num_threads(team)
  {
    const int thread = omp_get_thread_num(), count = omp_get_num_threads();
    if (apart && count > 1) {
      if (thread % 2 == 0) first.run_thread(thread / 2, (count + 1) / 2);
      if (thread % 2 == 1) second->run_thread(thread / 2, count / 2);
    } else {
      first.run_thread(thread, count);
      if (second) second->run_thread(thread, count);
    }
    // OpenMP's own would not tell that one had no core
    end.wait(count);
  }
}

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
