// Contract of the decode kernels: a whole generation in one call.
//
// L layers of H hidden units with R outputs each (H, or the projection's size), V tokens, E
// embedding size; B rows of W slots (samples or beams; else W = 1), N = B·W, a row's slots side by
// side. All arrays are dense and row-major, none overlaps another, the caller owns them. `Acc` is
// double for double weights, float otherwise. Meaning of each array: fast_s2s/decoding/contract.py,
// which names them in the same order; of the rules: docs/decode.md.
#pragma once

#include <cstdint>

namespace fast_s2s {

// float16 on CUDA alone, float64 and int8 on the CPU alone
// numbered as DTYPES in fast_s2s/decoding/weights.py
enum class WeightType : int64_t { kFloat32, kFloat64, kBFloat16, kFloat16, kInt8 };
enum class Strategy : int64_t { kGreedy, kSample, kBeam };
enum class EarlyStopping : int64_t { kHeuristic, kFirst, kNever };

// Head of the packed weights on the CPU. Weights follow in the order in which a step reads them,
// each thread's share in one piece: layout.h. The layout is for one instruction set and is not a
// file format. On CUDA there are weights alone (decode_plan.h), and the op is told what they are.
constexpr char kPackedMagic[8] = {'f', 's', '2', 's', 'd', 'e', 'c', '1'};

struct PackedHeader {
  char magic[8];                                  // kPackedMagic; its last is the version
  int64_t layout;                                 // of the instruction set
  WeightType weights;                             // of matrices; everything else is Acc
  int64_t layers, hidden, output, vocab, inputs;  // inputs: E, or 4H with the table
  bool projected;
  bool table;  // the first layer looks up embedding·W_ihᵀ + bias instead of multiplying
  int64_t bytes;
  int64_t heads;         // of attention; 0: there is none
  int64_t keys, values;  // A, M: sizes of a step of the memory
  bool additive;         // scores are score·tanh(query + key), else query·key
  bool feeding;          // the first layer also reads what attention found in the step before
  // On the CPU alone, of the layers: fast_s2s.reference.Variant.
  bool normed;                          // layer norm; then biases of layers are among the norms
  double zoneout_hidden, zoneout_cell;  // the part of a state that stays as it was before a step

  // Hidden states of a slot: those of the layers, and what attention found.
  int64_t hidden_states() const { return layers + (feeding ? 1 : 0); }
};

// Where generation stands. T: columns that are there; `capacity` T + max_steps of them in outputs.
struct DecodeState {
  void* h;               // Acc [L, N, R]; with feeding [L + 1, N, R]
  void* c;               // Acc [L, N, H]
  int64_t* tokens;       // [N, 1 + T]
  double* token_scores;  // [N, T]
  int64_t* position;     // [N]
  double* score;         // [N]
  bool* finished;        // [N]; null in hypotheses
  int64_t* node;         // [N]
};

struct Ids {
  const int64_t* data;
  int64_t size;
};

struct DecodeRules {
  const int64_t* seeds;           // [B], or null unless sampling
  const int64_t* limits;          // [B]
  const int64_t* prefix;          // [B, prefix_size]
  const int64_t* prefix_lengths;  // [B] in 0..prefix_size
  int64_t prefix_size;
  Ids eos, forced_eos, suppress, begin_suppress;
  Ids bad_tokens, bad_offsets;  // the latter one more than there are sequences
  // automaton in CSR form, or none if node_offsets is empty; offsets [S + 1]
  Ids node_offsets, arc_tokens, arc_targets;
  const bool* final_nodes;  // [S]
};

struct DecodeOptions {
  Strategy strategy;
  int64_t width;  // W
  int64_t min_new_tokens, no_repeat_ngram_size, top_k;
  EarlyStopping early_stopping;
  int64_t pad, forced_bos;  // -1: none
  bool renormalize;
  bool sample_beams;  // beams are chosen by chance
  double temperature, top_p, min_p, repetition_penalty, length_penalty;
};

// What attention looks at: S steps of each row.
struct DecodeMemory {
  const void* values;      // Acc [B, S, M]
  const void* keys;        // Acc [B, S, A]
  const int64_t* lengths;  // [B] in 0..S
  int64_t steps;           // S
};

// What a call is told to keep of its steps, or null. Slots that a step does not compute have zeros.
struct DecodeKept {
  float* scores;     // [max_steps, N, V], what choices were made by
  float* logits;     // [max_steps, N, V]
  float* attention;  // [max_steps, N, heads, S], weights; 0 past a row's length
  int64_t* tokens;   // [max_steps, N], that slots go on with; -1: does not
  int64_t* parents;  // [max_steps, N], the slot that each continues; -1
};

// One of the networks of an ensemble.
struct DecodeMember {
  const void* packed;
  DecodeMemory memory;
};

struct DecodeArgs {
  const void* packed;  // as packed by decode_pack_cpu, or on the device
  int64_t rows;        // B
  int64_t columns;     // T of the inputs
  int64_t max_steps;
  DecodeRules rules;
  DecodeOptions options;
  DecodeState begin;             // inputs, read only
  DecodeState state;             // outputs, as large, with T + max_steps columns
  DecodeState begin_hypotheses;  // beam search only, as the two above
  DecodeState hypotheses;
  int64_t* counts;  // [5]: see Counts in contract.py
  DecodeMemory memory;
  DecodeKept kept;
  // On the CPU alone: several networks of one vocabulary and type Acc, in place of `packed` and
  // `memory`. h and c have the networks' states of a slot side by side, layer by layer:
  // [1, N, ΣL·R] and [1, N, ΣL·H].
  const DecodeMember* members;
  int64_t models;  // 0: `packed` alone
};

// Ids are below V, nodes in -1..S-1, positions in 0..T, limits at least 0 (1 for beams): checked by
// the caller. Arcs are checked as they are met: a wrong one is no arc.
// `threads`: at most so many are used.
void decode_cpu(const DecodeArgs& args, int threads);

struct PackArgs {
  PackedHeader header;  // as decode_describe_cpu left it
  // per layer w_ih (of the first, with a table, only what feeding needs), w_hh, w_hr if projected;
  // of attention the query's (A, R) if additive, (R, M + R); then the output's
  const void* const* matrices;
  const void* const* scales;  // float [rows] of each, or null unless int8
  const void* const* biases;  // Acc, per layer [4H], score [A] if additive, then [V]
  const void* inputs;         // Acc [V, inputs]
  // with layer norm, per layer Acc [14H]: biases and the gains of W_ih·x and W_hh·h [4H], c's gain
  // and bias [H]; else null
  const void* const* norms;
};

// Fills in `magic`, `layout` and `bytes`.
void decode_describe_cpu(PackedHeader& header);
void decode_pack_cpu(const PackArgs& args, void* packed);

}  // namespace fast_s2s
