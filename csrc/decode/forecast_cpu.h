// The forecast CPU kernel. Included once per instruction set.
//
// One parallel region for all steps. The first step is the same for all paths of a row, and
// computed once for them. Threads own panels of each matrix, then paths, whose values they draw; a
// barrier follows each.

namespace fast_s2s {
namespace FAST_S2S_ISA {

template <class Panel>
class Forecaster {
  typedef typename Panel::Acc A;

 public:
  Forecaster(const PackedHeader& network, const ForecastArgs& args)
      : h_(network),
        args_(args),
        count_(args.rows * args.paths),
        parameters_(num_parameters(args.family) * args.series),
        network_(h_, {args.network, {}}, count_, /*width=*/1),
        inputs_(count_ * h_.inputs),
        found_(count_ * parameters_),
        tops_(count_),
        found_at_(count_) {
    network_.read_from(inputs_.get());
    for (int64_t i = 0; i < count_; ++i) found_at_[i] = found_.get() + i * parameters_;
    std::memcpy(&output_header_, args.output, sizeof(output_header_));
    output_.emplace(output_header_,
                    output_args_ = {args.output, tops_.data(), found_at_.data(), args.rows,
                                    /*tanh=*/false});
  }

  void run(int threads) {
    begin();
    if (args_.steps > 0 && count_ > 0) {
      const int64_t us = network_.step_microseconds(count_) + output_->microseconds() +
                         count_ * args_.series * kDrawNs / 1000;
#pragma omp parallel num_threads(network_.team(us, threads))
      run_thread(omp_get_thread_num(), omp_get_num_threads());
    }
    for (int64_t n = 0; n < count_; ++n)
      for (int64_t layer = 0; layer < h_.layers; ++layer) {
        const LayerStates<A>& now = network_.now();
        std::copy_n(now.hidden(layer, computed(n)), h_.output,
                    static_cast<A*>(args_.h_n) + (layer * count_ + n) * h_.output);
        std::copy_n(now.cell(layer, computed(n)), h_.hidden,
                    static_cast<A*>(args_.c_n) + (layer * count_ + n) * h_.hidden);
      }
  }

 private:
  // About how long one value takes.
  static constexpr int64_t kDrawNs = 80;

  void begin() {
    for (int64_t row = 0; row < args_.rows; ++row) {
      for (int64_t layer = 0; layer < h_.layers; ++layer) {
        const int64_t at = layer * args_.rows + row;
        std::copy_n(static_cast<const A*>(args_.h) + at * h_.output, h_.output,
                    network_.now().hidden(layer, row));
        std::copy_n(static_cast<const A*>(args_.c) + at * h_.hidden, h_.hidden,
                    network_.now().cell(layer, row));
      }
      live_.add(row, row, row, row);
      if (args_.steps > 0) write_inputs(row, row * args_.paths, 0);
    }
  }

  void run_thread(int thread, int threads) {
    typename Network<Panel>::Own own(network_);
    typename Linear<Panel>::Own making(count_, h_.output);
    for (int64_t step = 0; step < args_.steps; ++step) {
      for (int64_t layer = 0; layer < h_.layers; ++layer) {
        network_.step_layer(layer, live_, thread, threads, own);
        if (h_.projected) {
          barrier_.wait(threads);
          network_.project(layer, live_, thread, threads, own);
        }
        barrier_.wait(threads, [&] {
          if (layer == h_.layers - 1) finish_layers();
        });
      }
      output_->run_thread(thread, threads, making);
      barrier_.wait(threads);
      const Share mine(count_, thread, threads);
      for (int64_t n = mine.begin; n < mine.end; ++n) {
        draw(n, step);
        if (step + 1 < args_.steps) write_inputs(n, n, step + 1);
      }
      barrier_.wait(threads, [&] {
        if (step + 1 < args_.steps) begin_step(step + 1);
      });
    }
  }

  void finish_layers() {
    network_.swap_states();
    output_args_.rows = live_.size();
    for (int64_t i = 0; i < live_.size(); ++i) tops_[i] = network_.now().hidden(h_.layers - 1, i);
  }

  // From the second step on each path is computed by itself, in the second from its row's state.
  void begin_step(int64_t step) {
    if (step > 2) return;
    live_.clear();
    for (int64_t n = 0; n < count_; ++n) live_.add(n, n, computed(n), n);
    apart_ = true;
  }
  // Where the last step's state of a path lies.
  int64_t computed(int64_t n) const { return apart_ ? n : n / args_.paths; }

  void draw(int64_t n, int64_t step) {
    const A* found = found_.get() + computed(n) * parameters_;
    const int64_t row = n / args_.paths, path = n % args_.paths, series = args_.series;
    for (int64_t i = 0; i < series; ++i) {
      double value = found[i];
      if (args_.seeds != nullptr && args_.family != Family::kPoint) {
        const PhiloxWords words =
            philox(static_cast<uint32_t>(i), static_cast<uint32_t>(step),
                   static_cast<uint32_t>(path), 1, static_cast<uint64_t>(args_.seeds[row]));
        const double df = args_.family == Family::kStudentT
                              ? 2 + make_positive(found[2 * series + i], args_.positive)
                              : 0;
        value += make_positive(found[series + i], args_.positive) *
                 standard_draw(args_.family, df, words);
      }
      path_values(n)[step * series + i] = static_cast<A>(value);
    }
  }

  // What path n reads in a step, as the network's input `index`.
  void write_inputs(int64_t index, int64_t n, int64_t step) {
    const int64_t row = n / args_.paths, series = args_.series;
    A* out = inputs_.get() + index * h_.inputs;
    for (int64_t i = 0; i < args_.num_lags; ++i, out += series) {
      const int64_t at = step - args_.lags[i];
      const A* from = at >= 0 ? path_values(n) + at * series
                              : static_cast<const A*>(args_.history) +
                                    (row * args_.past + args_.past + at) * series;
      std::copy_n(from, series, out);
    }
    std::copy_n(static_cast<const A*>(args_.known) + (row * args_.steps + step) * args_.known_size,
                args_.known_size, out);
  }

  A* path_values(int64_t n) const {
    return static_cast<A*>(args_.values) + n * args_.steps * args_.series;
  }

  const PackedHeader& h_;
  const ForecastArgs& args_;
  const int64_t count_;       // N
  const int64_t parameters_;  // P·D
  Network<Panel> network_;
  Scratch<A> inputs_;  // [N, inputs]
  Scratch<A> found_;   // [N, P·D]
  std::vector<const void*> tops_;
  std::vector<void*> found_at_;
  PackedHeader output_header_{};
  LinearArgs output_args_{};
  std::optional<Linear<Panel>> output_;
  LiveSlots live_;
  bool apart_ = false;  // whether paths of a row have states of their own
  Barrier barrier_;
};

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
