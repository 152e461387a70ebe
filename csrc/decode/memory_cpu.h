// What attention finds in the rows' memory. Included once per instruction set. The same in plain
// torch: `attend` in fast_s2s/attention.py.

namespace fast_s2s {
namespace FAST_S2S_ISA {

// Slots of a row read the same memory. A head has its part of each query, key and value.
template <class A>
class MemoryReader {
  typedef typename Simd<A>::Vec V;
  static constexpr int kWidth = Simd<A>::kWidth;
  // steps whose scores are summed at once, each by itself
  static constexpr int kSteps = 8;
  static constexpr int64_t kBlock = kPanelVectors * kWidth;
  static constexpr bool kRaises = std::is_same_v<A, float>;
  // |q| + |k| up to which e^{2q}·e^{2k} is far from overflowing
  static constexpr A kLargest = 40;

 public:
  // What a thread keeps for itself.
  struct Own {
    explicit Own(const MemoryReader& reader)
        : weights(reader.padded_), powers(reader.h_.additive ? reader.h_.keys : 0) {}
    Scratch<A> weights;  // of one head of one slot
    Scratch<A> powers;   // e^{2q} of one slot
  };

  MemoryReader(const PackedHeader& header, const DecodeMemory& memory, int64_t slots, int64_t width)
      : h_(header),
        m_(memory),
        width_(width),
        padded_(ceil_div(memory.steps, kWidth) * kWidth),
        scores_(slots * header.heads * padded_),
        powers_(kRaises && header.additive ? slots / width * memory.steps * header.keys : 0),
        largest_(kRaises && header.additive ? slots / width : 0) {
    if constexpr (kRaises)
      if (header.additive) raise_keys(slots / width);
  }

  // About so many products of a matrix cost as much as one slot's step.
  int64_t products() const {
    constexpr int64_t kProductsPerTanh = 8;
    return m_.steps * (h_.keys * (h_.additive ? kProductsPerTanh : 1) + h_.values);
  }

  // Scores of the thread's share of all slots' steps; `score` is null unless attention is additive.
  template <class Query>
  void score(const LiveSlots& live, const Query& query, const A* score, int thread, int threads,
             Own& own) const {
    int64_t total = 0;
    for (int64_t i = 0; i < live.size(); ++i) total += length(live, i);
    const Share mine(total, thread, threads);
    int64_t first = 0;
    for (int64_t i = 0; i < live.size() && first < mine.end; ++i) {
      const int64_t steps = length(live, i);
      const int64_t begin = std::max<int64_t>(mine.begin - first, 0);
      const int64_t end = std::min(mine.end - first, steps);
      first += steps;
      if (begin < end) score_steps(row(live, i), i, query(i), score, begin, end, own);
    }
  }

  // Contexts of the thread's share of all slots' columns; `keep(i, head, weights, count)` gets what
  // they are mixed by.
  template <class Out, class Keep>
  void mix(const LiveSlots& live, const Out& out, const Keep& keep, int thread, int threads,
           Own& own) const {
    if (h_.heads == 0) return;
    const int64_t size = h_.values / h_.heads, blocks = ceil_div(size, kBlock);
    const Share mine(live.size() * h_.heads * blocks, thread, threads);
    for (int64_t item = mine.begin; item < mine.end; ++item) {
      const int64_t i = item / blocks / h_.heads, head = item / blocks % h_.heads;
      if (item == mine.begin || item % blocks == 0)
        softmax(scores(i, head), length(live, i), own.weights.get());
      const int64_t column = item % blocks * kBlock;
      if (keep && column == 0) keep(i, head, own.weights.get(), length(live, i));
      mix_block(row(live, i), length(live, i), own.weights.get(), head * size + column,
                std::min(kBlock, size - column), out(i));
    }
  }

 private:
  int64_t row(const LiveSlots& live, int64_t index) const { return live.slot[index] / width_; }
  int64_t length(const LiveSlots& live, int64_t index) const {
    return m_.lengths[row(live, index)];
  }
  A* scores(int64_t index, int64_t head) const {
    return scores_.get() + (index * h_.heads + head) * padded_;
  }

  // What values i.. of a query and a key add to their score.
  struct Product {
    static Product of(const A*, int64_t) { return {}; }
    FAST_S2S_INLINE V operator()(V q, V k, int64_t, int) const { return q * k; }
  };
  struct Additive {
    const A* score;
    static Additive of(const A* score, int64_t part) { return {score + part}; }
    FAST_S2S_INLINE V operator()(V q, V k, int64_t i, int count) const {
      return load<V>(score + i, count) * Math::tanh(q + k);
    }
  };
  // The same of e^{2q} and e^{2k}: tanh(q + k) = 1 - 2 / (e^{2q}·e^{2k} + 1), to 2e-7 in absolute
  // terms, with the exponentials of the keys taken once for all steps of the decoder.
  struct AdditiveOfPowers {
    const A* score;
    static AdditiveOfPowers of(const A* score, int64_t part) { return {score + part}; }
    FAST_S2S_INLINE V operator()(V q, V k, int64_t i, int count) const {
      const V tanh = 1 - 2 * Math::reciprocal(q * k + 1);
      return load<V>(score + i, count) * tanh;
    }
  };

  void score_steps(int64_t row, int64_t index, const A* query, const A* score, int64_t begin,
                   int64_t end, Own& own) const {
    const int64_t first = (row * m_.steps + begin) * h_.keys;
    const A* keys = static_cast<const A*>(m_.keys) + first;
    if (score == nullptr) return score_heads<Product>(index, query, keys, nullptr, begin, end);
    if constexpr (kRaises) {
      A* powers = own.powers.get();
      if (raise(query, h_.keys, powers) + largest_.get()[row] <= kLargest)
        return score_heads<AdditiveOfPowers>(index, powers, powers_.get() + first, score, begin,
                                             end);
    }
    score_heads<Additive>(index, query, keys, score, begin, end);
  }

  template <class Term>
  void score_heads(int64_t index, const A* query, const A* keys, const A* score, int64_t begin,
                   int64_t end) const {
    const int64_t size = h_.keys / h_.heads;
    for (int64_t head = 0; head < h_.heads; ++head) {
      const int64_t part = head * size;
      A* out = scores(index, head) + begin;
      for_row_tiles<kSteps>(end - begin, [&](auto steps, int64_t first) {
        add_up<steps.value>(query + part, keys + first * h_.keys + part, size, out + first,
                            Term::of(score, part));
      });
    }
  }

  void raise_keys(int64_t rows) {
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t first = row * m_.steps * h_.keys;
      largest_.get()[row] = raise(static_cast<const A*>(m_.keys) + first, m_.lengths[row] * h_.keys,
                                  powers_.get() + first);
    }
  }

  // out = e^{2x}, NaN where x is; returns the largest |x|, of numbers.
  static A raise(const A* x, int64_t size, A* out) {
    V most = {};
    for (int64_t i = 0; i < size; i += kWidth) {
      const int count = lanes(size, i, kWidth);
      const V value = load<V>(x + i, count), magnitude = value < 0 ? -value : value;
      most = magnitude > most ? magnitude : most;
      store(out + i, Math::exp(value + value), count);
    }
    A largest = 0;
    for (int lane = 0; lane < kWidth; ++lane) largest = std::max<A>(largest, most[lane]);
    return largest;
  }

  // out[s] = Σ of term(query, key s): over vectors in order, then over lanes.
  template <int Steps, class Term>
  FAST_S2S_INLINE void add_up(const A* query, const A* keys, int64_t size, A* out,
                              const Term& term) const {
    V sums[Steps] = {};
    for (int64_t i = 0; i < size; i += kWidth) {
      const int count = lanes(size, i, kWidth);
      const V q = load<V>(query + i, count);
      for (int s = 0; s < Steps; ++s)
        sums[s] += term(q, load<V>(keys + s * h_.keys + i, count), i, count);
    }
    for (int s = 0; s < Steps; ++s) {
      A total = 0;
      for (int lane = 0; lane < kWidth; ++lane) total += sums[s][lane];
      out[s] = total;
    }
  }

  void softmax(const A* scores, int64_t steps, A* weights) const {
    if (steps == 0) return;
    const A most = *std::max_element(scores, scores + steps);
    A total = 0;
    for (int64_t i = 0; i < steps; i += kWidth) {
      const int count = lanes(steps, i, kWidth);
      V e = load<V>(scores + i, count) - most;
      if constexpr (std::is_same_v<A, float>) {
        // exp saturates above zero; NaN stays
        e = e > -87.f ? Math::exp(e) : (e != e ? e : V{});
      } else {
        for (int lane = 0; lane < kWidth; ++lane) e[lane] = std::exp(e[lane]);
      }
      store_full(weights + i, e);
      for (int lane = 0; lane < count; ++lane) total += e[lane];
    }
    for (int64_t i = 0; i < steps; i += kWidth)
      store_full(weights + i, load_full<V>(weights + i) / total);
  }

  // `count` columns of a context, in order of steps.
  void mix_block(int64_t row, int64_t steps, const A* weights, int64_t column, int64_t count,
                 A* out) const {
    V sums[kPanelVectors] = {};
    const A* values = static_cast<const A*>(m_.values) + row * m_.steps * h_.values + column;
    if (count == kBlock) {
      for (int64_t s = 0; s < steps; ++s, values += h_.values)
        for (int v = 0; v < kPanelVectors; ++v)
          sums[v] += weights[s] * load_full<V>(values + v * kWidth);
    } else {
      for (int64_t s = 0; s < steps; ++s, values += h_.values)
        for (int v = 0; v * kWidth < count; ++v)
          sums[v] += weights[s] * load<V>(values + v * kWidth, lanes(count, v * kWidth, kWidth));
    }
    for (int v = 0; v * kWidth < count; ++v)
      store(out + column + v * kWidth, sums[v], lanes(count, v * kWidth, kWidth));
  }

  const PackedHeader& h_;
  const DecodeMemory m_;
  const int64_t width_, padded_;
  Scratch<A> scores_;   // [slots, heads, padded S]
  Scratch<A> powers_;   // e^{2k}, [B, S, A]
  Scratch<A> largest_;  // |k| of each row
};

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
