// Contract of the reading kernel: packed layers over tokens or values that are given, without a
// vocabulary.
//
// Sizes and `Acc` as in decode.h. D directions of one layer each, or one direction of L layers; the
// second direction reads each row from its end. Arrays are dense and row-major, none overlaps
// another, the caller owns them.
#pragma once

#include <cstdint>

namespace fast_s2s {

struct ReadArgs {
  const void* packed[2];   // of each direction, as packed by decode_pack_cpu, without attention
  int64_t directions;      // D
  int64_t rows;            // B
  int64_t steps;           // T
  const void* h;           // Acc [D·L, B, R]
  const void* c;           // Acc [D·L, B, H]
  const int64_t* tokens;   // [B, T], below V; or null
  const void* values;      // then Acc [B, T, E], in place of embeddings; packed without a table
  const int64_t* lengths;  // [B] in 0..T
  void* h_n;               // as h, after each row's last token
  void* c_n;
  void* outputs;  // Acc [B, T, D·R], of the last layer, zeros past a row's length; or null
};

// `threads`: at most so many are used.
void decode_read_cpu(const ReadArgs& args, int threads);

}  // namespace fast_s2s
