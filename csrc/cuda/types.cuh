// 16-bit storage types and words, the same on the device and in the host emulation.
#pragma once

#include <cstdint>
#include <cstring>

#include "../lstm_math.h"

namespace fast_s2s {

struct Bf16 {
  uint16_t bits;
};

struct Fp16 {
  uint16_t bits;
};

// 16 bytes, the widest single access.
struct alignas(16) Words {
  uint32_t w[4];
};

template <class To, class From>
FAST_S2S_HD To bit_copy(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "sizes differ");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

// The host's conversions of float16, by their bits: `_Float16` not every compiler has.
inline float half_to_float(uint16_t half) {
  const uint32_t size = half & 0x7fff, sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t normal = (size << 13) + (112u << 23), infinite = (size << 13) | 0x7f800000;
  const uint32_t subnormal = bit_copy<uint32_t>(static_cast<float>(size) * 0x1p-24f);
  return bit_copy<float>(sign | (size < 0x400 ? subnormal : size < 0x7c00 ? normal : infinite));
}

// round to nearest, ties to even; NaN stays NaN
inline uint16_t float_to_half(float value) {
  const uint32_t bits = bit_copy<uint32_t>(value), size = bits & 0x7fffffff;
  const uint16_t sign = (bits >> 16) & 0x8000;
  if (size > 0x7f800000) return sign | 0x7e00;
  if (size >= 0x47800000) return sign | 0x7c00;
  // the last bits of 0.5 are those of the smallest subnormal number
  if (size < 0x38800000)
    return sign | (bit_copy<uint32_t>(bit_copy<float>(size) + 0.5f) - 0x3f000000);
  const uint32_t small = size - (112u << 23);
  return sign | ((small + 0xfff + ((small >> 13) & 1)) >> 13);
}

FAST_S2S_HD float to_float(float value) { return value; }

FAST_S2S_HD float to_float(Bf16 value) {
  return bit_copy<float>(static_cast<uint32_t>(value.bits) << 16);
}

FAST_S2S_HD float to_float(Fp16 value) {
#if defined(__CUDA_ARCH__)
  float out;
  asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(value.bits));
  return out;
#else
  return half_to_float(value.bits);
#endif
}

template <class T>
FAST_S2S_HD T from_float(float value);

template <>
FAST_S2S_HD float from_float<float>(float value) {
  return value;
}

// round to nearest, ties to even; NaN stays NaN
template <>
FAST_S2S_HD Bf16 from_float<Bf16>(float value) {
#if defined(__CUDA_ARCH__)
  uint16_t out;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out) : "f"(value));
  return {out};
#else
  const uint32_t bits = bit_copy<uint32_t>(value);
  if (value != value) return {static_cast<uint16_t>((bits >> 16) | 0x40)};
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
#endif
}

template <>
FAST_S2S_HD Fp16 from_float<Fp16>(float value) {
#if defined(__CUDA_ARCH__)
  uint16_t out;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out) : "f"(value));
  return {out};
#else
  return {float_to_half(value)};
#endif
}

// Nearest tf32, ties away from zero: a float whose low 13 bits are zero.
FAST_S2S_HD uint32_t to_tf32(float value) {
#if defined(__CUDA_ARCH__)
  uint32_t out;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(out) : "f"(value));
  return out;
#else
  const uint32_t bits = bit_copy<uint32_t>(value);
  if ((bits & 0x7f800000) == 0x7f800000) return bits & ~uint32_t{0x1fff};
  return (bits + 0x1000) & ~uint32_t{0x1fff};
#endif
}

}  // namespace fast_s2s
