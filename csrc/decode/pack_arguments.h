// The arguments of the ops that pack weights: what is checked alike on the CPU and on CUDA.
#pragma once

#include <string>
#include <vector>

#include "arguments.h"

namespace fast_s2s {
namespace decode_arguments {

struct PackOptions {
  int64_t num_layers;  // 0: a linear layer, which has a vocabulary and nothing else
  bool projected, table;
  int64_t heads;
  bool additive, feeding;
  double zoneout_hidden, zoneout_cell;

  // The first layer multiplies something even if it looks embeddings up.
  int64_t matrices_of_layers() const {
    return num_layers * (projected ? 3 : 2) - (table && !feeding ? 1 : 0);
  }
  // Attention's own: additive its query, and the output.
  int64_t matrices_of_attention() const { return heads == 0 ? 0 : additive ? 2 : 1; }
};

// The head of packed weights but for what a layout fills in; raises unless there are as many
// tensors as `options` tell, of sizes that fit.
inline PackedHeader describe_pack(const std::vector<Tensor>& matrices,
                                  const std::vector<Tensor>& biases,
                                  const std::vector<Tensor>& norms, const Tensor& inputs,
                                  const PackOptions& o) {
  STD_TORCH_CHECK(o.num_layers >= 0, "num_layers: expected at least 0, got ", o.num_layers);
  STD_TORCH_CHECK(o.num_layers > 0 || !(o.projected || o.table || o.heads > 0),
                  "projected, table, heads: expected none without layers");
  STD_TORCH_CHECK(o.heads >= 0, "heads: expected at least 0, got ", o.heads);
  STD_TORCH_CHECK(o.heads > 0 || !(o.additive || o.feeding),
                  "additive, feeding: expected neither without heads");
  const int64_t before_vocab = o.matrices_of_layers() + o.matrices_of_attention();
  STD_TORCH_CHECK(static_cast<int64_t>(matrices.size()) == before_vocab + 1, "matrices: expected ",
                  before_vocab + 1, " tensors, got ", matrices.size());
  const int64_t vectors = o.num_layers + (o.additive ? 1 : 0) + 1;
  STD_TORCH_CHECK(static_cast<int64_t>(biases.size()) == vectors, "biases: expected ", vectors,
                  " tensors, got ", biases.size());
  STD_TORCH_CHECK(norms.empty() || static_cast<int64_t>(norms.size()) == o.num_layers,
                  "norms: expected none or ", o.num_layers, " tensors, got ", norms.size());
  for (const double part : {o.zoneout_hidden, o.zoneout_cell})
    STD_TORCH_CHECK(part >= 0 && part <= 1,
                    "zoneout_hidden, zoneout_cell: expected numbers in 0..1, got ", part);
  STD_TORCH_CHECK(inputs.dim() == 2 && matrices.back().dim() == 2 && biases[0].dim() == 1,
                  "inputs, matrices, biases: expected 2, 2 and 1 dimensions");
  PackedHeader header{};
  header.layers = o.num_layers;
  header.hidden = o.num_layers > 0 ? biases[0].size(0) / 4 : 0;
  header.output = matrices.back().size(1);
  header.vocab = matrices.back().size(0);
  header.inputs = inputs.size(1);
  header.projected = o.projected;
  header.table = o.table;
  header.heads = o.heads;
  header.additive = o.additive;
  header.feeding = o.feeding;
  header.normed = !norms.empty();
  header.zoneout_hidden = o.zoneout_hidden;
  header.zoneout_cell = o.zoneout_cell;
  if (o.heads > 0) {
    const Tensor& output = matrices[before_vocab - 1];
    STD_TORCH_CHECK(output.dim() == 2 && output.size(1) > header.output,
                    "matrices: expected attention's output (R, M + R) with R = ", header.output);
    header.values = output.size(1) - header.output;
    header.keys = o.additive ? biases[o.num_layers].numel() : header.output;
    STD_TORCH_CHECK(header.values % o.heads == 0 && header.keys % o.heads == 0,
                    "heads: expected a divisor of ", header.values, " and ", header.keys, ", got ",
                    o.heads);
  }
  const int64_t gates = 4 * header.hidden;
  STD_TORCH_CHECK(!o.table || header.inputs == gates, "inputs: expected a table (V, ", gates, ")");
  STD_TORCH_CHECK(o.num_layers > 0 || header.inputs == 0, "inputs: expected (V, 0) without layers");
  STD_TORCH_CHECK(o.num_layers == 0 || o.projected || header.output == header.hidden,
                  "matrices: expected R = H without a projection, got ", header.output, " and ",
                  header.hidden);
  return header;
}

}  // namespace decode_arguments
}  // namespace fast_s2s
