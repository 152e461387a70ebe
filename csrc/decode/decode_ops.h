// The decode ops, on CPU tensors and on CUDA ones alike. Schemas: fast_s2s/decoding/ops.py; meaning
// of the lists: fast_s2s/decoding/contract.py.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>
#include <vector>

namespace fast_s2s {

// With attention of so many heads, or 0.
typedef torch::stable::Tensor DecodePackOp(const std::vector<torch::stable::Tensor>& matrices,
                                           const std::vector<torch::stable::Tensor>& scales,
                                           const std::vector<torch::stable::Tensor>& biases,
                                           const std::vector<torch::stable::Tensor>& norms,
                                           const torch::stable::Tensor& inputs, int64_t num_layers,
                                           bool projected, bool table, int64_t heads, bool additive,
                                           bool feeding, double zoneout_hidden,
                                           double zoneout_cell);

// `header`: of what decode_pack packed. `memory`: with attention what each row attends to.
typedef std::vector<torch::stable::Tensor> DecodeOp(
    const torch::stable::Tensor& packed, const std::vector<int64_t>& header,
    const std::vector<torch::stable::Tensor>& state,
    const std::vector<torch::stable::Tensor>& memory,
    const std::vector<torch::stable::Tensor>& rules, const std::vector<int64_t>& options,
    const std::vector<double>& parameters, int64_t max_steps);

DecodePackOp decode_pack;
DecodeOp decode;

// On the CPU alone: `decode` by the mean of several networks' probabilities. `headers`: theirs one
// after the other; `state`: with h and c as in DecodeArgs::members; `memory`: values and keys of
// each network with attention, then their lengths.
std::vector<torch::stable::Tensor> decode_ensemble(const std::vector<torch::stable::Tensor>& packed,
                                                   const std::vector<int64_t>& headers,
                                                   const std::vector<torch::stable::Tensor>& state,
                                                   const std::vector<torch::stable::Tensor>& memory,
                                                   const std::vector<torch::stable::Tensor>& rules,
                                                   const std::vector<int64_t>& options,
                                                   const std::vector<double>& parameters,
                                                   int64_t max_steps);

// On the CPU alone: the states after reading `inputs`, tokens or what stands in place of their
// embeddings, and with `outputs` those of the last layer. `packed`: of one direction or two.
std::tuple<torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor> decode_read(
    const std::vector<torch::stable::Tensor>& packed, const std::vector<int64_t>& header,
    const torch::stable::Tensor& h, const torch::stable::Tensor& c,
    const torch::stable::Tensor& inputs, const torch::stable::Tensor& lengths, bool outputs);

// On the CPU alone: h and c from which a decoder starts, layer by layer from those of the encoder's
// layers in `pairs`; with `outputs` what it attends to, the encoder's outputs and their keys.
// `packed`: of each layer and direction; `bridged` linear layers for h of each pair, then for c; at
// last that of the keys, if there is one. `feeding`: zeros behind h.
std::tuple<torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor,
           torch::stable::Tensor>
decode_encode(const std::vector<torch::stable::Tensor>& packed, const std::vector<int64_t>& headers,
              const torch::stable::Tensor& tokens, const torch::stable::Tensor& lengths,
              int64_t layers, int64_t directions, const std::vector<int64_t>& pairs, bool bridged,
              bool outputs, bool feeding);

// On the CPU alone: the greedy search of a transducer. `packed`: predictor, projection if there is
// one, joiner; `headers`: theirs; `state`: h, c, token, skip. Returns tokens, frames, scores (B, U)
// and their counts (B), then the state.
std::vector<torch::stable::Tensor> transducer_greedy(
    const std::vector<torch::stable::Tensor>& packed, const std::vector<int64_t>& headers,
    const std::vector<torch::stable::Tensor>& state, const torch::stable::Tensor& encoded,
    const torch::stable::Tensor& lengths, const std::vector<int64_t>& durations, int64_t blank,
    int64_t max_symbols, bool relu);

// On the CPU alone: the beam search of a transducer. `packed`, `headers` as above; `state`: h, c
// (L, B·W, ...), token, score, count (B·W), tokens, frames (B·W, U), seen (B). Returns the state.
std::vector<torch::stable::Tensor> transducer_beam(const std::vector<torch::stable::Tensor>& packed,
                                                   const std::vector<int64_t>& headers,
                                                   const std::vector<torch::stable::Tensor>& state,
                                                   const torch::stable::Tensor& encoded,
                                                   const torch::stable::Tensor& lengths,
                                                   int64_t blank, int64_t max_symbols, bool relu);

// On the CPU alone: values of each row's paths (N, T, D), and states after them. `packed`: network
// and output; `headers`: theirs; no seeds: the locations; numbers as in forecast.h.
std::vector<torch::stable::Tensor> forecast(
    const std::vector<torch::stable::Tensor>& packed, const std::vector<int64_t>& headers,
    const torch::stable::Tensor& h, const torch::stable::Tensor& c,
    const torch::stable::Tensor& history, const torch::stable::Tensor& known,
    const torch::stable::Tensor& seeds, const std::vector<int64_t>& lags, int64_t paths,
    int64_t family, int64_t positive);

namespace cuda {

DecodePackOp decode_pack;
// Launches and nothing else: no value on the device is looked at, so that a graph can be captured.
DecodeOp decode;

}  // namespace cuda
}  // namespace fast_s2s
