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
  return __builtin_bit_cast(To, from);
}

// Elementary functions, for lstm_math.h.
struct Math {
  // e^x to 1 ulp for x in [-87, 88], saturating outside; NaN stays NaN.
  static FAST_S2S_INLINE VecF exp(VecF x) { return exp_inside(clamp(x, -87.f, 88.f)); }

  static FAST_S2S_INLINE VecF sigmoid(VecF x) {
    return reciprocal(1.f + exp_inside(-clamp(x, -88.f, 87.f)));
  }

  // (e^-2|x| - 1) / (e^-2|x| + 1) with the sign of x. The numerator never cancels, as it is added
  // up without the 1: 2^n·(e^r - 1) + (2^n - 1). Where tanh is 1 in float, |x| is cut off.
  static FAST_S2S_INLINE VecF tanh(VecF x) {
    const VecU sign = bit_cast<VecU>(x) & 0x80000000u;
    const VecF size = smaller(VecF{} + 9.1f, bit_cast<VecF>(bit_cast<VecU>(x) ^ sign));
    const VecF exponent = -2.f * size;
    // the low bits of this sum are those of 2^n, for n > -127
    const float magic = kRounding + 127.f;
    const VecF shifted = exponent * kLog2E + magic;
    const VecF power = bit_cast<VecF>(bit_cast<VecU>(shifted) << 23);
    const VecF r = exponent - (shifted - magic) * 0.693147182464599609375f;
    const VecF numerator = expm1_inside(r) * power + (power - 1.f);
    const VecU value = bit_cast<VecU>(quotient(numerator, numerator + 2.f));
    return bit_cast<VecF>((value & 0x7fffffffu) | sign);
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
  // n/d in the same way, for |n| < d.
  static FAST_S2S_INLINE VecF quotient(VecF n, VecF d) {
    const VecF estimate = bit_cast<VecF>(_mm512_maskz_rcp14_ps(kAll, bit_cast<__m512>(d)));
    const VecF q = n * estimate;
    return q + estimate * (n - d * q);
  }
#else
  static FAST_S2S_INLINE VecF smaller(VecF a, VecF b) { return a < b ? a : b; }
  static FAST_S2S_INLINE VecF greater(VecF a, VecF b) { return a > b ? a : b; }
  static FAST_S2S_INLINE VecF times_power(VecF p, VecF n) {
    const VecI exponent = (__builtin_convertvector(n, VecI) + 127) << 23;
    return p * bit_cast<VecF>(exponent);
  }
  static FAST_S2S_INLINE VecF reciprocal(VecF d) { return 1.f / d; }
  static FAST_S2S_INLINE VecF quotient(VecF n, VecF d) { return n / d; }
#endif

  static FAST_S2S_INLINE VecD sigmoid(VecD x) {
    for (int lane = 0; lane < Simd<double>::kWidth; ++lane) x[lane] = 1 / (1 + std::exp(-x[lane]));
    return x;
  }

  static FAST_S2S_INLINE VecD tanh(VecD x) {
    for (int lane = 0; lane < Simd<double>::kWidth; ++lane) x[lane] = std::tanh(x[lane]);
    return x;
  }

 private:
  static constexpr float kLog2E = 1.44269504088896341f;
  // adding and subtracting 1.5·2^23 rounds to the nearest integer
  static constexpr float kRounding = 12582912.f;

  static FAST_S2S_INLINE VecF clamp(VecF x, float low, float high) {
    return smaller(VecF{} + high, greater(VecF{} + low, x));
  }

  // e^r - 1 for |r| <= ln 2 / 2, to 0.3·2^-24 of its value before rounding; the coefficients are
  // those of the least largest error.
  static FAST_S2S_INLINE VecF expm1_inside(VecF r) {
    VecF p = r * 0.00138825155f + 0.00836654846f;
    p = p * r + 0.0416672006f;
    p = p * r + 0.166665435f;
    p = p * r + 0.49999997f;
    return p * (r * r) + r;
  }

  // 2^n·e^r with the whole number n nearest to x / ln 2; ln 2 in two parts (Cody and Waite).
  static FAST_S2S_INLINE VecF exp_inside(VecF x) {
    const VecF n = (x * kLog2E + kRounding) - kRounding;
    const VecF r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    return times_power(expm1_inside(r) + 1.f, n);
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

#if FAST_S2S_VECTOR_BYTES == 64
// In place of loops: one becomes a call, around which a kernel saves all its registers.
FAST_S2S_INLINE __mmask16 first_lanes(int count) {
  return static_cast<__mmask16>(count <= 0 ? 0 : (1u << count) - 1);
}
FAST_S2S_INLINE VecF load_first(const float* p, int count) {
  return bit_cast<VecF>(_mm512_maskz_loadu_ps(first_lanes(count), p));
}
FAST_S2S_INLINE VecD load_first(const double* p, int count) {
  return bit_cast<VecD>(_mm512_maskz_loadu_pd(static_cast<__mmask8>(first_lanes(count)), p));
}
FAST_S2S_INLINE VecF load_first(const bfloat16* p, int count) {
  const __m256i half = _mm256_maskz_loadu_epi16(first_lanes(count), p);
  return bit_cast<VecF>(zero_extend(bit_cast<VecHalfU>(half)) << 16);
}
FAST_S2S_INLINE void store_first(float* p, VecF v, int count) {
  _mm512_mask_storeu_ps(p, first_lanes(count), bit_cast<__m512>(v));
}
FAST_S2S_INLINE void store_first(double* p, VecD v, int count) {
  _mm512_mask_storeu_pd(p, static_cast<__mmask8>(first_lanes(count)), bit_cast<__m512d>(v));
}
FAST_S2S_INLINE void store_first(bfloat16* p, VecF v, int count) {
  _mm256_mask_storeu_epi16(p, first_lanes(count), bit_cast<__m256i>(to_bfloat16(v)));
}
#else
// What the compiler cannot look into. Lanes that it knows to be zero it would multiply apart from
// the others, and round twice where another tile of rows rounds once.
template <class V>
FAST_S2S_INLINE V opaque(V v) {
#if defined(__x86_64__)
  __asm__("" : "+x"(v));
#elif defined(__aarch64__)
  __asm__("" : "+w"(v));
#endif
  return v;
}
template <class T>
FAST_S2S_INLINE typename Simd<typename Accumulate<T>::Type>::Vec load_first(const T* p, int count) {
  typedef typename Simd<typename Accumulate<T>::Type>::Vec V;
  T padded[sizeof(V) / sizeof(V{}[0])] = {};
  for (int lane = 0; lane < count; ++lane) padded[lane] = p[lane];
  return opaque(load_full<V>(padded));
}
template <class V, class T>
FAST_S2S_INLINE void store_first(T* p, V v, int count) {
  T padded[sizeof(V) / sizeof(V{}[0])];
  store_full(padded, v);
  for (int lane = 0; lane < count; ++lane) p[lane] = padded[lane];
}
#endif

// The first `count` elements, zeros behind them.
template <class V, class T>
FAST_S2S_INLINE V load(const T* p, int count) {
  return count == sizeof(V) / sizeof(V{}[0]) ? load_full<V>(p) : load_first(p, count);
}

template <class V, class T>
FAST_S2S_INLINE void store(T* p, V v, int count) {
  if (count == sizeof(V) / sizeof(V{}[0])) return store_full(p, v);
  store_first(p, v, count);
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
