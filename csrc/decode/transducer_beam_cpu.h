// The kernel of a transducer's beam search. Included once per instruction set.
//
// One parallel region for all frames. In a round every row's hypotheses meet its frame: those that
// are new are read by the predictor, all are joined, then each row takes blanks and tokens. Rows
// are at frames of their own. Threads own panels of each matrix, then rows.

namespace fast_s2s {
namespace FAST_S2S_ISA {

template <class Panel>
class TransducerBeam {
  typedef typename Panel::Acc A;
  typedef typename Simd<A>::Vec V;
  static constexpr int kWidth = Simd<A>::kWidth;

 public:
  TransducerBeam(const PackedHeader& predictor, const TransducerBeamArgs& args)
      : h_(predictor),
        args_(args),
        slots_(args.rows * args.width),
        network_(h_, {args.predictor, {}}, slots_, /*width=*/1),
        joiner_header_(header_of(args.joiner)),
        size_(joiner_header_.output),
        outputs_(ceil_div(joiner_header_.vocab, panel_columns<A>()) * panel_columns<A>()),
        before_(h_, kPlaces * slots_),
        after_(h_, kPlaces * slots_),
        predicted_(kPlaces * slots_ * size_),
        joined_(slots_ * size_),
        logits_(slots_ * outputs_),
        joined_at_(slots_),
        logits_at_(slots_),
        tops_(slots_),
        predictions_(slots_),
        rows_(args.rows, Row(args.width)) {
    for (int64_t i = 0; i < slots_; ++i) {
      joined_at_[i] = joined_.get() + i * size_;
      logits_at_[i] = logits_.get() + i * outputs_;
    }
    joiner_.emplace(joiner_header_, joining_ = {args.joiner, joined_at_.data(), logits_at_.data(),
                                                slots_, /*tanh=*/false});
    if (args.projection == nullptr) return;
    projection_header_ = header_of(args.projection);
    projection_.emplace(projection_header_,
                        projecting_ = {args.projection, tops_.data(), predictions_.data(), slots_,
                                       /*tanh=*/false});
  }

  void run(int threads) {
    begin();
    if (!running_.empty()) {
      const int64_t us = network_.step_microseconds(slots_) + joiner_->microseconds();
#pragma omp parallel num_threads(network_.team(us, threads))
      run_thread(omp_get_thread_num(), omp_get_num_threads());
    }
    for (int64_t row = 0; row < args_.rows; ++row) finish(row);
  }

 private:
  // Of each hypothesis: those that are kept, those that go on, and those that come of them.
  static constexpr int64_t kPlaces = 3;

  struct Row {
    explicit Row(int64_t width) : kept(width) {}
    int64_t frame = 0, symbols = 0;  // where it stands, and tokens chosen there
    int64_t first = 0;               // of its hypotheses that are joined now
    TokenTree sequences;
    std::vector<BeamPath> current;  // that meet the frame
    KeptPaths kept;                 // that have taken its blank
    Extensions next;
  };
  struct Pair {
    int64_t row, slot;
  };

  static PackedHeader header_of(const void* packed) {
    PackedHeader header;
    std::memcpy(&header, packed, sizeof(header));
    return header;
  }

  void begin() {
    reading_.clear(), pairs_.clear(), read_slots_.clear();
    for (int64_t index = 0; index < args_.rows; ++index) {
      Row& row = rows_[index];
      for (const TransducerHypothesis& given : args_.found[index]) {
        int64_t sequence = TokenTree::kNone;
        for (size_t i = 0; i < given.tokens.size(); ++i)
          sequence = row.sequences.add(sequence, given.tokens[i], given.frames[i]);
        const int64_t place = static_cast<int64_t>(row.current.size());
        const int64_t slot = kPlaces * args_.width * index + place;
        for_layers([&](int64_t layer) {
          const int64_t at = layer * slots_ + args_.width * index + place;
          std::copy_n(static_cast<const A*>(args_.h) + at * h_.output, h_.output,
                      before_.hidden(layer, slot));
          std::copy_n(static_cast<const A*>(args_.c) + at * h_.hidden, h_.hidden,
                      before_.cell(layer, slot));
        });
        row.current.push_back({sequence, slot, given.last, given.score});
      }
      if (args_.lengths[index] == 0 || row.current.empty()) continue;
      for (const BeamPath& each : row.current) begin_reading(each);
      running_.push_back(index);
    }
    begin_joining();
  }

  void run_thread(int thread, int threads) {
    typename Network<Panel>::Own own(network_);
    typename Linear<Panel>::Own projecting(slots_, h_.output), joining(slots_, size_);
    while (!running_.empty()) {
      if (reading_.size() > 0) predict(thread, threads, own, projecting);
      const Share mine(static_cast<int64_t>(pairs_.size()), thread, threads);
      for (int64_t i = mine.begin; i < mine.end; ++i) join(i);
      barrier_.wait(threads);
      joiner_->run_thread(thread, threads, joining);
      barrier_.wait(threads);
      const Share rows(static_cast<int64_t>(running_.size()), thread, threads);
      for (int64_t i = rows.begin; i < rows.end; ++i) choose(rows_[running_[i]]);
      barrier_.wait(threads, [&] { begin_round(); });
    }
  }

  // A step of the predictor, for the hypotheses that are new.
  void predict(int thread, int threads, typename Network<Panel>::Own& own,
               typename Linear<Panel>::Own& projecting) {
    for_layers([&](int64_t layer) {
      network_.step_layer(layer, reading_, thread, threads, own, barrier_);
      barrier_.wait(threads, [&] {
        if (layer == h_.layers - 1) network_.swap_states();
      });
    });
    const Share mine(reading_.size(), thread, threads);
    for (int64_t i = mine.begin; i < mine.end; ++i)
      copy_states(network_.now(), i, after_, read_slots_[i]);
    barrier_.wait(threads);
    if (!projection_) return;
    projection_->run_thread(thread, threads, projecting);
    barrier_.wait(threads);
  }

  // What the joiner reads of a hypothesis and its row's frame.
  void join(int64_t index) {
    const auto [row, slot] = pairs_[index];
    const A* x =
        static_cast<const A*>(args_.encoded) + (row * args_.frames + rows_[row].frame) * size_;
    const A* prediction =
        projection_ ? predicted_.get() + slot * size_ : after_.hidden(h_.layers - 1, slot);
    A* out = joined_.get() + index * size_;
    for (int64_t at = 0; at < size_; at += kWidth) {
      const int count = lanes(size_, at, kWidth);
      const V sum = load<V>(x + at, count) + load<V>(prediction + at, count);
      // NaN stays: it is not below zero
      store(out + at, args_.relu ? (sum < A{0} ? V{} : sum) : Math::tanh(sum), count);
    }
  }

  // Blanks end in `kept`, the likeliest tokens in `next`.
  void choose(Row& row) {
    const int64_t vocab = joiner_header_.vocab, count = static_cast<int64_t>(row.current.size());
    for (int64_t i = 0; i < count; ++i) {
      Scores<A> found = scores_of(row.first + i);
      found.make_finite();
      found.normalize();
      BeamPath stays = row.current[i];
      // where no token is left, the frame is passed over
      if (found.largest() > kNever<A>) stays.score += found.score(args_.blank);
      if (stays.score > kNever<double>) row.kept.add(row.sequences, stays);
      logits_of_[row.first + i] = found.shift();
    }
    row.kept.sort_and_cut();
    row.next.reset(args_.width, row.kept.limit());
    if (row.symbols == args_.max_symbols) return;
    for (int64_t i = 0; i < count; ++i) {
      const A* values = logits_.get() + (row.first + i) * outputs_;
      const double score = row.current[i].score, shift = logits_of_[row.first + i];
      for (int64_t token = 0; token < vocab; ++token)
        if (token != args_.blank)
          row.next.add({score + (static_cast<double>(values[token]) - shift), i, token});
    }
  }

  Scores<A> scores_of(int64_t index) {
    const int64_t vocab = joiner_header_.vocab;
    return {logits_.get() + index * outputs_, vocab, ceil_div(vocab, kWidth) * kWidth};
  }

  // Each row's hypotheses with a token more, or at the next frame; what is read and joined.
  void begin_round() {
    std::vector<int64_t> going;
    reading_.clear(), pairs_.clear(), read_slots_.clear();
    for (int64_t index : running_) {
      Row& row = rows_[index];
      if (row.next.best().empty()) {
        // where none could take the blank, all go on
        if (!row.kept.all().empty()) row.current.swap(row.kept.all());
        row.kept.all().clear();
        row.symbols = 0;
        if (++row.frame < args_.lengths[index]) going.push_back(index);
        continue;
      }
      extend(index, row);
      going.push_back(index);
    }
    running_.swap(going);
    begin_joining();
  }

  void extend(int64_t index, Row& row) {
    std::vector<char> taken(kPlaces * args_.width);
    const int64_t first = kPlaces * args_.width * index;
    for (const auto* list : {&row.current, &row.kept.all()})
      for (const BeamPath& each : *list) taken[each.slot - first] = 1;
    std::vector<BeamPath> extended;
    int64_t free = 0;
    for (const Extensions::One& one : row.next.best()) {
      while (taken[free]) ++free;
      const BeamPath& parent = row.current[one.parent];
      const int64_t frame = args_.seen[index] + row.frame;
      extended.push_back({row.sequences.add(parent.sequence, one.token, frame), first + free++,
                          one.token, one.score});
      copy_states(after_, parent.slot, before_, extended.back().slot);
      begin_reading(extended.back());
    }
    row.current.swap(extended);
    ++row.symbols;
    row.next.clear();
  }

  void begin_reading(const BeamPath& hypothesis) {
    const int64_t index = reading_.size(), slot = hypothesis.slot;
    reading_.add(index, index, index, hypothesis.last);
    read_slots_.push_back(slot);
    copy_states(before_, slot, network_.now(), index);
    tops_[index] = after_.hidden(h_.layers - 1, slot);
    predictions_[index] = predicted_.get() + slot * size_;
  }

  void begin_joining() {
    for (int64_t index : running_) {
      Row& row = rows_[index];
      row.first = static_cast<int64_t>(pairs_.size());
      for (const BeamPath& each : row.current) pairs_.push_back({index, each.slot});
    }
    logits_of_.resize(pairs_.size());
    joining_.rows = static_cast<int64_t>(pairs_.size());
    projecting_.rows = reading_.size();
  }

  void finish(int64_t index) {
    Row& row = rows_[index];
    // given in any order
    std::stable_sort(row.current.begin(), row.current.end(),
                     [](const BeamPath& a, const BeamPath& b) { return a.score > b.score; });
    std::vector<TransducerHypothesis>& found = args_.found[index];
    found.resize(row.current.size());
    for (int64_t place = 0; place < args_.width; ++place) {
      const bool there = place < static_cast<int64_t>(row.current.size());
      for_layers([&](int64_t layer) {
        const int64_t at = layer * slots_ + args_.width * index + place;
        A *h = static_cast<A*>(args_.h_n) + at * h_.output,
          *c = static_cast<A*>(args_.c_n) + at * h_.hidden;
        if (!there) {
          std::fill_n(h, h_.output, A{}), std::fill_n(c, h_.hidden, A{});
          return;
        }
        std::copy_n(before_.hidden(layer, row.current[place].slot), h_.output, h);
        std::copy_n(before_.cell(layer, row.current[place].slot), h_.hidden, c);
      });
      if (!there) continue;
      const BeamPath& from = row.current[place];
      row.sequences.write(from.sequence, found[place].tokens, found[place].frames);
      found[place].score = from.score;
      found[place].last = from.last;
    }
  }

  void copy_states(const LayerStates<A>& from, int64_t at, const LayerStates<A>& to,
                   int64_t where) {
    for_layers([&](int64_t layer) {
      std::copy_n(from.hidden(layer, at), h_.output, to.hidden(layer, where));
      std::copy_n(from.cell(layer, at), h_.hidden, to.cell(layer, where));
    });
  }

  template <class F>
  void for_layers(const F& f) const {
    for (int64_t layer = 0; layer < h_.layers; ++layer) f(layer);
  }

  const PackedHeader& h_;
  const TransducerBeamArgs& args_;
  const int64_t slots_;  // B·W
  Network<Panel> network_;
  const PackedHeader joiner_header_;
  const int64_t size_;     // J
  const int64_t outputs_;  // V, padded
  PackedHeader projection_header_{};
  LayerStates<A> before_, after_;  // of each place: before its last token was read, and after
  Scratch<A> predicted_;           // [places, J]
  Scratch<A> joined_;              // [slots, J]
  Scratch<A> logits_;              // [slots, padded V]
  std::vector<const void*> joined_at_;
  std::vector<void*> logits_at_;
  std::vector<const void*> tops_;   // of the hypotheses that are read, what is projected,
  std::vector<void*> predictions_;  // and where to
  LinearArgs joining_{}, projecting_{};
  std::optional<Linear<Panel>> joiner_, projection_;
  std::vector<Row> rows_;
  std::vector<int64_t> running_, read_slots_;
  std::vector<Pair> pairs_;
  std::vector<double> logits_of_;  // of each pair: what logits are less to be log-probabilities
  LiveSlots reading_;
  Barrier barrier_;
};

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
