// The decode CPU kernel. Included once per instruction set.
//
// One parallel region for the whole generation. Threads own panels of hidden units and of the
// vocabulary, so each streams its own part of the weights; then they own rows, whose next tokens
// they choose. A barrier follows each. States are kept twice, so that a step reads a slot's own by
// way of `parent`: rows that end and beams that change places cost no copies. Samples of a row are
// computed once for as long as they are the same. Several networks take a step one after the other.

namespace fast_s2s {
namespace FAST_S2S_ISA {

template <class A>
class Engine {
 public:
  Engine(const DecodeArgs& args, int threads)
      : args_(args),
        rules_(args.rules),
        options_(args.options),
        networks_(args),
        vocab_(networks_.vocab()),
        q_(networks_.hidden_parts(args.rows * args.options.width),
           networks_.cell_parts(args.rows * args.options.width), args),
        threads_(networks_.team(q_.slots, threads)),
        next_(q_.slots),
        next_count_(args.rows),
        alike_(q_.slots),
        kept_(vocab_, networks_.heads(), args, q_.slots),
        // a row is computed only where the automaton leaves, and nothing needs, all of it
        sparse_(has_automaton(rules_) && !kept_.logits() && !networks_.joined() &&
                (options_.strategy != Strategy::kBeam ||
                 (options_.renormalize && options_.repetition_penalty == 1))),
        wanted_(networks_.vocab_panels()) {
    if (kept_.attention()) keep_ = keep_attention();
  }

  void run() {
    begin();
    if (options_.strategy == Strategy::kBeam) beams_.emplace(q_, args_, kept_);
    if (args_.max_steps > 0 && live_.size() > 0) {
#pragma omp parallel num_threads(threads_)
      run_thread(omp_get_thread_num(), omp_get_num_threads());
    }
    end();
  }

 private:
  // What a thread keeps for itself.
  struct Own {
    explicit Own(const Networks<A>& networks) : products(networks.make_own()) {}
    typename Networks<A>::Own products;
    BeamRoom<A> room;
  };

  void begin() {
    const bool beam = options_.strategy == Strategy::kBeam;
    const DecodeState& s = args_.state;
    for (int64_t slot = 0; slot < q_.slots; ++slot) {
      q_.load(args_.begin, args_.columns, s, slot);
      if (beam && s.finished[slot]) q_.clear(s, slot);
      const int64_t row = slot / options_.width;
      if (runs(row, slot)) {
        ++running_;
        const int64_t other = beam ? -1 : find_alike(row, slot);
        if (other >= 0) {
          alike_.join(other, slot);
          continue;
        }
        alike_.start(slot);
        live_.add(row, slot, live_.size(), q_.tokens(s, slot)[s.position[slot]]);
        const int64_t index = live_.size() - 1;
        const auto now = networks_.now();
        for (int64_t i = 0; i < q_.hidden_states(); ++i)
          std::copy_n(q_.hidden(args_.begin, i, slot), q_.hidden_part(i).size,
                      now.hidden(i, index));
        for (int64_t i = 0; i < q_.cell_states(); ++i)
          std::copy_n(q_.cell(args_.begin, i, slot), q_.cell_part(i).size, now.cell(i, index));
      } else if (beam && s.finished[slot]) {
        q_.clear_states(s, slot);
      } else {
        q_.store_states(
            s, slot, [&](int64_t i) { return q_.hidden(args_.begin, i, slot); },
            [&](int64_t i) { return q_.cell(args_.begin, i, slot); });
      }
    }
    want_logits();
    begin_kept();
  }

  // A slot of the row that is computed and goes on from the very same; -1: there is none.
  int64_t find_alike(int64_t row, int64_t slot) const {
    if (live_.rows.empty() || live_.rows.back().row != row) return -1;
    for (int64_t i = live_.rows.back().begin; i < live_.size(); ++i)
      if (is_alike(live_.slot[i], slot)) return live_.slot[i];
    return -1;
  }

  bool is_alike(int64_t a, int64_t b) const {
    const DecodeState& s = args_.state;
    if (s.position[a] != s.position[b] || s.node[a] != s.node[b]) return false;
    const int64_t *tokens = q_.tokens(s, a), *others = q_.tokens(s, b);
    if (!std::equal(tokens, tokens + 1 + s.position[a], others)) return false;
    // their bits: equal numbers would do, but NaN is not equal
    bool same = true;
    for (int64_t i = 0; same && i < q_.hidden_states(); ++i)
      same = std::memcmp(q_.hidden(args_.begin, i, a), q_.hidden(args_.begin, i, b),
                         q_.hidden_part(i).size * sizeof(A)) == 0;
    for (int64_t i = 0; same && i < q_.cell_states(); ++i)
      same = std::memcmp(q_.cell(args_.begin, i, a), q_.cell(args_.begin, i, b),
                         q_.cell_part(i).size * sizeof(A)) == 0;
    return same;
  }

  void begin_kept() {
    if (!kept_.any() || steps_ == args_.max_steps || live_.size() == 0) return;
    computed_slots_.assign(q_.slots, 0);
    for (int64_t first : live_.slot)
      alike_.for_each(first, [&](int64_t slot) { computed_slots_[slot] = 1; });
    kept_.begin(steps_, [&](int64_t slot) { return computed_slots_[slot] != 0; });
  }

  // Of the slots that are computed at `index`.
  KeepAttention<A> keep_attention() const {
    return [this](int64_t index, int64_t head, const A* weights, int64_t count) {
      alike_.for_each(live_.slot[index],
                      [&](int64_t slot) { kept_.keep_attention(slot, head, weights, count); });
    };
  }

  // Slots of the next step, `live_`, come from those of the last, `following_`.
  void keep_path() const {
    for (int64_t i = 0; kept_.any() && i < live_.size(); ++i)
      alike_.for_each(live_.slot[i], [&](int64_t slot) {
        kept_.goes_on(slot, live_.token[i], beams_ ? following_.slot[live_.parent[i]] : slot);
      });
  }

  bool runs(int64_t row, int64_t slot) const {
    return !args_.state.finished[slot] &&
           args_.state.position[slot] < rules_.prefix_lengths[row] + rules_.limits[row];
  }

  void end() {
    const DecodeState& s = args_.state;
    for (int64_t index = 0; index < live_.size(); ++index)
      alike_.for_each(live_.slot[index], [&](int64_t slot) {
        store_states(slot, networks_.now(), live_.parent[index]);
      });
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
    const int64_t counts[] = {steps_, slot_steps_, left, longest, slot_steps_ - computed_};
    std::copy_n(counts, 5, args_.counts);
  }

  void store_states(int64_t slot, const typename Networks<A>::States& from, int64_t index) const {
    q_.store_states(
        args_.state, slot, [&](int64_t i) { return from.hidden(i, index); },
        [&](int64_t i) { return from.cell(i, index); });
  }

  void run_thread(int thread, int threads) {
    Own own(networks_);
    while (true) {
      // one row is not worth sharing
      const int64_t rows = static_cast<int64_t>(live_.rows.size());
      const bool together = rows > 1;
      networks_.step(live_, wanted_, keep_, thread, threads, own.products, barrier_);
      if (wanted_.any() && together) barrier_.wait(threads);
      const Share mine(together ? rows : 0, thread, threads);
      for (int64_t i = mine.begin; i < mine.end; ++i) advance(live_.rows[i], own);
      barrier_.wait(threads, [&] {
        if (!together) advance(live_.rows[0], own);
        finish_step();
      });
      if (steps_ == args_.max_steps || live_.size() == 0) return;
    }
  }

  void advance(const LiveSlots::Row& row, Own& own) {
    Successor* next = next_.data() + row.row * options_.width;
    for (int64_t index = row.begin; index < row.end; ++index) {
      if (wanted_.any_of(index)) networks_.mix(index);
      if (!kept_.logits()) continue;
      alike_.for_each(live_.slot[index],
                      [&](int64_t slot) { kept_.keep_logits(slot, networks_.logits(index)); });
    }
    if (beams_) {
      next_count_[row.row] = beams_->advance(
          row, live_, networks_.after(), [&](int64_t index) { return networks_.scores(index); },
          own.room, next);
      return;
    }
    int64_t count = 0;
    for (int64_t index = row.begin; index < row.end; ++index)
      count += extend(row.row, index, own, next + count);
    next_count_[row.row] = count;
  }

  // One token more for the slots that were computed at `index`. Returns how many different ones go
  // on, named in `next`.
  int64_t extend(int64_t row, int64_t index, Own& own, Successor* next) {
    const DecodeState& s = args_.state;
    const int64_t first = live_.slot[index], position = s.position[first];
    const int64_t prefix_length = rules_.prefix_lengths[row];
    const bool in_prefix = position < prefix_length;
    Scores<A> found = networks_.scores(index);
    int64_t token = 0;
    if (in_prefix) {
      token = rules_.prefix[row * rules_.prefix_size + position];
    } else {
      found.make_finite();
      const SlotView view{
          {q_.tokens(s, first), position}, s.node[first], rules_.limits[row], prefix_length};
      apply_rules(found, view, rules_, options_, own.room.scores);
      if (options_.strategy == Strategy::kGreedy) {
        token = found.first_best();
      } else {
        warp(found, options_, own.room.scores);
      }
    }
    if (kept_.scores())
      alike_.for_each(first, [&](int64_t slot) {
        in_prefix ? kept_.keep_forced(slot, token) : kept_.keep_scores(slot, found);
      });
    if (!in_prefix) found.normalize();
    int64_t count = 0;
    alike_.for_each(first, [&](int64_t slot) {
      if (!in_prefix && options_.strategy == Strategy::kSample)
        token = found.sample(GumbelStream(rules_.seeds[row], position, slot % options_.width));
      append(row, slot, token, in_prefix || token == vocab_ ? 0 : found.score(token));
      if (runs(row, slot)) {
        count += follow_alike(next, count, {slot, index, token});
      } else {
        store_states(slot, networks_.after(), index);
      }
    });
    return count;
  }

  // Whether no other one of the `count` reads the same token next, which then stands for both.
  bool follow_alike(Successor* next, int64_t count, const Successor& found) {
    for (int64_t i = 0; i < count; ++i) {
      if (next[i].token != found.token) continue;
      alike_.join(next[i].slot, found.slot);
      ++next[i].slots;
      return false;
    }
    alike_.start(found.slot);
    next[count] = found;
    return true;
  }

  // The token behind a slot's sequence; V: none is possible, and the slot ends.
  void append(int64_t row, int64_t slot, int64_t token, double score) {
    const DecodeState& s = args_.state;
    if (token == vocab_) {
      s.finished[slot] = true;
      s.score[slot] = kNever<double>;
      return;
    }
    const int64_t position = s.position[slot]++;
    q_.tokens(s, slot)[position + 1] = token;
    q_.scores(s, slot)[position] = score;
    s.score[slot] += score;
    s.node[slot] = follow(rules_, s.node[slot], token);
    s.finished[slot] = position >= rules_.prefix_lengths[row] && contains(rules_.eos, token);
  }

  // Those that go on become the next step's.
  void finish_step() {
    ++steps_;
    slot_steps_ += running_;
    computed_ += live_.size();
    running_ = 0;
    networks_.swap_states();
    following_.clear();
    for (const LiveSlots::Row& row : live_.rows) {
      const Successor* next = next_.data() + row.row * options_.width;
      for (int64_t i = 0; i < next_count_[row.row]; ++i) {
        following_.add(row.row, next[i].slot, next[i].parent, next[i].token);
        running_ += next[i].slots;
      }
    }
    std::swap(live_, following_);
    want_logits();
    keep_path();
    begin_kept();
  }

  // Which panels of the vocabulary the next step needs for which slots.
  void want_logits() {
    wanted_.reset(live_.size());
    for (const LiveSlots::Row& row : live_.rows)
      for (int64_t i = row.begin; i < row.end; ++i) {
        const int64_t slot = live_.slot[i];
        // the prefix says which token comes next
        if (!kept_.logits() && args_.state.position[slot] < rules_.prefix_lengths[row.row])
          continue;
        if (sparse_) {
          want_arcs(i, args_.state.node[slot]);
        } else {
          wanted_.add_all(i);
        }
      }
  }

  void want_arcs(int64_t index, int64_t node) {
    const auto want = [&](int64_t token) {
      if (token >= 0 && token < vocab_) wanted_.add(index, token / panel_columns<A>());
    };
    const Arcs arcs = arcs_of(rules_, node);
    for (int64_t arc = arcs.begin; arc < arcs.end; ++arc) want(rules_.arc_tokens.data[arc]);
    for (int64_t i = 0; is_final(rules_, node) && i < rules_.eos.size; ++i)
      want(rules_.eos.data[i]);
  }

  const DecodeArgs& args_;
  const DecodeRules& rules_;
  const DecodeOptions& options_;
  Networks<A> networks_;
  const int64_t vocab_;
  const Sequences<A> q_;
  const int threads_;
  LiveSlots live_, following_;
  std::vector<Successor> next_;  // [B, W]
  std::vector<int64_t> next_count_;
  AlikeSlots alike_;
  KeptSteps<A> kept_;
  KeepAttention<A> keep_;             // none unless attention is kept
  std::vector<char> computed_slots_;  // of a step that is kept
  std::optional<BeamSearch<A>> beams_;
  const bool sparse_;
  WantedPanels wanted_;
  // slots that take a step: those of the next one, and all that did; and how many were computed
  int64_t running_ = 0, slot_steps_ = 0, computed_ = 0;
  int64_t steps_ = 0;
  Barrier barrier_;
};

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
