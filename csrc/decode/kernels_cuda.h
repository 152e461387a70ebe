// Contract of the decode kernels on CUDA: the whole generation of a group of rows in one launch.
//
// Arrays of `DecodeArgs` are on the device and dense; what is here beside them is workspace, which
// the caller owns. Kernels do not allocate and do not wait for the host.
#pragma once

#include <cstdint>
#include <string>

#include "../cuda/device.h"
#include "../cuda/types.cuh"
#include "choose.h"
#include "decode.h"
#include "decode_plan.h"

namespace fast_s2s {

// Workspace of beam search. N: slots of the whole call; C columns of the outputs.
struct BeamWorkspace {
  int64_t* tokens;        // [N, 1 + C], the buffer beside the output's
  double* token_scores;   // [N, C]
  double* shift;          // [N]: a slot's scores less this are log-probabilities
  Candidate* candidates;  // [B, candidates]; by chance [B, 2, candidates], as drawn and sorted
  int64_t num_candidates;
  int64_t* nodes;  // [N]: where the chosen candidates lead
  int* going_on;   // [N]: their ranks
  // ended sequences, in places; `order` has the places of a row, best first
  DecodeState ended;  // as the output's hypotheses
  int* order;         // [N]
  int* num_ended;     // [B]
};

struct DecodeCudaArgs {
  DecodeArgs call;
  DecodeLayout layout;
  int64_t first_row;  // of this launch
  // of each group of rows, one after another
  float* h;            // [2, slots, hidden states, output_stride], zero at first
  float* c;            // [2, L, slots, hidden_stride]
  float* unprojected;  // [slots, hidden_stride], zero at first; null without a projection
  float* logits;       // [slots, logits_stride]
  // of attention; what is not needed is null
  float* queries;      // [slots, keys], if additive
  float* scores;       // [slots, heads, S]
  float* contexts;     // [slots, values_stride], zero at first
  float* attended;     // [slots, output_stride], zero at first, without feeding
  int* next;           // [3, slots]: which slots go on, where their states lie, their next tokens
  int* next_count;     // [units]
  int64_t* work;       // [2]: steps, slots computed
  uint32_t* counters;  // zero at first
  int* finished;       // [N] of the whole call: as the output's, which decode_count_cuda writes
  BeamWorkspace beams;
};

// Empty on success, else what went wrong.
std::string decode_cuda(WeightType weights, const DecodePlan& plan, const DecodeCudaArgs& args,
                        Stream stream);

struct DecodeCountArgs {
  DecodeArgs call;
  const int* finished;
  const int64_t* work;  // of all groups
  int64_t groups;
};
// The call's `counts` and `finished`.
std::string decode_count_cuda(const DecodeCountArgs& args, Stream stream);

struct DecodePackArgs {
  DecodeLayout layout;
  WeightType weights;
  unsigned char* packed;
};
// Columns of a product's matrix, `k_tiles` deep, in rows `stride` apart.
struct PackColumns {
  const void* from = nullptr;
  int64_t columns = 0, stride = 0;
  int k_tiles = 0;
};
// The matrix's rows, or those of 4 gates; the parts of its columns lie side by side. `scales`: of
// int8 rows, of the stage's two matrices, or null.
struct PackMatrix {
  PackColumns parts[3];
  int64_t rows;
  bool gates;
  const float* scales[2] = {};
};
std::string pack_stage_cuda(const DecodePackArgs& args, const DecodeStage& stage,
                            const PackMatrix& matrix, Stream stream);
// float [rows, columns] to rows of `stride`, with `fill` behind; gates in the order of tiles.
std::string pack_rows_cuda(const float* from, int64_t rows, int64_t columns, float* to,
                           int64_t stride, bool gates, float fill, Stream stream);

}  // namespace fast_s2s
