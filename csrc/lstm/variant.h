// Contract of the LSTM kernels with another formula: layer norm, zoneout, dropout of the state.
// Formula: `fast_s2s.reference.Variant`. What lstm.h says of arrays holds here.
#pragma once

#include "lstm.h"

namespace fast_s2s {

struct LstmVariant {
  const void* norm_ih;         // Acc [4H] gains; all four null: no layer norm
  const void* norm_hh;         // Acc [4H]
  const void* norm_c;          // Acc [H]
  const void* norm_c_bias;     // Acc [H]
  const void* recurrent_mask;  // Io [B, R] or null
  const bool* kept_hidden;     // [T, B, R], or null: of every unit this part
  const bool* kept_cell;       // [T, B, H], or null likewise
  double zoneout_hidden, zoneout_cell;
};

// "Products", in place of gates: with layer norm W_ih·x and then W_hh·h, [8H]; without it the
// gates' pre-activations, [4H].
inline int64_t products_size(int64_t hidden, bool normed) { return (normed ? 8 : 4) * hidden; }

// `gates`: Io [T, B, products], or null.
struct LstmVariantForwardArgs : LstmForwardArgs {
  LstmVariant variant;
};

// `gates` as forward saved them, or null; `d_gates` of W_ih·x; `d_h` of h_t as it was before
// zoneout; `d_h0` never null.
struct LstmVariantBackwardArgs : LstmBackwardArgs {
  LstmVariant variant;
  void* d_hidden;     // Io [N, 4H], of W_hh·h; null without layer norm, when it is d_gates
  void* fed;          // Io [N, R], the h that met W_hh
  void* d_norm_ih;    // Acc [4H]; these four null without layer norm
  void* d_norm_hh;    // Acc [4H]
  void* d_norm_c;     // Acc [H]
  void* d_norm_bias;  // Acc [H]
};

void lstm_variant_forward_cpu(const LstmVariantForwardArgs& args, int threads);
void lstm_variant_backward_cpu(const LstmVariantBackwardArgs& args, int threads);

}  // namespace fast_s2s
