// Each slot's sequence and states in the op's arrays, moved by a whole block.
#pragma once

#include "kept_cuda.cuh"

namespace fast_s2s {

// As wide as the array: it indexes it.
FAST_S2S_DEVICE int64_t prefix_length_of(const DecodeRules& rules, int64_t row) {
  const int64_t length = rules.prefix_lengths[row];
  return length < 0 ? 0 : length < rules.prefix_size ? length : rules.prefix_size;
}

// f(i) for i < count, spread over the block's threads
template <class F>
FAST_S2S_DEVICE void for_threads(int64_t count, const F& f) {
  for (int64_t i = thread_rank(); i < count; i += block_threads()) f(i);
}

// A slot's tokens and their log-probabilities.
struct Sequence {
  int64_t* tokens;
  double* scores;
};

// Slots are those of the whole call.
class SlotArrays {
 public:
  FAST_S2S_DEVICE explicit SlotArrays(const DecodeCudaArgs& args)
      : l_(args.layout),
        slots_(args.call.rows * args.call.options.width),
        columns_(args.call.columns + args.call.max_steps),
        pad_(args.call.options.pad) {}

  FAST_S2S_DEVICE Sequence sequence(int64_t* tokens, double* scores, int64_t slot) const {
    return {tokens + slot * (1 + columns_), scores + slot * columns_};
  }
  FAST_S2S_DEVICE Sequence sequence(const DecodeState& s, int64_t slot) const {
    return sequence(s.tokens, s.token_scores, slot);
  }

  // `position` tokens after the first, then padding to the end.
  FAST_S2S_DEVICE void copy_padded(const Sequence& from, const Sequence& to,
                                   int64_t position) const {
    for_threads(1 + columns_, [&](int64_t i) {
      store(to.tokens + i, i <= position ? load(from.tokens + i) : pad_);
    });
    for_threads(columns_, [&](int64_t i) {
      store(to.scores + i, i < position ? load(from.scores + i) : 0.0);
    });
  }
  // `position` tokens after the first, and one more.
  FAST_S2S_DEVICE void copy_with(const Sequence& from, const Sequence& to, int64_t position,
                                 int64_t token, double score) const {
    for_threads(2 + position, [&](int64_t i) {
      store(to.tokens + i, i <= position ? load(from.tokens + i) : token);
    });
    for_threads(1 + position, [&](int64_t i) {
      store(to.scores + i, i < position ? load(from.scores + i) : score);
    });
  }

  // An empty slot; what says that it has ended is the caller's.
  FAST_S2S_DEVICE void clear(const DecodeState& s, int64_t slot) const {
    const Sequence to = sequence(s, slot);
    for_threads(1 + columns_, [&](int64_t i) { store(to.tokens + i, pad_); });
    for_threads(columns_, [&](int64_t i) { store(to.scores + i, 0.0); });
    for_states(s, slot, [](int, int64_t, bool) { return 0.0f; });
    set(s, slot, 0, -HUGE_VAL, -1);
  }
  FAST_S2S_DEVICE void set(const DecodeState& s, int64_t slot, int64_t position, double score,
                           int64_t node) const {
    if (thread_rank() > 0) return;
    store(s.position + slot, position);
    store(s.score + slot, score);
    store(s.node + slot, node);
  }

  // h and c of a slot from those of another
  FAST_S2S_DEVICE void copy_states(const DecodeState& from, int64_t at, const DecodeState& to,
                                   int64_t slot) const {
    for_states(to, slot, [&](int layer, int64_t i, bool cell) {
      return load(cell ? cell_at(from, layer, at) + i : hidden_at(from, layer, at) + i);
    });
  }
  // h and c of a slot from the network's, before (0) or after (1) the step
  template <class Network>
  FAST_S2S_DEVICE void store_states(const Network& network, int after, int at,
                                    const DecodeState& to, int64_t slot) const {
    for_states(to, slot, [&](int layer, int64_t i, bool cell) {
      return load(cell ? network.cell(after, layer, at) + i : network.hidden(after, layer, at) + i);
    });
  }
  template <class Network>
  FAST_S2S_DEVICE void load_states(const DecodeState& from, int64_t slot, const Network& network,
                                   int at) const {
    for (int layer = 0; layer < l_.states; ++layer)
      for_threads(l_.output, [&](int64_t i) {
        store(network.hidden(0, layer, at) + i, load(hidden_at(from, layer, slot) + i));
      });
    for (int layer = 0; layer < l_.layers; ++layer)
      for_threads(l_.hidden, [&](int64_t i) {
        store(network.cell(0, layer, at) + i, load(cell_at(from, layer, slot) + i));
      });
  }

 private:
  FAST_S2S_DEVICE float* hidden_at(const DecodeState& s, int layer, int64_t slot) const {
    return static_cast<float*>(s.h) + (layer * slots_ + slot) * l_.output;
  }
  FAST_S2S_DEVICE float* cell_at(const DecodeState& s, int layer, int64_t slot) const {
    return static_cast<float*>(s.c) + (layer * slots_ + slot) * l_.hidden;
  }
  // h and c of a slot from f(layer, i, whether of c)
  template <class F>
  FAST_S2S_DEVICE void for_states(const DecodeState& to, int64_t slot, const F& f) const {
    for (int layer = 0; layer < l_.states; ++layer)
      for_threads(l_.output,
                  [&](int64_t i) { store(hidden_at(to, layer, slot) + i, f(layer, i, false)); });
    for (int layer = 0; layer < l_.layers; ++layer)
      for_threads(l_.hidden,
                  [&](int64_t i) { store(cell_at(to, layer, slot) + i, f(layer, i, true)); });
  }

  const DecodeLayout& l_;
  const int64_t slots_, columns_, pad_;
};

// The slots that the next step computes, as the blocks tell each other.
class NextSlots {
 public:
  FAST_S2S_DEVICE NextSlots(const DecodeCudaArgs& args, const Group& group)
      : slots_(args.layout.slots),
        next_(args.next + 3 * static_cast<int64_t>(group.index) * args.layout.slots),
        count_(args.next_count + static_cast<int64_t>(group.index) * args.layout.units) {}
  // by one thread
  FAST_S2S_DEVICE void put(int at, int slot, int parent, int64_t token) const {
    store(next_ + at, slot);
    store(next_ + slots_ + at, parent);
    store(next_ + 2 * slots_ + at, static_cast<int>(token));
  }
  FAST_S2S_DEVICE void set_count(int unit, int count) const { store(count_ + unit, count); }
  FAST_S2S_DEVICE int count(int unit) const { return load(count_ + unit); }
  FAST_S2S_DEVICE void take(int at, const LiveSlots& live, int i) const {
    live.set(i, load(next_ + at), load(next_ + slots_ + at), load(next_ + 2 * slots_ + at));
  }

 private:
  const int slots_;
  int *next_, *count_;
};

}  // namespace fast_s2s
