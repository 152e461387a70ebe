// What a warp multiplies in a step: weights of a type by float32 states.
#pragma once

#include "../lstm/operand_cuda.cuh"

namespace fast_s2s {

struct alignas(8) Pair {
  float v[2];
};

// Values of a state as they lie in memory, zero where there are none.
template <class T>
FAST_S2S_DEVICE T read_values(const float* at, bool there) {
  T values{};
  if (there) values = load(reinterpret_cast<const T*>(at));
  return values;
}

// A k-tile of weights is 32 bytes of a row, as in the LSTM's kernels. Which value of a row meets
// which place of a fragment is ours to choose: a lane reads neighbours of the float32 state, and
// pack_stage_cuda lays the weights out alike. Lane (g, t) takes kLaneValues values at t ·
// kLaneValues of row g. The state is multiplied in parts whose sum is float32's 24 bits; `read` is
// apart from `split`, so that several reads are under way at once.
struct DecodeFp32 {
  typedef float Io;
  static constexpr int kDepth = 8, kLaneValues = 2;
  static constexpr bool kScaled = false;
  struct State {
    uint32_t high[2], low[2];
  };
  typedef Pair Values;
  FAST_S2S_DEVICE static Values read(const float* at, bool there) {
    return read_values<Values>(at, there);
  }
  FAST_S2S_DEVICE static State split(const Values& values) {
    const uint32_t words[2] = {bit_copy<uint32_t>(values.v[0]), bit_copy<uint32_t>(values.v[1])};
    State state;
    OperandFp32::split(words, state.high, state.low);
    return state;
  }
  FAST_S2S_DEVICE static void multiply(float (&d)[4], const uint32_t (&a)[4], const State& b) {
    uint32_t high[4], low[4];
    OperandFp32::split(a, high, low);
    mma_tf32(d, low, b.high);
    mma_tf32(d, high, b.low);
    mma_tf32(d, high, b.high);
  }
};

// bfloat16 weights; the state's parts of 8 bits each make the products exact.
struct DecodeBf16 {
  typedef Bf16 Io;
  static constexpr int kDepth = 16, kLaneValues = 4;
  static constexpr bool kScaled = false;
  struct State {
    uint32_t part[3][2];
  };
  typedef Words Values;
  FAST_S2S_DEVICE static Values read(const float* at, bool there) {
    return read_values<Values>(at, there);
  }
  FAST_S2S_DEVICE static State split(const Values& values) {
    float left[4];
    for (int i = 0; i < 4; ++i) left[i] = bit_copy<float>(values.w[i]);
    State state;
#pragma unroll
    for (int part = 0; part < 3; ++part) {
      uint32_t bits[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const Bf16 rounded = from_float<Bf16>(left[i]);
        bits[i] = rounded.bits;
        left[i] -= to_float(rounded);
      }
      state.part[part][0] = bits[0] | bits[1] << 16;
      state.part[part][1] = bits[2] | bits[3] << 16;
    }
    return state;
  }
  FAST_S2S_DEVICE static void multiply(float (&d)[4], const uint32_t (&a)[4], const State& b) {
    for (int part = 2; part >= 0; --part) mma_bf16(d, a, b.part[part]);
  }
};

// float16 weights, which tf32 holds exactly; the state's parts are as in DecodeFp32, since float16
// would overflow. Words of a are two values of row g, of row g + 8, then the next two.
struct DecodeFp16 {
  typedef Fp16 Io;
  static constexpr int kDepth = 16, kLaneValues = 4;
  static constexpr bool kScaled = false;
  struct State {
    uint32_t high[4], low[4];
  };
  typedef Words Values;
  FAST_S2S_DEVICE static Values read(const float* at, bool there) {
    return read_values<Values>(at, there);
  }
  FAST_S2S_DEVICE static State split(const Values& values) {
    State state;
    OperandFp32::split(values.w, state.high, state.low);
    return state;
  }
  FAST_S2S_DEVICE static uint32_t value_of(uint32_t word, int half) {
    const uint16_t bits = static_cast<uint16_t>(half == 0 ? word : word >> 16);
    return bit_copy<uint32_t>(to_float(Fp16{bits}));
  }
  FAST_S2S_DEVICE static void multiply(float (&d)[4], const uint32_t (&a)[4], const State& b) {
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      const uint32_t first = a[2 * pair], second = a[2 * pair + 1];
      const uint32_t whole[4] = {value_of(first, 0), value_of(second, 0), value_of(first, 1),
                                 value_of(second, 1)};
      const uint32_t low[2] = {b.low[2 * pair], b.low[2 * pair + 1]};
      const uint32_t high[2] = {b.high[2 * pair], b.high[2 * pair + 1]};
      mma_tf32(d, whole, low);
      mma_tf32(d, whole, high);
    }
  }
};

// int8 weights, which bfloat16 holds exactly. Words of a are four values of row g, of row g + 8,
// then the next four. Sums are multiplied by the rows' scales.
struct DecodeInt8 {
  typedef int8_t Io;
  static constexpr int kDepth = 32, kLaneValues = 8;
  static constexpr bool kScaled = true;
  struct State {
    DecodeBf16::State half[2];
  };
  struct Values {
    Words half[2];
  };
  FAST_S2S_DEVICE static Values read(const float* at, bool there) {
    return {{read_values<Words>(at, there), read_values<Words>(at + 4, there)}};
  }
  FAST_S2S_DEVICE static State split(const Values& values) {
    return {{DecodeBf16::split(values.half[0]), DecodeBf16::split(values.half[1])}};
  }
  // Two neighbours of a word's four as bfloat16.
  FAST_S2S_DEVICE static uint32_t pair_of(uint32_t word, int pair) {
    const auto value = [&](int byte) {
      const int32_t q = static_cast<int32_t>(word << (24 - 8 * byte)) >> 24;
      return bit_copy<uint32_t>(static_cast<float>(q));
    };
    return value(2 * pair) >> 16 | (value(2 * pair + 1) & 0xffff0000u);
  }
  FAST_S2S_DEVICE static void multiply(float (&d)[4], const uint32_t (&a)[4], const State& b) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t first = a[2 * half], second = a[2 * half + 1];
      const uint32_t whole[4] = {pair_of(first, 0), pair_of(second, 0), pair_of(first, 1),
                                 pair_of(second, 1)};
      DecodeBf16::multiply(d, whole, b.half[half]);
    }
  }
};

}  // namespace fast_s2s
