// Dot products of neighbouring values in each lane of a vector: of two bfloat16, of four int8.
// Included once per instruction set that has them (FAST_S2S_BF16_PAIRS, FAST_S2S_INT8_DOT): AVX-512
// and NEON. With FAST_S2S_EMULATED_DOTS they are those of NEON in C++, for tests on any machine,
// but that sums of bfloat16 products are rounded as float is, not to odd.

namespace fast_s2s {
namespace FAST_S2S_ISA {

#ifdef FAST_S2S_BF16_PAIRS
// sum + a[0]·w[0] + a[1]·w[1] in each lane, in float.
FAST_S2S_INLINE VecF dot_pairs(VecF sum, VecU a, VecU w) {
#if defined(FAST_S2S_EMULATED_DOTS)
  sum += bit_cast<VecF>(a << 16) * bit_cast<VecF>(w << 16);
  return sum + bit_cast<VecF>(a & 0xffff0000u) * bit_cast<VecF>(w & 0xffff0000u);
#elif defined(__aarch64__)
  return bit_cast<VecF>(vbfdotq_f32(bit_cast<float32x4_t>(sum), bit_cast<bfloat16x8_t>(a),
                                    bit_cast<bfloat16x8_t>(w)));
#else
  return bit_cast<VecF>(
      _mm512_dpbf16_ps(bit_cast<__m512>(sum), bit_cast<__m512bh>(a), bit_cast<__m512bh>(w)));
#endif
}
#endif

#ifdef FAST_S2S_INT8_DOT
// An operand of int8 weights is an integer of three digits, each a byte. AVX-512 multiplies
// unsigned bytes with signed ones: the digits are those of the integer plus 2^23. NEON multiplies
// signed ones: the digits, from -128 to 127, are those of the integer itself.
constexpr int kDigits = 3;
typedef uint8_t VecDigits __attribute__((vector_size(FAST_S2S_VECTOR_BYTES / 4)));

#if FAST_S2S_VECTOR_BYTES == 64

// What integers may reach: a little under 2^23, for rounding not to.
constexpr float kLargestInteger = 8388600.f;

// The digits of the nearest integers, in the lanes' three low bytes.
FAST_S2S_INLINE VecU to_digits(VecF v) {
  return bit_cast<VecU>(_mm512_add_epi32(_mm512_maskz_cvtps_epi32(0xffff, bit_cast<__m512>(v)),
                                         _mm512_set1_epi32(1 << 23)));
}
FAST_S2S_INLINE VecDigits low_bytes(VecU v) {
  return bit_cast<VecDigits>(_mm512_maskz_cvtepi32_epi8(0xffff, bit_cast<__m512i>(v)));
}
// sum + the lane's four digits · its four weights
FAST_S2S_INLINE VecI dot_fours(VecI sum, VecI digits, VecI w) {
  return (VecI)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)digits, (__m512i)w);
}
// A sum over the top digits, which are 128 too large; `totals`: the sums of the weights alone.
FAST_S2S_INLINE VecI top_sum(VecI sum, VecI totals) { return sum - totals * 128; }

#else

// What integers may reach: a little under 127·(2^16 + 2^8 + 1), for rounding not to.
constexpr float kLargestInteger = 8355700.f;

FAST_S2S_INLINE VecU to_digits(VecF v) {
#if defined(FAST_S2S_EMULATED_DOTS)
  VecI nearest;
  for (int lane = 0; lane < Simd<float>::kWidth; ++lane)
    nearest[lane] = v[lane] == v[lane] ? static_cast<int32_t>(std::nearbyint(v[lane])) : 0;
#else
  const VecI nearest = bit_cast<VecI>(vcvtnq_s32_f32(bit_cast<float32x4_t>(v)));
#endif
  // half a digit more, so that carries run, and less again
  return (bit_cast<VecU>(nearest) + 0x808080u) ^ 0x808080u;
}
FAST_S2S_INLINE VecDigits low_bytes(VecU v) { return __builtin_convertvector(v & 255, VecDigits); }
FAST_S2S_INLINE VecI dot_fours(VecI sum, VecI digits, VecI w) {
#if defined(FAST_S2S_EMULATED_DOTS)
  for (int byte = 24; byte >= 0; byte -= 8) sum += (digits << byte >> 24) * (w << byte >> 24);
  return sum;
#else
  return bit_cast<VecI>(
      vdotq_s32(bit_cast<int32x4_t>(sum), bit_cast<int8x16_t>(digits), bit_cast<int8x16_t>(w)));
#endif
}
FAST_S2S_INLINE VecI top_sum(VecI sum, VecI) { return sum; }

#endif
#endif

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
