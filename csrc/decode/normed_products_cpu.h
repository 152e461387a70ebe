// The products of a layer with layer norm, and what follows from them. Included once per
// instruction set.

namespace fast_s2s {
namespace FAST_S2S_ISA {

template <class A>
class NormedProducts {
  typedef typename Simd<A>::Vec V;
  static constexpr int kWidth = Simd<A>::kWidth;

 public:
  NormedProducts(int64_t slots, int64_t hidden) : hidden_(hidden), values_(slots * 8 * hidden) {}

  // W_ih·x (0) or W_hh·h (1) of a slot, [4H].
  A* of(int64_t index, int64_t which) const {
    return values_.get() + (2 * index + which) * 4 * hidden_;
  }

  // Calls `put(unit, count, c, h)` with W units of the states at a time. The products are gone
  // then. `norms`: of the layer, [14H], see PackArgs.
  template <class Put>
  void finish(int64_t index, const A* norms, const A* c_before, const Put& put) const {
    const int64_t width = 4 * hidden_;
    const A *bias = norms, *gain_x = bias + width, *gain_h = gain_x + width,
            *gain_c = gain_h + width, *bias_c = gain_c + hidden_;
    A *x = of(index, 0), *h = of(index, 1);
    const Moments<A> of_x = moments(x, width), of_h = moments(h, width);
    for (int64_t unit = 0; unit < hidden_; unit += kWidth) {
      const int count = lanes(hidden_, unit, kWidth);
      V pre[4];
      for (int gate = 0; gate < 4; ++gate) {
        const int64_t k = gate * hidden_ + unit;
        pre[gate] = load<V>(bias + k, count) +
                    of_x.normed(load<V>(x + k, count)) * load<V>(gain_x + k, count) +
                    of_h.normed(load<V>(h + k, count)) * load<V>(gain_h + k, count);
      }
      const Gates<V> gates = activate<Math>(Gates<V>{pre[0], pre[1], pre[2], pre[3]});
      // over what has been read: the cell state and the output gate
      store(x + unit, next_cell(gates, load<V>(c_before + unit, count)), count);
      store(h + unit, gates.o, count);
    }
    const Moments<A> of_c = moments(x, hidden_);
    for (int64_t unit = 0; unit < hidden_; unit += kWidth) {
      const int count = lanes(hidden_, unit, kWidth);
      const V c = load<V>(x + unit, count);
      const V seen = of_c.normed(c) * load<V>(gain_c + unit, count) + load<V>(bias_c + unit, count);
      put(unit, count, c, load<V>(h + unit, count) * Math::tanh(seen));
    }
  }

 private:
  const int64_t hidden_;
  Scratch<A> values_;  // [slots, 2, 4H]
};

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
