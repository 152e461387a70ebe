// A slot's scores, worked on by a whole block: the rules, its normaliser, its best token, a sample.
//
// Every thread owns four tokens in each run of 4 · threads and alone reads and writes their scores;
// so rules need no barrier: all threads walk the same lists, each acts on its own tokens. The same
// on the CPU: scores_cpu.h.
#pragma once

#include "network_cuda.cuh"

namespace fast_s2s {

// A token and its score; the better one has the larger score, then the lower index.
struct Ranked {
  double value;
  int64_t index;
};
FAST_S2S_DEVICE bool better(const Ranked& a, const Ranked& b) {
  return a.value > b.value || (a.value == b.value && a.index < b.index);
}
FAST_S2S_DEVICE Ranked no_token() { return {-HUGE_VAL, INT64_MAX}; }

FAST_S2S_DEVICE double shuffle_double(double value, int mask) {
  return bit_copy<double>(shuffle_xor(bit_copy<int64_t>(value), mask));
}

// Reductions over the block, whose result every thread gets. Two buffers by turns make one barrier
// enough; combined in an order of their own, they do not depend on how threads are scheduled.
class BlockReduce {
 public:
  FAST_S2S_DEVICE explicit BlockReduce(const DecodeLayout& layout) : at_(layout.reduce) {}

  FAST_S2S_DEVICE Ranked best(Ranked mine) {
    for (int mask = 16; mask > 0; mask /= 2) {
      const Ranked other{shuffle_double(mine.value, mask), shuffle_xor(mine.index, mask)};
      if (better(other, mine)) mine = other;
    }
    put(bit_copy<Words>(mine));
    Ranked result = bit_copy<Ranked>(get(0));
    for (int w = 1; w < kDecodeWarps; ++w) {
      const Ranked other = bit_copy<Ranked>(get(w));
      if (better(other, result)) result = other;
    }
    return result;
  }
  FAST_S2S_DEVICE double sum(double mine) {
    for (int mask = 16; mask > 0; mask /= 2) mine += shuffle_double(mine, mask);
    put(bit_copy<Words>(Ranked{mine, 0}));
    double result = 0;
    for (int w = 0; w < kDecodeWarps; ++w) result += bit_copy<Ranked>(get(w)).value;
    return result;
  }
  // Of the threads before this one, and of all.
  FAST_S2S_DEVICE int64_t sum_before(int64_t mine, int64_t& all) {
    int64_t before = 0, total = mine;
    for (int mask = 1; mask < 32; mask *= 2) {
      const int64_t other = shuffle_xor(total, mask);
      if (lane() & mask) before += other;
      total += other;
    }
    put(bit_copy<Words>(Ranked{0, total}));
    all = 0;
    for (int w = 0; w < kDecodeWarps; ++w) {
      const int64_t of_warp = bit_copy<Ranked>(get(w)).index;
      if (w < warp()) before += of_warp;
      all += of_warp;
    }
    return before;
  }
  FAST_S2S_DEVICE int64_t count(int64_t mine) {
    int64_t all;
    sum_before(mine, all);
    return all;
  }

 private:
  FAST_S2S_DEVICE void put(const Words& words) {
    turn_ ^= 1;
    if (lane() == 0) shared_store(at_ + (turn_ * kDecodeWarps + warp()) * 16, words);
    sync_threads();
  }
  FAST_S2S_DEVICE Words get(int w) const {
    return shared_load<Words>(at_ + (turn_ * kDecodeWarps + w) * 16);
  }
  const uint32_t at_;
  int turn_ = 0;
};

// Where the slot stands whose scores these are.
struct SlotView {
  History history;
  int64_t node, limit, prefix_length;
  FAST_S2S_DEVICE int64_t position() const { return history.position; }
  // Tokens after the prefix.
  FAST_S2S_DEVICE int64_t after_prefix() const { return position() - prefix_length; }
};

// A token's log-probability is its value less `shift`, or in greedy search and sampling its value
// is what the rules see.
class BlockScores {
 public:
  FAST_S2S_DEVICE BlockScores(float* values, int64_t vocab, BlockReduce& reduce)
      : values_(values), vocab_(vocab), reduce_(reduce) {}

  FAST_S2S_DEVICE double shift() const { return shift_; }
  FAST_S2S_DEVICE void set_shift(double shift) { shift_ = shift; }
  // Of one of this thread's own tokens.
  FAST_S2S_DEVICE double score(int64_t token) const { return double{value(token)} - shift_; }
  FAST_S2S_DEVICE static bool owns(int64_t token) {
    return token / 4 % kDecodeThreads == thread_rank();
  }

  // f(token, value) of this thread's tokens; what it returns becomes the value
  template <class F>
  FAST_S2S_DEVICE void change(const F& f) {
#pragma unroll 1
    for (int64_t token = 4 * thread_rank(); token < vocab_; token += 4 * kDecodeThreads) {
      Words words = load(at(token));
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (token + i < vocab_)
          words.w[i] = bit_copy<uint32_t>(f(token + i, bit_copy<float>(words.w[i])));
      store(at(token), words);
    }
  }
  // f(token, value) of this thread's tokens that are possible, in rising order
  template <class F>
  FAST_S2S_DEVICE void visit(const F& f) const {
#pragma unroll 1
    for (int64_t token = 4 * thread_rank(); token < vocab_; token += 4 * kDecodeThreads) {
      const Words words = load(at(token));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float v = bit_copy<float>(words.w[i]);
        if (token + i < vocab_ && v > -HUGE_VALF) f(token + i, v);
      }
    }
  }

  // f(token, score) of this thread's tokens
  template <class F>
  FAST_S2S_DEVICE void for_scores(const F& f) const {
#pragma unroll 1
    for (int64_t token = 4 * thread_rank(); token < vocab_; token += 4 * kDecodeThreads)
      for (int64_t i = token; i < token + 4 && i < vocab_; ++i) f(i, score(i));
  }

  // The lowest of the best tokens, and its value.
  FAST_S2S_DEVICE Ranked first_best() {
    Ranked mine = no_token();
    visit([&](int64_t token, float v) {
      if (better({v, token}, mine)) mine = {v, token};
    });
    return reduce_.best(mine);
  }

  // log Σ exp, by the largest of the values; -inf where nothing is left
  FAST_S2S_DEVICE double log_sum_exp(double most) {
    if (!(most > -HUGE_VAL)) return -HUGE_VAL;
    double sum = 0;
    visit([&](int64_t, float v) { sum += ::expf(static_cast<float>(v - most)); });
    return most + ::log(reduce_.sum(sum));
  }
  // Scores become log-probabilities.
  FAST_S2S_DEVICE void normalize() {
    const double total = log_sum_exp(first_best().value);
    if (total > -HUGE_VAL) shift_ = total;
  }

  FAST_S2S_DEVICE void never(int64_t token) {
    if (known(token)) store(values_ + token, -HUGE_VALF);
  }
  // Log-probability 0 for these tokens, and no others.
  FAST_S2S_DEVICE void force(const Ids& tokens) {
    // which may not have been computed
    const uint32_t none = bit_copy<uint32_t>(-HUGE_VALF);
    for (int64_t token = 4 * thread_rank(); token < vocab_; token += 4 * kDecodeThreads)
      store(at(token), Words{{none, none, none, none}});
    for (int64_t i = 0; i < tokens.size; ++i)
      if (known(tokens.data[i])) store(values_ + tokens.data[i], 0.0f);
    shift_ = 0;
  }

  // A token seen before: its score divided, or multiplied if negative, by `penalty`, once.
  FAST_S2S_DEVICE void penalize(const History& history, double penalty) {
    for (int64_t i = 0; i <= history.position; ++i) {
      const int64_t token = history.tokens[i];
      if (!known(token)) continue;
      bool first = true;
      for (int64_t before = 0; first && before < i; ++before)
        first = history.tokens[before] != token;
      if (!first) continue;
      const double old = score(token);
      store(values_ + token,
            static_cast<float>((old < 0 ? old * penalty : old / penalty) + shift_));
    }
  }

  // Only what the automaton allows.
  FAST_S2S_DEVICE void constrain(const DecodeRules& rules, int64_t node) {
    const Arcs arcs = arcs_of(rules, node);
    const bool ends = is_final(rules, node);
    change([&](int64_t token, float v) {
      const int64_t arc = find_arc(rules, arcs, token);
      const bool there = arc < arcs.end && rules.arc_tokens.data[arc] == token;
      return there || (ends && contains(rules.eos, token)) ? v : -HUGE_VALF;
    });
  }

  // The rules in transformers' order. Of beams, scores are log-probabilities.
  FAST_S2S_DEVICE void apply_rules(const SlotView& slot, const DecodeRules& rules,
                                   const DecodeOptions& options) {
    const auto ban = [&](int64_t token) { never(token); };
    const auto ban_all = [&](const Ids& ids) {
      for (int64_t i = 0; i < ids.size; ++i) never(ids.data[i]);
    };
    if (options.repetition_penalty != 1) penalize(slot.history, options.repetition_penalty);
    for_repeated_ngrams(slot.history, options.no_repeat_ngram_size, ban);
    for_bad_words(slot.history, rules, ban);
    if (slot.after_prefix() < options.min_new_tokens) ban_all(rules.eos);
    if (has_automaton(rules)) constrain(rules, slot.node);
    const bool forces_bos = options.forced_bos >= 0 && slot.prefix_length == 0;
    if (forces_bos && slot.position() == 0) force({&options.forced_bos, 1});
    if (rules.forced_eos.size > 0 && slot.after_prefix() == slot.limit - 1) force(rules.forced_eos);
    ban_all(rules.suppress);
    if (slot.after_prefix() == (forces_bos ? 1 : 0)) ban_all(rules.begin_suppress);
  }

  // Temperature, top-k, top-p, min-p.
  FAST_S2S_DEVICE void warp_scores(const DecodeOptions& options) {
    if (options.temperature != 1) {
      const float divisor = static_cast<float>(options.temperature);
      change([=](int64_t, float v) { return v / divisor; });
      shift_ /= divisor;
    }
    if (options.top_k > 0 && options.top_k < vocab_) keep_best(options.top_k);
    if (options.top_p < 1) keep_mass(options.top_p);
    if (options.min_p > 0) {
      const double most = first_best().value, ratio = options.min_p;
      change([=](int64_t, float v) { return ::exp(v - most) < ratio ? -HUGE_VALF : v; });
    }
  }

  // argmax of scores plus noise: a sample.
  FAST_S2S_DEVICE int64_t sample(const Ranked& likeliest, GumbelStream noise) {
    Ranked mine = no_token();
    // what the likeliest gets, others must exceed; most cannot whatever their noise
    GumbelStream of_likeliest = noise;
    const double least = likeliest.value + of_likeliest.at(likeliest.index);
    visit([&](int64_t token, float v) {
      if (v + kLargestGumbel < least) return;
      const Ranked noisy{v + noise.at(token), token};
      if (better(noisy, mine)) mine = noisy;
    });
    return reduce_.best(mine).index;
  }

 private:
  FAST_S2S_DEVICE Words* at(int64_t token) const {
    return reinterpret_cast<Words*>(values_ + token);
  }
  FAST_S2S_DEVICE float value(int64_t token) const { return load(values_ + token); }
  FAST_S2S_DEVICE bool known(int64_t token) const {
    return token >= 0 && token < vocab_ && owns(token);
  }

  // Rises with the float; 0 for none.
  FAST_S2S_DEVICE static uint32_t key_of(float v) {
    const uint32_t bits = bit_copy<uint32_t>(v);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
  }
  FAST_S2S_DEVICE static double value_of(uint32_t key) {
    return bit_copy<float>(key >> 31 ? key & 0x7fffffffu : ~key);
  }
  // The largest key for which `holds`, which is true up to some key and false from there.
  template <class F>
  FAST_S2S_DEVICE uint32_t last_key(const F& holds) {
    uint32_t key = 0;
#pragma unroll 1
    for (uint32_t bit = 0x80000000u; bit > 0; bit >>= 1)
      if (holds(key | bit)) key |= bit;
    return key;
  }

  // Drops all but the `count` best; those equal to the last of them stay.
  FAST_S2S_DEVICE void keep_best(int64_t count) {
    const uint32_t least = last_key([&](uint32_t key) {
      int64_t above = 0;
      visit([&](int64_t, float v) { above += key_of(v) >= key; });
      return reduce_.count(above) >= count;
    });
    change([=](int64_t, float v) { return key_of(v) < least ? -HUGE_VALF : v; });
  }

  // Keeps the best until their probabilities reach `mass`; the lower id first among equals.
  FAST_S2S_DEVICE void keep_mass(double mass) {
    const Ranked most = first_best();
    if (!(most.value > -HUGE_VAL)) return;
    const auto mass_from = [&](uint32_t key) {
      double sum = 0;
      visit([&](int64_t, float v) {
        if (key_of(v) >= key) sum += ::exp(v - most.value);
      });
      return reduce_.sum(sum);
    };
    const double needed = mass * mass_from(0);
    // the largest value down to which they suffice; the likeliest always stays
    uint32_t least = last_key([&](uint32_t key) { return mass_from(key) >= needed; });
    const uint32_t top = key_of(static_cast<float>(most.value));
    if (least > top) least = top;
    const double above = mass_from(least + 1);
    change([=](int64_t, float v) { return key_of(v) < least ? -HUGE_VALF : v; });
    // of the equal last ones as many as are needed
    const auto equals_up_to = [&](int64_t last) {
      int64_t equals = 0;
      visit([&](int64_t token, float v) { equals += key_of(v) == least && token <= last; });
      return reduce_.count(equals);
    };
    const double each = ::exp(value_of(least) - most.value);
    const double most_needed = ::ceil((needed - above) / each);
    const int64_t count = most_needed < 1 ? 1 : static_cast<int64_t>(most_needed);
    if (equals_up_to(vocab_) <= count) return;
    int64_t low = 0, high = vocab_ - 1;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (equals_up_to(middle) >= count) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    change(
        [=](int64_t token, float v) { return key_of(v) == least && token > low ? -HUGE_VALF : v; });
  }

  float* values_;
  const int64_t vocab_;
  BlockReduce& reduce_;
  double shift_ = 0;
};

}  // namespace fast_s2s
