// The primitives on the host. Contract: csrc/cuda/primitives.cuh.
#pragma once

#include <algorithm>

#include "emulator.h"
#include "types.cuh"

#define FAST_S2S_DEVICE inline
#define FAST_S2S_KERNEL(threads) void
#define FAST_S2S_GRID_CONSTANT

namespace fast_s2s {

constexpr uint32_t kSpinLimit = 20000;
// of a grid whose threads take as many elements as there are
constexpr int64_t kMostBlocks = 2;

inline int thread_rank() { return emulator::here().thread; }
inline int block_threads() { return emulator::here().threads; }
inline int lane() { return emulator::here().thread % 32; }
inline int warp() { return emulator::here().thread / 32; }
inline int block_rank() { return emulator::here().block; }
inline int block_count() { return emulator::here().blocks; }
inline int cluster_block_rank() { return emulator::here().cluster_rank; }

inline uint32_t opaque(uint32_t word) { return word; }
inline void trap() { emulator::fail("trap"); }
inline void sync_threads() { emulator::sync_threads(); }
inline void sync_warp() { emulator::sync_warp(); }
inline void sync_named(int id, int threads) { emulator::sync_named(id, threads); }
inline void cluster_arrive() { emulator::cluster_arrive(); }
inline void cluster_wait() { emulator::cluster_wait(); }

template <class T>
T copy_from(const void* at) {
  T value;
  memcpy(&value, at, sizeof(T));
  return value;
}

template <class T>
T shared_load(uint32_t offset) {
  const unsigned char* at = emulator::shared(offset, sizeof(T));
  emulator::read(emulator::Space::kShared, at, sizeof(T));
  return copy_from<T>(at);
}
template <class T>
void shared_store(uint32_t offset, const T& value) {
  unsigned char* at = emulator::shared(offset, sizeof(T));
  emulator::write(emulator::Space::kShared, at, sizeof(T));
  memcpy(at, &value, sizeof(T));
}
inline void peer_store(int rank, uint32_t offset, const Words& value) {
  unsigned char* at = emulator::peer_shared(rank, offset, sizeof(Words));
  emulator::write(emulator::Space::kShared, at, sizeof(Words));
  memcpy(at, &value, sizeof(Words));
}

template <class T>
T load(const T* at) {
  emulator::read(emulator::Space::kGlobal, at, sizeof(T));
  return copy_from<T>(at);
}
template <class T>
T load_constant(const T* at) {
  return load(at);
}
template <class T>
T load_l2(const T* at) {
  return load(at);
}
template <class T>
void store(T* at, const T& value) {
  emulator::write(emulator::Space::kGlobal, at, sizeof(T));
  memcpy(at, &value, sizeof(T));
}

inline void add_release(uint32_t* counter, uint32_t value) {
  emulator::release(counter);
  *counter += value;
}
inline uint32_t load_acquire(const uint32_t* counter) {
  emulator::polled();
  emulator::acquire(counter);
  return *counter;
}

inline void copy_async(uint32_t offset, const void* from) {
  emulator::copy_async(emulator::shared(offset, 16), from);
}
inline void copy_async_commit() { emulator::copy_async_commit(); }
template <int kPending>
void copy_async_wait() {
  emulator::copy_async_wait(kPending);
}

template <int kCount>
struct MatricesOfLane {
  const unsigned char* row;
  uint32_t* out;
};

template <int kCount, bool kTransposed>
void load_matrices_of_warp(void* const (&lanes)[32]) {
  typedef MatricesOfLane<kCount> Lane;
  const auto of = [&](int i) { return static_cast<const Lane*>(lanes[i]); };
  for (int matrix = 0; matrix < kCount; ++matrix)
    for (int lane = 0; lane < 32; ++lane) {
      uint16_t pair[2];
      for (int half = 0; half < 2; ++half) {
        const int row = lane / 4, column = 2 * (lane % 4) + half;
        const int from_row = kTransposed ? column : row, from_column = kTransposed ? row : column;
        memcpy(&pair[half], of(8 * matrix + from_row)->row + 2 * from_column, 2);
      }
      memcpy(&of(lane)->out[matrix], pair, 4);
    }
}

template <int kCount, bool kTransposed>
void load_matrices_emulated(uint32_t (&r)[kCount], uint32_t offset) {
  MatricesOfLane<kCount> mine{nullptr, r};
  // addresses of further lanes are not looked at
  if (lane() < 8 * kCount) {
    mine.row = emulator::shared(offset, 16);
    emulator::read(emulator::Space::kShared, mine.row, 16);
  }
  emulator::meet(kTransposed ? "ldmatrix.trans" : "ldmatrix", &mine,
                 &load_matrices_of_warp<kCount, kTransposed>);
}

template <int kCount>
void load_matrices(uint32_t (&r)[kCount], uint32_t offset) {
  load_matrices_emulated<kCount, false>(r, offset);
}
template <int kCount>
void load_matrices_transposed(uint32_t (&r)[kCount], uint32_t offset) {
  load_matrices_emulated<kCount, true>(r, offset);
}

struct ProductOfLane {
  float* d;
  const uint32_t *a, *b;
};
void mma_bf16_of_warp(void* const (&lanes)[32]);
void mma_fp16_of_warp(void* const (&lanes)[32]);
void mma_tf32_of_warp(void* const (&lanes)[32]);

inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  ProductOfLane mine{d, a, b};
  emulator::meet("mma.bf16", &mine, &mma_bf16_of_warp);
}
inline void mma_fp16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  ProductOfLane mine{d, a, b};
  emulator::meet("mma.fp16", &mine, &mma_fp16_of_warp);
}
inline void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  ProductOfLane mine{d, a, b};
  emulator::meet("mma.tf32", &mine, &mma_tf32_of_warp);
}

template <class T>
struct ShuffleOfLane {
  T value, result;
  int mask;
};

template <class T>
void shuffle_xor_of_warp(void* const (&lanes)[32]) {
  for (int i = 0; i < 32; ++i) {
    auto* mine = static_cast<ShuffleOfLane<T>*>(lanes[i]);
    mine->result = static_cast<const ShuffleOfLane<T>*>(lanes[i ^ mine->mask])->value;
  }
}

template <class T>
T shuffle_xor(T value, int mask) {
  ShuffleOfLane<T> mine{value, T{}, mask};
  emulator::meet("shfl", &mine, &shuffle_xor_of_warp<T>);
  return mine.result;
}

}  // namespace fast_s2s
