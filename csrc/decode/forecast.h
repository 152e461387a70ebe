// Contract of the forecast kernel: an LSTM that reads its own values, with a number of paths by
// chance for each row, in one call.
//
// A step reads values of D series from some steps before, `lags`, and C values that are known; a
// linear layer makes P·D parameters of the last layer's output: locations, then scales, then
// degrees of freedom, as many as the family has. Rules: docs/forecasting.md. Sizes and `Acc` as in
// decode.h; S paths of each row, N = B·S, a row's side by side. Arrays are dense and row-major,
// none overlaps another, the caller owns them.
#pragma once

#include <cstdint>

namespace fast_s2s {

// numbered as in fast_s2s/decoding/distributions.py
enum class Family : int64_t { kPoint, kNormal, kStudentT };
enum class Positive : int64_t { kSoftplus, kSquareplus, kExp };

constexpr int64_t num_parameters(Family family) { return static_cast<int64_t>(family) + 1; }

struct ForecastArgs {
  // as packed by decode_pack_cpu, weights of one type
  const void* network;  // without attention and table, of lags·D + C inputs
  const void* output;   // linear layer (P·D, R)
  int64_t rows;         // B
  int64_t paths;        // S, at least 1
  int64_t steps;        // T
  int64_t series;       // D
  int64_t known_size;   // C
  Family family;
  Positive positive;     // how scales and degrees of freedom become positive
  const int64_t* seeds;  // [B]; null: values are the locations
  const int64_t* lags;   // each in 1..past
  int64_t num_lags;
  int64_t past;         // K
  const void* history;  // Acc [B, K, D], the values before the first step
  const void* known;    // Acc [B, T, C]
  const void* h;        // Acc [L, B, R]
  const void* c;        // Acc [L, B, H]
  void* values;         // Acc [N, T, D]
  void* h_n;            // Acc [L, N, R]
  void* c_n;            // Acc [L, N, H]
};

// `threads`: at most so many are used.
void forecast_cpu(const ForecastArgs& args, int threads);

}  // namespace fast_s2s
