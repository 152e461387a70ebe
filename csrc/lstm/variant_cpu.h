// What the forward and backward CPU kernels of variants share. Included once per instruction set.

namespace fast_s2s {
namespace FAST_S2S_ISA {

// The parameters of a variant that a row meets, widened: biases summed, gains.
template <class Io>
class VariantParameters {
 public:
  typedef typename Accumulate<Io>::Type A;

  VariantParameters(const LstmShape& shape, const LstmWeights& weights, const LstmVariant& variant)
      : norm_ih(static_cast<const A*>(variant.norm_ih)),
        norm_hh(static_cast<const A*>(variant.norm_hh)),
        norm_c(static_cast<const A*>(variant.norm_c)),
        norm_c_bias(static_cast<const A*>(variant.norm_c_bias)),
        mask_(static_cast<const Io*>(variant.recurrent_mask)),
        output_(shape.output),
        bias_(4 * shape.hidden) {
    for (int64_t k = 0; k < 4 * shape.hidden; ++k) {
      bias_.get()[k] = A{};
      for (const void* b : {weights.b_ih, weights.b_hh})
        if (b != nullptr) bias_.get()[k] += widen(static_cast<const Io*>(b)[k]);
    }
  }

  bool normed() const { return norm_ih != nullptr; }
  const A* bias() const { return bias_.get(); }

  // h, `count` units from `unit` on, as it meets W_hh: times the mask of its row.
  template <class V>
  FAST_S2S_INLINE V masked(V h, int64_t row, int64_t unit, int count) const {
    return mask_ == nullptr ? h : h * load<V>(mask_ + row * output_ + unit, count);
  }

  const A *norm_ih, *norm_hh, *norm_c, *norm_c_bias;

 private:
  const Io* mask_;
  int64_t output_;
  Scratch<A> bias_;  // [4H]
};

// Stores each gate's sums where they are in a row of all gates.
template <class V, class A, int Rows>
FAST_S2S_INLINE void store_gates(const V (&sums)[Rows][kPanelVectors], A* out, int64_t stride,
                                 int64_t hidden, int64_t unit, int count) {
  for (int r = 0; r < Rows; ++r)
    for (int gate = 0; gate < 4; ++gate)
      store(out + r * stride + gate * hidden + unit, sums[r][gate], count);
}

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
