// What the forward and backward CPU kernels of variants share. Included once per instruction set.

namespace fast_s2s {
namespace FAST_S2S_ISA {

// Mean and inverse standard deviation of a row, as layer norm wants them.
template <class A>
struct Moments {
  A mean{}, scale{1};

  FAST_S2S_INLINE typename Simd<A>::Vec normed(typename Simd<A>::Vec x) const {
    return (x - mean) * scale;
  }
};

template <class A, class V>
FAST_S2S_INLINE A sum_of_lanes(V v) {
  A sum{};
  for (int lane = 0; lane < Simd<A>::kWidth; ++lane) sum += v[lane];
  return sum;
}

template <class A>
Moments<A> moments(const A* x, int64_t size) {
  typedef typename Simd<A>::Vec V;
  constexpr int kWidth = Simd<A>::kWidth;
  constexpr A kEpsilon = 1e-5;  // of torch.nn.functional.layer_norm
  const int64_t whole = size / kWidth * kWidth;
  V sums{};
  for (int64_t k = 0; k < size; k += kWidth) sums += load<V>(x + k, lanes(size, k, kWidth));
  const A mean = sum_of_lanes<A>(sums) / size;
  V squares{};
  for (int64_t k = 0; k < whole; k += kWidth) {
    const V d = load_full<V>(x + k) - mean;
    squares += d * d;
  }
  A square = sum_of_lanes<A>(squares);
  for (int64_t k = whole; k < size; ++k) square += (x[k] - mean) * (x[k] - mean);
  return {mean, 1 / std::sqrt(square / size + kEpsilon)};
}

// A byte for each lane; its size cannot depend on a template's argument.
template <class A>
struct Flags;
template <>
struct Flags<float> {
  typedef uint8_t Vec __attribute__((vector_size(FAST_S2S_VECTOR_BYTES / 4)));
};
template <>
struct Flags<double> {
  typedef uint8_t Vec __attribute__((vector_size(FAST_S2S_VECTOR_BYTES / 8)));
};

// What zoneout keeps of the state before a step.
template <class A>
class Zoneout {
  typedef typename Simd<A>::Vec V;
  static constexpr int kWidth = Simd<A>::kWidth;

 public:
  // `kept`: of each unit of all steps and rows, or null: `part` of every unit.
  Zoneout(const bool* kept, double part) : kept_(kept), part_(static_cast<A>(part)) {}

  bool keeps() const { return kept_ != nullptr || part_ != 0; }

  // The state after W units, the first of which is `at`.
  FAST_S2S_INLINE V mix(V before, V after, int64_t at, int count) const {
    if (kept_ != nullptr) return mask(at, count) != 0 ? before : after;
    return part_ == 0 ? after : part_ * before + (1 - part_) * after;
  }
  // Of the gradient of the state after: what goes to the one before at once, and the rest.
  FAST_S2S_INLINE V kept(V gradient, int64_t at, int count) const {
    if (kept_ != nullptr) return mask(at, count) != 0 ? gradient : V{};
    return part_ == 0 ? V{} : part_ * gradient;
  }
  FAST_S2S_INLINE V passed(V gradient, int64_t at, int count) const {
    if (kept_ != nullptr) return mask(at, count) != 0 ? V{} : gradient;
    return part_ == 0 ? gradient : (1 - part_) * gradient;
  }

 private:
  FAST_S2S_INLINE V mask(int64_t at, int count) const {
    typename Flags<A>::Vec flags{};
    if (count == kWidth) {
      __builtin_memcpy(&flags, kept_ + at, kWidth);
    } else {
      __builtin_memcpy(&flags, kept_ + at, count);
    }
    return __builtin_convertvector(flags, V);
  }

  const bool* kept_;
  A part_;
};

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

// Adds to `sums` the products of rows and weights, and stores each gate's where it is in a row of
// all gates.
template <class V, class A, int Rows>
FAST_S2S_INLINE void store_gates(const V (&sums)[Rows][kPanelVectors], A* out, int64_t stride,
                                 int64_t hidden, int64_t unit, int count) {
  for (int r = 0; r < Rows; ++r)
    for (int gate = 0; gate < 4; ++gate)
      store(out + r * stride + gate * hidden + unit, sums[r][gate], count);
}

template <class V, class A>
FAST_S2S_INLINE Gates<V> load_gate_vectors(const A* at, int64_t hidden, int count) {
  return {load<V>(at, count), load<V>(at + hidden, count), load<V>(at + 2 * hidden, count),
          load<V>(at + 3 * hidden, count)};
}

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
