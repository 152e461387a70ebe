// Whether weights are still those that were packed, by all their bytes. A version counter would
// miss writes through `.data`, and those of other processes. Included once per instruction set.
//
// Each 32-bit word of a row of vectors goes into a sum of its own, `mix`: rotated, because a
// product hands changes on to higher bits only, and multiplied by an odd number, so that one
// changed word always shows. `sum` of all values `mix` has had tells changes apart that cancel out
// in `mix`: two different contents pass for equal with a probability of about 2^-64.

namespace fast_s2s {
namespace FAST_S2S_ISA {

struct Fingerprint {
  VecU mix[kPanelVectors], sum[kPanelVectors];

  FAST_S2S_INLINE void add(int v, VecU words) {
    words ^= mix[v];
    mix[v] = (words << 13 | words >> 19) * 0x9e3779b1u;
    sum[v] += mix[v];
  }
};

// Of the rows that `columns` names of a matrix (rows, K).
template <class Io>
Fingerprint fingerprint(const Io* w, const PanelColumns& columns, int64_t k_size) {
  constexpr int64_t kBytes = FAST_S2S_VECTOR_BYTES;
  Fingerprint found;
  const char* rows[kPanelVectors];
  int64_t bytes[kPanelVectors], whole = INT64_MAX;
  for (int v = 0; v < kPanelVectors; ++v) {
    found.mix[v] = VecU{} + 1;
    found.sum[v] = VecU{};
    rows[v] = reinterpret_cast<const char*>(w + (columns.first + v * columns.vector_rows) * k_size);
    bytes[v] = columns.count[v] * k_size * sizeof(Io);
    whole = std::min(whole, bytes[v] / kBytes * kBytes);
  }
  // all vectors together, so that the sums need not wait for each other
  for (int64_t at = 0; at < whole; at += kBytes)
    for (int v = 0; v < kPanelVectors; ++v) found.add(v, load_full<VecU>(rows[v] + at));
  for (int v = 0; v < kPanelVectors; ++v) {
    for (int64_t at = whole; at < bytes[v]; at += kBytes) {
      VecU words{};
      __builtin_memcpy(&words, rows[v] + at, std::min(kBytes, bytes[v] - at));
      found.add(v, words);
    }
  }
  return found;
}

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
