// What a call keeps of its steps: see DecodeKept. Included once per instruction set.

namespace fast_s2s {
namespace FAST_S2S_ISA {

template <class A>
class KeptSteps {
 public:
  KeptSteps(int64_t vocab, int64_t heads, const DecodeArgs& args, int64_t slots)
      : kept_(args.kept), slots_(slots), vocab_(vocab), heads_(heads), steps_(args.memory.steps) {}

  bool any() const { return kept_.tokens != nullptr; }
  bool logits() const { return kept_.logits != nullptr; }
  bool scores() const { return kept_.scores != nullptr; }
  bool attention() const { return kept_.attention != nullptr; }

  // A step that computes slots for which `computed(slot)` is true.
  template <class Computed>
  void begin(int64_t step, const Computed& computed) {
    first_ = step * slots_;
    std::fill_n(kept_.tokens + first_, slots_, -1);
    std::fill_n(kept_.parents + first_, slots_, -1);
    for (int64_t slot = 0; slot < slots_; ++slot) {
      if (computed(slot)) continue;
      if (logits()) std::fill_n(kept_.logits + (first_ + slot) * vocab_, vocab_, 0.f);
      if (scores()) std::fill_n(kept_.scores + (first_ + slot) * vocab_, vocab_, 0.f);
      if (attention()) std::fill_n(weights(slot, 0), heads_ * steps_, 0.f);
    }
  }
  // What it leads to: `slot` continues the sequence of `parent`.
  void goes_on(int64_t slot, int64_t token, int64_t parent) const {
    kept_.tokens[first_ + slot] = token;
    kept_.parents[first_ + slot] = parent;
  }

  void keep_logits(int64_t slot, const A* values) const {
    if (logits()) std::copy_n(values, vocab_, kept_.logits + (first_ + slot) * vocab_);
  }
  void keep_scores(int64_t slot, const Scores<A>& found) const {
    if (!scores()) return;
    float* to = kept_.scores + (first_ + slot) * vocab_;
    for (int64_t token = 0; token < vocab_; ++token)
      to[token] = static_cast<float>(found.score(token));
  }
  // Of a head, which looks at `count` steps.
  void keep_attention(int64_t slot, int64_t head, const A* values, int64_t count) const {
    float* to = weights(slot, head);
    std::fill(std::copy_n(values, count, to), to + steps_, 0.f);
  }
  // The prefix allows one token.
  void keep_forced(int64_t slot, int64_t forced) const {
    if (!scores()) return;
    float* to = kept_.scores + (first_ + slot) * vocab_;
    std::fill_n(to, vocab_, kNever<float>);
    to[forced] = 0;
  }

 private:
  float* weights(int64_t slot, int64_t head) const {
    return kept_.attention + ((first_ + slot) * heads_ + head) * steps_;
  }

  const DecodeKept kept_;
  const int64_t slots_, vocab_, heads_, steps_;
  int64_t first_ = 0;
};

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
