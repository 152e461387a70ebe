// The networks of a call: one, or those of an ensemble, whose probabilities are averaged.
// Included once per instruction set.

namespace fast_s2s {
namespace FAST_S2S_ISA {

template <class A>
std::unique_ptr<AnyNetwork<A>> make_network(const DecodeMember& member, int64_t slots,
                                            int64_t width) {
  PackedHeader header;
  std::memcpy(&header, member.packed, sizeof(header));
  if constexpr (std::is_same_v<A, double>) {
    return std::make_unique<Network<FloatPanel<double>>>(header, member, slots, width);
  } else {
    switch (header.weights) {
      case WeightType::kBFloat16:
        return std::make_unique<Network<Bfloat16Panel>>(header, member, slots, width);
      case WeightType::kInt8:
        return std::make_unique<Network<Int8Panel>>(header, member, slots, width);
      default:
        return std::make_unique<Network<FloatPanel<float>>>(header, member, slots, width);
    }
  }
}

template <class A>
class Networks {
  typedef typename Simd<A>::Vec V;
  static constexpr int kWidth = Simd<A>::kWidth;

  // A layer's states, of so many numbers.
  struct Place {
    AnyNetwork<A>* network;
    int64_t layer, size;
  };

 public:
  // What a thread keeps for itself.
  typedef std::vector<std::unique_ptr<typename AnyNetwork<A>::Own>> Own;

  explicit Networks(const DecodeArgs& args) : joined_(args.models > 0) {
    const int64_t width = args.options.width, slots = args.rows * width;
    if (!joined_) networks_.push_back(make_network<A>({args.packed, args.memory}, slots, width));
    for (int64_t i = 0; i < args.models; ++i)
      networks_.push_back(make_network<A>(args.members[i], slots, width));
    for (auto& network : networks_) {
      const PackedHeader& h = network->header();
      for (int64_t i = 0; i < h.hidden_states(); ++i)
        hidden_.push_back({network.get(), i, h.output});
      for (int64_t i = 0; i < h.layers; ++i) cell_.push_back({network.get(), i, h.hidden});
    }
  }

  // Where parts of hidden and of cell states lie in the op's arrays, of so many slots.
  std::vector<StatePart> hidden_parts(int64_t slots) const { return parts(hidden_, slots); }
  std::vector<StatePart> cell_parts(int64_t slots) const { return parts(cell_, slots); }

  // Whether they are an ensemble, be it of one.
  bool joined() const { return joined_; }
  int64_t vocab() const { return first().header().vocab; }
  int64_t vocab_panels() const { return first().vocab_panels(); }
  // Of attention that can be kept.
  int64_t heads() const { return joined_ ? 0 : first().header().heads; }

  int team(int64_t slots, int threads) const {
    int64_t microseconds = 0;
    for (const auto& network : networks_) microseconds += network->step_microseconds(slots);
    return first().team(microseconds, threads);
  }
  Own make_own() const {
    Own own;
    for (const auto& network : networks_) own.push_back(network->make_own());
    return own;
  }
  // As `AnyNetwork::step`, of one after the other.
  void step(const LiveSlots& live, const WantedPanels& wanted, const KeepAttention<A>& keep,
            int thread, int threads, Own& own, Barrier& barrier) {
    for (size_t i = 0; i < networks_.size(); ++i)
      networks_[i]->step(live, wanted, keep, thread, threads, *own[i], barrier);
  }
  void swap_states() {
    for (auto& network : networks_) network->swap_states();
  }

  // All parts of the states before or after a step, of the slot computed at `index`.
  struct States {
    const Networks& networks;
    const bool after;
    A* hidden(int64_t part, int64_t index) const {
      const Place& place = networks.hidden_[part];
      return of(place).hidden(place.layer, index);
    }
    A* cell(int64_t part, int64_t index) const {
      const Place& place = networks.cell_[part];
      return of(place).cell(place.layer, index);
    }

   private:
    const LayerStates<A>& of(const Place& place) const {
      return after ? place.network->after() : place.network->now();
    }
  };
  States now() const { return {*this, false}; }
  States after() const { return {*this, true}; }

  A* logits(int64_t index) const { return first().logits(index); }
  Scores<A> scores(int64_t index) const { return scores_of(first(), index); }

  // Of an ensemble: the first network's logits of a slot become the logarithm of the mean of all
  // networks' probabilities.
  void mix(int64_t index) const {
    if (!joined_) return;
    std::vector<const A*> values;
    std::vector<A> totals;
    for (const auto& network : networks_) {
      Scores<A> found = scores_of(*network, index);
      found.make_finite();
      values.push_back(network->logits(index));
      totals.push_back(static_cast<A>(found.log_sum_exp()));
    }
    const A shift = static_cast<A>(std::log(static_cast<double>(networks_.size())));
    A* out = logits(index);
    for (int64_t i = 0; i < first().vocab_padded(); i += kWidth)
      store_full(out + i, log_sum(values, totals, i) - shift);
  }

 private:
  AnyNetwork<A>& first() const { return *networks_.front(); }
  static Scores<A> scores_of(const AnyNetwork<A>& network, int64_t index) {
    return {network.logits(index), network.header().vocab, network.vocab_padded()};
  }

  // A network's layers lie one after the other; of an ensemble a slot's are side by side.
  std::vector<StatePart> parts(const std::vector<Place>& places, int64_t slots) const {
    int64_t all = 0;
    for (const Place& place : places) all += place.size;
    std::vector<StatePart> found;
    int64_t offset = 0;
    for (const Place& place : places) {
      found.push_back(joined_ ? StatePart{offset, all, place.size, offset}
                              : StatePart{offset * slots, place.size, place.size, offset});
      offset += place.size;
    }
    return found;
  }

  // log Σ exp(values - total) of a vector of tokens; -inf where none is possible
  static V log_sum(const std::vector<const A*>& values, const std::vector<A>& totals, int64_t at) {
    const V never = V{} + kNever<A>;
    V most = never, sum = {};
    for (size_t i = 0; i < values.size(); ++i) {
      const V x = load_full<V>(values[i] + at) - totals[i];
      most = x > most ? x : most;
    }
    for (size_t i = 0; i < values.size(); ++i)
      sum += power(load_full<V>(values[i] + at) - totals[i] - most);
    for (int lane = 0; lane < kWidth; ++lane)
      most[lane] = most[lane] > kNever<A> ? most[lane] + std::log(sum[lane]) : kNever<A>;
    return most;
  }
  // e^x; 0 for NaN, which a network that cannot say anything gives.
  static V power(V x) {
    if constexpr (std::is_same_v<A, float>) {
      // exp saturates above zero
      return x > -87.f ? Math::exp(x) : V{};
    } else {
      for (int lane = 0; lane < kWidth; ++lane)
        x[lane] = x[lane] == x[lane] ? std::exp(x[lane]) : 0;
      return x;
    }
  }

  const bool joined_;
  std::vector<std::unique_ptr<AnyNetwork<A>>> networks_;
  std::vector<Place> hidden_, cell_;
};

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
