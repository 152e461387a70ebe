// The network of packed weights of one type.
// Included once per instruction set.

namespace fast_s2s {
namespace FAST_S2S_ISA {

template <class Panel>
class Network : public AnyNetwork<typename Panel::Acc> {
  typedef typename Panel::Acc A;
  typedef AnyNetwork<A> Base;
  using Base::after_;
  using Base::h_;
  using Base::logits;
  using Base::now_;
  typedef typename Panel::Operand Operand;
  typedef typename Simd<A>::Vec V;
  static constexpr int kWidth = Simd<A>::kWidth;

 public:
  static constexpr int64_t kColumns = kPanelVectors * kWidth;

  // What a thread keeps for itself.
  struct Own : Base::Own {
    explicit Own(const Network& network)
        : input(network.slots_, std::max(network.layout_.input_size(0), network.h_.output)),
          state(network.slots_, std::max(network.h_.hidden, network.joined_size())),
          input_rows(network.slots_),
          state_rows(network.slots_),
          identity(network.slots_),
          sums(network.slots_ * kColumns),
          fed(network.feeds_rows() ? network.slots_ * network.layout_.input_size(0) : 0),
          mixing(network.memory_) {
      std::iota(identity.begin(), identity.end(), 0);
    }
    Operand input, state;
    std::vector<const A*> input_rows, state_rows;
    std::vector<int64_t> identity, wanting;
    Scratch<A> sums;  // [slots, 4W]
    Scratch<A> fed;   // [slots, E + R], where the first layer multiplies both
    typename MemoryReader<A>::Own mixing;
  };

  Network(const PackedHeader& header, const DecodeMember& member, int64_t slots, int64_t width)
      : Base(header, slots),
        slots_(slots),
        layout_(header),
        base_(static_cast<const char*>(member.packed)),
        memory_(h_, member.memory, slots, width),
        zoneout_h_(nullptr, header.zoneout_hidden),
        zoneout_c_(nullptr, header.zoneout_cell),
        products_(header.normed ? slots : 0, header.hidden),
        unprojected_(header.projected ? slots * header.hidden : 0),
        queries_(header.additive ? slots * header.keys : 0),
        joined_(header.heads > 0 ? slots * joined_size() : 0),
        attended_(header.heads > 0 && !header.feeding ? slots * header.output : 0) {}

  std::unique_ptr<typename Base::Own> make_own() const override {
    return std::make_unique<Own>(*this);
  }

  void step(const LiveSlots& live, const WantedPanels& wanted, const KeepAttention<A>& keep,
            int thread, int threads, typename Base::Own& given, Barrier& barrier) override {
    Own& own = static_cast<Own&>(given);
    for (int64_t layer = 0; layer < h_.layers; ++layer) {
      step_layer(layer, live, thread, threads, own, barrier);
      barrier.wait(threads);
    }
    if (h_.heads > 0 && (wanted.any() || h_.feeding || keep))
      attend(live, keep, thread, threads, own, barrier);
    if (wanted.any()) compute_logits(live, wanted, thread, threads, own);
  }

  // What the first layer reads in place of embeddings, [E] for each token; packed without a table.
  void read_from(const A* values) { given_ = values; }
  // What sums of the first layer's units begin with, [padded 4H] for each token, in place of
  // products and the table.
  void begin_with(const A* sums) { begun_ = sums; }
  int64_t units_padded() const { return layout_.unit_panels * kColumns; }
  // The thread's columns of them, of rows of `a`: row i at sums + where[i] · units_padded().
  void sum_inputs(const Operand& a, const int64_t* named, const int64_t* where, int64_t count,
                  int thread, int threads, A* part, A* sums) const {
    const Share units(layout_.unit_panels, thread, threads);
    for (int64_t panel = units.begin; panel < units.end; ++panel) {
      const A* bias = at<A>(layout_.bias(0, panel));
      for (int64_t i = 0; i < count; ++i) std::copy_n(bias, kColumns, part + i * kColumns);
      multiply_rows<Panel>(a, named, count, h_.inputs, base_ + layout_.unit_panel(0, panel), part);
      for (int64_t i = 0; i < count; ++i)
        std::copy_n(part + i * kColumns, kColumns,
                    sums + where[i] * units_padded() + panel * kColumns);
    }
  }

  int64_t step_microseconds(int64_t slots) const override {
    int64_t products = h_.vocab * h_.output;
    int64_t bytes = layout_.vocab_panels * layout_.recurrent_bytes;
    for (int64_t layer = 0; layer < h_.layers; ++layer) {
      products += 4 * h_.hidden * (layout_.input_size(layer) + h_.output);
      bytes += layout_.unit_panels * layout_.unit_bytes(layer);
      if (!h_.projected) continue;
      products += h_.hidden * h_.output;
      bytes += layout_.output_panels * layout_.hidden_bytes;
    }
    if (h_.heads > 0) {
      products += h_.output * joined_size() + memory_.products();
      bytes += layout_.output_panels * layout_.joined_bytes;
    }
    if (h_.additive) {
      products += h_.keys * h_.output;
      bytes += ceil_div(h_.keys, kColumns) * layout_.recurrent_bytes;
    }
    constexpr int64_t kProductsPerUs = 60000, kNearBytes = 2 << 20;
    const int64_t bytes_per_us = bytes > kNearBytes ? 30000 : 100000;
    return products * slots / kProductsPerUs + bytes / bytes_per_us;
  }

  // The thread's part of the hidden and cell states of a layer; others may not have finished
  // theirs.
  void step_layer(int64_t layer, const LiveSlots& live, int thread, int threads, Own& own,
                  Barrier& barrier) {
    step_units(layer, live, thread, threads, own);
    if (h_.normed) {
      barrier.wait(threads);
      norm_rows(layer, live, thread, threads);
    }
    if (h_.projected) {
      barrier.wait(threads);
      project(layer, live, thread, threads, own);
    }
  }

 private:
  // Hidden and cell states, or what a projection or layer norm reads, of the thread's units.
  void step_units(int64_t layer, const LiveSlots& live, int thread, int threads, Own& own) {
    const int64_t count = live.size(), inputs = multiplied(layer);
    for (int64_t i = 0; i < count; ++i) {
      if (inputs > 0)
        own.input_rows[i] = layer == 0 ? first_input(i, live, own) : after_->hidden(layer - 1, i);
      own.state_rows[i] = now_->hidden(layer, live.parent[i]);
    }
    if (inputs > 0) own.input.set(own.input_rows.data(), count, inputs);
    own.state.set(own.state_rows.data(), count, h_.output);
    const Share units(layout_.unit_panels, thread, threads);
    int64_t done = units.begin;
    if constexpr (Panel::kPairs)
      if (count <= kPairRows && !h_.normed)
        for (; done + 2 <= units.end; done += 2) {
          const int64_t panel = turned(units, done, 2);
          for_row_tiles<kPairRows>(count, [&](auto rows, int64_t) {
            this->template step_panels<2, rows.value>(layer, panel, live, own);
          });
        }
    for (; done < units.end; ++done) {
      const int64_t panel = turned(units, done, 1);
      h_.normed ? multiply_panel(layer, panel, live, own) : step_panel(layer, panel, live, own);
    }
  }

  void project(int64_t layer, const LiveSlots& live, int thread, int threads, Own& own) {
    const int64_t count = live.size();
    for (int64_t i = 0; i < count; ++i) own.state_rows[i] = unprojected_.get() + i * h_.hidden;
    own.state.set(own.state_rows.data(), count, h_.hidden);
    compute_outputs(
        count, h_.hidden, h_.output, thread, threads, own,
        [&](int64_t panel) { return layout_.projection_panel(layer, panel); },
        [&](int64_t i) { return after_->hidden(layer, i); },
        [&](V h, int64_t i, int64_t unit, int size) {
          return zoneout_h_.mix(load<V>(now_->hidden(layer, live.parent[i]) + unit, size), h, 0,
                                size);
        });
  }

  // From the last layer's outputs what the vocabulary's panels read.
  void attend(const LiveSlots& live, const KeepAttention<A>& keep, int thread, int threads,
              Own& own, Barrier& barrier) {
    const int64_t count = live.size(), last = h_.layers - 1;
    if (h_.additive) {
      for (int64_t i = 0; i < count; ++i) own.state_rows[i] = after_->hidden(last, i);
      own.state.set(own.state_rows.data(), count, h_.output);
      compute_outputs(
          count, h_.output, h_.keys, thread, threads, own,
          [&](int64_t panel) { return layout_.query_panel(panel); },
          [&](int64_t i) { return queries_.get() + i * h_.keys; }, Same{});
      barrier.wait(threads);
    }
    memory_.score(
        live, [&](int64_t i) { return query(i); }, h_.additive ? at<A>(layout_.score()) : nullptr,
        thread, threads, own.mixing);
    const Share mine(count, thread, threads);
    for (int64_t i = mine.begin; i < mine.end; ++i)
      std::copy_n(after_->hidden(last, i), h_.output, joined(i) + h_.values);
    barrier.wait(threads);
    memory_.mix(live, [&](int64_t i) { return joined(i); }, keep, thread, threads, own.mixing);
    barrier.wait(threads);
    for (int64_t i = 0; i < count; ++i) own.state_rows[i] = joined(i);
    own.state.set(own.state_rows.data(), count, joined_size());
    compute_outputs(
        count, joined_size(), h_.output, thread, threads, own,
        [&](int64_t panel) { return layout_.attended_panel(panel); },
        [&](int64_t i) { return features(i); }, Tanh{});
    barrier.wait(threads);
  }

  void compute_logits(const LiveSlots& live, const WantedPanels& wanted, int thread, int threads,
                      Own& own) {
    const int64_t count = live.size();
    for (int64_t i = 0; i < count; ++i) own.state_rows[i] = features(i);
    own.state.set(own.state_rows.data(), count, h_.output);
    const Share mine(layout_.vocab_panels, thread, threads);
    for (int64_t done = mine.begin; done < mine.end; ++done) {
      const int64_t panel = turned(mine, done, 1);
      own.wanting.clear();
      for (int64_t i = 0; i < count; ++i)
        if (wanted.has(i, panel)) own.wanting.push_back(i);
      const int64_t wanting = static_cast<int64_t>(own.wanting.size());
      const A* bias = at<A>(layout_.bias(h_.layers, panel));
      A* sums = own.sums.get();
      for (int64_t i = 0; i < wanting; ++i) std::copy_n(bias, kColumns, sums + i * kColumns);
      multiply_rows<Panel>(own.state, own.wanting.data(), wanting, h_.output,
                           base_ + layout_.vocab_panel(panel), sums);
      for (int64_t i = 0; i < wanting; ++i)
        std::copy_n(sums + i * kColumns, kColumns, logits(own.wanting[i]) + panel * kColumns);
    }
  }

  // `count` panels of a share, in turns up and down: the last ones read may still be near.
  int64_t turned(const Share& mine, int64_t index, int64_t count) const {
    return this->upward_ ? index : mine.begin + mine.end - index - count;
  }

  // Values that a step multiplies with a layer's input weights.
  int64_t multiplied(int64_t layer) const {
    return layer == 0 && begun_ != nullptr ? 0 : layout_.input_size(layer);
  }
  // What the sums of a slot's units begin with.
  const A* first_sums(int64_t layer, int64_t panel, int64_t index, const LiveSlots& live) const {
    if (layer == 0 && begun_ != nullptr)
      return begun_ + live.token[index] * units_padded() + panel * kColumns;
    return layer == 0 && h_.table ? input(live.token[index]) + panel * kColumns
                                  : at<A>(layout_.bias(layer, panel));
  }

  // Whether the first layer multiplies embeddings and what is fed together.
  bool feeds_rows() const { return h_.feeding && !h_.table; }
  const A* first_input(int64_t index, const LiveSlots& live, const Own& own) const {
    const A* embedded = input(live.token[index]);
    if (!h_.feeding) return embedded;
    const A* fed = now_->hidden(h_.layers, live.parent[index]);
    if (h_.table) return fed;
    A* row = own.fed.get() + index * layout_.input_size(0);
    std::copy_n(embedded, h_.inputs, row);
    std::copy_n(fed, h_.output, row + h_.inputs);
    return row;
  }

  int64_t joined_size() const { return h_.values + h_.output; }
  // [context; h] of a slot
  A* joined(int64_t index) const { return joined_.get() + index * joined_size(); }
  const A* query(int64_t index) const {
    return h_.additive ? queries_.get() + index * h_.keys : after_->hidden(h_.layers - 1, index);
  }
  // What the vocabulary's panels read.
  A* features(int64_t index) const {
    if (h_.feeding) return after_->hidden(h_.layers, index);
    return h_.heads > 0 ? attended_.get() + index * h_.output
                        : after_->hidden(h_.layers - 1, index);
  }

  // The thread's columns of out(i) = finish(row i of own.state · the panels at where(panel)).
  template <class Where, class Out, class Finish>
  void compute_outputs(int64_t count, int64_t k_size, int64_t size, int thread, int threads,
                       Own& own, const Where& where, const Out& out, const Finish& finish) {
    const Share mine(ceil_div(size, kColumns), thread, threads);
    for (int64_t panel = mine.begin; panel < mine.end; ++panel) {
      const PanelColumns columns = layout_.output_columns(panel, size);
      A* sums = own.sums.get();
      std::fill_n(sums, count * kColumns, A{});
      multiply_rows<Panel>(own.state, own.identity.data(), count, k_size, base_ + where(panel),
                           sums);
      for (int64_t i = 0; i < count; ++i) {
        const Vectors found = panel_vectors(sums, i);
        A* to = out(i) + columns.first;
        for (int v = 0; v < kPanelVectors && columns.count[v] > 0; ++v)
          store(to + v * kWidth,
                finish(found.v[v], i, columns.first + v * kWidth, columns.count[v]),
                columns.count[v]);
      }
    }
  }

  // All slots, which are few, and several panels at once.
  template <int Panels, int Rows>
  void step_panels(int64_t layer, int64_t panel, const LiveSlots& live, const Own& own) {
    PanelSums<Panels, Rows, A> sums;
    for (int p = 0; p < Panels; ++p)
      for (int r = 0; r < Rows; ++r)
        for (int gate = 0; gate < 4; ++gate)
          sums[p][r][gate] = load_full<V>(first_sums(layer, panel + p, r, live) + gate * kWidth);
    const char* weights = base_ + layout_.unit_panel(layer, panel);
    const int64_t* rows = own.identity.data();
    const int64_t stride = layout_.unit_bytes(layer), inputs = multiplied(layer);
    if (inputs > 0)
      Panel::template multiply<Panels, Rows>(own.input, rows, 0, weights, stride, inputs, sums);
    weights += layout_.input_bytes(layer);
    Panel::template multiply<Panels, Rows>(own.state, rows, 0, weights, stride, h_.output, sums);
    for (int p = 0; p < Panels; ++p)
      for (int r = 0; r < Rows; ++r) finish_units(layer, panel + p, r, live.parent[r], sums[p][r]);
  }

  void step_panel(int64_t layer, int64_t panel, const LiveSlots& live, Own& own) {
    const int64_t count = live.size();
    A* sums = own.sums.get();
    for (int64_t i = 0; i < count; ++i)
      std::copy_n(first_sums(layer, panel, i, live), kColumns, sums + i * kColumns);
    const char* weights = base_ + layout_.unit_panel(layer, panel);
    const int64_t inputs = multiplied(layer);
    if (inputs > 0)
      multiply_rows<Panel>(own.input, own.identity.data(), count, inputs, weights, sums);
    weights += layout_.input_bytes(layer);
    multiply_rows<Panel>(own.state, own.identity.data(), count, h_.output, weights, sums);
    for (int64_t i = 0; i < count; ++i)
      finish_units(layer, panel, i, live.parent[i], panel_vectors(sums, i).v);
  }

  struct Same {
    FAST_S2S_INLINE V operator()(V v, int64_t, int64_t, int) const { return v; }
  };
  struct Tanh {
    FAST_S2S_INLINE V operator()(V v, int64_t, int64_t, int) const { return Math::tanh(v); }
  };

  struct Vectors {
    V v[kPanelVectors];
  };
  static FAST_S2S_INLINE Vectors panel_vectors(const A* sums, int64_t index) {
    Vectors found;
    for (int v = 0; v < kPanelVectors; ++v)
      found.v[v] = load_full<V>(sums + index * kColumns + v * kWidth);
    return found;
  }

  FAST_S2S_INLINE void finish_units(int64_t layer, int64_t panel, int64_t index, int64_t parent,
                                    const V (&pre)[kPanelVectors]) {
    const int64_t unit = panel * kWidth;
    const int count = lanes(h_.hidden, unit, kWidth);
    const Gates<V> gates = activate<Math>(Gates<V>{pre[0], pre[1], pre[2], pre[3]});
    const V c = next_cell(gates, load<V>(now_->cell(layer, parent) + unit, count));
    put(layer, index, parent, unit, count, c, next_hidden<Math>(gates, c));
  }

  // States before zoneout where they go.
  FAST_S2S_INLINE void put(int64_t layer, int64_t index, int64_t parent, int64_t unit, int count,
                           V c, V h) {
    if (zoneout_c_.keeps())
      c = zoneout_c_.mix(load<V>(now_->cell(layer, parent) + unit, count), c, 0, count);
    store(after_->cell(layer, index) + unit, c, count);
    if (h_.projected) return store(unprojected_.get() + index * h_.hidden + unit, h, count);
    if (zoneout_h_.keeps())
      h = zoneout_h_.mix(load<V>(now_->hidden(layer, parent) + unit, count), h, 0, count);
    store(after_->hidden(layer, index) + unit, h, count);
  }

  // The products of a panel, apart, for layer norm.
  void multiply_panel(int64_t layer, int64_t panel, const LiveSlots& live, Own& own) {
    const int64_t count = live.size(), inputs = multiplied(layer), unit = panel * kWidth;
    A* sums = own.sums.get();
    const auto keep = [&](int64_t which) {
      for (int64_t i = 0; i < count; ++i) {
        const Vectors found = panel_vectors(sums, i);
        for (int gate = 0; gate < kPanelVectors; ++gate)
          store(products_.of(i, which) + gate * h_.hidden + unit, found.v[gate],
                lanes(h_.hidden, unit, kWidth));
      }
    };
    const char* weights = base_ + layout_.unit_panel(layer, panel);
    for (int64_t i = 0; i < count; ++i)
      std::copy_n(first_sums(layer, panel, i, live), kColumns, sums + i * kColumns);
    if (inputs > 0)
      multiply_rows<Panel>(own.input, own.identity.data(), count, inputs, weights, sums);
    keep(0);
    std::fill_n(sums, count * kColumns, A{});
    multiply_rows<Panel>(own.state, own.identity.data(), count, h_.output,
                         weights + layout_.input_bytes(layer), sums);
    keep(1);
  }

  // From the products of the thread's slots to their states.
  void norm_rows(int64_t layer, const LiveSlots& live, int thread, int threads) {
    const Share mine(live.size(), thread, threads);
    for (int64_t i = mine.begin; i < mine.end; ++i) {
      const int64_t parent = live.parent[i];
      products_.finish(i, at<A>(layout_.norms(layer)), now_->cell(layer, parent),
                       [&](int64_t unit, int count, V c, V h) __attribute__((always_inline)) {
                         put(layer, i, parent, unit, count, c, h);
                       });
    }
  }

  template <class T>
  const T* at(int64_t offset) const {
    return reinterpret_cast<const T*>(base_ + offset);
  }
  const A* input(int64_t token) const {
    return given_ != nullptr ? given_ + token * h_.inputs : at<A>(layout_.input(token));
  }

  const int64_t slots_;
  const PackedLayout<Panel> layout_;
  const char* base_;
  const MemoryReader<A> memory_;
  const Zoneout<A> zoneout_h_, zoneout_c_;
  const NormedProducts<A> products_;
  const A* begun_ = nullptr;
  const A* given_ = nullptr;
  Scratch<A> unprojected_;  // [slots, H]
  Scratch<A> queries_;      // [slots, A]
  Scratch<A> joined_;       // [slots, M + R]
  Scratch<A> attended_;     // [slots, R]
};

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
