// The forecast CPU kernel. Included once per instruction set.
//
// Paths do not depend on each other: each thread takes some of them through all steps, as many as
// have room for their states near a core. Where there are too few for that, threads share every
// step: they own panels of each matrix, then paths, whose values they draw; a barrier follows each.
//
// The first step is the same for all paths of a row, and computed once for them.

namespace fast_s2s {
namespace FAST_S2S_ISA {

// Paths from `first` on, of all rows' paths side by side.
struct Paths {
  int64_t first, count;
};

template <class Panel>
class Forecaster {
  typedef typename Panel::Acc A;

 public:
  Forecaster(const PackedHeader& network, const ForecastArgs& args, const Paths& paths)
      : h_(network),
        args_(args),
        first_(paths.first),
        count_(paths.count),
        first_row_(first_ / args.paths),
        rows_(count_ > 0 ? row_of(count_ - 1) - first_row_ + 1 : 0),
        parameters_(num_parameters(args.family) * args.series),
        network_(h_, {args.network, {}}, count_, /*width=*/1),
        inputs_(count_ * h_.inputs),
        found_(count_ * parameters_),
        tops_(count_),
        found_at_(count_) {
    network_.read_from(inputs_.get());
    for (int64_t i = 0; i < count_; ++i) found_at_[i] = found_.get() + i * parameters_;
    std::memcpy(&output_header_, args.output, sizeof(output_header_));
    output_.emplace(output_header_, output_args_ = {args.output, tops_.data(), found_at_.data(),
                                                    rows_, /*tanh=*/false});
    begin();
  }

  // About how long a step takes one thread.
  int64_t microseconds() const {
    return network_.step_microseconds(count_) + output_->microseconds() +
           count_ * args_.series * kDrawNs / 1000;
  }

  // The thread's part of all steps.
  void run_thread(int thread, int threads) {
    typename Network<Panel>::Own own(network_);
    typename Linear<Panel>::Own making(count_, h_.output);
    for (int64_t step = 0; step < args_.steps; ++step) {
      for (int64_t layer = 0; layer < h_.layers; ++layer) {
        network_.step_layer(layer, live_, thread, threads, own, barrier_);
        barrier_.wait(threads, [&] {
          if (layer == h_.layers - 1) finish_layers();
        });
      }
      output_->run_thread(thread, threads, making);
      barrier_.wait(threads);
      const Share mine(count_, thread, threads);
      for (int64_t i = mine.begin; i < mine.end; ++i) {
        draw(i, step);
        if (step + 1 < args_.steps) write_inputs(i, i, step + 1);
      }
      barrier_.wait(threads, [&] {
        if (step + 1 < args_.steps) begin_step(step + 1);
      });
    }
    const Share mine(count_, thread, threads);
    for (int64_t i = mine.begin; i < mine.end; ++i) store_states(i);
  }

 private:
  // About how long one value takes.
  static constexpr int64_t kDrawNs = 80;

  void begin() {
    for (int64_t index = 0; index < rows_; ++index) {
      const int64_t row = first_row_ + index;
      for (int64_t layer = 0; layer < h_.layers; ++layer) {
        const int64_t at = layer * args_.rows + row;
        std::copy_n(static_cast<const A*>(args_.h) + at * h_.output, h_.output,
                    network_.now().hidden(layer, index));
        std::copy_n(static_cast<const A*>(args_.c) + at * h_.hidden, h_.hidden,
                    network_.now().cell(layer, index));
      }
      live_.add(index, index, index, index);
      if (args_.steps > 0) write_inputs(index, std::max<int64_t>(0, row * args_.paths - first_), 0);
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
    for (int64_t i = 0; i < count_; ++i) live_.add(i, i, computed(i), i);
    apart_ = true;
  }

  // Where the last step's state of a path lies.
  int64_t computed(int64_t i) const { return apart_ ? i : row_of(i) - first_row_; }
  int64_t row_of(int64_t i) const { return (first_ + i) / args_.paths; }

  void store_states(int64_t i) {
    const LayerStates<A>& now = network_.now();
    for (int64_t layer = 0; layer < h_.layers; ++layer) {
      const int64_t at = layer * args_.rows * args_.paths + first_ + i;
      std::copy_n(now.hidden(layer, computed(i)), h_.output,
                  static_cast<A*>(args_.h_n) + at * h_.output);
      std::copy_n(now.cell(layer, computed(i)), h_.hidden,
                  static_cast<A*>(args_.c_n) + at * h_.hidden);
    }
  }

  void draw(int64_t index, int64_t step) {
    const A* found = found_.get() + computed(index) * parameters_;
    const int64_t row = row_of(index), path = (first_ + index) % args_.paths;
    const int64_t series = args_.series;
    A* values = path_values(index) + step * series;
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
      values[i] = static_cast<A>(value);
    }
  }

  // What a path reads in a step, as the network's input `index`.
  void write_inputs(int64_t index, int64_t path, int64_t step) {
    const int64_t row = row_of(path), series = args_.series;
    A* out = inputs_.get() + index * h_.inputs;
    for (int64_t i = 0; i < args_.num_lags; ++i, out += series) {
      const int64_t at = step - args_.lags[i];
      const A* from = at >= 0 ? path_values(path) + at * series
                              : static_cast<const A*>(args_.history) +
                                    (row * args_.past + args_.past + at) * series;
      std::copy_n(from, series, out);
    }
    std::copy_n(static_cast<const A*>(args_.known) + (row * args_.steps + step) * args_.known_size,
                args_.known_size, out);
  }

  A* path_values(int64_t i) const {
    return static_cast<A*>(args_.values) + (first_ + i) * args_.steps * args_.series;
  }

  const PackedHeader& h_;
  const ForecastArgs& args_;
  const int64_t first_, count_;  // of the paths
  const int64_t first_row_, rows_;
  const int64_t parameters_;  // P·D
  Network<Panel> network_;
  Scratch<A> inputs_;  // [count, inputs]
  Scratch<A> found_;   // [count, P·D]
  std::vector<const void*> tops_;
  std::vector<void*> found_at_;
  PackedHeader output_header_{};
  LinearArgs output_args_{};
  std::optional<Linear<Panel>> output_;
  LiveSlots live_;
  bool apart_ = false;  // whether paths of a row have states of their own
  Barrier barrier_;
};

// How many paths a thread takes through all steps: their states lie near a core.
template <class Acc>
int64_t paths_at_once(const PackedHeader& h) {
  constexpr int64_t kNearBytes = 384 << 10, kFewest = 32, kMost = 512;
  const int64_t bytes = (2 * h.layers * (h.output + h.hidden) + h.inputs) * sizeof(Acc);
  return std::clamp(kNearBytes / bytes, kFewest, kMost);
}

template <class Panel>
void forecast_paths(const PackedHeader& header, const ForecastArgs& args, int threads) {
  constexpr int64_t kFewest = 16;  // of a thread, that are worth reading all weights for
  const int64_t count = args.rows * args.paths;
  if (count < kFewest * std::max(2, threads)) {
    Forecaster<Panel> all(header, args, {0, count});
    Barrier end;
#pragma omp parallel num_threads(AnyNetwork<typename Panel::Acc>::team(all.microseconds(), threads))
    {
      const int team = omp_get_num_threads();
      all.run_thread(omp_get_thread_num(), team);
      // OpenMP's own would not tell that one had no core
      end.wait(team);
    }
    return;
  }
  const int64_t most = paths_at_once<typename Panel::Acc>(header);
  const int64_t pieces =
      std::max<int64_t>(ceil_div(count, most), std::min<int64_t>(threads, count / kFewest));
  std::atomic<int64_t> next{0};
  Barrier end;
#pragma omp parallel num_threads(static_cast<int>(std::min<int64_t>(threads, pieces)))
  {
    for (int64_t piece; (piece = next++) < pieces;) {
      const Share share(count, static_cast<int>(piece), static_cast<int>(pieces));
      Forecaster<Panel>(header, args, {share.begin, share.end - share.begin}).run_thread(0, 1);
    }
    end.wait(omp_get_num_threads());
  }
}

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
