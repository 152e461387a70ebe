// What is common to networks of all types of weights: what a step is to compute, the states of the
// slots that it computes, and what it finds. Included once per instruction set.

namespace fast_s2s {
namespace FAST_S2S_ISA {

// Which panels of the vocabulary a step computes for which slots.
class WantedPanels {
 public:
  explicit WantedPanels(int64_t panels) : words_((panels + 63) / 64) {}

  void reset(int64_t slots) {
    whole_.assign(slots, 0);
    bits_.assign(slots * words_, 0);
    any_ = false;
  }
  void add_all(int64_t index) {
    whole_[index] = 1;
    any_ = true;
  }
  void add(int64_t index, int64_t panel) {
    bits_[index * words_ + panel / 64] |= uint64_t{1} << (panel % 64);
    any_ = true;
  }
  bool any() const { return any_; }
  // Of a step that computes all panels of a slot or none.
  bool any_of(int64_t index) const { return whole_[index]; }
  bool has(int64_t index, int64_t panel) const {
    return whole_[index] || (bits_[index * words_ + panel / 64] >> (panel % 64) & 1);
  }

 private:
  int64_t words_;
  std::vector<char> whole_;
  std::vector<uint64_t> bits_;
  bool any_ = false;
};

// Gets the weights of the memory's first `count` steps by which a head looked for the slot that was
// computed at `index`.
template <class A>
using KeepAttention =
    std::function<void(int64_t index, int64_t head, const A* weights, int64_t count)>;

template <class A>
class AnyNetwork {
 public:
  // What a thread keeps for itself.
  struct Own {
    virtual ~Own() = default;
  };

  AnyNetwork(const PackedHeader& header, int64_t slots)
      : h_(header), states_{{h_, slots}, {h_, slots}}, logits_(slots * vocab_padded()) {}
  AnyNetwork(const AnyNetwork&) = delete;
  virtual ~AnyNetwork() = default;

  virtual std::unique_ptr<Own> make_own() const = 0;
  // The thread's part of a step; others may not have finished theirs of the logits.
  virtual void step(const LiveSlots& live, const WantedPanels& wanted, const KeepAttention<A>& keep,
                    int thread, int threads, Own& own, Barrier& barrier) = 0;
  // About how long a step of `slots` takes one thread, in microseconds: by arithmetic, and by
  // reading weights from its own cache or from beyond.
  virtual int64_t step_microseconds(int64_t slots) const = 0;

  const PackedHeader& header() const { return h_; }
  int64_t vocab_panels() const { return ceil_div(h_.vocab, panel_columns<A>()); }
  int64_t vocab_padded() const { return vocab_panels() * panel_columns<A>(); }
  A* logits(int64_t index) const { return logits_.get() + index * vocab_padded(); }
  // Before and after the step.
  const LayerStates<A>& now() const { return *now_; }
  const LayerStates<A>& after() const { return *after_; }
  void swap_states() {
    std::swap(now_, after_);
    upward_ = !upward_;
  }

  // Of so many threads those that repay the barriers of steps that take one thread so long, and
  // that threads sleep between calls.
  static int team(int64_t microseconds, int threads) {
    constexpr int64_t kUsPerThread = 20;
    const int64_t worth = microseconds / kUsPerThread;
    return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, worth)));
  }

 protected:
  const PackedHeader h_;
  LayerStates<A> states_[2];
  LayerStates<A>* now_ = &states_[0];
  LayerStates<A>* after_ = &states_[1];
  bool upward_ = true;

 private:
  Scratch<A> logits_;  // [slots, padded V]
};

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
