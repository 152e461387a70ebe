// Contract of a transducer's beam search: time-synchronous, of at most W hypotheses for each row.
// The networks and sizes are those of transducer.h; rules: docs/transducer.md.
#pragma once

#include <cstdint>
#include <vector>

namespace fast_s2s {

// A sequence, and where the predictor stands before it reads `last`.
struct TransducerHypothesis {
  std::vector<int64_t> tokens, frames;
  double score;  // log-probability, summed over the ways to it that were met
  int64_t last;  // token
};

struct TransducerBeamArgs {
  // as packed by decode_pack_cpu, weights of one type
  const void* predictor;
  const void* projection;  // null: there is none
  const void* joiner;
  const void* encoded;     // Acc [B, T, J]
  const int64_t* lengths;  // [B] in 0..T
  const int64_t* seen;     // [B], frames of the pieces before
  int64_t rows, frames;    // B, T
  int64_t width;           // W
  int64_t blank, max_symbols;
  bool relu;
  // Slots B·W: as they begin, those of a row in front, and as they end, the best first.
  const void *h, *c;  // Acc [L, B·W, R], [L, B·W, H]
  void *h_n, *c_n;    // zero where there is no hypothesis
  // [B], up to W of each; in and out
  std::vector<TransducerHypothesis>* found;
};

// `threads`: at most so many are used.
void transducer_beam_cpu(const TransducerBeamArgs& args, int threads);

}  // namespace fast_s2s
