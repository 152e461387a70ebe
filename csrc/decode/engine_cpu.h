// The decode CPU kernel. Included once per instruction set.
//
// One parallel region for the whole generation. Threads own panels of hidden units and of the
// vocabulary, so each streams its own part of the weights; then they own rows, whose next tokens
// they choose. A barrier follows each. States are kept twice, so that a step reads a slot's own by
// way of `parent`: rows that end and beams that change places cost no copies.

namespace fast_s2s {
namespace FAST_S2S_ISA {

template <class Panel>
class Engine {
  typedef typename Panel::Acc A;

 public:
  Engine(const PackedHeader& header, const DecodeArgs& args, int threads)
      : h_(header),
        args_(args),
        rules_(args.rules),
        options_(args.options),
        q_(h_, args),
        network_(h_, args, q_.slots),
        threads_(team(threads)),
        next_(q_.slots),
        next_count_(args.rows),
        // a row is computed only where the automaton leaves, and nothing needs, all of it
        sparse_(has_automaton(rules_) &&
                (options_.strategy != Strategy::kBeam ||
                 (options_.renormalize && options_.repetition_penalty == 1))),
        wanted_(network_.vocab_panels()) {}

  void run() {
    begin();
    if (options_.strategy == Strategy::kBeam) beams_.emplace(q_, args_);
    if (args_.max_steps > 0 && live_.size() > 0) {
#pragma omp parallel num_threads(threads_)
      run_thread(omp_get_thread_num(), omp_get_num_threads());
    }
    end();
  }

 private:
  // What a thread keeps for itself.
  struct Own {
    explicit Own(const Network<Panel>& network) : products(network) {}
    typename Network<Panel>::Own products;
    BeamRoom<A> room;
  };

  // Enough work in a step to repay its barriers, and threads that sleep between calls.
  int team(int threads) const {
    constexpr int64_t kUsPerThread = 20;
    const int64_t worth = network_.step_microseconds(q_.slots) / kUsPerThread;
    return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, worth)));
  }

  void begin() {
    const bool beam = options_.strategy == Strategy::kBeam;
    const DecodeState& s = args_.state;
    for (int64_t slot = 0; slot < q_.slots; ++slot) {
      q_.load(args_.begin, args_.columns, s, slot);
      if (beam && s.finished[slot]) q_.clear(s, slot);
      const int64_t row = slot / options_.width;
      if (runs(row, slot)) {
        live_.add(row, slot, live_.size(), q_.tokens(s, slot)[s.position[slot]]);
        const int64_t index = live_.size() - 1;
        for (int64_t i = 0; i < h_.hidden_states(); ++i)
          std::copy_n(q_.hidden(args_.begin, i, slot), h_.output, network_.now().hidden(i, index));
        for (int64_t layer = 0; layer < h_.layers; ++layer)
          std::copy_n(q_.cell(args_.begin, layer, slot), h_.hidden,
                      network_.now().cell(layer, index));
      } else if (beam && s.finished[slot]) {
        q_.clear_states(s, slot);
      } else {
        q_.store_states(
            s, slot, [&](int64_t layer) { return q_.hidden(args_.begin, layer, slot); },
            [&](int64_t layer) { return q_.cell(args_.begin, layer, slot); });
      }
    }
    want_logits();
  }

  bool runs(int64_t row, int64_t slot) const {
    return !args_.state.finished[slot] &&
           args_.state.position[slot] < rules_.prefix_lengths[row] + rules_.limits[row];
  }

  void end() {
    const DecodeState& s = args_.state;
    for (int64_t index = 0; index < live_.size(); ++index)
      store_states(live_.slot[index], network_.now(), live_.parent[index]);
    if (beams_) {
      for (int64_t slot = 0; slot < q_.slots; ++slot)
        if (s.finished[slot]) q_.clear_states(s, slot);
      beams_->store();
    }
    count();
  }

  void count() const {
    const DecodeState& s = args_.state;
    int64_t left = 0, longest = beams_ ? beams_->longest() : 0;
    for (int64_t slot = 0; slot < q_.slots; ++slot) {
      const int64_t row = slot / options_.width;
      longest = std::max(longest, s.position[slot]);
      if (runs(row, slot))
        left = std::max(left, rules_.prefix_lengths[row] + rules_.limits[row] - s.position[slot]);
    }
    const int64_t counts[] = {steps_, computed_, left, longest};
    std::copy_n(counts, 4, args_.counts);
  }

  void store_states(int64_t slot, const LayerStates<A>& from, int64_t index) const {
    q_.store_states(
        args_.state, slot, [&](int64_t layer) { return from.hidden(layer, index); },
        [&](int64_t layer) { return from.cell(layer, index); });
  }

  void run_thread(int thread, int threads) {
    Own own(network_);
    while (true) {
      // read before the first barrier: past the last one the first thread may change them
      const bool needs_logits = wanted_.any();
      const int64_t rows = static_cast<int64_t>(live_.rows.size());
      for (int64_t layer = 0; layer < h_.layers; ++layer) {
        network_.step_layer(layer, live_, thread, threads, own.products);
        barrier_.wait(threads);
        if (h_.projected) {
          network_.project(layer, live_, thread, threads, own.products);
          barrier_.wait(threads);
        }
      }
      if (h_.heads > 0 && (needs_logits || h_.feeding))
        network_.attend(live_, thread, threads, own.products, barrier_);
      if (needs_logits) {
        network_.compute_logits(live_, wanted_, thread, threads, own.products);
        barrier_.wait(threads);
      }
      // one row is not worth a barrier
      const bool together = threads > 1 && rows > 1;
      if (together || thread == 0) {
        const Share mine(rows, together ? thread : 0, together ? threads : 1);
        for (int64_t i = mine.begin; i < mine.end; ++i) advance(live_.rows[i], own);
      }
      if (together) barrier_.wait(threads);
      if (thread == 0) finish_step();
      barrier_.wait(threads);
      if (steps_ == args_.max_steps || live_.size() == 0) return;
    }
  }

  Scores<A> scores(int64_t index) {
    return {network_.logits(index), h_.vocab, network_.vocab_padded()};
  }

  void advance(const LiveSlots::Row& row, Own& own) {
    Successor* next = next_.data() + row.row * options_.width;
    if (beams_) {
      next_count_[row.row] = beams_->advance(
          row, live_, network_.after(), [&](int64_t index) { return scores(index); }, own.room,
          next);
      return;
    }
    int64_t count = 0;
    for (int64_t index = row.begin; index < row.end; ++index) {
      const int64_t slot = live_.slot[index];
      const int64_t token = append(row.row, slot, index, own);
      if (runs(row.row, slot)) {
        next[count++] = {slot, index, token};
      } else {
        store_states(slot, network_.after(), index);
      }
    }
    next_count_[row.row] = count;
  }

  // One token more, which is returned; V where none is possible, and the slot ends.
  int64_t append(int64_t row, int64_t slot, int64_t index, Own& own) {
    const DecodeState& s = args_.state;
    const int64_t position = s.position[slot], prefix_length = rules_.prefix_lengths[row];
    const bool in_prefix = position < prefix_length;
    int64_t token = 0;
    double score = 0;
    if (in_prefix) {
      token = rules_.prefix[row * rules_.prefix_size + position];
    } else {
      Scores<A> found = scores(index);
      found.make_finite();
      const SlotView view{
          {q_.tokens(s, slot), position}, s.node[slot], rules_.limits[row], prefix_length};
      apply_rules(found, view, rules_, options_, own.room.scores);
      token = choose(found, row, slot, position, own);
      if (token == h_.vocab) {
        s.finished[slot] = true;
        s.score[slot] = kNever<double>;
        return token;
      }
      found.normalize();
      score = found.score(token);
    }
    q_.tokens(s, slot)[position + 1] = token;
    q_.scores(s, slot)[position] = score;
    s.position[slot] = position + 1;
    s.score[slot] += score;
    s.node[slot] = follow(rules_, s.node[slot], token);
    s.finished[slot] = !in_prefix && contains(rules_.eos, token);
    return token;
  }

  int64_t choose(Scores<A>& found, int64_t row, int64_t slot, int64_t position, Own& own) const {
    if (options_.strategy == Strategy::kGreedy) return found.first_best();
    warp(found, options_, own.room.scores);
    return found.sample(GumbelStream(rules_.seeds[row], position, slot % options_.width));
  }

  // Those that go on become the next step's.
  void finish_step() {
    ++steps_;
    computed_ += live_.size();
    network_.swap_states();
    following_.clear();
    for (const LiveSlots::Row& row : live_.rows) {
      const Successor* next = next_.data() + row.row * options_.width;
      for (int64_t i = 0; i < next_count_[row.row]; ++i)
        following_.add(row.row, next[i].slot, next[i].parent, next[i].token);
    }
    std::swap(live_, following_);
    want_logits();
  }

  // Which panels of the vocabulary the next step needs for which slots.
  void want_logits() {
    wanted_.reset(live_.size());
    for (const LiveSlots::Row& row : live_.rows)
      for (int64_t i = row.begin; i < row.end; ++i) {
        const int64_t slot = live_.slot[i];
        // the prefix says which token comes next
        if (args_.state.position[slot] < rules_.prefix_lengths[row.row]) continue;
        if (sparse_) {
          want_arcs(i, args_.state.node[slot]);
        } else {
          wanted_.add_all(i);
        }
      }
  }

  void want_arcs(int64_t index, int64_t node) {
    const auto want = [&](int64_t token) {
      if (token >= 0 && token < h_.vocab) wanted_.add(index, token / Network<Panel>::kColumns);
    };
    const Arcs arcs = arcs_of(rules_, node);
    for (int64_t arc = arcs.begin; arc < arcs.end; ++arc) want(rules_.arc_tokens.data[arc]);
    for (int64_t i = 0; is_final(rules_, node) && i < rules_.eos.size; ++i)
      want(rules_.eos.data[i]);
  }

  const PackedHeader h_;
  const DecodeArgs& args_;
  const DecodeRules& rules_;
  const DecodeOptions& options_;
  const Sequences<A> q_;
  Network<Panel> network_;
  const int threads_;
  LiveSlots live_, following_;
  std::vector<Successor> next_;  // [B, W]
  std::vector<int64_t> next_count_;
  std::optional<BeamSearch<A>> beams_;
  const bool sparse_;
  WantedPanels wanted_;
  int64_t steps_ = 0, computed_ = 0;
  Barrier barrier_;
};

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
