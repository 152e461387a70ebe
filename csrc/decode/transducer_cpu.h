// The transducer's CPU kernel. Included once per instruction set.
//
// One parallel region for all frames. The predictor takes a step for the rows that chose a token.
// Until a row chooses the next one, its frames meet the same prediction: several are joined at
// once, so that the joiner's weights are read once for them, and those behind a token count for
// nothing. Threads own panels of each matrix, then rows, whose tokens they choose; a barrier
// follows each.

namespace fast_s2s {
namespace FAST_S2S_ISA {

template <class Panel>
class Transducer {
  typedef typename Panel::Acc A;
  typedef typename Simd<A>::Vec V;
  static constexpr int kWidth = Simd<A>::kWidth;

 public:
  Transducer(const PackedHeader& predictor, const TransducerArgs& args)
      : h_(predictor),
        args_(args),
        network_(h_, {args.predictor, {}}, args.rows, /*width=*/1),
        joiner_header_(header_of(args.joiner)),
        size_(joiner_header_.output),
        outputs_(ceil_div(joiner_header_.vocab, panel_columns<A>()) * panel_columns<A>()),
        pairs_(std::max(args.rows, kPairs)),
        h_after_(h_.layers * args.rows * h_.output),
        c_after_(h_.layers * args.rows * h_.hidden),
        predicted_(args.rows * size_),
        joined_(pairs_ * size_),
        logits_(pairs_ * outputs_),
        joined_at_(pairs_),
        logits_at_(pairs_),
        tops_(args.rows),
        predictions_(args.rows),
        rows_(args.rows) {
    for (int64_t i = 0; i < pairs_; ++i) {
      joined_at_[i] = joined_.get() + i * size_;
      logits_at_[i] = logits_.get() + i * outputs_;
    }
    joiner_.emplace(joiner_header_, joining_ = {args.joiner, joined_at_.data(), logits_at_.data(),
                                                pairs_, /*tanh=*/false});
    if (args.projection == nullptr) return;
    projection_header_ = header_of(args.projection);
    projection_.emplace(projection_header_, projecting_ = {args.projection, tops_.data(),
                                                           predictions_.data(), args.rows,
                                                           /*tanh=*/false});
  }

  void run(int threads) {
    begin();
    if (running_.empty()) return;
    const int64_t us = network_.step_microseconds(args_.rows) + joiner_->microseconds();
#pragma omp parallel num_threads(network_.team(us, threads))
    run_thread(omp_get_thread_num(), omp_get_num_threads());
  }

 private:
  // Frames joined at once, of all rows and of one.
  static constexpr int64_t kPairs = 16, kFramesAtOnce = 4;

  struct Row {
    int64_t frame, symbols;  // where it stands, and tokens chosen there
    int64_t first, count;    // of its frames that are joined now
    bool chose;              // a token, which the predictor is to read
  };

  static PackedHeader header_of(const void* packed) {
    PackedHeader header;
    std::memcpy(&header, packed, sizeof(header));
    return header;
  }

  void begin() {
    for (int64_t row = 0; row < args_.rows; ++row) {
      for_layers([&](int64_t layer) {
        std::copy_n(hidden(args_.h, layer, row), h_.output, hidden(args_.h_n, layer, row));
        std::copy_n(cell(args_.c, layer, row), h_.hidden, cell(args_.c_n, layer, row));
      });
      args_.token_n[row] = args_.token[row];
      args_.skip_n[row] = std::max<int64_t>(0, args_.skip[row] - args_.lengths[row]);
      rows_[row] = {args_.skip[row], 0, 0, 0, /*chose=*/true};
      if (args_.skip[row] < args_.lengths[row]) running_.push_back(row);
    }
    begin_step();
  }

  void run_thread(int thread, int threads) {
    typename Network<Panel>::Own own(network_);
    typename Linear<Panel>::Own projecting(args_.rows, h_.output), joining(pairs_, size_);
    while (!running_.empty()) {
      if (reading_.size() > 0) predict(thread, threads, own, projecting);
      const Share mine(static_cast<int64_t>(joined_pairs_.size()), thread, threads);
      for (int64_t i = mine.begin; i < mine.end; ++i) join(i);
      barrier_.wait(threads);
      joiner_->run_thread(thread, threads, joining);
      // one row is not worth sharing
      const bool together = running_.size() > 1;
      if (together) {
        barrier_.wait(threads);
        const Share rows(static_cast<int64_t>(running_.size()), thread, threads);
        for (int64_t i = rows.begin; i < rows.end; ++i) choose(running_[i]);
      }
      barrier_.wait(threads, [&] {
        if (!together) choose(running_[0]);
        begin_step();
      });
    }
  }

  // A step of the predictor, for the rows that read a token.
  void predict(int thread, int threads, typename Network<Panel>::Own& own,
               typename Linear<Panel>::Own& projecting) {
    for_layers([&](int64_t layer) {
      network_.step_layer(layer, reading_, thread, threads, own, barrier_);
      barrier_.wait(threads, [&] {
        if (layer == h_.layers - 1) keep_states();
      });
    });
    if (!projection_) return;
    projection_->run_thread(thread, threads, projecting);
    barrier_.wait(threads);
  }

  void keep_states() {
    network_.swap_states();
    const LayerStates<A>& now = network_.now();
    for (int64_t i = 0; i < reading_.size(); ++i) {
      const int64_t row = reading_.slot[i];
      for_layers([&](int64_t layer) {
        std::copy_n(now.hidden(layer, i), h_.output, hidden(h_after_.get(), layer, row));
        std::copy_n(now.cell(layer, i), h_.hidden, cell(c_after_.get(), layer, row));
      });
    }
  }

  // What the joiner reads of a frame and a prediction.
  void join(int64_t pair) {
    const auto [row, frame] = joined_pairs_[pair];
    const A* x = static_cast<const A*>(args_.encoded) + (row * args_.frames + frame) * size_;
    const A* prediction = projection_ ? predicted_.get() + row * size_ : top(row);
    A* out = joined_.get() + pair * size_;
    for (int64_t at = 0; at < size_; at += kWidth) {
      const int count = lanes(size_, at, kWidth);
      const V sum = load<V>(x + at, count) + load<V>(prediction + at, count);
      // NaN stays: it is not below zero
      store(out + at, args_.relu ? (sum < A{0} ? V{} : sum) : Math::tanh(sum), count);
    }
  }

  // The row's way through the frames that were joined: to its next token, or past all of them.
  void choose(int64_t index) {
    Row& row = rows_[index];
    const int64_t vocab = joiner_header_.vocab - args_.num_durations;
    const int64_t first = row.frame, end = first + row.count;
    while (row.frame < end) {
      A* logits = logits_.get() + (row.first + row.frame - first) * outputs_;
      // before what lies behind the tokens is made -inf
      const int64_t duration = args_.num_durations > 0 ? likeliest_duration(logits + vocab) : -1;
      Scores<A> found(logits, vocab, ceil_div(vocab, kWidth) * kWidth);
      found.make_finite();
      const int64_t token = found.first_best();
      if (token == args_.blank || token == vocab) {
        row.frame += std::max<int64_t>(1, duration);
        row.symbols = 0;
        continue;
      }
      found.normalize();
      args_.found[index].push_back({token, row.frame, found.score(token)});
      args_.token_n[index] = token;
      row.chose = true;
      // the states after what was read before
      for_layers([&](int64_t layer) {
        std::copy_n(hidden(h_after_.get(), layer, index), h_.output,
                    hidden(args_.h_n, layer, index));
        std::copy_n(cell(c_after_.get(), layer, index), h_.hidden, cell(args_.c_n, layer, index));
      });
      if (duration > 0) {
        row.frame += duration;
        row.symbols = 0;
      } else if (++row.symbols == args_.max_symbols) {
        ++row.frame;
        row.symbols = 0;
      }
      break;
    }
  }

  // The first of the likeliest durations. NaN counts as -inf.
  int64_t likeliest_duration(const A* logits) const {
    int64_t best = 0;
    A most = kNever<A>;
    for (int64_t i = 0; i < args_.num_durations; ++i)
      if (logits[i] > most) best = i, most = logits[i];
    return args_.durations[best];
  }

  // Which rows go on, what the predictor reads, and which frames are joined.
  void begin_step() {
    std::vector<int64_t> going;
    reading_.clear(), joined_pairs_.clear();
    for (int64_t row : running_) {
      if (rows_[row].frame < args_.lengths[row]) {
        going.push_back(row);
      } else {
        args_.skip_n[row] = rows_[row].frame - args_.lengths[row];
      }
    }
    running_.swap(going);
    const int64_t count = static_cast<int64_t>(running_.size());
    const int64_t most =
        std::clamp<int64_t>(kPairs / std::max<int64_t>(1, count), 1, kFramesAtOnce);
    for (int64_t index : running_) {
      Row& row = rows_[index];
      row.first = static_cast<int64_t>(joined_pairs_.size());
      // tokens come close to each other: the more blanks in a row, the more frames
      const int64_t wanted = row.chose ? 1 : std::min(most, 2 * row.count);
      row.count = std::min(wanted, args_.lengths[index] - row.frame);
      for (int64_t i = 0; i < row.count; ++i) joined_pairs_.push_back({index, row.frame + i});
      if (row.chose) begin_reading(index);
      row.chose = false;
    }
    joining_.rows = static_cast<int64_t>(joined_pairs_.size());
    projecting_.rows = reading_.size();
  }

  void begin_reading(int64_t row) {
    const int64_t index = reading_.size();
    reading_.add(row, row, index, args_.token_n[row]);
    for_layers([&](int64_t layer) {
      std::copy_n(hidden(args_.h_n, layer, row), h_.output, network_.now().hidden(layer, index));
      std::copy_n(cell(args_.c_n, layer, row), h_.hidden, network_.now().cell(layer, index));
    });
    tops_[index] = top(row);
    predictions_[index] = predicted_.get() + row * size_;
  }

  template <class F>
  void for_layers(const F& f) const {
    for (int64_t layer = 0; layer < h_.layers; ++layer) f(layer);
  }
  const A* top(int64_t row) const { return hidden(h_after_.get(), h_.layers - 1, row); }
  template <class T>
  auto state(T* states, int64_t layer, int64_t row, int64_t size) const {
    typedef std::conditional_t<std::is_const_v<T>, const A, A> Value;
    return static_cast<Value*>(states) + (layer * args_.rows + row) * size;
  }
  template <class T>
  auto hidden(T* states, int64_t layer, int64_t row) const {
    return state(states, layer, row, h_.output);
  }
  template <class T>
  auto cell(T* states, int64_t layer, int64_t row) const {
    return state(states, layer, row, h_.hidden);
  }

  const PackedHeader& h_;
  const TransducerArgs& args_;
  Network<Panel> network_;
  const PackedHeader joiner_header_;
  const int64_t size_;     // J
  const int64_t outputs_;  // V + D, padded
  const int64_t pairs_;    // at most so many are joined at once
  PackedHeader projection_header_{};
  Scratch<A> h_after_, c_after_;  // as h and c, after the last token that was read
  Scratch<A> predicted_;          // [B, J]
  Scratch<A> joined_;             // [pairs, J]
  Scratch<A> logits_;             // [pairs, padded V + D]
  std::vector<const void*> joined_at_;
  std::vector<void*> logits_at_;
  std::vector<const void*> tops_;   // of the rows that read, what is projected,
  std::vector<void*> predictions_;  // and where to
  LinearArgs joining_{}, projecting_{};
  std::optional<Linear<Panel>> joiner_, projection_;
  std::vector<Row> rows_;
  std::vector<int64_t> running_;
  std::vector<std::pair<int64_t, int64_t>> joined_pairs_;  // row and frame
  LiveSlots reading_;
  Barrier barrier_;
};

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
