// Contract of a transducer's greedy search: predictor, joiner and choices in one call.
//
// The predictor, L layers over an embedding, reads the tokens that were chosen; its output,
// projected to J values, plus a frame of the encoder, through tanh or relu, is what the joiner
// makes logits of: V of tokens, blank among them, and D of durations. Rules: docs/transducer.md.
// Sizes and `Acc` as in decode.h. Arrays are dense and row-major, none overlaps another, the caller
// owns them.
#pragma once

#include <cstdint>
#include <vector>

namespace fast_s2s {

struct TransducerToken {
  int64_t token, frame;
  double score;  // its log-probability among the V tokens
};

struct TransducerArgs {
  // as packed by decode_pack_cpu, weights of one type
  const void* predictor;   // without attention, vocabulary unused
  const void* projection;  // linear layer (J, R); null: J = R, there is none
  const void* joiner;      // linear layer (V + D, J)
  const void* encoded;     // Acc [B, T, J], projected already
  const int64_t* lengths;  // [B] in 0..T
  int64_t rows;            // B
  int64_t frames;          // T
  const int64_t* durations;
  int64_t num_durations;  // D; 0: a blank takes one frame, a token none
  int64_t blank;
  int64_t max_symbols;  // of one frame, at least 1
  bool relu;
  // Where rows begin: states before `token` is read, and frames to pass over.
  const void* h;         // Acc [L, B, R]
  const void* c;         // Acc [L, B, H]
  const int64_t* token;  // [B] below V
  const int64_t* skip;   // [B] at least 0
  // Where they end.
  void* h_n;
  void* c_n;
  int64_t* token_n;
  int64_t* skip_n;
  std::vector<TransducerToken>* found;  // [B]
};

// `threads`: at most so many are used.
void transducer_greedy_cpu(const TransducerArgs& args, int threads);

}  // namespace fast_s2s
