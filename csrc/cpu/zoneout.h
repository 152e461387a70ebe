// Zoneout: units of a state that stay as they were before a step. Included once per instruction
// set.

namespace fast_s2s {
namespace FAST_S2S_ISA {

// A byte for each lane; its size cannot depend on a template's argument.
template <class A>
struct Flags;
template <>
struct Flags<float> {
  typedef uint8_t Vec __attribute__((vector_size(FAST_S2S_VECTOR_BYTES / 4)));
};
template <>
struct Flags<double> {
  typedef uint8_t Vec __attribute__((vector_size(FAST_S2S_VECTOR_BYTES / 8)));
};

// What zoneout keeps of the state before a step.
template <class A>
class Zoneout {
  typedef typename Simd<A>::Vec V;
  static constexpr int kWidth = Simd<A>::kWidth;

 public:
  // `kept`: of each unit of all steps and rows, or null: `part` of every unit.
  Zoneout(const bool* kept, double part) : kept_(kept), part_(static_cast<A>(part)) {}

  bool keeps() const { return kept_ != nullptr || part_ != 0; }

  // The state after W units, the first of which is `at`.
  FAST_S2S_INLINE V mix(V before, V after, int64_t at, int count) const {
    if (kept_ != nullptr) return mask(at, count) != 0 ? before : after;
    return part_ == 0 ? after : part_ * before + (1 - part_) * after;
  }
  // Of the gradient of the state after: what goes to the one before at once, and the rest.
  FAST_S2S_INLINE V kept(V gradient, int64_t at, int count) const {
    if (kept_ != nullptr) return mask(at, count) != 0 ? gradient : V{};
    return part_ == 0 ? V{} : part_ * gradient;
  }
  FAST_S2S_INLINE V passed(V gradient, int64_t at, int count) const {
    if (kept_ != nullptr) return mask(at, count) != 0 ? V{} : gradient;
    return part_ == 0 ? gradient : (1 - part_) * gradient;
  }

 private:
  FAST_S2S_INLINE V mask(int64_t at, int count) const {
    typename Flags<A>::Vec flags{};
    if (count == kWidth) {
      __builtin_memcpy(&flags, kept_ + at, kWidth);
    } else {
      __builtin_memcpy(&flags, kept_ + at, count);
    }
    return __builtin_convertvector(flags, V);
  }

  const bool* kept_;
  A part_;
};

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
