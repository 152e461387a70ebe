// The backward pass of one row's step in a variant, between the products. Included once per
// instruction set.

namespace fast_s2s {
namespace FAST_S2S_ISA {

template <class Io>
class VariantRowBackward {
  typedef typename Accumulate<Io>::Type A;
  typedef typename Simd<A>::Vec V;
  static constexpr int kWidth = Simd<A>::kWidth;

 public:
  // Values of memory that `memory` has to have room for; and of `sums`, below.
  static int64_t memory_size(int64_t hidden) { return 15 * hidden; }
  static int64_t sums_size(int64_t hidden, bool normed) { return (normed ? 14 : 4) * hidden; }

  VariantRowBackward(const VariantParameters<Io>& parameters, int64_t hidden, A* memory)
      : parameters_(parameters),
        hidden_(hidden),
        width_(4 * hidden),
        normed_(parameters.normed()),
        x_(memory),
        h_(memory + width_),
        gates_(memory + 2 * width_),
        c_(memory + 3 * width_),
        d_seen_(c_ + hidden),
        c_before_(d_seen_ + hidden) {}

  // The normed products, and the gates' pre-activations. `T`: Io or A
  template <class T>
  void load_products(const T* products) {
    for (int64_t k = 0; k < width_; k += kWidth) {
      const int count = lanes(width_, k, kWidth);
      store((normed_ ? x_ : gates_) + k, load<V>(products + k, count), count);
      if (normed_) store(h_ + k, load<V>(products + width_ + k, count), count);
    }
    if (!normed_) return;
    of_x_ = moments(x_, width_);
    of_h_ = moments(h_, width_);
    for (int64_t k = 0; k < width_; k += kWidth) {
      const int count = lanes(width_, k, kWidth);
      const V x = of_x_.normed(load<V>(x_ + k, count)), h = of_h_.normed(load<V>(h_ + k, count));
      store(x_ + k, x, count);
      store(h_ + k, h, count);
      store(gates_ + k,
            load<V>(parameters_.bias() + k, count) + x * load<V>(parameters_.norm_ih + k, count) +
                h * load<V>(parameters_.norm_hh + k, count),
            count);
    }
  }

  // c_{t-1}, of whichever type, or null for zero; then the gates and the cell state before zoneout.
  template <class T>
  void activate_gates(const T* c_before) {
    for (int64_t unit = 0; unit < hidden_; unit += kWidth) {
      const int count = lanes(hidden_, unit, kWidth);
      const V before = c_before == nullptr ? V{} : load<V>(c_before + unit, count);
      const Gates<V> gates = activate<Math>(load_gate_vectors<V>(gates_ + unit, hidden_, count));
      store(c_before_ + unit, before, count);
      store_gate_vectors(gates_ + unit, hidden_, gates, count);
      store(c_ + unit, next_cell(gates, before), count);
    }
    if (normed_) of_c_ = moments(c_, hidden_);
  }

  // From `d_h`, of h_t before zoneout and projection, to the output gate, whose gradient replaces
  // it, and to what the cell state shows. `unprojected`: that h_t is stored there, unless null.
  void through_output(const A* d_h, A* sums, Io* unprojected) {
    A* d_norm_c = sums + 12 * hidden_;
    A* out_gate = gates_ + 3 * hidden_;
    V sum{}, sum_normed{};
    for (int64_t unit = 0; unit < hidden_; unit += kWidth) {
      const int count = lanes(hidden_, unit, kWidth);
      const V c = of_c_.normed(load<V>(c_ + unit, count)), o = load<V>(out_gate + unit, count),
              dh = load<V>(d_h + unit, count);
      V seen = c, gain = V{} + 1;
      if (normed_) {
        gain = load<V>(parameters_.norm_c + unit, count);
        seen = c * gain + load<V>(parameters_.norm_c_bias + unit, count);
      }
      const V tanh = Math::tanh(seen);
      if (unprojected != nullptr) store(unprojected + unit, o * tanh, count);
      store(out_gate + unit, dh * tanh * o * (1 - o), count);
      const V d_seen = dh * o * (1 - tanh * tanh), d = d_seen * gain;
      store(d_seen_ + unit, d, count);
      if (!normed_) continue;
      add(d_norm_c + unit, d_seen * c, count);
      add(d_norm_c + hidden_ + unit, d_seen, count);
      sum += d;
      sum_normed += d * c;
    }
    if (normed_) of_d_ = {sum_of_lanes<A>(sum) / hidden_, sum_of_lanes<A>(sum_normed) / hidden_};
  }

  // On to c_{t-1}, whose gradient replaces c_t's in `d_c`, and to the other gates, whose gradients
  // replace them. `at`: the row's first unit in all steps and rows. `forgets`: before this step
  void through_cell(A* d_c_row, const Zoneout<A>& zoneout, int64_t at, bool forgets, A* d_bias) {
    for (int64_t unit = 0; unit < hidden_; unit += kWidth) {
      const int count = lanes(hidden_, unit, kWidth);
      const V d_c = load<V>(d_c_row + unit, count), d_seen = load<V>(d_seen_ + unit, count);
      V d = zoneout.passed(d_c, at + unit, count);
      d += normed_ ? of_d_.back(of_c_, d_seen, of_c_.normed(load<V>(c_ + unit, count))) : d_seen;
      const Gates<V> gates = load_gate_vectors<V>(gates_ + unit, hidden_, count);
      const V before = zoneout.kept(d_c, at + unit, count) + d * gates.f;
      store(d_c_row + unit, forgets ? V{} : before, count);
      const V parts[4] = {d * gates.g * gates.i * (1 - gates.i),
                          d * load<V>(c_before_ + unit, count) * gates.f * (1 - gates.f),
                          d * gates.i * (1 - gates.g * gates.g), gates.o};
      for (int gate = 0; gate < 4; ++gate) {
        store(gates_ + gate * hidden_ + unit, parts[gate], count);
        add(d_bias + gate * hidden_ + unit, parts[gate], count);
      }
    }
  }

  // From the gates to the products: of W_ih·x, and with layer norm of W_hh·h, which are the same
  // without it. `d_operand`: the latter again as A, unless null.
  void through_products(Io* d_x, Io* d_h, A* d_operand, A* sums) {
    const Mean of_x = normed_ ? mean_of(x_, parameters_.norm_ih, sums + width_) : Mean{},
               of_h = normed_ ? mean_of(h_, parameters_.norm_hh, sums + 2 * width_) : Mean{};
    for (int64_t k = 0; k < width_; k += kWidth) {
      const int count = lanes(width_, k, kWidth);
      V x = load<V>(gates_ + k, count), h = x;
      if (normed_) {
        x = of_x.back(of_x_, x * load<V>(parameters_.norm_ih + k, count), load<V>(x_ + k, count));
        h = of_h.back(of_h_, h * load<V>(parameters_.norm_hh + k, count), load<V>(h_ + k, count));
        store(d_h + k, h, count);
      }
      store(d_x + k, x, count);
      if (d_operand != nullptr) store(d_operand + k, h, count);
    }
  }

 private:
  // What the backward pass of layer norm needs of the gradients d of a row's normed values: the
  // means of d, and of d times the normed value.
  struct Mean {
    A d{}, d_normed{};

    FAST_S2S_INLINE V back(const Moments<A>& of_row, V gradient, V normed) const {
      return of_row.scale * (gradient - d - normed * d_normed);
    }
  };

  // Of a row of products; the gradient of its gains is added to `d_gain`.
  Mean mean_of(const A* normed, const A* gain, A* d_gain) const {
    V sum{}, sum_normed{};
    for (int64_t k = 0; k < width_; k += kWidth) {
      const int count = lanes(width_, k, kWidth);
      const V pre = load<V>(gates_ + k, count), value = load<V>(normed + k, count);
      const V d = pre * load<V>(gain + k, count);
      sum += d;
      sum_normed += d * value;
      add(d_gain + k, pre * value, count);
    }
    return {sum_of_lanes<A>(sum) / width_, sum_of_lanes<A>(sum_normed) / width_};
  }

  static FAST_S2S_INLINE void add(A* sum, V value, int count) {
    store(sum, load<V>(sum, count) + value, count);
  }

  const VariantParameters<Io>& parameters_;
  const int64_t hidden_, width_;
  const bool normed_;
  A *x_, *h_;    // [4H] the products, normed
  A* gates_;     // [4H] pre-activations; activated; their gradients
  A* c_;         // [H] the cell state before zoneout
  A* d_seen_;    // [H] the gradient of what it shows, times the gain
  A* c_before_;  // [H]
  Moments<A> of_x_, of_h_, of_c_;
  Mean of_d_;
};

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
