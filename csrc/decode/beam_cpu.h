// Beam search: transformers' rules for which sequences go on, end, and are kept.
// Included once per instruction set. The same in plain torch: fast_s2s/decoding/beam.py.

namespace fast_s2s {
namespace FAST_S2S_ISA {

// An ended sequence.
template <class A>
struct Hypothesis {
  double score;  // with the length penalty
  int64_t position, node;
  std::vector<int64_t> tokens;
  std::vector<double> token_scores;
  std::vector<A> h, c;  // all parts

  // Copies from where `hidden_at(part)` and `cell_at(part)` point to.
  template <class Hidden, class Cell>
  void keep_states(const Sequences<A>& q, const Hidden& hidden_at, const Cell& cell_at) {
    for (int64_t i = 0; i < q.hidden_states(); ++i)
      h.insert(h.end(), hidden_at(i), hidden_at(i) + q.hidden_part(i).size);
    for (int64_t i = 0; i < q.cell_states(); ++i)
      c.insert(c.end(), cell_at(i), cell_at(i) + q.cell_part(i).size);
  }
};

// A row's best ended sequences, best first.
template <class A>
class Hypotheses {
 public:
  typedef std::vector<Hypothesis<A>> Row;

  Hypotheses(const Sequences<A>& sequences, const DecodeArgs& args)
      : q_(sequences), args_(args), width_(args.options.width), rows_(args.rows) {
    for (int64_t slot = 0; slot < q_.slots; ++slot)
      if (args.begin_hypotheses.score[slot] > kNever<double>) load(slot);
  }

  // Whether a sequence of this score would be kept; the older goes first among equals.
  bool takes(int64_t row, double score) const {
    return static_cast<int64_t>(rows_[row].size()) < width_ || score > rows_[row].back().score;
  }
  void add(int64_t row, Hypothesis<A>&& found) {
    Row& best = rows_[row];
    auto at = std::upper_bound(best.begin(), best.end(), found.score,
                               [](double score, const auto& other) { return score > other.score; });
    best.insert(at, std::move(found));
    if (static_cast<int64_t>(best.size()) > width_) best.pop_back();
  }
  bool full(int64_t row) const { return static_cast<int64_t>(rows_[row].size()) == width_; }
  double worst(int64_t row) const { return rows_[row].back().score; }

  int64_t longest() const {
    int64_t most = 0;
    for (const Row& best : rows_)
      for (const Hypothesis<A>& found : best) most = std::max(most, found.position);
    return most;
  }

  void store() const {
    const DecodeState& out = args_.hypotheses;
    for (int64_t slot = 0; slot < q_.slots; ++slot) {
      q_.clear(out, slot);
      const Row& best = rows_[slot / width_];
      const int64_t rank = slot % width_;
      if (rank >= static_cast<int64_t>(best.size())) {
        q_.clear_states(out, slot);
        continue;
      }
      const Hypothesis<A>& found = best[rank];
      std::copy(found.tokens.begin(), found.tokens.end(), q_.tokens(out, slot));
      std::copy(found.token_scores.begin(), found.token_scores.end(), q_.scores(out, slot));
      out.position[slot] = found.position;
      out.score[slot] = found.score;
      out.node[slot] = found.node;
      q_.store_states(
          out, slot, [&](int64_t i) { return found.h.data() + q_.hidden_part(i).offset; },
          [&](int64_t i) { return found.c.data() + q_.cell_part(i).offset; });
    }
  }

 private:
  void load(int64_t slot) {
    const DecodeState& from = args_.begin_hypotheses;
    Hypothesis<A> found{from.score[slot], from.position[slot], from.node[slot], {}, {}, {}, {}};
    const int64_t* tokens = from.tokens + slot * (1 + args_.columns);
    const double* scores = from.token_scores + slot * args_.columns;
    found.tokens.assign(tokens, tokens + 1 + found.position);
    found.token_scores.assign(scores, scores + found.position);
    found.keep_states(
        q_, [&](int64_t i) { return q_.hidden(from, i, slot); },
        [&](int64_t i) { return q_.cell(from, i, slot); });
    rows_[slot / width_].push_back(std::move(found));
  }

  const Sequences<A>& q_;
  const DecodeArgs& args_;
  const int64_t width_;
  std::vector<Row> rows_;
};

// What one row's search needs, kept from step to step.
template <class A>
struct BeamRoom {
  Workspace<A> scores;
  std::vector<Candidate> candidates;
  std::vector<const Candidate*> going_on;
  std::vector<int64_t> tokens, nodes;
  std::vector<double> token_scores;
};

template <class A>
class BeamSearch {
 public:
  BeamSearch(const Sequences<A>& sequences, const DecodeArgs& args, const KeptSteps<A>& kept)
      : q_(sequences),
        args_(args),
        kept_(kept),
        rules_(args.rules),
        options_(args.options),
        // so that enough are left if all the best end here
        candidates_(std::max<int64_t>(2, 1 + rules_.eos.size) * options_.width),
        ended_(sequences, args) {}

  // One token more for the beams of `row`, which were computed at live.begin.. of `states`.
  // `scores(index)` gives the scores of a beam. Returns how many go on, named in `next`.
  template <class States, class ScoresOf>
  int64_t advance(const LiveSlots::Row& row, const LiveSlots& live, const States& states,
                  const ScoresOf& scores, BeamRoom<A>& room, Successor* next) {
    const int64_t first = row.row * options_.width;
    const int64_t position = args_.state.position[live.slot[row.begin]];
    const int64_t new_tokens = position + 1 - rules_.prefix_lengths[row.row];
    const int64_t limit = rules_.limits[row.row];
    room.candidates.resize(candidates_);
    BestCandidates best(room.candidates.data(), candidates_);
    for (int64_t index = row.begin; index < row.end; ++index)
      offer(row.row, live.slot[index], index, position, scores, room, best);
    if (options_.sample_beams) sort_sampled(live, room, best.size());
    room.going_on.clear();
    const double power = std::pow(static_cast<double>(new_tokens), options_.length_penalty);
    for (int64_t rank = 0; rank < best.size(); ++rank) {
      const Candidate& found = best[rank];
      if (new_tokens > 0 && (new_tokens == limit || contains(rules_.eos, found.token))) {
        if (rank < options_.width && ended_.takes(row.row, found.total / power))
          ended_.add(row.row, hypothesis(found, live, states, position, found.total / power));
      } else if (static_cast<int64_t>(room.going_on.size()) < options_.width) {
        room.going_on.push_back(&found);
      }
    }
    if (is_done(row.row, room, new_tokens, limit)) room.going_on.clear();
    go_on(first, live, position, room, next);
    return static_cast<int64_t>(room.going_on.size());
  }

  void store() const { ended_.store(); }
  int64_t longest() const { return ended_.longest(); }

 private:
  template <class ScoresOf>
  void offer(int64_t row, int64_t slot, int64_t index, int64_t position, const ScoresOf& scores_of,
             BeamRoom<A>& room, BestCandidates& best) const {
    const double before = args_.state.score[slot];
    const int64_t prefix_length = rules_.prefix_lengths[row];
    if (position < prefix_length) {
      const int64_t token = rules_.prefix[row * rules_.prefix_size + position];
      kept_.keep_forced(slot, token);
      best.offer({before, 0, index, token});
      return;
    }
    Scores<A> scores = scores_of(index);
    scores.make_finite();
    const bool undone = options_.renormalize && options_.repetition_penalty == 1;
    if (!undone) scores.normalize();
    const SlotView view{{q_.tokens(args_.state, slot), position},
                        args_.state.node[slot],
                        rules_.limits[row],
                        prefix_length};
    apply_rules(scores, view, rules_, options_, room.scores);
    if (options_.sample_beams) warp(scores, options_, room.scores);
    if (options_.renormalize) scores.normalize();
    kept_.keep_scores(slot, scores);
    if (!options_.sample_beams) return scores.offer(index, before, best);
    scores.offer(index, before, best,
                 GumbelStream(rules_.seeds[row], position, slot % options_.width));
  }

  // Candidates were drawn with noise in their totals; they are ranked without it.
  void sort_sampled(const LiveSlots& live, BeamRoom<A>& room, int64_t count) const {
    for (int64_t i = 0; i < count; ++i) {
      Candidate& found = room.candidates[i];
      found.total = args_.state.score[live.slot[found.slot]] + found.score;
    }
    std::stable_sort(room.candidates.begin(), room.candidates.begin() + count,
                     [](const Candidate& a, const Candidate& b) { return a.total > b.total; });
  }

  template <class States>
  Hypothesis<A> hypothesis(const Candidate& found, const LiveSlots& live, const States& states,
                           int64_t position, double score) const {
    const int64_t slot = live.slot[found.slot];
    const int64_t* tokens = q_.tokens(args_.state, slot);
    const double* scores = q_.scores(args_.state, slot);
    Hypothesis<A> result{score, position + 1, next_node(slot, found.token), {}, {}, {}, {}};
    result.tokens.assign(tokens, tokens + 1 + position);
    result.tokens.push_back(found.token);
    result.token_scores.assign(scores, scores + position);
    result.token_scores.push_back(found.score);
    result.keep_states(
        q_, [&](int64_t i) { return states.hidden(i, found.slot); },
        [&](int64_t i) { return states.cell(i, found.slot); });
    return result;
  }

  int64_t next_node(int64_t slot, int64_t token) const {
    return follow(rules_, args_.state.node[slot], token);
  }

  bool is_done(int64_t row, const BeamRoom<A>& room, int64_t new_tokens, int64_t limit) const {
    if (room.going_on.empty()) return true;
    if (new_tokens <= 0 || !ended_.full(row)) return false;
    if (options_.early_stopping == EarlyStopping::kFirst) return true;
    const bool never = options_.early_stopping == EarlyStopping::kNever;
    const int64_t longest = never && options_.length_penalty > 0 ? limit : new_tokens;
    const double power = std::pow(static_cast<double>(longest), options_.length_penalty);
    return room.going_on.front()->total / power <= ended_.worst(row);
  }

  // The row's slots become those that go on, the others empty.
  void go_on(int64_t first, const LiveSlots& live, int64_t position, BeamRoom<A>& room,
             Successor* next) const {
    const DecodeState& s = args_.state;
    room.tokens.clear(), room.token_scores.clear(), room.nodes.clear();
    for (const Candidate* found : room.going_on) {
      const int64_t slot = live.slot[found->slot];
      const int64_t* tokens = q_.tokens(s, slot);
      const double* scores = q_.scores(s, slot);
      room.tokens.insert(room.tokens.end(), tokens, tokens + 1 + position);
      room.token_scores.insert(room.token_scores.end(), scores, scores + position);
      room.nodes.push_back(next_node(slot, found->token));
    }
    const int64_t count = static_cast<int64_t>(room.going_on.size());
    for (int64_t i = 0; i < options_.width; ++i) {
      const int64_t slot = first + i;
      if (i >= count) {
        if (!s.finished[slot]) q_.clear(s, slot);
        continue;
      }
      const Candidate& found = *room.going_on[i];
      std::copy_n(room.tokens.data() + i * (1 + position), 1 + position, q_.tokens(s, slot));
      std::copy_n(room.token_scores.data() + i * position, position, q_.scores(s, slot));
      q_.tokens(s, slot)[position + 1] = found.token;
      q_.scores(s, slot)[position] = found.score;
      s.position[slot] = position + 1;
      s.score[slot] = found.total;
      s.finished[slot] = false;
      s.node[slot] = room.nodes[i];
      next[i] = {slot, found.slot, found.token};
    }
  }

  const Sequences<A>& q_;
  const DecodeArgs& args_;
  const KeptSteps<A>& kept_;
  const DecodeRules& rules_;
  const DecodeOptions& options_;
  const int64_t candidates_;
  Hypotheses<A> ended_;
};

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
