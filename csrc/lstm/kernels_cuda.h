// Contract of the LSTM kernels on CUDA: one layer, one or two directions, the whole sequence.
//
// T steps, B rows, H hidden units, D directions, R outputs (H without a projection). All arrays are
// dense and row-major, none overlaps another, the caller owns them; y and its gradient are a
// direction's R columns of [T, B, D·R]. `Io` is the type the precision names (float for kTf32 and
// kFp32). The input's product with W_ih and the gradients of the weights are products over the
// whole sequence, which the caller leaves to torch. Kernels do not allocate and do not wait for the
// host.
#pragma once

#include <cstdint>
#include <string>

#include "../cuda/device.h"
#include "../cuda/types.cuh"
#include "plan.h"

namespace fast_s2s {

struct SequenceShape {
  int64_t steps, batch;
  const int64_t* lengths;  // [B], taken as if in 0..T; or null. A row past it keeps its state
  const bool* reset;       // [T, B] or null; the state is zero before the steps where it is true
  bool reverse;            // steps run from T-1 (or lengths-1) down to 0
};

struct ForwardDirection {
  SequenceShape shape;
  const void* gates_x;  // Io [T, B, 4H], x · W_ihᵀ
  const void* b_ih;     // Io [4H] or null for zero
  const void* b_hh;     // Io [4H] or null for zero
  const Words* w_hh;    // packed
  const Words* w_hr;    // packed, or null: no projection
  const void* h0;       // Io [B, R]
  const void* c0;       // Io [B, H]
  void* y;              // Io [T, B, R]; zero past a row's length
  void* h_n;            // Io [B, R]
  void* c_n;            // Io [B, H]
  void* gates;          // Io [T, B, 4H] activated gates, or null; zero past a row's length
  float* cells;         // [T, B, H] cell states, or null; zero past a row's length
};

struct BackwardDirection {
  SequenceShape shape;
  const Words* w_hh;     // packed, transposed
  const Words* w_hr;     // packed, transposed, or null: no projection
  const void* grad_y;    // Io [T, B, R] or null for zero
  const void* grad_h_n;  // Io [B, R] or null for zero
  const void* grad_c_n;  // Io [B, H] or null for zero
  const void* gates;     // Io [T, B, 4H] activated, as saved by forward
  const float* cells;    // as saved by forward
  const void* c0;        // Io [B, H]
  void* d_gates;         // Io [T, B, 4H], of the pre-activations; zero past a row's length
  void* d_h0;            // Io [B, R]
  void* d_c0;            // Io [B, H]
  void* d_h;             // Io [T, B, R], of each h_t; zero past a row's length; null without w_hr
};

// `exchange`: Io [2, rows, row bytes of the plan], zero at first, and `counters`: one per tile and
// direction, zero at first; both null where the plan exchanges nothing through L2. `carried`: float
// [2, directions, rows, strips · units] between the launches of a stepwise plan, else null.
// `projection...`: the second product's, where there is a projection.
template <class Direction>
struct SequenceArgs {
  Layout layout;
  int64_t first_row;            // of the batch, in this launch
  int64_t first_phase, phases;  // of a stepwise plan; else 0 and all
  unsigned char* exchange;
  uint32_t* counters;
  Layout projection;
  unsigned char* projection_exchange;
  uint32_t* projection_counters;
  float* carried;
  Direction directions[2];
};
typedef SequenceArgs<ForwardDirection> ForwardArgs;
typedef SequenceArgs<BackwardDirection> BackwardArgs;

// Empty on success, else what went wrong.
std::string lstm_forward_cuda(Precision precision, const Plan& plan, const ForwardArgs& args,
                              Stream stream);
std::string lstm_backward_cuda(Precision precision, const Plan& plan, const BackwardArgs& args,
                               Stream stream);

// W_hh [4H, R] in the order in which the kernels of this plan read it: `packed_bytes` of it.
int64_t packed_bytes(const Layout& layout, bool backward);
std::string pack_weights_cuda(Precision precision, const Layout& layout, bool backward,
                              const void* w_hh, Words* packed, Stream stream);
// W_hr [R, H] for the second product: `packed_projection_bytes` of it.
int64_t packed_projection_bytes(const Layout& projection);
std::string pack_projection_cuda(Precision precision, const Layout& projection, bool backward,
                                 const void* w_hr, Words* packed, Stream stream);

struct PreviousHidden {
  SequenceShape shape;
  int64_t outputs, directions;
  const void* y;   // Io [T, B, R]
  const void* h0;  // Io [B, R]
  void* out;       // Io [T, B, R]: the state each step started from; zero past a row's length
};
std::string previous_hidden_cuda(Precision precision, const PreviousHidden& args, Stream stream);

struct Activate {
  int64_t rows, hidden;  // rows of all steps
  const void* gates_x;   // Io [rows, 4H]
  const void* gates_h;   // Io [rows, 4H]
  const void* b_ih;      // Io [4H] or null for zero
  const void* b_hh;      // Io [4H] or null for zero
  void* out;             // Io [rows, 4H] activated gates
};
std::string activate_cuda(Precision precision, const Activate& args, Stream stream);

struct Unprojected {
  SequenceShape shape;
  int64_t hidden;
  const void* gates;   // Io [T, B, 4H] activated gates
  const float* cells;  // [T, B, H]
  void* out;           // Io [T, B, H]: h before the projection; zero past a row's length
};
std::string unprojected_cuda(Precision precision, const Unprojected& args, Stream stream);

struct Running {
  SequenceShape shape;
  int64_t width;
  const void* values;  // Io [T, B, width]
  void* out;           // the same, zero past a row's length, whatever lies there
};
std::string running_cuda(Precision precision, const Running& args, Stream stream);

struct CellArgs {
  int64_t batch, input, hidden;
  const void* x;            // Io [B, I]
  const void* h;            // Io [B, H]
  const void* c;            // Io [B, H]
  const void *w_ih, *w_hh;  // Io [4H, I], [4H, H]
  const void *b_ih, *b_hh;  // Io [4H] or null for zero
  void *h_next, *c_next;    // Io [B, H]
  void* gates;              // Io [B, 4H] activated gates, or null
  float* cells;             // [B, H], or null
};
// One step, input product and all.
std::string lstm_cell_cuda(Precision precision, const CellArgs& args, Stream stream);

}  // namespace fast_s2s
