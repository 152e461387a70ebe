// The decode CPU kernel. Included once per instruction set.
//
// One parallel region for the whole generation. Threads own panels of hidden units and of the
// vocabulary, so each streams its own part of the weights; then they own rows, whose next tokens
// they choose. A barrier follows each. States are kept twice, so that a step reads a slot's own by
// way of `parent`: rows that end and beams that change places cost no copies.

namespace fast_s2s {
namespace FAST_S2S_ISA {

// Rows up to this many take two panels at once: one alone waits for its own sums.
constexpr int kPairRows = FAST_S2S_VECTOR_BYTES == 64 ? 3 : 1;

// Calls `tile(std::integral_constant<int, Rows>, first)` over `count` rows, none of them more than
// Most high.
template <int Most, class F>
FAST_S2S_INLINE void for_tiles(int64_t count, const F& tile) {
  if (count == 0) return;
  const int64_t tiles = ceil_div(count, Most), low = count / tiles, high_tiles = count % tiles;
  for_tiles_of<Most>(low + 1, 0, high_tiles, tile);
  for_tiles_of<Most>(low, high_tiles * (low + 1), tiles - high_tiles, tile);
}

template <class Panel>
class Engine {
  typedef typename Panel::Acc A;
  typedef typename Panel::Operand Operand;
  typedef typename Simd<A>::Vec V;
  static constexpr int kWidth = Simd<A>::kWidth;
  static constexpr int64_t kColumns = kPanelVectors * kWidth;
  static constexpr int kPairs = Panel::kMaxPanels > 1 ? 2 : 1;

 public:
  Engine(const PackedHeader& header, const DecodeArgs& args, int threads)
      : h_(header),
        args_(args),
        rules_(args.rules),
        options_(args.options),
        layout_(header),
        base_(static_cast<const char*>(args.packed)),
        q_(header, args),
        threads_(team(threads)),
        states_{{header, q_.slots}, {header, q_.slots}},
        unprojected_(header.projected ? q_.slots * header.hidden : 0),
        logits_(q_.slots * vocab_padded()),
        next_(q_.slots),
        next_count_(args.rows),
        // a row is computed only where the automaton leaves, and nothing needs, all of it
        sparse_(has_automaton(rules_) &&
                (options_.strategy != Strategy::kBeam ||
                 (options_.renormalize && options_.repetition_penalty == 1))),
        wanted_words_((layout_.vocab_panels + 63) / 64) {}

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
    Own(const PackedHeader& h, int64_t slots)
        : input(slots, std::max(h.inputs, h.output)),
          state(slots, std::max(h.hidden, h.output)),
          input_rows(slots),
          state_rows(slots),
          identity(slots) {
      std::iota(identity.begin(), identity.end(), 0);
    }
    Operand input, state;
    std::vector<const A*> input_rows, state_rows;
    std::vector<int64_t> identity, wanting;
    BeamRoom<A> room;
  };

  int64_t vocab_padded() const { return layout_.vocab_panels * kColumns; }

  // Enough work in a step to repay its barriers.
  int team(int threads) const {
    constexpr int64_t kWorkPerThread = 1 << 18;  // products
    int64_t weights = h_.vocab * h_.output;
    for (int64_t layer = 0; layer < h_.layers; ++layer)
      weights += 4 * h_.hidden * (layout_.input_size(layer) + h_.output) +
                 (h_.projected ? h_.hidden * h_.output : 0);
    const int64_t work = weights * q_.slots / kWorkPerThread;
    return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, work)));
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
        for (int64_t layer = 0; layer < h_.layers; ++layer) {
          std::copy_n(q_.hidden(args_.begin, layer, slot), h_.output,
                      states_[0].hidden(layer, live_.size() - 1));
          std::copy_n(q_.cell(args_.begin, layer, slot), h_.hidden,
                      states_[0].cell(layer, live_.size() - 1));
        }
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
      store_states(live_.slot[index], *now_, live_.parent[index]);
    if (beams_) {
      for (int64_t slot = 0; slot < q_.slots; ++slot)
        if (s.finished[slot]) q_.clear_states(s, slot);
      beams_->store();
    }
    args_.counts[0] = steps_;
    args_.counts[1] = computed_;
  }

  void store_states(int64_t slot, const LayerStates<A>& from, int64_t index) const {
    q_.store_states(
        args_.state, slot, [&](int64_t layer) { return from.hidden(layer, index); },
        [&](int64_t layer) { return from.cell(layer, index); });
  }

  void run_thread(int thread, int threads) {
    Own own(h_, q_.slots);
    while (true) {
      for (int64_t layer = 0; layer < h_.layers; ++layer) {
        step_layer(layer, thread, threads, own);
#pragma omp barrier
        if (h_.projected) {
          project(layer, thread, threads, own);
#pragma omp barrier
        }
      }
      if (any_logits_) {
        compute_logits(thread, threads, own);
#pragma omp barrier
      }
      const int64_t rows = static_cast<int64_t>(live_.rows.size());
      // one row is not worth a barrier
      const bool together = threads > 1 && rows > 1;
      if (together || thread == 0) {
        const Share mine(rows, together ? thread : 0, together ? threads : 1);
        for (int64_t i = mine.begin; i < mine.end; ++i) advance(live_.rows[i], own);
      }
      if (together) {
#pragma omp barrier
      }
      if (thread == 0) finish_step();
#pragma omp barrier
      if (steps_ == args_.max_steps || live_.size() == 0) return;
    }
  }

  // Hidden and cell states of a layer, or what its projection reads, of the thread's units.
  void step_layer(int64_t layer, int thread, int threads, Own& own) {
    const int64_t count = live_.size(), inputs = layout_.input_size(layer);
    for (int64_t i = 0; i < count; ++i) {
      if (inputs > 0)
        own.input_rows[i] = layer == 0 ? input(live_.token[i]) : after_->hidden(layer - 1, i);
      own.state_rows[i] = now_->hidden(layer, live_.parent[i]);
    }
    if (inputs > 0) own.input.set(own.input_rows.data(), count, inputs);
    own.state.set(own.state_rows.data(), count, h_.output);
    const Share units(layout_.unit_panels, thread, threads);
    int64_t panel = units.begin;
    if (count <= kPairRows)
      for (; panel + kPairs <= units.end; panel += kPairs)
        for_tiles<kPairRows>(count, [&](auto rows, int64_t first) {
          this->template step_units<kPairs, rows.value>(layer, panel, first, own);
        });
    for (; panel < units.end; ++panel)
      for_tiles<Panel::kMaxRows>(count, [&](auto rows, int64_t first) {
        this->template step_units<1, rows.value>(layer, panel, first, own);
      });
  }

  template <int Panels, int Rows>
  void step_units(int64_t layer, int64_t panel, int64_t first, const Own& own) {
    if constexpr (Rows > Panel::kMaxRows) {
      for_tiles<Panel::kMaxRows>(Rows, [&](auto rows, int64_t offset) {
        this->template step_units<Panels, rows.value>(layer, panel, first + offset, own);
      });
    } else {
      PanelSums<Panels, Rows, A> sums;
      const bool looks_up = layout_.input_size(layer) == 0;
      for (int p = 0; p < Panels; ++p)
        for (int r = 0; r < Rows; ++r) {
          const A* start = looks_up ? input(live_.token[first + r]) + (panel + p) * kColumns
                                    : at<A>(layout_.bias(layer, panel + p));
          for (int gate = 0; gate < 4; ++gate)
            sums[p][r][gate] = load_full<V>(start + gate * kWidth);
        }
      const char* weights = base_ + layout_.unit_panel(layer, panel);
      const int64_t* rows = own.identity.data() + first;
      const int64_t stride = layout_.unit_bytes(layer);
      if (!looks_up)
        Panel::template multiply<Panels, Rows>(own.input, rows, weights, stride,
                                               layout_.input_size(layer), sums);
      Panel::template multiply<Panels, Rows>(own.state, rows, weights + layout_.input_bytes(layer),
                                             stride, h_.output, sums);
      for (int p = 0; p < Panels; ++p)
        for (int r = 0; r < Rows; ++r) finish_units(layer, panel + p, first + r, sums[p][r]);
    }
  }

  FAST_S2S_INLINE void finish_units(int64_t layer, int64_t panel, int64_t index,
                                    const V (&pre)[kPanelVectors]) {
    const int64_t unit = panel * kWidth;
    const int count = lanes(h_.hidden, unit, kWidth);
    const Gates<V> gates = activate<Math>(Gates<V>{pre[0], pre[1], pre[2], pre[3]});
    const V c = next_cell(gates, load<V>(now_->cell(layer, live_.parent[index]) + unit, count));
    const V h = next_hidden<Math>(gates, c);
    store(after_->cell(layer, index) + unit, c, count);
    store((h_.projected ? unprojected_.get() + index * h_.hidden : after_->hidden(layer, index)) +
              unit,
          h, count);
  }

  void project(int64_t layer, int thread, int threads, Own& own) {
    const int64_t count = live_.size();
    for (int64_t i = 0; i < count; ++i) own.state_rows[i] = unprojected_.get() + i * h_.hidden;
    own.state.set(own.state_rows.data(), count, h_.hidden);
    const Share outputs(layout_.output_panels, thread, threads);
    for (int64_t panel = outputs.begin; panel < outputs.end; ++panel) {
      const PanelColumns columns = layout_.output_columns(panel, h_.output);
      multiply_outputs(own.state, own.identity.data(), count, h_.hidden,
                       base_ + layout_.projection_panel(layer, panel), nullptr,
                       [&](int64_t index, const V(&sums)[kPanelVectors]) {
                         A* out = after_->hidden(layer, index) + columns.first;
                         for (int v = 0; v < kPanelVectors && columns.count[v] > 0; ++v)
                           store(out + v * kWidth, sums[v], columns.count[v]);
                       });
    }
  }

  void compute_logits(int thread, int threads, Own& own) {
    const int64_t count = live_.size();
    for (int64_t i = 0; i < count; ++i) own.state_rows[i] = after_->hidden(h_.layers - 1, i);
    own.state.set(own.state_rows.data(), count, h_.output);
    const Share mine(layout_.vocab_panels, thread, threads);
    for (int64_t panel = mine.begin; panel < mine.end; ++panel) {
      own.wanting.clear();
      for (int64_t i = 0; i < count; ++i)
        if (wants(i, panel)) own.wanting.push_back(i);
      multiply_outputs(own.state, own.wanting.data(), static_cast<int64_t>(own.wanting.size()),
                       h_.output, base_ + layout_.vocab_panel(panel),
                       at<A>(layout_.bias(h_.layers, panel)),
                       [&](int64_t index, const V(&sums)[kPanelVectors]) {
                         A* out = logits(index) + panel * kColumns;
                         for (int v = 0; v < kPanelVectors; ++v)
                           store_full(out + v * kWidth, sums[v]);
                       });
    }
  }

  // A panel of outputs for the rows named, each given to `emit`.
  template <class Emit>
  static void multiply_outputs(const Operand& a, const int64_t* named, int64_t count,
                               int64_t k_size, const char* weights, const A* bias,
                               const Emit& emit) {
    for_tiles<Panel::kMaxRows>(count, [&](auto rows, int64_t first) {
      PanelSums<1, rows.value, A> sums = {};
      for (int r = 0; bias != nullptr && r < rows.value; ++r)
        for (int v = 0; v < kPanelVectors; ++v) sums[0][r][v] = load_full<V>(bias + v * kWidth);
      Panel::template multiply<1, rows.value>(a, named + first, weights, 0, k_size, sums);
      for (int r = 0; r < rows.value; ++r) emit(named[first + r], sums[0][r]);
    });
  }

  Scores<A> scores(int64_t index) { return {logits(index), h_.vocab, vocab_padded()}; }

  void advance(const LiveSlots::Row& row, Own& own) {
    Successor* next = next_.data() + row.row * options_.width;
    if (beams_) {
      next_count_[row.row] = beams_->advance(
          row, live_, *after_, [&](int64_t index) { return scores(index); }, own.room, next);
      return;
    }
    int64_t count = 0;
    for (int64_t index = row.begin; index < row.end; ++index) {
      const int64_t slot = live_.slot[index];
      const int64_t token = append(row.row, slot, index, own);
      if (runs(row.row, slot)) {
        next[count++] = {slot, index, token};
      } else {
        store_states(slot, *after_, index);
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
    std::swap(now_, after_);
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
    const int64_t count = live_.size();
    whole_.assign(count, 0);
    if (sparse_) wanted_.assign(count * wanted_words_, 0);
    any_logits_ = false;
    for (const LiveSlots::Row& row : live_.rows)
      for (int64_t i = row.begin; i < row.end; ++i) {
        const int64_t slot = live_.slot[i];
        // the prefix says which token comes next
        if (args_.state.position[slot] < rules_.prefix_lengths[row.row]) continue;
        any_logits_ = true;
        whole_[i] = !sparse_;
        if (sparse_) want_arcs(i, args_.state.node[slot]);
      }
  }

  void want_arcs(int64_t index, int64_t node) {
    uint64_t* bits = wanted_.data() + index * wanted_words_;
    const auto want = [&](int64_t token) {
      if (token < 0 || token >= h_.vocab) return;
      bits[token / kColumns / 64] |= uint64_t{1} << (token / kColumns % 64);
    };
    const Arcs arcs = arcs_of(rules_, node);
    for (int64_t arc = arcs.begin; arc < arcs.end; ++arc) want(rules_.arc_tokens.data[arc]);
    for (int64_t i = 0; is_final(rules_, node) && i < rules_.eos.size; ++i)
      want(rules_.eos.data[i]);
  }

  bool wants(int64_t index, int64_t panel) const {
    if (!sparse_ || whole_[index]) return whole_[index];
    return wanted_[index * wanted_words_ + panel / 64] >> (panel % 64) & 1;
  }

  template <class T>
  const T* at(int64_t offset) const {
    return reinterpret_cast<const T*>(base_ + offset);
  }
  const A* input(int64_t token) const { return at<A>(layout_.input(token)); }
  A* logits(int64_t index) const { return logits_.get() + index * vocab_padded(); }

  const PackedHeader h_;
  const DecodeArgs& args_;
  const DecodeRules& rules_;
  const DecodeOptions& options_;
  const PackedLayout<Panel> layout_;
  const char* base_;
  const Sequences<A> q_;
  const int threads_;
  LayerStates<A> states_[2];
  // before and after the step
  LayerStates<A>* now_ = &states_[0];
  LayerStates<A>* after_ = &states_[1];
  Scratch<A> unprojected_;  // [slots, H]
  Scratch<A> logits_;       // [slots, padded V]
  LiveSlots live_, following_;
  std::vector<Successor> next_;  // [B, W]
  std::vector<int64_t> next_count_;
  std::optional<BeamSearch<A>> beams_;
  const bool sparse_;
  const int64_t wanted_words_;
  bool any_logits_ = true;
  std::vector<char> whole_;
  std::vector<uint64_t> wanted_;  // [live, words] bits of panels
  int64_t steps_ = 0, computed_ = 0;
};

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
