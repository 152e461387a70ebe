// A row of scores: the rules applied to it, its normaliser, its best token, a sample.
// Included once per instruction set.

namespace fast_s2s {
namespace FAST_S2S_ISA {

template <class A>
constexpr A kNever = -std::numeric_limits<A>::infinity();

// Where the slot stands whose scores these are.
struct SlotView {
  History history;
  int64_t node, limit, prefix_length;
  int64_t position() const { return history.position; }
  // Tokens after the prefix.
  int64_t after_prefix() const { return position() - prefix_length; }
};

// Scores of V tokens, padded with -inf to whole panels. A token's log-probability is its value less
// `shift`, or in greedy search and sampling its value is what the rules see.
template <class A>
class Scores {
  typedef typename Simd<A>::Vec V;
  static constexpr int kWidth = Simd<A>::kWidth;

 public:
  Scores(A* values, int64_t vocab, int64_t padded)
      : values_(values), vocab_(vocab), padded_(padded) {}

  A& operator[](int64_t token) { return values_[token]; }
  int64_t vocab() const { return vocab_; }
  double shift() const { return shift_; }
  double score(int64_t token) const { return static_cast<double>(values_[token]) - shift_; }

  // NaN, which is never chosen, as -inf; +inf as the largest number. -inf past the vocabulary.
  void make_finite() {
    const V most = V{} + std::numeric_limits<A>::max(), never = V{} + kNever<A>;
    for (int64_t i = 0; i < padded_; i += kWidth) {
      V v = load_full<V>(values_ + i);
      v = v == v ? v : never;
      store_full(values_ + i, v > most ? most : v);
    }
    std::fill(values_ + vocab_, values_ + padded_, kNever<A>);
  }

  A largest() const {
    V most = V{} + kNever<A>;
    for (int64_t i = 0; i < padded_; i += kWidth) {
      const V v = load_full<V>(values_ + i);
      most = v > most ? v : most;
    }
    A result = most[0];
    for (int lane = 1; lane < kWidth; ++lane) result = std::max<A>(result, most[lane]);
    return result;
  }

  // log Σ exp; -inf where nothing is left
  double log_sum_exp() const {
    const A most = largest();
    if (most == kNever<A>) return kNever<double>;
    double sum = 0;
    if constexpr (std::is_same_v<A, float>) {
      VecF sums{};
      for (int64_t i = 0; i < padded_; i += kWidth) {
        const VecF x = load_full<VecF>(values_ + i) - most;
        // exp saturates above zero
        sums += x > -87.f ? Math::exp(x) : VecF{};
      }
      for (int lane = 0; lane < kWidth; ++lane) sum += sums[lane];
    } else {
      for (int64_t i = 0; i < vocab_; ++i) sum += std::exp(values_[i] - most);
    }
    return most + std::log(sum);
  }

  // Scores become log-probabilities.
  void normalize() {
    const double total = log_sum_exp();
    if (total > kNever<double>) shift_ = total;
  }

  // The lowest of the best tokens; V if none is possible.
  int64_t first_best() const {
    const A most = largest();
    if (most == kNever<A>) return vocab_;
    for (int64_t i = 0;; i += kWidth) {
      const auto same = load_full<V>(values_ + i) == most;
      for (int lane = 0; lane < kWidth; ++lane)
        if (same[lane]) return i + lane;
    }
  }

  void never(int64_t token) { values_[token] = kNever<A>; }

  // Log-probability 0 for these tokens, and no others.
  void force(const Ids& tokens) {
    std::fill(values_, values_ + padded_, kNever<A>);
    shift_ = 0;
    for (int64_t i = 0; i < tokens.size; ++i) values_[tokens.data[i]] = 0;
  }

  // Only what the automaton allows.
  void constrain(const DecodeRules& rules, int64_t node, std::vector<A>& kept) {
    const Arcs arcs = arcs_of(rules, node);
    const bool ends = is_final(rules, node);
    kept.clear();
    const auto for_allowed = [&](const auto& visit) {
      for (int64_t arc = arcs.begin; arc < arcs.end; ++arc) {
        const int64_t token = rules.arc_tokens.data[arc];
        if (token >= 0 && token < vocab_) visit(token);
      }
      for (int64_t i = 0; ends && i < rules.eos.size; ++i) visit(rules.eos.data[i]);
    };
    for_allowed([&](int64_t token) { kept.push_back(values_[token]); });
    std::fill(values_, values_ + padded_, kNever<A>);
    int64_t next = 0;
    for_allowed([&](int64_t token) { values_[token] = kept[next++]; });
  }

  // A token seen before: its score divided, or multiplied if negative, by `penalty`, once.
  void penalize(const History& history, double penalty, std::vector<int64_t>& seen) {
    seen.assign(history.tokens, history.tokens + history.position + 1);
    std::sort(seen.begin(), seen.end());
    seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
    for (int64_t token : seen) {
      if (token < 0 || token >= vocab_) continue;
      const double value = score(token);
      values_[token] = static_cast<A>((value < 0 ? value * penalty : value / penalty) + shift_);
    }
  }

  void divide(double by) {
    if (by == 1) return;
    shift_ /= by;
    const A divisor = static_cast<A>(by);
    for (int64_t i = 0; i < padded_; i += kWidth)
      store_full(values_ + i, load_full<V>(values_ + i) / divisor);
  }

  // Drops all but the `count` best; those equal to the last of them stay.
  void keep_best(int64_t count, std::vector<A>& room) {
    room.assign(values_, values_ + vocab_);
    std::nth_element(room.begin(), room.begin() + (count - 1), room.end(), std::greater<A>());
    drop_below(room[count - 1]);
  }

  // Drops those with exp(value - largest) under `ratio`.
  void keep_likely(double ratio) {
    const double most = largest();
    for (int64_t i = 0; i < vocab_; ++i)
      if (std::exp(static_cast<double>(values_[i]) - most) < ratio) never(i);
  }

  // Keeps the best until their probabilities reach `mass`; the lower id first among equals.
  void keep_mass(double mass, std::vector<int64_t>& order) {
    const double most = largest();
    double total = 0;
    order.clear();
    for (int64_t i = 0; i < vocab_; ++i)
      if (values_[i] > kNever<A>) {
        order.push_back(i);
        total += std::exp(static_cast<double>(values_[i]) - most);
      }
    const auto later = [&](int64_t a, int64_t b) {
      return values_[a] < values_[b] || (values_[a] == values_[b] && a > b);
    };
    std::make_heap(order.begin(), order.end(), later);
    double above = 0;
    auto end = order.end();
    for (bool first = true; end != order.begin() && (first || above < mass * total);
         first = false) {
      above += std::exp(static_cast<double>(values_[order.front()]) - most);
      std::pop_heap(order.begin(), end--, later);
    }
    for (auto it = order.begin(); it != end; ++it) never(*it);
  }

  // argmax of scores plus noise: a sample. V if none is possible.
  int64_t sample(GumbelStream noise) const {
    const int64_t start = first_best();
    if (start == vocab_) return vocab_;
    // from the likeliest on, most of the others cannot win any more
    GumbelStream of_start = noise;
    int64_t best = start;
    double most = static_cast<double>(values_[start]) + of_start.at(start);
    // of large scores: no more than it is
    const auto below = [](double x) {
      return std::nextafter(static_cast<A>(x), -std::numeric_limits<A>::infinity());
    };
    for (int64_t i = 0; i < padded_; i += kWidth) {
      if (!any_above(i, below(most - kLargestGumbel - 1e-3))) continue;
      for (int64_t token = i; token < std::min(i + kWidth, vocab_); ++token) {
        const double value = values_[token];
        if (token == start || value + kLargestGumbel < most) continue;
        const double noisy = value + noise.at(token);
        if (noisy > most || (noisy == most && token < best)) most = noisy, best = token;
      }
    }
    return best;
  }

  // Offers all continuations of a slot whose sequence has score `before`.
  void offer(int64_t slot, double before, BestCandidates& best) const {
    for (int64_t i = 0; i < padded_; i += kWidth) {
      const double needed = best.threshold() - before + shift_;
      // rounded to A: never above what is needed
      const A low = static_cast<A>(needed - std::abs(needed) * 1e-6);
      if (needed > kNever<double> && !any_above(i, low)) continue;
      for (int64_t token = i; token < std::min(i + kWidth, vocab_); ++token) {
        if (values_[token] == kNever<A>) continue;
        best.offer({before + score(token), score(token), slot, token});
      }
    }
  }

  // The same by chance: totals with noise are what is compared.
  void offer(int64_t slot, double before, BestCandidates& best, GumbelStream noise) const {
    for (int64_t token = 0; token < vocab_; ++token) {
      if (values_[token] == kNever<A>) continue;
      const double total = before + score(token);
      if (total + kLargestGumbel < best.threshold()) continue;
      best.offer({total + noise.at(token), score(token), slot, token});
    }
  }

 private:
  void drop_below(A least) {
    const V never = V{} + kNever<A>;
    for (int64_t i = 0; i < padded_; i += kWidth) {
      const V v = load_full<V>(values_ + i);
      store_full(values_ + i, v < least ? never : v);
    }
  }

  bool any_above(int64_t i, A low) const {
    const auto above = load_full<V>(values_ + i) > low;
    int64_t any = 0;
    for (int lane = 0; lane < kWidth; ++lane) any |= above[lane];
    return any != 0;
  }

  A* values_;
  int64_t vocab_, padded_;
  double shift_ = 0;
};

// What applying the rules needs, kept from token to token.
template <class A>
struct Workspace {
  std::vector<A> values;
  std::vector<int64_t> ids;
};

// The rules in transformers' order. Of beams, scores are log-probabilities: `normalize` is called
// first unless it would be undone.
template <class A>
void apply_rules(Scores<A>& scores, const SlotView& slot, const DecodeRules& rules,
                 const DecodeOptions& options, Workspace<A>& room) {
  const auto never = [&](int64_t token) {
    if (token >= 0 && token < scores.vocab()) scores.never(token);
  };
  if (options.repetition_penalty != 1)
    scores.penalize(slot.history, options.repetition_penalty, room.ids);
  for_repeated_ngrams(slot.history, options.no_repeat_ngram_size, never);
  for_bad_words(slot.history, rules, never);
  if (slot.after_prefix() < options.min_new_tokens)
    for (int64_t i = 0; i < rules.eos.size; ++i) never(rules.eos.data[i]);
  if (has_automaton(rules)) scores.constrain(rules, slot.node, room.values);
  const bool forces_bos = options.forced_bos >= 0 && slot.prefix_length == 0;
  if (forces_bos && slot.position() == 0) scores.force({&options.forced_bos, 1});
  if (rules.forced_eos.size > 0 && slot.after_prefix() == slot.limit - 1)
    scores.force(rules.forced_eos);
  for (int64_t i = 0; i < rules.suppress.size; ++i) never(rules.suppress.data[i]);
  if (slot.after_prefix() == (forces_bos ? 1 : 0))
    for (int64_t i = 0; i < rules.begin_suppress.size; ++i) never(rules.begin_suppress.data[i]);
}

// Temperature, top-k, top-p, min-p.
template <class A>
void warp(Scores<A>& scores, const DecodeOptions& options, Workspace<A>& room) {
  scores.divide(options.temperature);
  if (options.top_k > 0 && options.top_k < scores.vocab())
    scores.keep_best(options.top_k, room.values);
  if (options.top_p < 1) scores.keep_mass(options.top_p, room.ids);
  if (options.min_p > 0) scores.keep_likely(options.min_p);
}

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
