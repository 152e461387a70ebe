// Beam search of a row by one block: transformers' rules for which sequences go on, end, and are
// kept. The same on the CPU: beam_cpu.h. What is decided, all threads decide alike, from memory
// that a barrier has made the same for all.
#pragma once

#include "slots_cuda.cuh"

namespace fast_s2s {

template <class Network>
class BeamSearch {
 public:
  FAST_S2S_DEVICE BeamSearch(const DecodeCudaArgs& args, const Group& group, const Network& network,
                             const LiveSlots& live, const NextSlots& next, const SlotArrays& arrays,
                             const KeptSteps& kept, BlockReduce& reduce)
      : args_(args),
        call_(args.call),
        b_(args.beams),
        width_(static_cast<int>(args.call.options.width)),
        group_(group),
        network_(network),
        live_(live),
        next_(next),
        arrays_(arrays),
        kept_(kept),
        reduce_(reduce) {}

  // The ended sequences that the call was given.
  FAST_S2S_DEVICE void begin(int unit) const {
    const int64_t row = group_.first_row + unit, first = row * width_;
    const DecodeState& given = call_.begin_hypotheses;
    int count = 0;
    for (int64_t slot = first; slot < first + width_; ++slot) {
      const double score = load(given.score + slot);
      const int64_t place = first + count, position = load(given.position + slot);
      // a position past the columns counts as no sequence
      if (!(score > -HUGE_VAL) || position < 0 || position > call_.columns) continue;
      const Sequence from{given.tokens + slot * (1 + call_.columns),
                          given.token_scores + slot * call_.columns};
      arrays_.copy_padded(from, arrays_.sequence(b_.ended, place), position);
      arrays_.copy_states(given, slot, b_.ended, place);
      arrays_.set(b_.ended, place, position, score, load(given.node + slot));
      if (thread_rank() == 0) store(b_.order + place, count);
      ++count;
    }
    if (thread_rank() == 0) store(b_.num_ended + row, count);
  }

  // One token more for the beams of a row; `turn`: which buffer has their sequences.
  FAST_S2S_DEVICE void advance(int unit, int turn) {
    const int begin = live_.begin(unit), end = live_.begin(unit + 1);
    if (begin == end) return;
    Row row{unit, group_.first_row + unit, turn, begin, end};
    row.first = row.row * width_;
    row.position = load(call_.state.position + slot_of(row, begin));
    row.prefix_length = prefix_length_of(call_.rules, row.row);
    row.limit = call_.rules.limits[row.row];
    row.by_chance = call_.options.sample_beams && row.position >= row.prefix_length;
    for (int i = begin; i < end; ++i) score(row, i);
    sync_threads();
    const int count = find_candidates(row);
    sync_threads();
    if (row.by_chance) sort_drawn(row, count);
    const int going_on = sort_out(row, count);
    go_on(row, going_on);
  }

  // The row's ended sequences, best first.
  FAST_S2S_DEVICE void end(int unit) const {
    const int64_t row = group_.first_row + unit, first = row * width_;
    const int count = load(b_.num_ended + row);
    for (int rank = 0; rank < width_; ++rank) {
      if (rank >= count) {
        arrays_.clear(call_.hypotheses, first + rank);
        continue;
      }
      const int64_t place = first + load(b_.order + first + rank);
      const int64_t position = load(b_.ended.position + place);
      arrays_.copy_padded(arrays_.sequence(b_.ended, place),
                          arrays_.sequence(call_.hypotheses, first + rank), position);
      arrays_.copy_states(b_.ended, place, call_.hypotheses, first + rank);
      arrays_.set(call_.hypotheses, first + rank, position, load(b_.ended.score + place),
                  load(b_.ended.node + place));
    }
  }

  // Of a slot of the call.
  FAST_S2S_DEVICE Sequence sequence(int turn, int64_t slot) const {
    return turn == 0 ? arrays_.sequence(call_.state, slot)
                     : arrays_.sequence(b_.tokens, b_.token_scores, slot);
  }

 private:
  struct Row {
    int unit;
    int64_t row;
    int turn, begin, end;
    int64_t first = 0, position = 0, prefix_length = 0, limit = 0;
    bool by_chance = false, sorted = false;
    // with the next one, prefix aside
    FAST_S2S_DEVICE int64_t new_tokens() const { return position + 1 - prefix_length; }
  };
  FAST_S2S_DEVICE int64_t slot_of(const Row& row, int i) const {
    return row.first + live_.slot(i) - row.unit * width_;
  }
  FAST_S2S_DEVICE Candidate* candidate(const Row& row, int64_t rank) const {
    const int64_t pieces = call_.options.sample_beams ? 2 : 1;
    return b_.candidates + (row.row * pieces + row.sorted) * b_.num_candidates + rank;
  }

  // Log-probabilities of what may follow a beam.
  FAST_S2S_DEVICE void score(const Row& row, int i) {
    const int64_t slot = slot_of(row, i);
    BlockScores scores(network_.logits(i), args_.layout.vocab, reduce_);
    if (row.position < row.prefix_length) {
      const int64_t token = call_.rules.prefix[row.row * call_.rules.prefix_size + row.position];
      scores.force({&token, 1});
    } else {
      scores.normalize();
      const SlotView view{{sequence(row.turn, slot).tokens, row.position},
                          load(call_.state.node + slot),
                          row.limit,
                          row.prefix_length};
      scores.apply_rules(view, call_.rules, call_.options);
      if (call_.options.sample_beams) scores.warp_scores(call_.options);
      if (call_.options.renormalize) scores.normalize();
    }
    kept_.keep_scores(slot, scores);
    if (thread_rank() == 0) store(b_.shift + slot, scores.shift());
  }

  // This thread's best continuation of all that come after `last`; if by chance, by their totals
  // with noise.
  FAST_S2S_DEVICE Ranked best_after(const Row& row, const Ranked& last) {
    Ranked mine = no_token();
    const int64_t vocab = args_.layout.vocab;
    for (int i = row.begin; i < row.end; ++i) {
      const int64_t slot = slot_of(row, i);
      const double before = load(call_.state.score + slot), shift = load(b_.shift + slot);
      const BlockScores scores(network_.logits(i), vocab, reduce_);
      GumbelStream noise(row.by_chance ? call_.rules.seeds[row.row] : 0, row.position,
                         slot % width_);
      scores.visit([&](int64_t token, float v) {
        Ranked found{before + (v - shift), (i - row.begin) * vocab + token};
        // most cannot be better whatever their noise
        if (!(found.value > -HUGE_VAL) || found.value + kLargestGumbel < mine.value) return;
        if (row.by_chance) found.value += noise.at(token);
        if (better(last, found) && better(found, mine)) mine = found;
      });
    }
    return mine;
  }

  // The best continuations; the lower beam, then id, first among equals. Returns how many.
  FAST_S2S_DEVICE int find_candidates(const Row& row) {
    const int64_t vocab = args_.layout.vocab;
    Ranked mine = best_after(row, {HUGE_VAL, -1});
    for (int rank = 0; rank < b_.num_candidates; ++rank) {
      const Ranked found = reduce_.best(mine);
      if (found.index == INT64_MAX) return rank;
      const int64_t token = found.index % vocab;
      if (!BlockScores::owns(token)) continue;
      const int i = row.begin + static_cast<int>(found.index / vocab);
      const int64_t slot = slot_of(row, i);
      const double score = load(network_.logits(i) + token) - load(b_.shift + slot);
      Candidate* to = candidate(row, rank);
      store(&to->total, load(call_.state.score + slot) + score);
      store(&to->score, score);
      store(&to->slot, static_cast<int64_t>(i));
      store(&to->token, token);
      mine = best_after(row, found);
    }
    return static_cast<int>(b_.num_candidates);
  }

  // What was drawn with noise is ranked without it, beside where it is.
  FAST_S2S_DEVICE void sort_drawn(Row& row, int count) const {
    const Candidate* drawn = candidate(row, 0);
    row.sorted = true;
    for_threads(count, [&](int64_t i) {
      const double total = load(&drawn[i].total);
      int64_t rank = 0;
      for (int64_t other = 0; other < count; ++other) {
        const double value = load(&drawn[other].total);
        rank += value > total || (value == total && other < i);
      }
      Candidate* to = candidate(row, rank);
      store(&to->total, total);
      store(&to->score, load(&drawn[i].score));
      store(&to->slot, load(&drawn[i].slot));
      store(&to->token, load(&drawn[i].token));
    });
    sync_threads();
  }

  // Which candidates go on, and which are kept as ended. Returns how many go on.
  FAST_S2S_DEVICE int sort_out(const Row& row, int count) {
    const int64_t new_tokens = row.new_tokens();
    const double power = ::pow(static_cast<double>(new_tokens), call_.options.length_penalty);
    int going_on = 0;
    double best = 0;
    for (int rank = 0; rank < count; ++rank) {
      const Candidate* found = candidate(row, rank);
      const int64_t token = load(&found->token);
      if (new_tokens > 0 && (new_tokens == row.limit || contains(call_.rules.eos, token))) {
        if (rank < width_) keep(row, found, load(&found->total) / power);
      } else if (going_on < width_) {
        if (going_on == 0) best = load(&found->total);
        if (thread_rank() == 0) store(b_.going_on + row.first + going_on, rank);
        ++going_on;
      }
    }
    return is_done(row, going_on, best) ? 0 : going_on;
  }

  FAST_S2S_DEVICE double ended_score(const Row& row, int rank) const {
    return load(b_.ended.score + row.first + load(b_.order + row.first + rank));
  }

  // An ended sequence among the row's best; the older goes first among equals.
  FAST_S2S_DEVICE void keep(const Row& row, const Candidate* found, double score) const {
    const int count = load(b_.num_ended + row.row);
    int rank = count;
    while (rank > 0 && ended_score(row, rank - 1) < score) --rank;
    if (rank == width_) return;
    const int64_t place =
        row.first + (count < width_ ? count : load(b_.order + row.first + width_ - 1));
    // all have read what changes now
    sync_threads();
    const int i = static_cast<int>(load(&found->slot));
    const int64_t slot = slot_of(row, i), token = load(&found->token);
    arrays_.copy_with(sequence(row.turn, slot), arrays_.sequence(b_.ended, place), row.position,
                      token, load(&found->score));
    arrays_.store_states(network_, 1, i, b_.ended, place);
    if (thread_rank() == 0) {
      const int last = count < width_ ? count : width_ - 1;
      for (int at = last; at > rank; --at)
        store(b_.order + row.first + at, load(b_.order + row.first + at - 1));
      store(b_.order + row.first + rank, static_cast<int>(place - row.first));
      store(b_.num_ended + row.row, last + 1);
      const int64_t node = follow(call_.rules, load(call_.state.node + slot), token);
      arrays_.set(b_.ended, place, row.position + 1, score, node);
    }
    sync_threads();
  }

  FAST_S2S_DEVICE bool is_done(const Row& row, int going_on, double best) const {
    if (going_on == 0) return true;
    if (row.new_tokens() <= 0 || load(b_.num_ended + row.row) < width_) return false;
    if (call_.options.early_stopping == EarlyStopping::kFirst) return true;
    const bool never = call_.options.early_stopping == EarlyStopping::kNever;
    const int64_t longest =
        never && call_.options.length_penalty > 0 ? row.limit : row.new_tokens();
    const double power = ::pow(static_cast<double>(longest), call_.options.length_penalty);
    return best / power <= ended_score(row, width_ - 1);
  }

  // The row's slots become those that go on, in the other buffer; the others empty.
  FAST_S2S_DEVICE void go_on(const Row& row, int count) const {
    sync_threads();
    const auto found = [&](int j) { return candidate(row, load(b_.going_on + row.first + j)); };
    for_threads(count, [&](int64_t j) {
      const Candidate* from = found(static_cast<int>(j));
      const int64_t slot = slot_of(row, static_cast<int>(load(&from->slot)));
      const int64_t node = load(call_.state.node + slot);
      store(b_.nodes + row.first + j, follow(call_.rules, node, load(&from->token)));
    });
    sync_threads();
    for (int j = 0; j < count; ++j) {
      const Candidate* from = found(j);
      const int i = static_cast<int>(load(&from->slot));
      const int64_t slot = row.first + j, token = load(&from->token);
      arrays_.copy_with(sequence(row.turn, slot_of(row, i)), sequence(1 - row.turn, slot),
                        row.position, token, load(&from->score));
      if (thread_rank() > 0) continue;
      arrays_.set(call_.state, slot, row.position + 1, load(&from->total), load(b_.nodes + slot));
      store(args_.finished + slot, 0);
      const int at = row.unit * width_ + j;
      next_.put(at, at, i, token);
      kept_.goes_on(slot, token, slot_of(row, i));
    }
    for (int j = count; j < width_; ++j) {
      const int64_t slot = row.first + j;
      const bool was_empty = load(args_.finished + slot) != 0;
      sync_threads();
      if (was_empty) continue;
      arrays_.clear(call_.state, slot);
      if (thread_rank() == 0) store(args_.finished + slot, 1);
    }
    if (thread_rank() == 0) next_.set_count(row.unit, count);
  }

  const DecodeCudaArgs& args_;
  const DecodeArgs& call_;
  const BeamWorkspace& b_;
  const int width_;
  const Group& group_;
  const Network& network_;
  const LiveSlots& live_;
  const NextSlots& next_;
  const SlotArrays& arrays_;
  const KeptSteps& kept_;
  BlockReduce& reduce_;
};

}  // namespace fast_s2s
