// The linear CPU kernel. Included once per instruction set.
//
// The vocabulary of a network without layers, for rows that are given. Threads own panels of it.

namespace fast_s2s {
namespace FAST_S2S_ISA {

template <class Panel>
class Linear {
  typedef typename Panel::Acc A;
  static constexpr int64_t kColumns = panel_columns<A>();
  // taken at once, so that what they are converted to stays near
  static constexpr int64_t kRows = 96;

 public:
  // What a thread keeps for itself.
  struct Own {
    Own(int64_t rows_given, int64_t k_size)
        : most(std::min(rows_given, kRows)),
          rows(most, k_size),
          sums(most * kColumns),
          named(most) {
      std::iota(named.begin(), named.end(), 0);
    }
    const int64_t most;
    typename Panel::Operand rows;
    Scratch<A> sums;
    std::vector<int64_t> named;
  };

  Linear(const PackedHeader& header, const LinearArgs& args)
      : h_(header),
        args_(args),
        layout_(header),
        base_(static_cast<const char*>(args.packed)),
        x_(reinterpret_cast<const A* const*>(args.x)),
        y_(reinterpret_cast<A* const*>(args.y)) {}

  void run(int threads) {
    const int team = static_cast<int>(std::clamp<int64_t>(
        microseconds() / kUsPerThread, 1, std::min<int64_t>(threads, layout_.vocab_panels)));
    Barrier end;
#pragma omp parallel num_threads(team)
    {
      const int count = omp_get_num_threads();
      Own own(args_.rows, h_.output);
      run_thread(omp_get_thread_num(), count, own);
      // OpenMP's own would not tell that one had no core
      end.wait(count);
    }
  }

  // About how long one thread takes.
  int64_t microseconds() const {
    constexpr int64_t kProductsPerUs = 60000, kBytesPerUs = 30000;
    return args_.rows * h_.vocab * h_.output / kProductsPerUs +
           layout_.vocab_panels * layout_.recurrent_bytes / kBytesPerUs;
  }

  // The thread's panels, of all rows.
  void run_thread(int thread, int threads, Own& own) const {
    const Share mine(layout_.vocab_panels, thread, threads);
    A* sums = own.sums.get();
    for (int64_t first = 0; first < args_.rows; first += own.most) {
      const int64_t count = std::min(own.most, args_.rows - first);
      own.rows.set(x_ + first, count, h_.output);
      for (int64_t panel = mine.begin; panel < mine.end; ++panel) {
        const A* bias = reinterpret_cast<const A*>(base_ + layout_.bias(0, panel));
        for (int64_t i = 0; i < count; ++i) std::copy_n(bias, kColumns, sums + i * kColumns);
        multiply_rows<Panel>(own.rows, own.named.data(), count, h_.output,
                             base_ + layout_.vocab_panel(panel), sums);
        const int64_t begin = panel * kColumns;
        for (int64_t i = 0; i < count; ++i) finish(sums + i * kColumns, y_[first + i], begin);
      }
    }
  }

 private:
  static constexpr int64_t kUsPerThread = 10;

  void finish(const A* sums, A* y, int64_t begin) const {
    typedef typename Simd<A>::Vec V;
    constexpr int kWidth = Simd<A>::kWidth;
    for (int64_t at = begin; at < std::min(begin + kColumns, h_.vocab); at += kWidth) {
      const V sum = load_full<V>(sums + at - begin);
      store(y + at, args_.tanh ? Math::tanh(sum) : sum, lanes(h_.vocab, at, kWidth));
    }
  }

  const PackedHeader& h_;
  const LinearArgs& args_;
  const PackedLayout<Panel> layout_;
  const char* base_;
  const A* const* x_;
  A* const* y_;
};

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
