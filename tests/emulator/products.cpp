// mma.sync, with the fragment layouts of the PTX manual.
#include <cstring>

#include "primitives_host.h"

namespace fast_s2s {

namespace {

// d (16 x 8) += a (16 x K) · b (K x 8). A lane holds, with g = lane / 4 and t = lane % 4, rows g
// and g + 8 of d at columns 2t and 2t + 1.
template <int kDepth>
void multiply(void* const (&lanes)[32], const float (&a)[16][kDepth], const float (&b)[kDepth][8]) {
  for (int row = 0; row < 16; ++row) {
    double sums[8] = {};
    for (int k = 0; k < kDepth; ++k)
      for (int column = 0; column < 8; ++column)
        sums[column] += static_cast<double>(a[row][k]) * b[k][column];
    for (int column = 0; column < 8; ++column) {
      auto* lane = static_cast<ProductOfLane*>(lanes[4 * (row % 8) + column / 2]);
      float& d = lane->d[2 * (row / 8) + column % 2];
      d = static_cast<float>(d + sums[column]);
    }
  }
  emulator::count_product();
}

// m16n8k16: two elements of 16 bits in each register, the lower one first.
template <class T>
void multiply_16_bit(void* const (&lanes)[32]) {
  float a[16][16], b[16][8];
  for (int i = 0; i < 32; ++i) {
    const auto* lane = static_cast<const ProductOfLane*>(lanes[i]);
    const int g = i / 4, t = i % 4;
    for (int half = 0; half < 2; ++half) {
      const auto part = [half](uint32_t word) {
        return to_float(T{static_cast<uint16_t>(word >> (16 * half))});
      };
      a[g][2 * t + half] = part(lane->a[0]);
      a[g + 8][2 * t + half] = part(lane->a[1]);
      a[g][2 * t + 8 + half] = part(lane->a[2]);
      a[g + 8][2 * t + 8 + half] = part(lane->a[3]);
      b[2 * t + half][g] = part(lane->b[0]);
      b[2 * t + 8 + half][g] = part(lane->b[1]);
    }
  }
  multiply(lanes, a, b);
}

float tf32(uint32_t word) {
  const float value = bit_copy<float>(word);
  if ((word & 0x1fff) != 0) emulator::fail("mma.tf32: operand not rounded to tf32");
  return value;
}

}  // namespace

void mma_bf16_of_warp(void* const (&lanes)[32]) { multiply_16_bit<Bf16>(lanes); }
void mma_fp16_of_warp(void* const (&lanes)[32]) { multiply_16_bit<Fp16>(lanes); }

// m16n8k8
void mma_tf32_of_warp(void* const (&lanes)[32]) {
  float a[16][8], b[8][8];
  for (int i = 0; i < 32; ++i) {
    const auto* lane = static_cast<const ProductOfLane*>(lanes[i]);
    const int g = i / 4, t = i % 4;
    a[g][t] = tf32(lane->a[0]);
    a[g + 8][t] = tf32(lane->a[1]);
    a[g][t + 4] = tf32(lane->a[2]);
    a[g + 8][t + 4] = tf32(lane->a[3]);
    b[t][g] = tf32(lane->b[0]);
    b[t + 4][g] = tf32(lane->b[1]);
  }
  multiply(lanes, a, b);
}

}  // namespace fast_s2s
