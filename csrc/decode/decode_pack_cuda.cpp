// Packing a decoder's weights on CUDA.

#include <cstring>

#include "decode_ops_cuda.h"
#include "decode_tensors_cuda.h"

namespace fast_s2s {
namespace cuda {

namespace {

void copy_to_device(void* to, const void* from, size_t bytes) {
#if defined(FAST_S2S_EMULATE)
  std::memcpy(to, from, bytes);
#else
  // from pageable memory: read before the call returns
  const cudaError_t error = cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_here());
  STD_TORCH_CHECK(error == cudaSuccess, "packed: ", cudaGetErrorString(error));
#endif
}

}  // namespace

Tensor decode_pack(const std::vector<Tensor>& matrices, const std::vector<Tensor>& scales,
                   const std::vector<Tensor>& biases, const Tensor& inputs, int64_t num_layers,
                   bool projected, bool table) {
  STD_TORCH_CHECK(num_layers >= 1, "num_layers: expected at least 1, got ", num_layers);
  const int64_t expected = num_layers * (projected ? 3 : 2) + 1 - (table ? 1 : 0);
  STD_TORCH_CHECK(static_cast<int64_t>(matrices.size()) == expected, "matrices: expected ",
                  expected, " tensors, got ", matrices.size());
  STD_TORCH_CHECK(static_cast<int64_t>(biases.size()) == num_layers + 1, "biases: expected ",
                  num_layers + 1, " tensors, got ", biases.size());
  const ScalarType stored = matrices[0].scalar_type();
  STD_TORCH_CHECK(stored == ScalarType::Float || stored == ScalarType::BFloat16,
                  "matrices: expected dtype Float or BFloat16 on CUDA, got ",
                  torch::headeronly::toString(stored));
  STD_TORCH_CHECK(scales.empty(), "scales: expected none, got ", scales.size());
  STD_TORCH_CHECK(inputs.dim() == 2 && matrices.back().dim() == 2 && biases[0].dim() == 1,
                  "inputs, matrices, biases: expected 2, 2 and 1 dimensions");
  PackedHeader header{};
  std::memcpy(header.magic, kPackedMagic, sizeof(header.magic));
  header.layout = kCudaLayout;
  header.weights = stored == ScalarType::Float ? WeightType::kFloat32 : WeightType::kBFloat16;
  header.layers = num_layers;
  header.hidden = biases[0].size(0) / 4;
  header.output = matrices.back().size(1);
  header.vocab = matrices.back().size(0);
  header.inputs = inputs.size(1);
  header.projected = projected;
  header.table = table;
  const int64_t gates = 4 * header.hidden;
  STD_TORCH_CHECK(!table || header.inputs == gates, "inputs: expected a table (V, ", gates, ")");
  STD_TORCH_CHECK(projected || header.output == header.hidden,
                  "matrices: expected R = H without a projection, got ", header.output, " and ",
                  header.hidden);
  DecodePackArgs args{{}, header.weights, nullptr};
  header.bytes = packed_decode_bytes(problem_of(header), args.layout);
  Tensor packed = torch::stable::new_zeros(inputs, {header.bytes}, ScalarType::Byte);
  args.packed = static_cast<unsigned char*>(state(packed));
  copy_to_device(args.packed, &header, sizeof(header));

  const Stream stream = stream_here();
  std::vector<Tensor> kept;
  size_t next = 0;
  const auto take = [&](int64_t rows, int64_t columns) {
    const std::string name = "matrices[" + std::to_string(next) + "]";
    kept.push_back(checked(matrices[next++], name, stored, {rows, columns}, inputs));
    return input(kept.back());
  };
  const auto take_rows = [&](const Tensor& tensor, const char* name, std::vector<int64_t> shape) {
    kept.push_back(checked(tensor, name, ScalarType::Float, shape, inputs));
    return in<float>(kept.back());
  };
  const DecodeLayout& l = args.layout;
  float* bias = reinterpret_cast<float*>(args.packed + l.biases);
  const int64_t r = header.output;
  for (int layer = 0; layer < num_layers; ++layer) {
    const bool multiplies = layer > 0 || !table;
    const int64_t x_columns = layer == 0 ? header.inputs : r;
    const void* x = multiplies ? take(gates, x_columns) : nullptr;
    const void* h = take(gates, r);
    check_launch(pack_stage_cuda(args, l.gates(layer), true, x, x_columns, h, r, gates, stream));
    if (projected)
      check_launch(pack_stage_cuda(args, l.projection(layer), false, nullptr, 0,
                                   take(r, header.hidden), header.hidden, r, stream));
    check_launch(pack_rows_cuda(take_rows(biases[layer], "biases", {gates}), 1, gates, bias,
                                16 * l.gate_tiles, true, 0, stream));
    bias += 16 * l.gate_tiles;
  }
  check_launch(pack_stage_cuda(args, l.vocabulary(), false, nullptr, 0, take(header.vocab, r), r,
                               header.vocab, stream));
  check_launch(pack_rows_cuda(take_rows(biases[num_layers], "biases", {header.vocab}), 1,
                              header.vocab, bias, l.logits_stride, false, 0, stream));
  const float* rows = take_rows(inputs, "inputs", {header.vocab, header.inputs});
  check_launch(pack_rows_cuda(rows, header.vocab, header.inputs,
                              reinterpret_cast<float*>(args.packed + l.inputs), l.input_stride,
                              table, 0, stream));
  return packed;
}

}  // namespace cuda
}  // namespace fast_s2s
