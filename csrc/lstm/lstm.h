// Contract of the LSTM kernels: one layer, one direction, the whole sequence.
//
// T steps, B rows, I inputs, H hidden units, R outputs per step (H, or the projection's size). All
// arrays are dense and row-major, none overlaps another, the caller owns them. `Io` is the type
// named by `dtype`, `Acc` is double for double and float otherwise. "Running" rows are those not
// past their length; N is their number summed over all steps, the sum of the lengths.
#pragma once

#include <cstdint>

namespace fast_s2s {

enum class DType { kFloat32, kFloat64, kBFloat16 };

struct LstmShape {
  int64_t steps, batch, input, hidden, output;
  DType dtype;
  bool reverse;            // steps run from T-1 (or lengths-1) down to 0
  const int64_t* lengths;  // [B] in 0..T, or null; a row past its length keeps its state
  const bool* reset;       // [T, B] or null; the state is zero before the steps where it is true
};

// Gates in the order i, f, g, o.
struct LstmWeights {
  const void* w_ih;  // Io [4H, I]
  const void* w_hh;  // Io [4H, R]
  const void* b_ih;  // Io [4H] or null for zero
  const void* b_hh;  // Io [4H] or null for zero
  const void* w_hr;  // Io [R, H], or null: no projection, R = H
};

struct LstmForwardArgs {
  LstmShape shape;
  LstmWeights weights;
  const void* x;     // Io [T, B, I]
  const void* h0;    // Io [B, R] or null for zero
  const void* c0;    // Io [B, H] or null for zero
  void* y;           // Io [T, B, R]; zero past a row's length
  int64_t y_stride;  // values from one row of y to the next, at least R
  void* h_n;         // Io [B, R]
  void* c_n;         // Io [B, H]
  void* gates;       // Io [T, B, 4H] activated gates, or null; zero past a row's length
  void* cells;       // Acc [T, B, H] cell states, or null; zero past a row's length
};

// Rows of step t in the packed outputs (of N rows) follow those of step t-1, in order of falling
// length: see rows.h.
struct LstmBackwardArgs {
  LstmShape shape;
  LstmWeights weights;
  const void* grad_y;    // Io [T, B, R] or null for zero
  int64_t y_stride;      // values from one row of y, and of grad_y, to the next, at least R
  const void* grad_h_n;  // Io [B, R] or null for zero
  const void* grad_c_n;  // Io [B, H] or null for zero
  const void* x;         // Io [T, B, I]
  const void* y;         // as returned by forward
  const void* gates;     // as saved by forward, or null: computed again
  const void* cells;     // as saved by forward
  const void* h0;        // Io [B, R]
  const void* c0;        // Io [B, H]
  void* d_gates;         // Io [N, 4H], of the pre-activations
  void* d_bias;          // Io [4H]
  void* d_h0;            // Io [B, R]; null where the caller multiplies d_gates by W_hh itself
  void* d_c0;            // Io [B, H]
  void* d_h;             // Io [N, R], the whole gradient of each h_t; null without a projection
  void* unprojected;     // Io [N, H], h_t before the projection; null without one
};

// `threads`: at most so many are used.
void lstm_forward_cpu(const LstmForwardArgs& args, int threads);
void lstm_backward_cpu(const LstmBackwardArgs& args, int threads);

// Two calls of one shape that do not need each other, such as the directions of a layer; side by
// side where that is worth it.
void lstm_forward_cpu(const LstmForwardArgs& first, const LstmForwardArgs& second, int threads);
void lstm_backward_cpu(const LstmBackwardArgs& first, const LstmBackwardArgs& second, int threads);

}  // namespace fast_s2s
