// Weights packed into panels. Included once per instruction set.

namespace fast_s2s {
namespace FAST_S2S_ISA {

// [K][4 vectors], or with pairs [K/2][4 vectors][2]: see gemm.h.
template <class Io>
struct VectorPanel {
  static constexpr int kTag = 0;
  static int64_t bytes(int64_t k_size) {
    return panel_length<Io>(k_size) * panel_columns<typename Accumulate<Io>::Type>() * sizeof(Io);
  }
  static void pack(const Io* w, const PanelColumns& columns, int64_t k_size, char* panel) {
    pack_transposed(w, columns, k_size, reinterpret_cast<Io*>(panel));
  }
};

template <class Io, class Format = VectorPanel<Io>>
class PackedPanels {
 public:
  // Of a matrix `w` (rows, K). `keep`: for the next call with this matrix, which packs again only
  // what it finds changed, at the price of reading all of it.
  PackedPanels(const Io* w, int64_t panels, int64_t k_size, bool keep)
      : w_(w),
        k_size_(k_size),
        panels_(panels),
        keeps_(keep && panels > 0 && w != nullptr),
        memory_(keeps_ ? Scratch<char>(name(), bytes()) : Scratch<char>(bytes())) {
    if (keeps_ && !memory_.found())
      for (int64_t panel = 0; panel < panels; ++panel) source(panel).known = false;
  }

  // in values of Io
  int64_t panel_size() const { return Format::bytes(k_size_) / static_cast<int64_t>(sizeof(Io)); }
  Io* at(int64_t panel) const {
    return reinterpret_cast<Io*>(memory_.get()) + panel * panel_size();
  }

  void pack(int64_t panel, const PanelColumns& columns) {
    if (!keeps_) return Format::pack(w_, columns, k_size_, bytes_at(panel));
    const Fingerprint now = fingerprint(w_, columns, k_size_);
    Source& packed = source(panel);
    if (packed.known && same(packed.content, now)) return;
    panels_packed.fetch_add(1, std::memory_order_relaxed);
    Format::pack(w_, columns, k_size_, bytes_at(panel));
    packed.content = now;
    // another thread of the process may have written meanwhile
    packed.known = same(fingerprint(w_, columns, k_size_), now);
  }

 private:
  // What a panel was packed from.
  struct Source {
    Fingerprint content;
    bool known;
  };

  static bool same(const Fingerprint& a, const Fingerprint& b) {
    return std::memcmp(&a, &b, sizeof(a)) == 0;
  }

  // Says no more than where to look: what is found there has to have been packed from this content.
  ScratchPool::Name name() const {
#ifdef FAST_S2S_BF16_PAIRS
    constexpr int64_t kLayout = FAST_S2S_VECTOR_BYTES + 128;
#else
    constexpr int64_t kLayout = FAST_S2S_VECTOR_BYTES;
#endif
    return {w_, k_size_ * 256 + kLayout + int64_t{sizeof(Io)} + Format::kTag};
  }
  char* bytes_at(int64_t panel) const { return reinterpret_cast<char*>(at(panel)); }
  int64_t bytes() const {
    return panels_ * (panel_size() * sizeof(Io) + (keeps_ ? sizeof(Source) : 0));
  }
  // behind the panels, in one block with them: one is never kept without the other
  Source& source(int64_t panel) const { return reinterpret_cast<Source*>(at(panels_))[panel]; }

  const Io* w_;
  int64_t k_size_, panels_;
  bool keeps_;
  Scratch<char> memory_;
};

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
