// The products of the forward kernel on the matrix unit. Included for the instruction sets "amx"
// and "amx_emulated".
//
// The parts of an infinite value would meet parts that are zero, and give NaN. Rows and panels with
// one are multiplied in float32 instead, from the weights as they lie.

namespace fast_s2s {
namespace FAST_S2S_ISA {

// The gates' weights in tiles.
template <class Io>
class TileWeights {
  typedef typename Operand<Io>::Type Value;
  static constexpr int kWidth = Simd<float>::kWidth;

 public:
  TileWeights(const void* w, int64_t hidden, int64_t k_size, bool keep)
      : w_(static_cast<const Io*>(w)),
        hidden_(hidden),
        k_size_(k_size),
        panels_(w_, ceil_div(hidden, kWidth), k_size, keep) {}

  void pack(int64_t panel) { panels_.pack(panel, columns(panel)); }

  // `exactly(row)`: whether the row is to be multiplied in float32.
  template <class Exactly>
  void multiply(MatrixUnit& unit, const TileRows<Io>& a, int64_t rows, int64_t panel,
                const TileSums& sums, const Exactly& exactly) const {
    char* packed = reinterpret_cast<char*>(panels_.at(panel));
    const bool all = TilePanel<Io>::infinite(packed, k_size_);
    // they have been read when the product is written over them
    std::vector<float> kept;
    const auto for_exact_rows = [&](const auto& f) {
      if constexpr (kTileParts<Io> > 1) {
        for (int64_t r = 0; r < rows; ++r)
          if (all || exactly(r)) f(r);
      }
    };
    constexpr int kRow = kPanelVectors * kWidth;
    for_exact_rows([&](int64_t r) {
      const float* first = sums.first + r * sums.first_stride / int64_t{sizeof(float)};
      kept.insert(kept.end(), first, first + kRow);
    });
    multiply_tiles(unit, a, rows, packed, sums);
    const float* first = kept.data();
    for_exact_rows([&](int64_t r) {
      multiply_row(a, r, panel, first, sums.out + r * kRow);
      first += kRow;
    });
  }

 private:
  void multiply_row(const TileRows<Io>& a, int64_t row, int64_t panel, const float* first,
                    float* out) const {
    if constexpr (kTileParts<Io> > 1) {
      std::vector<float> values(k_size_);
      a.restore_row(row, k_size_, values.data());
      VecF sums[1][kPanelVectors];
      for (int v = 0; v < kPanelVectors; ++v) sums[0][v] = load_full<VecF>(first + v * kWidth);
      multiply_rows_unpacked(row_tile<1>(values.data(), 0), w_, columns(panel), k_size_, sums);
      for (int v = 0; v < kPanelVectors; ++v) store_full(out + v * kWidth, sums[0][v]);
    }
  }

  PanelColumns columns(int64_t panel) const {
    const int count = lanes(hidden_, panel * kWidth, kWidth);
    return {panel * kWidth, hidden_, {count, count, count, count}};
  }

  const Io* w_;
  int64_t hidden_, k_size_;
  PackedPanels<Io, TilePanel<Io>> panels_;
};

// As RowInputs. The threads share the work of laying out the rows of a chunk, in one of two halves
// while the other is read.
template <class Io>
class TileInputs {
 public:
  TileInputs(const LstmForwardArgs& args, int64_t chunk_rows, bool /* packed */, bool keep)
      : input_(args.shape.input),
        weights_(args.weights.w_ih, args.shape.hidden, input_, keep),
        halves_{{chunk_rows, input_, kTileHeight}, {chunk_rows, input_, kTileHeight}} {}

  static constexpr bool kByRows = false;

  class Chunk {
   public:
    Chunk(TileInputs& inputs, int thread, int threads)
        : inputs_(inputs), thread_(thread), threads_(threads) {}
    void clear() {
      sources_.clear();
      half_ = 1 - half_;
    }
    void add(const Io* row) { sources_.push_back(row); }
    // All threads have to call it before one multiplies.
    void finish() {
      const Share mine(size(), thread_, threads_);
      for (int64_t r = mine.begin; r < mine.end; ++r)
        inputs_.halves_[half_].store_row(r, sources_[r], inputs_.input_);
    }
    int64_t size() const { return static_cast<int64_t>(sources_.size()); }
    const TileRows<Io>& rows() const { return inputs_.halves_[half_]; }

   private:
    TileInputs& inputs_;
    int thread_, threads_, half_ = 0;
    std::vector<const Io*> sources_;
  };

  void pack(int64_t panel) { weights_.pack(panel); }

  void multiply(MatrixUnit& unit, const Chunk& x, int64_t panel, const VecF (&bias)[kPanelVectors],
                float* out) const {
    // the same for every row
    weights_.multiply(unit, x.rows(), x.size(), panel,
                      {reinterpret_cast<const float*>(bias), 0, out},
                      [&](int64_t r) { return x.rows().infinite(r); });
  }

 private:
  int64_t input_;
  TileWeights<Io> weights_;
  TileRows<Io> halves_[2];
};

// As RowHidden.
template <class Io>
class TileHidden {
 public:
  TileHidden(const LstmForwardArgs& args, bool /* packed */, bool keep)
      : output_(args.shape.output),
        weights_(args.weights.w_hh, args.shape.hidden, output_, keep),
        halves_{{args.shape.batch, output_, tile_height(args.shape.batch)},
                {args.shape.batch, output_, tile_height(args.shape.batch)}} {}

  void pack(int64_t panel) { weights_.pack(panel); }

  void begin_row(int64_t half, int64_t j, const Io* h0) {
    halves_[half].store_row(j, h0, output_);
    halves_[1 - half].store_row(j, nullptr, output_);
  }

  struct States {
    TileRows<Io>* rows;
    FAST_S2S_INLINE void store(int64_t j, int64_t unit, int count, VecF h) const {
      rows->store(j, unit, count, h);
    }
  };
  States states(int64_t half) { return {&halves_[half]}; }

  int64_t group(int64_t) const { return 1; }

  template <class Begins, class Input, class Finish>
  FAST_S2S_INLINE void step(MatrixUnit& unit, int64_t half, int64_t /* first: 0 */, int64_t rows,
                            const Begins& begins, int64_t panel, int64_t, const Input& input,
                            const Finish& finish) const {
    const TileRows<Io>& h = halves_[half];
    float* sums = input(panel, 0);
    // h0 alone can be infinite
    weights_.multiply(unit, h, rows, panel, {sums, kSumsStride, sums},
                      [&](int64_t j) { return h.infinite(j) && begins(j); });
    const Finish finish_here = finish;  // not by reference: see Forward::Step
    for (int64_t j = 0; j < rows; ++j) {
      const auto gate = [&](int v) __attribute__((always_inline)) {
        return load_full<VecF>(sums + (j * kPanelVectors + v) * Simd<float>::kWidth);
      };
      finish_here(panel, j, Gates<VecF>{gate(0), gate(1), gate(2), gate(3)});
    }
  }

 private:
  // as few tiles as will do, none much lower than another
  static int tile_height(int64_t batch) {
    return static_cast<int>(ceil_div(batch, ceil_div(batch, kTileHeight)));
  }

  int64_t output_;
  TileWeights<Io> weights_;
  TileRows<Io> halves_[2];
};

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
