// The products of the forward kernel with weights in panels of vectors, or where they lie.
// Included once per instruction set.

namespace fast_s2s {
namespace FAST_S2S_ISA {

#ifndef FAST_S2S_AMX
// A thread's use of the matrix unit, which this instruction set has not.
struct MatrixUnit {};
#endif

// x·W_ihᵀ + biases.
template <class Io>
class RowInputs {
  typedef typename Accumulate<Io>::Type A;
  typedef typename Simd<A>::Vec V;
  static constexpr int kWidth = Simd<A>::kWidth;

 public:
  RowInputs(const LstmForwardArgs& args, int64_t /* chunk_rows */, bool packed, bool keep)
      : input_(args.shape.input),
        weights_(args.weights.w_ih, args.shape.hidden, args.shape.input, packed, keep) {}

  // Whether threads may own rows: nothing is laid out for all of them together.
  static constexpr bool kByRows = true;

  // The thread's view of the rows of a chunk.
  class Chunk : public ChunkRows<Io> {
   public:
    Chunk(const RowInputs& inputs, int, int) : ChunkRows<Io>(inputs.input_) {}
    void finish() { this->widen_all(); }
  };

  void pack(int64_t panel) { weights_.pack(panel); }

  // Into `out`, a row of 4W for each row of the chunk.
  void multiply(MatrixUnit&, const Chunk& x, int64_t panel, const V (&bias)[kPanelVectors],
                A* out) const {
    for_row_tiles(x.size(), [&](auto tile, int64_t r0) {
      V sums[tile.value][kPanelVectors];
      for (int r = 0; r < tile.value; ++r)
        for (int gate = 0; gate < 4; ++gate) sums[r][gate] = bias[gate];
      weights_.multiply(row_tile<tile.value>(x.pointers() + r0), panel, sums);
      for (int r = 0; r < tile.value; ++r)
        for (int gate = 0; gate < 4; ++gate)
          store_full(out + (r0 + r) * panel_columns<A>() + gate * kWidth, sums[r][gate]);
    });
  }

 private:
  int64_t input_;
  GateWeights<Io> weights_;
};

// h·W_hhᵀ, and h itself: of the step before and, in the other half, of this one.
template <class Io>
class RowHidden {
  typedef typename Accumulate<Io>::Type A;
  typedef typename Operand<Io>::Type Value;
  typedef typename Simd<A>::Vec V;
  static constexpr int kWidth = Simd<A>::kWidth;

 public:
  RowHidden(const LstmForwardArgs& args, bool packed, bool keep)
      : batch_(args.shape.batch),
        output_(args.shape.output),
        packed_(packed),
        weights_(args.weights.w_hh, args.shape.hidden, args.shape.output, packed, keep),
        h_(2 * batch_ * output_) {}

  void pack(int64_t panel) { weights_.pack(panel); }

  // The first h of a row; null: zero.
  void begin_row(int64_t half, int64_t j, const Io* h0) {
    for (int64_t k = 0; k < output_; ++k)
      row(half, j)[k] = h0 == nullptr ? Value{} : operand(h0[k]);
  }

  // One of the two halves of the states.
  struct States {
    Value* rows;
    int64_t width;
    FAST_S2S_INLINE void store(int64_t j, int64_t unit, int count, V h) const {
      FAST_S2S_ISA::store(rows + j * width + unit, round_to<Io>(h), count);
    }
  };
  States states(int64_t half) { return {row(half, 0), output_}; }

  // Panels that `step` had better take together.
  int64_t group(int64_t rows) const { return packed_ && rows <= kPairRows ? 2 : 1; }

  // Adds h·W_hhᵀ to what `input(panel, row)` points to, and calls `finish(panel, row, gates)`.
  template <class Begins, class Input, class Finish>
  FAST_S2S_INLINE void step(MatrixUnit&, int64_t half, int64_t first, int64_t rows, const Begins&,
                            int64_t panel, int64_t count, const Input& input,
                            const Finish& finish) const {
    if (count == 2) {
      step_panels<kPairRows, 2>(half, first, rows, panel, input, finish);
    } else {
      step_panels<kTileRows, 1>(half, first, rows, panel, input, finish);
    }
  }

 private:
  template <int MaxRows, int Panels, class Input, class Finish>
  FAST_S2S_INLINE void step_panels(int64_t half, int64_t first, int64_t rows, int64_t panel,
                                   const Input& input, const Finish& finish) const {
    for_row_tiles<MaxRows>(rows, [&](auto tile, int64_t r0) {
      const int64_t j0 = first + r0;
      V sums[tile.value][Panels * kPanelVectors];
      for (int r = 0; r < tile.value; ++r)
        for (int v = 0; v < Panels * kPanelVectors; ++v)
          sums[r][v] =
              load_full<V>(input(panel + v / kPanelVectors, j0 + r) + v % kPanelVectors * kWidth);
      weights_.multiply(row_tile<tile.value>(row(half, j0), output_), panel, sums);
      const Finish finish_here = finish;  // not by reference: see Forward::Step
      for (int p = 0; p < Panels; ++p)
        for (int r = 0; r < tile.value; ++r) {
          const V* pre = sums[r] + p * kPanelVectors;
          finish_here(panel + p, j0 + r, Gates<V>{pre[0], pre[1], pre[2], pre[3]});
        }
    });
  }

  static Value operand(Io x) {
    if constexpr (std::is_same_v<Io, Value>) {
      return x;
    } else {
      return widen(x);
    }
  }
  Value* row(int64_t half, int64_t j) const { return h_.get() + (half * batch_ + j) * output_; }

  int64_t batch_, output_;
  bool packed_;
  GateWeights<Io> weights_;
  Scratch<Value> h_;  // [2][B, R], forgotten where reset
};

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
