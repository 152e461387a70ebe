// The state of a decode on the way: what is computed next, and each slot's sequence.
// Included once per instruction set.

namespace fast_s2s {
namespace FAST_S2S_ISA {

// Slots that the next step computes, side by side, a row's together in order.
struct LiveSlots {
  std::vector<int64_t> slot;    // which it is
  std::vector<int64_t> parent;  // where in the last step's states its own lies
  std::vector<int64_t> token;   // its input
  struct Row {
    int64_t row, begin, end;
  };
  std::vector<Row> rows;

  int64_t size() const { return static_cast<int64_t>(slot.size()); }
  void clear() { slot.clear(), parent.clear(), token.clear(), rows.clear(); }
  void add(int64_t row, int64_t slot_index, int64_t parent_index, int64_t input) {
    if (rows.empty() || rows.back().row != row) rows.push_back({row, size(), size()});
    slot.push_back(slot_index), parent.push_back(parent_index), token.push_back(input);
    ++rows.back().end;
  }
};

// A slot that goes on, as found by the row's thread, with others that are like it so far.
struct Successor {
  int64_t slot, parent, token;
  int64_t slots = 1;
};

// Slots of a row whose sequences are the same so far, computed once: from the first one on each
// names the next.
class AlikeSlots {
 public:
  explicit AlikeSlots(int64_t slots) : next_(slots, -1) {}
  void start(int64_t slot) { next_[slot] = -1; }
  void join(int64_t first, int64_t slot) {
    next_[slot] = next_[first];
    next_[first] = slot;
  }
  // `visit` may give a slot to other ones.
  template <class Visit>
  void for_each(int64_t first, const Visit& visit) const {
    for (int64_t slot = first; slot >= 0;) {
      const int64_t next = next_[slot];
      visit(slot);
      slot = next;
    }
  }

 private:
  std::vector<int64_t> next_;
};

// Hidden and cell states of all layers, [L, slots, width] each; hidden ones perhaps one more.
template <class A>
struct LayerStates {
  LayerStates(const PackedHeader& header, int64_t slots)
      : h(header.hidden_states() * slots * header.output),
        c(header.layers * slots * header.hidden),
        header_(header),
        slots_(slots) {}
  A* hidden(int64_t layer, int64_t slot) const {
    return h.get() + (layer * slots_ + slot) * header_.output;
  }
  A* cell(int64_t layer, int64_t slot) const {
    return c.get() + (layer * slots_ + slot) * header_.hidden;
  }

 private:
  Scratch<A> h, c;
  const PackedHeader& header_;
  int64_t slots_;
};

// One layer's part of the slots' states in an array of the op: slot n's `size` numbers begin at
// first + n · stride. With those of all parts of a slot in one piece, they begin at `offset`.
struct StatePart {
  int64_t first, stride, size, offset;
};

// The op's arrays of states and sequences, with the geometry to index them.
template <class A>
class Sequences {
 public:
  typedef std::vector<StatePart> Parts;

  // `h`, `c`: the parts of hidden and of cell states.
  Sequences(const Parts& h, const Parts& c, const DecodeArgs& args)
      : hidden_(h),
        cell_(c),
        slots(args.rows * args.options.width),
        columns(args.columns + args.max_steps),
        pad_(args.options.pad) {}

  int64_t* tokens(const DecodeState& s, int64_t slot) const {
    return s.tokens + slot * (1 + columns);
  }
  double* scores(const DecodeState& s, int64_t slot) const {
    return s.token_scores + slot * columns;
  }
  A* hidden(const DecodeState& s, int64_t part, int64_t slot) const {
    return static_cast<A*>(s.h) + hidden_[part].first + slot * hidden_[part].stride;
  }
  A* cell(const DecodeState& s, int64_t part, int64_t slot) const {
    return static_cast<A*>(s.c) + cell_[part].first + slot * cell_[part].stride;
  }

  // Everything but h and c from an input of `begin_columns`.
  void load(const DecodeState& begin, int64_t begin_columns, const DecodeState& s,
            int64_t slot) const {
    const int64_t* from = begin.tokens + slot * (1 + begin_columns);
    std::copy(from, from + 1 + begin_columns, tokens(s, slot));
    std::fill(tokens(s, slot) + 1 + begin_columns, tokens(s, slot) + 1 + columns, pad_);
    const double* from_scores = begin.token_scores + slot * begin_columns;
    std::copy(from_scores, from_scores + begin_columns, scores(s, slot));
    std::fill(scores(s, slot) + begin_columns, scores(s, slot) + columns, 0.0);
    s.position[slot] = begin.position[slot];
    s.score[slot] = begin.score[slot];
    s.node[slot] = begin.node[slot];
    if (s.finished != nullptr) s.finished[slot] = begin.finished[slot];
  }

  // An empty slot, but for h and c.
  void clear(const DecodeState& s, int64_t slot) const {
    std::fill(tokens(s, slot), tokens(s, slot) + 1 + columns, pad_);
    std::fill(scores(s, slot), scores(s, slot) + columns, 0.0);
    s.position[slot] = 0;
    s.score[slot] = -std::numeric_limits<double>::infinity();
    s.node[slot] = -1;
    if (s.finished != nullptr) s.finished[slot] = true;
  }
  void clear_states(const DecodeState& s, int64_t slot) const {
    for (int64_t i = 0; i < hidden_states(); ++i)
      std::fill_n(hidden(s, i, slot), hidden_[i].size, A{});
    for (int64_t i = 0; i < cell_states(); ++i) std::fill_n(cell(s, i, slot), cell_[i].size, A{});
  }
  // h and c of a slot from where `hidden_at(part)` and `cell_at(part)` point to.
  template <class Hidden, class Cell>
  void store_states(const DecodeState& s, int64_t slot, const Hidden& hidden_at,
                    const Cell& cell_at) const {
    for (int64_t i = 0; i < hidden_states(); ++i)
      std::copy_n(hidden_at(i), hidden_[i].size, hidden(s, i, slot));
    for (int64_t i = 0; i < cell_states(); ++i)
      std::copy_n(cell_at(i), cell_[i].size, cell(s, i, slot));
  }
  int64_t hidden_states() const { return static_cast<int64_t>(hidden_.size()); }
  int64_t cell_states() const { return static_cast<int64_t>(cell_.size()); }
  const StatePart& hidden_part(int64_t part) const { return hidden_[part]; }
  const StatePart& cell_part(int64_t part) const { return cell_[part]; }

 private:
  const Parts hidden_, cell_;

 public:
  const int64_t slots, columns;

 private:
  const int64_t pad_;
};

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
