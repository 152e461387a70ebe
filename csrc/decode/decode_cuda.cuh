// The decode kernel: the whole generation of groups of rows.
//
// The blocks of a group own tiles of every matrix, then slots (in a beam search rows), whose next
// tokens they choose. A barrier of the group follows each: L for the layers, as many for their
// projections, three for attention (four if additive), one for the vocabulary, one for the choices.
// Every block keeps the list of slots that run, so that ended ones cost nothing.
#pragma once

#include "attention_cuda.cuh"
#include "beam_cuda.cuh"

namespace fast_s2s {

template <class Operand, int kRowTiles>
class DecodeKernel {
  typedef Network<Operand, kRowTiles> Net;

 public:
  FAST_S2S_DEVICE DecodeKernel(const DecodeCudaArgs& args, const Group& group,
                               const LiveSlots& live, const NextSlots& next,
                               const SlotArrays& arrays, Net& network, GroupBarrier& barrier,
                               BlockReduce& reduce, BeamSearch<Net>& beams,
                               const MemoryReader<Net>& memory, KeptSteps& kept)
      : args_(args),
        call_(args.call),
        l_(args.layout),
        beam_(args.call.options.strategy == Strategy::kBeam),
        width_(static_cast<int>(args.call.options.width)),
        group_(group),
        units_(beam_ ? group.rows : group.rows * width_),
        barrier_(barrier),
        live_(live),
        network_(network),
        next_(next),
        arrays_(arrays),
        reduce_(reduce),
        beams_(beams),
        memory_(memory),
        kept_(kept) {}

  FAST_S2S_DEVICE void run() {
    network_.load_weights();
    for_units([&](int unit) { begin(unit); });
    // blocks of a cluster must all have begun, and so must what the others wrote
    barrier_.wait();
    int64_t steps = 0, computed = 0;
    for (;; ++steps) {
      gather();
      if (count_ == 0 || steps == call_.max_steps) break;
      computed += count_;
      step();
    }
    end();
    if (group_.rank == 0 && thread_rank() == 0) {
      store(args_.work + 2 * group_.index, steps);
      store(args_.work + 2 * group_.index + 1, computed);
    }
  }

 private:
  template <class F>
  FAST_S2S_DEVICE void for_units(const F& f) const {
    for (int unit = group_.rank; unit < units_; unit += l_.ranks) f(unit);
  }
  FAST_S2S_DEVICE int64_t global(int slot) const { return group_.first_row * width_ + slot; }

  FAST_S2S_DEVICE bool runs(int64_t row, int64_t position, bool finished) const {
    return !finished && position >= 0 &&
           position < prefix_length_of(call_.rules, row) + call_.rules.limits[row];
  }

  FAST_S2S_DEVICE void begin(int unit) {
    const int of_unit = beam_ ? width_ : 1;
    int count = 0;
    for (int slot = unit * of_unit; slot < (unit + 1) * of_unit; ++slot)
      if (begin_slot(slot, unit * of_unit + count)) ++count;
    if (thread_rank() == 0) next_.set_count(unit, count);
    if (beam_) beams_.begin(unit);
  }

  // Whether the slot runs, which then goes to place `at` of the first step's list.
  FAST_S2S_DEVICE bool begin_slot(int slot, int at) const {
    const int64_t to = global(slot), row = group_.first_row + slot / width_;
    const DecodeState& from = call_.begin;
    const int64_t position = load(from.position + to);
    const bool finished = load_constant(from.finished + to);
    if (thread_rank() == 0) store(args_.finished + to, static_cast<int>(finished));
    if (beam_ && finished) {
      arrays_.clear(call_.state, to);
      return false;
    }
    const Sequence given{from.tokens + to * (1 + call_.columns),
                         from.token_scores + to * call_.columns};
    copy_given(given, arrays_.sequence(call_.state, to));
    arrays_.set(call_.state, to, position, load(from.score + to), load(from.node + to));
    // a position past the columns has no token to go on from
    if (!runs(row, position, finished) || position > call_.columns) {
      arrays_.copy_states(from, to, call_.state, to);
      return false;
    }
    arrays_.load_states(from, to, network_, slot);
    if (thread_rank() == 0) next_.put(at, slot, slot, load(given.tokens + position));
    return true;
  }

  FAST_S2S_DEVICE void copy_given(const Sequence& from, const Sequence& to) const {
    const int64_t given = call_.columns, columns = given + call_.max_steps;
    for_threads(1 + columns, [&](int64_t i) {
      store(to.tokens + i, i <= given ? load(from.tokens + i) : call_.options.pad);
    });
    for_threads(columns,
                [&](int64_t i) { store(to.scores + i, i < given ? load(from.scores + i) : 0.0); });
  }

  // The list of slots that run, side by side, from what each unit says goes on.
  FAST_S2S_DEVICE void gather() {
    const int of_unit = beam_ ? width_ : 1;
    int64_t total = 0, wanting = 0;
    for (int base = 0; base < units_; base += kDecodeThreads) {
      const int unit = base + thread_rank();
      const int count = unit < units_ ? next_.count(unit) : 0;
      int64_t all;
      const int first = static_cast<int>(total + reduce_.sum_before(count, all));
      for (int i = 0; i < count; ++i) next_.take(unit * of_unit + i, live_, first + i);
      if (unit < units_) live_.set_begin(unit, first);
      if (count > 0) wanting += kept_.logits() || wants_logits(unit * of_unit);
      total += all;
    }
    if (thread_rank() == 0) live_.set_begin(units_, static_cast<int>(total));
    count_ = static_cast<int>(total);
    // its barrier is also that of the list
    wants_logits_ = reduce_.count(wanting) > 0;
  }

  // Within the prefix the next token is known. The beams of a row are at the same position.
  FAST_S2S_DEVICE bool wants_logits(int slot) const {
    const int64_t row = group_.first_row + slot / width_;
    return load(call_.state.position + global(slot)) >= prefix_length_of(call_.rules, row);
  }

  FAST_S2S_DEVICE void step() {
    for (int layer = 0; layer < l_.layers; ++layer) {
      network_.gates(layer, count_);
      barrier_.wait();
      if (l_.projected) {
        network_.project(layer, count_);
        barrier_.wait();
      }
    }
    if (l_.heads > 0 && (wants_logits_ || l_.feeding || kept_.attention())) attend();
    if (wants_logits_) {
      network_.vocabulary(count_, [&](int i, int64_t token, float logit) {
        kept_.keep_logit(live_.slot(i), token, logit);
      });
      barrier_.wait();
    }
    for_units([&](int unit) {
      if (beam_) {
        beams_.advance(unit, turn_);
      } else {
        append(unit);
      }
    });
    barrier_.wait();
    network_.swap_states();
    kept_.next_step();
    turn_ ^= 1;
  }

  // What the vocabulary reads, and with input feeding the next step, is made of the last layer's
  // hidden states and what is found in the rows' memory.
  FAST_S2S_DEVICE void attend() {
    if (l_.additive) {
      network_.find_queries(count_);
      barrier_.wait();
    }
    memory_.score(count_);
    barrier_.wait();
    memory_.mix(count_, kept_);
    barrier_.wait();
    network_.join_contexts(count_);
    barrier_.wait();
  }

  // One token more for a slot; or none where none is possible, and it ends.
  FAST_S2S_DEVICE void append(int slot) {
    const int i = live_.begin(slot);
    if (i == live_.begin(slot + 1)) return;
    const int64_t to = global(slot), row = group_.first_row + slot / width_;
    const DecodeState& s = call_.state;
    const Sequence sequence = arrays_.sequence(s, to);
    const int64_t position = load(s.position + to), node = load(s.node + to);
    const int64_t prefix_length = prefix_length_of(call_.rules, row);
    const bool in_prefix = position < prefix_length;
    double score = 0;
    int64_t token;
    if (in_prefix) {
      token = call_.rules.prefix[row * call_.rules.prefix_size + position];
      kept_.keep_forced(to, token);
    } else {
      const SlotView view{
          {sequence.tokens, position}, node, call_.rules.limits[row], prefix_length};
      token = choose(i, slot, row, view, score);
    }
    const bool stuck = token < 0;
    const bool ended = stuck || (!in_prefix && contains(call_.rules.eos, token));
    const int64_t after = position + (stuck ? 0 : 1);
    const bool goes_on = runs(row, after, ended);
    // all have read what changes now
    sync_threads();
    if (!goes_on) arrays_.store_states(network_, 1, i, s, to);
    if (thread_rank() > 0) return;
    next_.set_count(slot, goes_on ? 1 : 0);
    if (goes_on) {
      next_.put(slot, slot, i, token);
      kept_.goes_on(to, token, to);
    }
    store(args_.finished + to, static_cast<int>(ended));
    if (stuck) {
      store(s.score + to, -HUGE_VAL);
      return;
    }
    store(sequence.tokens + position + 1, token);
    store(sequence.scores + position, score);
    arrays_.set(s, to, after, load(s.score + to) + score, follow(call_.rules, node, token));
  }

  // -1 where no token is possible.
  FAST_S2S_DEVICE int64_t choose(int i, int slot, int64_t row, const SlotView& view,
                                 double& score) {
    BlockScores scores(network_.logits(i), l_.vocab, reduce_);
    scores.apply_rules(view, call_.rules, call_.options);
    const bool samples = call_.options.strategy == Strategy::kSample;
    if (samples) scores.warp_scores(call_.options);
    kept_.keep_scores(global(slot), scores);
    const Ranked best = scores.first_best();
    if (best.index == INT64_MAX) return -1;
    int64_t token = best.index;
    if (samples) {
      const GumbelStream noise(call_.rules.seeds[row], view.position(), slot % width_);
      token = scores.sample(best, noise);
    }
    const double total = scores.log_sum_exp(best.value);
    score = double{load(network_.logits(i) + token)} - total;
    return token;
  }

  // States, and in a beam search sequences, of the slots that still run.
  FAST_S2S_DEVICE void end() {
    for (int i = group_.rank; i < count_; i += l_.ranks) {
      const int64_t to = global(live_.slot(i));
      arrays_.store_states(network_, 0, live_.parent(i), call_.state, to);
      if (beam_ && turn_ == 1)
        arrays_.copy_padded(beams_.sequence(1, to), beams_.sequence(0, to),
                            load(call_.state.position + to));
    }
    if (beam_) for_units([&](int unit) { beams_.end(unit); });
  }

  const DecodeCudaArgs& args_;
  const DecodeArgs& call_;
  const DecodeLayout& l_;
  const bool beam_;
  const int width_;
  const Group& group_;
  const int units_;
  GroupBarrier& barrier_;
  const LiveSlots& live_;
  Net& network_;
  const NextSlots& next_;
  const SlotArrays& arrays_;
  BlockReduce& reduce_;
  BeamSearch<Net>& beams_;
  const MemoryReader<Net>& memory_;
  KeptSteps& kept_;
  int count_ = 0, turn_ = 0;
  bool wants_logits_ = false;
};

template <class Operand, int kRowTiles>
FAST_S2S_KERNEL(kDecodeThreads)
decode_kernel(const FAST_S2S_GRID_CONSTANT DecodeCudaArgs args) {
  // each an object of its own: one that referred to its own parts could not be kept in registers
  typedef Network<Operand, kRowTiles> Net;
  const Group group(args);
  const LiveSlots live(args.layout);
  const NextSlots next(args, group);
  const SlotArrays arrays(args);
  Net network(args, group, live);
  GroupBarrier barrier(args, group);
  BlockReduce reduce(args.layout);
  KeptSteps kept(args, group);
  BeamSearch<Net> beams(args, group, network, live, next, arrays, kept, reduce);
  const MemoryReader<Net> memory(args, group, network, live);
  DecodeKernel<Operand, kRowTiles>(args, group, live, next, arrays, network, barrier, reduce, beams,
                                   memory, kept)
      .run();
}

template <class Operand>
std::string launch_decode(const DecodePlan& plan, const DecodeCudaArgs& args, Stream stream) {
  LaunchShape shape;
  shape.blocks = static_cast<int>(plan.groups) * plan.layout.ranks;
  shape.threads = kDecodeThreads;
  shape.shared_bytes = static_cast<int>(plan.shared_bytes);
  shape.cluster = plan.layout.cluster ? plan.layout.ranks : 1;
  shape.cooperative = plan.variant == Variant::kGrid;
  return launch(plan.row_tiles == 1 ? &decode_kernel<Operand, 1> : &decode_kernel<Operand, 4>,
                shape, stream, args);
}

}  // namespace fast_s2s
