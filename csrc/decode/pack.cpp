// Host side of the ops that pack weights for decode: check, allocate, dispatch.

#include "checks.h"
#include "decode_ops.h"
#include "pack_arguments.h"

namespace fast_s2s {

using namespace decode_checks;
using decode_arguments::describe_pack;

namespace {

WeightType weight_type(const Tensor& matrix) {
  switch (matrix.scalar_type()) {
    case ScalarType::Float:
      return WeightType::kFloat32;
    case ScalarType::Double:
      return WeightType::kFloat64;
    case ScalarType::BFloat16:
      return WeightType::kBFloat16;
    case ScalarType::Char:
      return WeightType::kInt8;
    default:
      STD_TORCH_CHECK(false, "matrices: expected dtype Float, Double, BFloat16 or Char, got ",
                      toString(matrix.scalar_type()));
  }
}

}  // namespace

Tensor decode_pack(const std::vector<Tensor>& matrices, const std::vector<Tensor>& scales,
                   const std::vector<Tensor>& biases, const std::vector<Tensor>& norms,
                   const Tensor& inputs, int64_t num_layers, bool projected, bool table,
                   int64_t heads, bool additive, bool feeding, double zoneout_hidden,
                   double zoneout_cell) {
  PackedHeader header = describe_pack(
      matrices, biases, norms, inputs,
      {num_layers, projected, table, heads, additive, feeding, zoneout_hidden, zoneout_cell});
  header.weights = weight_type(matrices[0]);
  const bool scaled = header.weights == WeightType::kInt8;
  STD_TORCH_CHECK(scales.size() == (scaled ? matrices.size() : 0), "scales: expected ",
                  scaled ? matrices.size() : 0, " tensors, got ", scales.size());
  decode_describe_cpu(header);
  const ScalarType acc = acc_type(header.weights), stored = matrices[0].scalar_type();
  const int64_t gates = 4 * header.hidden;
  std::vector<Tensor> kept;
  std::vector<const void*> matrix_data, scale_data, bias_data, norm_data;
  size_t next = 0;
  const auto keep = [&](const Tensor& tensor, const std::string& name, ScalarType type,
                        const std::vector<int64_t>& shape) {
    kept.push_back(dense(tensor, name, type, shape));
    return kept.back().const_data_ptr();
  };
  const auto take = [&](int64_t rows, int64_t columns) {
    const std::string name = "[" + std::to_string(next) + "]";
    matrix_data.push_back(keep(matrices[next], "matrices" + name, stored, {rows, columns}));
    if (scaled)
      scale_data.push_back(keep(scales[next], "scales" + name, ScalarType::Float, {rows}));
    ++next;
  };
  for (int64_t layer = 0; layer < num_layers; ++layer) {
    const int64_t fed = feeding ? header.output : 0;
    const int64_t inputs_size = layer > 0 ? header.output : (table ? 0 : header.inputs) + fed;
    if (inputs_size > 0) take(gates, inputs_size);
    take(gates, header.output);
    if (projected) take(header.output, header.hidden);
    bias_data.push_back(keep(biases[layer], "biases", acc, {gates}));
    if (header.normed)
      norm_data.push_back(keep(norms[layer], "norms", acc, {3 * gates + 2 * header.hidden}));
  }
  if (additive) {
    take(header.keys, header.output);
    bias_data.push_back(keep(biases[num_layers], "biases", acc, {header.keys}));
  }
  if (heads > 0) take(header.output, header.values + header.output);
  take(header.vocab, header.output);
  bias_data.push_back(keep(biases.back(), "biases", acc, {header.vocab}));
  const void* input_data = keep(inputs, "inputs", acc, {header.vocab, header.inputs});
  Tensor packed = empty(inputs, {header.bytes}, ScalarType::Byte);
  const PackArgs args{
      header,           matrix_data.data(), scaled ? scale_data.data() : nullptr,
      bias_data.data(), input_data,         header.normed ? norm_data.data() : nullptr};
  decode_pack_cpu(args, packed.mutable_data_ptr());
  return packed;
}

}  // namespace fast_s2s
