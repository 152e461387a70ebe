// Where everything lies in packed weights. Included once per instruction set.
//
// In the order in which a step reads them: per layer the units' panels, each with the input's share
// before the recurrent one, then those of the projection; those of attention; the vocabulary's
// panels last. A thread's share of each is one piece. Biases, scales and embeddings stand apart.

namespace fast_s2s {
namespace FAST_S2S_ISA {

template <class Panel>
class PackedLayout {
  typedef typename Panel::Acc A;

 public:
  static constexpr int kWidth = Simd<A>::kWidth;

  explicit PackedLayout(const PackedHeader& header)
      : h_(header),
        unit_panels(ceil_div(h_.hidden, kWidth)),
        output_panels(ceil_div(h_.output, panel_columns<A>())),
        vocab_panels(ceil_div(h_.vocab, panel_columns<A>())),
        recurrent_bytes(round_up(Panel::bytes(h_.output))),
        hidden_bytes(round_up(Panel::bytes(h_.hidden))),
        joined_bytes(round_up(Panel::bytes(h_.values + h_.output))) {
    int64_t at = round_up(sizeof(PackedHeader));
    for (int64_t layer = 0; layer < h_.layers; ++layer) {
      units_.push_back(at);
      at += unit_panels * unit_bytes(layer);
      projections_.push_back(at);
      if (h_.projected) at += output_panels * hidden_bytes;
    }
    queries_ = at;
    if (h_.additive) at += ceil_div(h_.keys, panel_columns<A>()) * recurrent_bytes;
    attended_ = at;
    if (h_.heads > 0) at += output_panels * joined_bytes;
    vocab_ = at;
    at += vocab_panels * recurrent_bytes;
    biases_ = at;
    at += (h_.layers * unit_panels + vocab_panels) * panel_columns<A>() * sizeof(A);
    score_ = at;
    if (h_.additive) at += round_up(h_.keys * sizeof(A));
    norms_ = at;
    if (h_.normed) at += h_.layers * norms_bytes();
    inputs_ = at;
    bytes = round_up(at + h_.vocab * input_row() * static_cast<int64_t>(sizeof(A)));
  }

  // Values that layer `layer` multiplies; 0 if it looks all of them up.
  int64_t input_size(int64_t layer) const {
    if (layer > 0) return h_.output;
    return (h_.table ? 0 : h_.inputs) + (h_.feeding ? h_.output : 0);
  }
  int64_t input_bytes(int64_t layer) const {
    const int64_t size = input_size(layer);
    return size == 0 ? 0 : round_up(Panel::bytes(size));
  }
  int64_t unit_bytes(int64_t layer) const { return input_bytes(layer) + recurrent_bytes; }

  int64_t unit_panel(int64_t layer, int64_t panel) const {
    return units_[layer] + panel * unit_bytes(layer);
  }
  int64_t projection_panel(int64_t layer, int64_t panel) const {
    return projections_[layer] + panel * hidden_bytes;
  }
  int64_t query_panel(int64_t panel) const { return queries_ + panel * recurrent_bytes; }
  int64_t attended_panel(int64_t panel) const { return attended_ + panel * joined_bytes; }
  int64_t vocab_panel(int64_t panel) const { return vocab_ + panel * recurrent_bytes; }

  // Acc [4W] of a panel: of the units of a layer, or behind all of them of the vocabulary
  int64_t bias(int64_t layer, int64_t panel) const {
    return biases_ + (layer * unit_panels + panel) * panel_columns<A>() * sizeof(A);
  }
  // Acc [14H] of a layer: see PackArgs
  int64_t norms(int64_t layer) const { return norms_ + layer * norms_bytes(); }
  int64_t norms_size() const { return 14 * h_.hidden; }
  // Acc [A], additive attention's
  int64_t score() const { return score_; }
  // Acc [input_row()] of a token: its embedding, or its gates by panels
  int64_t input(int64_t token) const { return inputs_ + token * input_row() * sizeof(A); }
  int64_t input_row() const { return h_.table ? unit_panels * panel_columns<A>() : h_.inputs; }

  // Units of a panel, a vector for each gate.
  PanelColumns unit_columns(int64_t panel) const {
    const int count = lanes(h_.hidden, panel * kWidth, kWidth);
    return {panel * kWidth, h_.hidden, {count, count, count, count}};
  }
  // Neighbouring outputs, of `size` in all.
  static PanelColumns output_columns(int64_t panel, int64_t size) {
    PanelColumns columns{panel * panel_columns<A>(), kWidth, {}};
    for (int v = 0; v < kPanelVectors; ++v)
      columns.count[v] = std::max(0, lanes(size, columns.first + v * kWidth, kWidth));
    return columns;
  }

 private:
  int64_t norms_bytes() const { return round_up(norms_size() * sizeof(A)); }
  static int64_t round_up(int64_t bytes) { return (bytes + 63) / 64 * 64; }
  const PackedHeader h_;
  std::vector<int64_t> units_, projections_;
  int64_t queries_, attended_, vocab_, biases_, score_, norms_, inputs_;

 public:
  const int64_t unit_panels, output_panels, vocab_panels;
  const int64_t recurrent_bytes, hidden_bytes, joined_bytes;
  int64_t bytes;
};

// Of the machine code that reads the weights.
inline int64_t packed_layout() {
#ifdef FAST_S2S_INT8_DOT
  return 1000 + FAST_S2S_VECTOR_BYTES;
#else
  return FAST_S2S_VECTOR_BYTES;
#endif
}

template <class Panel>
class Packer {
  typedef typename Panel::Acc A;

 public:
  explicit Packer(const PackArgs& args, void* packed)
      : args_(args), h_(args.header), layout_(args.header), base_(static_cast<char*>(packed)) {}

  void run() {
    std::memcpy(base_, &h_, sizeof(h_));
    int64_t next = 0;
    for (int64_t layer = 0; layer < h_.layers; ++layer) {
      const int64_t input = layout_.input_size(layer) > 0 ? next++ : -1;
      const int64_t recurrent = next++;
      for (int64_t panel = 0; panel < layout_.unit_panels; ++panel) {
        const PanelColumns columns = layout_.unit_columns(panel);
        char* out = base_ + layout_.unit_panel(layer, panel);
        if (input >= 0) pack(input, columns, layout_.input_size(layer), out);
        pack(recurrent, columns, h_.output, out + layout_.input_bytes(layer));
        pack_bias(layer, panel, columns, 0);
      }
      if (h_.normed)
        std::memcpy(base_ + layout_.norms(layer), args_.norms[layer],
                    layout_.norms_size() * sizeof(A));
      if (h_.projected)
        pack_outputs(next++, h_.output, h_.hidden,
                     [&](int64_t panel) { return layout_.projection_panel(layer, panel); });
    }
    if (h_.additive) {
      pack_outputs(next++, h_.keys, h_.output,
                   [&](int64_t panel) { return layout_.query_panel(panel); });
      std::memcpy(base_ + layout_.score(), args_.biases[h_.layers], h_.keys * sizeof(A));
    }
    if (h_.heads > 0)
      pack_outputs(next++, h_.output, h_.values + h_.output,
                   [&](int64_t panel) { return layout_.attended_panel(panel); });
    pack_outputs(next, h_.vocab, h_.output,
                 [&](int64_t panel) { return layout_.vocab_panel(panel); });
    for (int64_t panel = 0; panel < layout_.vocab_panels; ++panel)
      pack_bias(h_.layers, panel, layout_.output_columns(panel, h_.vocab),
                -std::numeric_limits<A>::infinity());
    pack_inputs();
  }

 private:
  void pack(int64_t index, const PanelColumns& columns, int64_t k_size, char* out) {
    const float* scales =
        args_.scales == nullptr ? nullptr : static_cast<const float*>(args_.scales[index]);
    Panel::pack(PanelSource{args_.matrices[index], scales, columns, k_size}, out);
  }

  template <class Where>
  void pack_outputs(int64_t index, int64_t size, int64_t k_size, const Where& where) {
    const int64_t panels = ceil_div(size, panel_columns<A>());
    for (int64_t panel = 0; panel < panels; ++panel)
      pack(index, layout_.output_columns(panel, size), k_size, base_ + where(panel));
  }

  // `fill`: of columns that there are not. Tokens past the vocabulary are never chosen.
  void pack_bias(int64_t layer, int64_t panel, const PanelColumns& columns, A fill) {
    // the vocabulary's comes last
    const int64_t index = layer == h_.layers && h_.additive ? layer + 1 : layer;
    const A* bias = static_cast<const A*>(args_.biases[index]);
    A* out = reinterpret_cast<A*>(base_ + layout_.bias(layer, panel));
    for (int v = 0; v < kPanelVectors; ++v)
      for (int lane = 0; lane < layout_.kWidth; ++lane)
        *out++ =
            lane < columns.count[v] ? bias[columns.first + v * columns.vector_rows + lane] : fill;
  }

  void pack_inputs() {
    const A* inputs = static_cast<const A*>(args_.inputs);
    for (int64_t token = 0; token < h_.vocab; ++token) {
      const A* row = inputs + token * h_.inputs;
      A* out = reinterpret_cast<A*>(base_ + layout_.input(token));
      if (!h_.table) {
        std::copy(row, row + h_.inputs, out);
        continue;
      }
      for (int64_t panel = 0; panel < layout_.unit_panels; ++panel)
        for (int gate = 0; gate < kPanelVectors; ++gate)
          for (int64_t unit = panel * layout_.kWidth; unit < (panel + 1) * layout_.kWidth; ++unit)
            *out++ = unit < h_.hidden ? row[gate * h_.hidden + unit] : A{};
    }
  }

  const PackArgs& args_;
  const PackedHeader& h_;
  const PackedLayout<Panel> layout_;
  char* base_;
};

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
