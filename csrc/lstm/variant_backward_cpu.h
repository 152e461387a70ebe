// The backward CPU kernel of variants. Included once per instruction set.
//
// As forward: threads own rows between the products and panels in them. Sums over rows are made
// for groups of rows, whichever thread takes them, so that no sum depends on the number of threads.
// Gradients of weights and of x are products of what this writes.

namespace fast_s2s {
namespace FAST_S2S_ISA {

template <class Io>
class VariantBackward {
  typedef typename Accumulate<Io>::Type A;
  typedef typename Simd<A>::Vec V;
  static constexpr int kWidth = Simd<A>::kWidth;
  // the product with W_hh reads the gradients where they are returned, if they are A
  static constexpr bool kDirect = std::is_same_v<Io, A>;
  static constexpr int64_t kGroup = 4;  // rows

 public:
  VariantBackward(const LstmVariantBackwardArgs& args, int threads)
      : args_(args),
        s_(args.shape),
        width_(4 * s_.hidden),
        rows_(s_),
        parameters_(s_, args.weights, args.variant),
        zoneout_h_(args.variant.kept_hidden, args.variant.zoneout_hidden),
        zoneout_c_(args.variant.kept_cell, args.variant.zoneout_cell),
        projected_(args.weights.w_hr != nullptr),
        recomputes_(args.gates == nullptr),
        products_(products_size(s_.hidden, parameters_.normed())),
        sums_(VariantRowBackward<Io>::sums_size(s_.hidden, parameters_.normed())),
        groups_(std::max<int64_t>(1, ceil_div(s_.batch, kGroup))),
        gate_panels_(ceil_div(s_.hidden, kWidth)),
        unit_panels_(ceil_div(s_.hidden, panel_columns<A>())),
        output_panels_(ceil_div(s_.output, panel_columns<A>())),
        chunk_(chunk_steps(s_, s_.batch)),
        threads_(team_size(s_, threads, gate_panels_)),
        gate_w_ih_(args.weights.w_ih, s_.hidden, s_.input, recomputes_),
        gate_w_hh_(args.weights.w_hh, s_.hidden, s_.output, recomputes_),
        w_hh_(output_panels_ * width_ * panel_columns<A>()),
        w_hr_(projected_ ? unit_panels_ * s_.output * panel_columns<A>() : 0),
        recomputed_(recomputes_ ? chunk_ * s_.batch * products_ : 0),
        d_pre_(kDirect ? 0 : s_.batch * width_),
        d_h_(s_.batch * s_.output),
        d_passed_(s_.batch * s_.output),
        d_unprojected_(projected_ ? s_.batch * s_.hidden : 0),
        d_c_(s_.batch * s_.hidden),
        memory_(threads_ * VariantRowBackward<Io>::memory_size(s_.hidden)),
        group_sums_(groups_ * sums_) {}

  int threads() const { return threads_; }

  void run_thread(int thread, int threads) {
    const Share outputs(output_panels_, thread, threads), units(unit_panels_, thread, threads),
        gates(gate_panels_, thread, threads);
    prepare(outputs, units, gates, thread, threads);
    barrier_.wait(threads);
    ChunkRows<Io> x(s_.input), fed(s_.output);
    VariantRowBackward<Io> row(
        parameters_, s_.hidden,
        memory_.get() + thread * VariantRowBackward<Io>::memory_size(s_.hidden));
    int64_t in_chunk = 0;  // rows of the chunk in the steps before this one
    for (int64_t step = 0; step < s_.steps; ++step) {
      const int64_t t = time(step), running = rows_.running(t);
      if (step % chunk_ == 0 && recomputes_) {
        in_chunk = 0;
        recompute(step, gates, x, fed);
        barrier_.wait(threads);
      }
      const Share mine(ceil_div(running, kGroup), thread, threads);
      const int64_t first = mine.begin * kGroup, end = std::min(mine.end * kGroup, running);
      for (int64_t j = first; j < end; ++j) pass_output(t, j);
      if (projected_) {
        barrier_.wait(threads);
        for (int64_t panel = units.begin; panel < units.end; ++panel) unproject(running, panel);
        barrier_.wait(threads);
      }
      for (int64_t j = first; j < end; ++j) step_row(t, j, in_chunk + j, row);
      barrier_.wait(threads);
      for_panels(outputs, step, 1, [&](int64_t panel, int64_t) { to_previous(t, running, panel); });
      barrier_.wait(threads);
      in_chunk += running;
    }
    finish(thread, threads);
  }

 private:
  int64_t time(int64_t step) const { return s_.reverse ? step : s_.steps - 1 - step; }

  void prepare(const Share& outputs, const Share& units, const Share& gates, int thread,
               int threads) {
    for (int64_t panel = outputs.begin; panel < outputs.end; ++panel)
      pack_columns(static_cast<const Io*>(args_.weights.w_hh), width_, s_.output,
                   panel * panel_columns<A>(), packed_w_hh(panel));
    for (int64_t panel = units.begin; projected_ && panel < units.end; ++panel)
      pack_columns(static_cast<const Io*>(args_.weights.w_hr), s_.output, s_.hidden,
                   panel * panel_columns<A>(), packed_w_hr(panel));
    for (int64_t panel = gates.begin; recomputes_ && panel < gates.end; ++panel) {
      gate_w_ih_.pack(panel);
      gate_w_hh_.pack(panel);
    }
    const Share mine(s_.batch, thread, threads), steps(s_.steps, thread, threads),
        sums(groups_ * sums_, thread, threads);
    for (int64_t j = mine.begin; j < mine.end; ++j) {
      widen_row<Io>(args_.grad_h_n, rows_.row(j), s_.output, d_h_.get() + j * s_.output);
      widen_row<Io>(args_.grad_c_n, rows_.row(j), s_.hidden, d_c_.get() + j * s_.hidden);
    }
    for (int64_t t = steps.begin; t < steps.end; ++t)
      for (int64_t j = 0; j < rows_.running(t); ++j) feed(t, j);
    std::fill(group_sums_.get() + sums.begin, group_sums_.get() + sums.end, A{});
  }

  // The h that a row came with at step t, as it met W_hh.
  void feed(int64_t t, int64_t j) const {
    Io* out = fed_row(t, j);
    const Io* h = previous_hidden(t, j);
    if (h == nullptr) return std::fill(out, out + s_.output, Io{});
    for (int64_t k = 0; k < s_.output; k += kWidth) {
      const int count = lanes(s_.output, k, kWidth);
      store(out + k, parameters_.masked(load<V>(h + k, count), rows_.row(j), k, count), count);
    }
  }

  Io* fed_row(int64_t t, int64_t j) const {
    return part<Io>(args_.fed, rows_.offset(t) + j, s_.output);
  }

  // null: zero
  const Io* previous_hidden(int64_t t, int64_t j) const {
    if (rows_.resets(t, j)) return nullptr;
    if (t == rows_.first(j)) return part<const Io>(args_.h0, rows_.row(j), s_.output);
    return part<const Io>(args_.y, rows_.padded(rows_.preceding(t), j), args_.y_stride);
  }

  // The products of the thread's units, for the chunk of steps that begins at `step`.
  void recompute(int64_t step, const Share& gates, ChunkRows<Io>& x, ChunkRows<Io>& fed) {
    x.clear();
    fed.clear();
    for (int64_t s = step; s < std::min(step + chunk_, s_.steps); ++s)
      for (int64_t t = time(s), j = 0; j < rows_.running(t); ++j) {
        x.add(static_cast<const Io*>(args_.x) + rows_.padded(t, j) * s_.input);
        fed.add(fed_row(t, j));
      }
    x.widen_all();
    fed.widen_all();
    for (int64_t panel = gates.begin; panel < gates.end; ++panel) {
      const int64_t unit = panel * kWidth;
      const int count = lanes(s_.hidden, unit, kWidth);
      for_row_tiles(x.size(), [&](auto tile, int64_t r0) {
        A* out = recomputed_.get() + r0 * products_;
        V sums[tile.value][kPanelVectors] = {};
        if (!parameters_.normed())
          for (int r = 0; r < tile.value; ++r)
            for (int gate = 0; gate < 4; ++gate)
              sums[r][gate] = load<V>(parameters_.bias() + gate * s_.hidden + unit, count);
        gate_w_ih_.multiply(row_tile<tile.value>(x.pointers() + r0), panel, sums);
        if (parameters_.normed()) {
          store_gates(sums, out, products_, s_.hidden, unit, count);
          out += width_;
          for (int r = 0; r < tile.value; ++r)
            for (int gate = 0; gate < 4; ++gate) sums[r][gate] = V{};
        }
        gate_w_hh_.multiply(row_tile<tile.value>(fed.pointers() + r0), panel, sums);
        store_gates(sums, out, products_, s_.hidden, unit, count);
      });
    }
  }

  // d_h += what this step's output receives; then what zoneout sends past the step stays in it,
  // and the rest goes to `d_passed_`.
  void pass_output(int64_t t, int64_t j) {
    const int64_t row = rows_.padded(t, j);
    A* d_h = d_h_.get() + j * s_.output;
    const Io* grad_y = part<const Io>(args_.grad_y, row, args_.y_stride);
    Io* d_h_out = part<Io>(args_.d_h, rows_.offset(t) + j, s_.output);
    for (int64_t k = 0; k < s_.output; k += kWidth) {
      const int count = lanes(s_.output, k, kWidth);
      V total = load<V>(d_h + k, count);
      if (grad_y != nullptr) total += load<V>(grad_y + k, count);
      const V passed = zoneout_h_.passed(total, row * s_.output + k, count);
      store(d_h + k, zoneout_h_.kept(total, row * s_.output + k, count), count);
      store(d_passed_.get() + j * s_.output + k, passed, count);
      if (projected_) store(d_h_out + k, passed, count);
    }
  }

  // The gradients of h_t before the projection: d_h · W_hr
  void unproject(int64_t running, int64_t panel) {
    for_row_tiles(running, [&](auto tile, int64_t r0) {
      V sums[tile.value][kPanelVectors] = {};
      multiply_rows(row_tile<tile.value>(d_passed_.get() + r0 * s_.output, s_.output),
                    packed_w_hr(panel), s_.output, sums);
      for (int r = 0; r < tile.value; ++r)
        for (int v = 0; v < kPanelVectors; ++v) {
          const int64_t unit = panel * panel_columns<A>() + v * kWidth;
          if (unit >= s_.hidden) break;
          store(d_unprojected_.get() + (r0 + r) * s_.hidden + unit, sums[r][v],
                lanes(s_.hidden, unit, kWidth));
        }
    });
  }

  // `in_chunk`: the row's number among those that were recomputed.
  void step_row(int64_t t, int64_t j, int64_t in_chunk, VariantRowBackward<Io>& row) {
    const int64_t padded = rows_.padded(t, j), packed = rows_.offset(t) + j;
    A* sums = group_sums_.get() + j / kGroup * sums_;
    if (recomputes_) {
      row.load_products(recomputed_.get() + in_chunk * products_);
    } else {
      row.load_products(static_cast<const Io*>(args_.gates) + padded * products_);
    }
    activate_gates(t, j, row);
    const A* d_h = (projected_ ? d_unprojected_ : d_passed_).get() + j * s_.hidden;
    row.through_output(d_h, sums, part<Io>(args_.unprojected, packed, s_.hidden));
    row.through_cell(d_c_.get() + j * s_.hidden, zoneout_c_, padded * s_.hidden, rows_.resets(t, j),
                     sums);
    row.through_products(part<Io>(args_.d_gates, packed, width_),
                         part<Io>(args_.d_hidden, packed, width_),
                         kDirect ? nullptr : d_pre_.get() + j * width_, sums);
  }

  void activate_gates(int64_t t, int64_t j, VariantRowBackward<Io>& row) const {
    if (rows_.resets(t, j)) return row.activate_gates(static_cast<const A*>(nullptr));
    if (t == rows_.first(j))
      return row.activate_gates(part<const Io>(args_.c0, rows_.row(j), s_.hidden));
    row.activate_gates(part<const A>(args_.cells, rows_.padded(rows_.preceding(t), j), s_.hidden));
  }

  // Row `row` of an array of such a width; null if there is none.
  template <class T, class Void>
  static T* part(Void* array, int64_t row, int64_t width) {
    return array == nullptr ? nullptr : static_cast<T*>(array) + row * width;
  }

  // d_h of the step before: the gradients of W_hh·h, times W_hh and the mask, beside what stayed.
  void to_previous(int64_t t, int64_t running, int64_t panel) {
    const int64_t first = panel * panel_columns<A>();
    const A* d_pre = d_pre_.get();
    if constexpr (kDirect)
      d_pre = static_cast<const A*>(parameters_.normed() ? args_.d_hidden : args_.d_gates) +
              rows_.offset(t) * width_;
    for_row_tiles(running, [&](auto tile, int64_t r0) {
      V sums[tile.value][kPanelVectors] = {};
      multiply_rows(row_tile<tile.value>(d_pre + r0 * width_, width_), packed_w_hh(panel), width_,
                    sums);
      for (int r = 0; r < tile.value; ++r)
        for (int v = 0; v < kPanelVectors; ++v) {
          const int64_t j = r0 + r, k = first + v * kWidth;
          if (k >= s_.output) break;
          const int count = lanes(s_.output, k, kWidth);
          A* d_h = d_h_.get() + j * s_.output + k;
          const V total =
              load<V>(d_h, count) + parameters_.masked(sums[r][v], rows_.row(j), k, count);
          store(d_h, rows_.resets(t, j) ? V{} : total, count);
        }
    });
  }

  void finish(int thread, int threads) {
    const Share mine(s_.batch, thread, threads);
    for (int64_t j = mine.begin; j < mine.end; ++j) {
      const int64_t row = rows_.row(j);
      narrow_row(d_h_.get() + j * s_.output, s_.output,
                 static_cast<Io*>(args_.d_h0) + row * s_.output);
      narrow_row(d_c_.get() + j * s_.hidden, s_.hidden,
                 static_cast<Io*>(args_.d_c0) + row * s_.hidden);
    }
    if (thread > 0) return;
    A* sums = group_sums_.get();
    for (int64_t k = sums_; k < groups_ * sums_; ++k) sums[k % sums_] += sums[k];
    narrow_row(sums, width_, static_cast<Io*>(args_.d_bias));
    if (!parameters_.normed()) return;
    const A* next = sums + width_;
    const auto give = [&](void* to, int64_t size) {
      std::copy(next, next + size, static_cast<A*>(to));
      next += size;
    };
    give(args_.d_norm_ih, width_);
    give(args_.d_norm_hh, width_);
    give(args_.d_norm_c, s_.hidden);
    give(args_.d_norm_bias, s_.hidden);
  }

  Io* packed_w_hh(int64_t panel) const { return w_hh_.get() + panel * width_ * panel_columns<A>(); }
  Io* packed_w_hr(int64_t panel) const {
    return w_hr_.get() + panel * s_.output * panel_columns<A>();
  }

  const LstmVariantBackwardArgs& args_;
  const LstmShape& s_;
  const int64_t width_;  // 4H
  const Rows rows_;
  const VariantParameters<Io> parameters_;
  const Zoneout<A> zoneout_h_, zoneout_c_;
  const bool projected_, recomputes_;
  const int64_t products_, sums_;  // values of each row; of each group of rows
  const int64_t groups_, gate_panels_, unit_panels_, output_panels_, chunk_;
  const int threads_;
  Barrier barrier_;
  GateWeights<Io> gate_w_ih_, gate_w_hh_;
  Scratch<Io> w_hh_, w_hr_;   // packed
  Scratch<A> recomputed_;     // [row of the chunk, products]
  Scratch<A> d_pre_;          // [B, 4H], of W_hh·h
  Scratch<A> d_h_;            // [B, R]
  Scratch<A> d_passed_;       // [B, R], of h_t before zoneout
  Scratch<A> d_unprojected_;  // [B, H]
  Scratch<A> d_c_;            // [B, H]
  Scratch<A> memory_;         // [thread]: of a row
  Scratch<A> group_sums_;     // [group][sums]
};

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
