// SIMD values by the compiler's vector extensions, their elementary functions, and memory access.
//
// Included once per instruction set, inside its namespace: see lstm/isa_*.cpp. The including file
// sets FAST_S2S_ISA (the namespace) and FAST_S2S_VECTOR_BYTES.

namespace fast_s2s {
namespace FAST_S2S_ISA {

#define FAST_S2S_INLINE inline __attribute__((always_inline))

struct bfloat16 {
  uint16_t bits;
};

template <class T>
struct Simd {
  static constexpr int kWidth = FAST_S2S_VECTOR_BYTES / sizeof(T);
  typedef T Vec __attribute__((vector_size(FAST_S2S_VECTOR_BYTES)));
};

// stored and multiplied as pairs, but no arithmetic of its own
template <>
struct Simd<bfloat16> {};

typedef Simd<float>::Vec VecF;
typedef Simd<double>::Vec VecD;
template <class T>
struct Accumulate {
  typedef float Type;
};
template <>
struct Accumulate<double> {
  typedef double Type;
};

// What stands beside the weights in a product: with dot products of bfloat16 pairs, such pairs.
template <class T>
struct Operand {
#ifdef FAST_S2S_BF16_PAIRS
  typedef T Type;
#else
  typedef typename Accumulate<T>::Type Type;
#endif
};

typedef int32_t VecI __attribute__((vector_size(FAST_S2S_VECTOR_BYTES)));
typedef uint32_t VecU __attribute__((vector_size(FAST_S2S_VECTOR_BYTES)));
typedef uint16_t VecHalfU __attribute__((vector_size(FAST_S2S_VECTOR_BYTES / 2)));

template <class To, class From>
FAST_S2S_INLINE To bit_cast(const From& from) {
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

// Elementary functions, for lstm_math.h.
struct Math {
  // e^x to 1 ulp for x in [-87, 88], saturating outside; NaN stays NaN.
  // Cody-Waite reduction and Cephes' expf polynomial.
  static FAST_S2S_INLINE VecF exp(VecF x) {
    x = smaller(VecF{} + 88.f, greater(VecF{} - 87.f, x));
    // adding and subtracting 1.5·2^23 rounds to the nearest integer
    const float magic = 12582912.f;
    const VecF n = (x * 1.44269504088896341f + magic) - magic;
    const VecF r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    VecF p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.f;
    return times_power(p, n);
  }

  static FAST_S2S_INLINE VecF sigmoid(VecF x) { return reciprocal(1.f + exp(-x)); }

  // Cephes' tanhf: a polynomial below 0.625, where 1 - 2/(e^2x + 1) would cancel.
  static FAST_S2S_INLINE VecF tanh(VecF x) {
    const VecU sign = bit_cast<VecU>(x) & 0x80000000u;
    const VecF size = bit_cast<VecF>(bit_cast<VecU>(x) ^ sign);
    const VecF large = 1.f - 2.f * reciprocal(exp(size + size) + 1.f);
    const VecF z = x * x;
    VecF p = z * -5.70498872745e-3f + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    const VecF small = p * z * x + x;
    return size < 0.625f ? small : bit_cast<VecF>(bit_cast<VecU>(large) | sign);
  }

#if FAST_S2S_VECTOR_BYTES == 64
  // masked forms: the plain intrinsics' header makes the compiler warn
  static constexpr __mmask16 kAll = 0xffff;

  // the second where one is NaN
  static FAST_S2S_INLINE VecF smaller(VecF a, VecF b) {
    return bit_cast<VecF>(_mm512_maskz_min_ps(kAll, bit_cast<__m512>(a), bit_cast<__m512>(b)));
  }
  static FAST_S2S_INLINE VecF greater(VecF a, VecF b) {
    return bit_cast<VecF>(_mm512_maskz_max_ps(kAll, bit_cast<__m512>(a), bit_cast<__m512>(b)));
  }
  // p·2^n
  static FAST_S2S_INLINE VecF times_power(VecF p, VecF n) {
    return bit_cast<VecF>(_mm512_maskz_scalef_ps(kAll, bit_cast<__m512>(p), bit_cast<__m512>(n)));
  }
  // 1/d to 1 ulp for d in [1, 2^127]: an estimate of 14 bits, and a Newton step. A division keeps
  // its port busy for three times as long.
  static FAST_S2S_INLINE VecF reciprocal(VecF d) {
    const VecF estimate = bit_cast<VecF>(_mm512_maskz_rcp14_ps(kAll, bit_cast<__m512>(d)));
    return estimate + estimate * (1.f - d * estimate);
  }
#else
  static FAST_S2S_INLINE VecF smaller(VecF a, VecF b) { return a < b ? a : b; }
  static FAST_S2S_INLINE VecF greater(VecF a, VecF b) { return a > b ? a : b; }
  static FAST_S2S_INLINE VecF times_power(VecF p, VecF n) {
    const VecI exponent = (__builtin_convertvector(n, VecI) + 127) << 23;
    return p * bit_cast<VecF>(exponent);
  }
  static FAST_S2S_INLINE VecF reciprocal(VecF d) { return 1.f / d; }
#endif

  static FAST_S2S_INLINE VecD sigmoid(VecD x) {
    for (int lane = 0; lane < Simd<double>::kWidth; ++lane) x[lane] = 1 / (1 + std::exp(-x[lane]));
    return x;
  }

  static FAST_S2S_INLINE VecD tanh(VecD x) {
    for (int lane = 0; lane < Simd<double>::kWidth; ++lane) x[lane] = std::tanh(x[lane]);
    return x;
  }
};

template <class V, class T>
FAST_S2S_INLINE V load_full(const T* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof(V));
  return v;
}

// Zero-extends 16-bit lanes to 32 bits. The compiler's own conversion takes half vectors at a time.
FAST_S2S_INLINE VecU zero_extend(VecHalfU half) {
#if FAST_S2S_VECTOR_BYTES == 64
  // masked: the plain intrinsic's header makes the compiler warn
  return bit_cast<VecU>(_mm512_maskz_cvtepu16_epi32(0xffff, bit_cast<__m256i>(half)));
#elif FAST_S2S_VECTOR_BYTES == 32
  return bit_cast<VecU>(_mm256_cvtepu16_epi32(bit_cast<__m128i>(half)));
#else
  return __builtin_convertvector(half, VecU);
#endif
}

template <class V>
FAST_S2S_INLINE V load_full(const bfloat16* p) {
  VecHalfU half;
  __builtin_memcpy(&half, p, sizeof(half));
  return bit_cast<VecF>(zero_extend(half) << 16);
}

template <class V, class T>
FAST_S2S_INLINE void store_full(T* p, V v) {
  __builtin_memcpy(p, &v, sizeof(V));
}

// Round to nearest even; NaN stays a (quiet) NaN.
template <class V>
FAST_S2S_INLINE VecHalfU to_bfloat16(V v) {
  const VecU bits = bit_cast<VecU>(v);
  const VecU rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const VecU quiet_nan = (bits >> 16) | 0x40;
  return __builtin_convertvector((v == v) ? rounded : quiet_nan, VecHalfU);
}

template <class V>
FAST_S2S_INLINE void store_full(bfloat16* p, V v) {
  const VecHalfU half = to_bfloat16(v);
  __builtin_memcpy(p, &half, sizeof(half));
}

// The first `count` elements, zeros behind them.
template <class V, class T>
FAST_S2S_INLINE V load(const T* p, int count) {
  constexpr int kWidth = sizeof(V) / sizeof(V{}[0]);
  if (count == kWidth) return load_full<V>(p);
  T padded[kWidth] = {};
  for (int lane = 0; lane < count; ++lane) padded[lane] = p[lane];
  return load_full<V>(padded);
}

template <class V, class T>
FAST_S2S_INLINE void store(T* p, V v, int count) {
  constexpr int kWidth = sizeof(V) / sizeof(V{}[0]);
  if (count == kWidth) return store_full(p, v);
  T padded[kWidth];
  store_full(padded, v);
  for (int lane = 0; lane < count; ++lane) p[lane] = padded[lane];
}

// As if stored as `T` and loaded back.
template <class T, class V>
FAST_S2S_INLINE V round_to(V v) {
  if constexpr (std::is_same_v<T, bfloat16>) {
    const VecU bits = zero_extend(to_bfloat16(v)) << 16;
    return bit_cast<VecF>(bits);
  } else {
    return v;
  }
}

FAST_S2S_INLINE float widen(bfloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}
FAST_S2S_INLINE float widen(float x) { return x; }
FAST_S2S_INLINE double widen(double x) { return x; }

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
