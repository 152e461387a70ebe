// Packing a decoder's weights on CUDA.

#include "decode_ops.h"
#include "decode_tensors_cuda.h"
#include "pack_arguments.h"

namespace fast_s2s {
namespace cuda {

namespace {

WeightType weight_type(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return WeightType::kFloat32;
    case ScalarType::BFloat16:
      return WeightType::kBFloat16;
    case ScalarType::Half:
      return WeightType::kFloat16;
    case ScalarType::Char:
      return WeightType::kInt8;
    default:
      STD_TORCH_CHECK(false, "matrices: expected dtype Float, BFloat16, Half or Char on CUDA, got ",
                      torch::headeronly::toString(type));
  }
}

// Puts the parts of a decoder where the kernels read them.
class CudaPacker {
 public:
  CudaPacker(const std::vector<Tensor>& matrices, const std::vector<Tensor>& scales,
             const std::vector<Tensor>& biases, const Tensor& inputs, const PackedHeader& header,
             const DecodePackArgs& args)
      : matrices_(matrices),
        scales_(scales),
        biases_(biases),
        inputs_(inputs),
        h_(header),
        l_(args.layout),
        args_(args),
        bias_(at(l_.biases)) {}

  void run() {
    const int64_t gates = 4 * h_.hidden, r = h_.output;
    for (int layer = 0; layer < h_.layers; ++layer) {
      pack_gates(layer);
      if (h_.projected) pack_whole(l_.projection(layer), r, h_.hidden);
      pack_rows(vector(biases_[layer], gates), 1, gates, bias_, 16 * l_.gate_tiles, true);
      bias_ += 16 * l_.gate_tiles;
    }
    if (h_.heads > 0) pack_attention();
    pack_whole(l_.vocabulary(), h_.vocab, r);
    pack_rows(vector(biases_.back(), h_.vocab), 1, h_.vocab, bias_, l_.logits_stride, false);
    pack_rows(rows(inputs_, "inputs", {h_.vocab, h_.inputs}), h_.vocab, h_.inputs, at(l_.inputs),
              l_.input_stride, h_.table);
  }

 private:
  float* at(int64_t offset) const { return reinterpret_cast<float*>(args_.packed + offset); }
  struct Taken {
    const void* values;
    const float* scales;
  };
  Taken take(int64_t count, int64_t columns) {
    const std::string at = "[" + std::to_string(next_) + "]";
    const ScalarType stored = matrices_[0].scalar_type();
    kept_.push_back(checked(matrices_[next_], "matrices" + at, stored, {count, columns}, inputs_));
    Taken taken{input(kept_.back()), nullptr};
    if (!scales_.empty()) taken.scales = rows(scales_[next_], "scales" + at, {count});
    ++next_;
    return taken;
  }
  const float* rows(const Tensor& tensor, const std::string& name,
                    const std::vector<int64_t>& shape) {
    kept_.push_back(checked(tensor, name, ScalarType::Float, shape, inputs_));
    return in<float>(kept_.back());
  }
  const float* vector(const Tensor& tensor, int64_t size) { return rows(tensor, "biases", {size}); }

  PackColumns columns(const void* from, int64_t first, int64_t count, int64_t stride,
                      int64_t k_tiles) const {
    const int64_t skipped = first * matrices_[0].element_size();
    return {static_cast<const char*>(from) + skipped, count, stride, static_cast<int>(k_tiles)};
  }
  PackColumns whole(const void* from, int64_t count) const {
    return columns(from, 0, count, count, (count + l_.k - 1) / l_.k);
  }

  void pack_gates(int layer) {
    const int64_t gates = 4 * h_.hidden, r = h_.output;
    const int64_t embedded = layer > 0 ? r : h_.table ? 0 : h_.inputs;
    const int64_t fed = layer == 0 && h_.feeding ? r : 0;
    PackMatrix matrix{{}, gates, true};
    if (embedded + fed > 0) {
      const Taken x = take(gates, embedded + fed);
      matrix.parts[0] = columns(x.values, 0, embedded, embedded + fed, l_.gates(layer).x_tiles);
      if (fed > 0) matrix.parts[1] = columns(x.values, embedded, fed, embedded + fed, l_.fed_tiles);
      matrix.scales[0] = x.scales;
    }
    const Taken h = take(gates, r);
    matrix.parts[2] = whole(h.values, r);
    matrix.scales[1] = h.scales;
    pack(l_.gates(layer), matrix);
  }

  void pack_attention() {
    const int64_t r = h_.output, m = h_.values;
    if (h_.additive) {
      pack_whole(l_.query(), h_.keys, r);
      pack_rows(vector(biases_[h_.layers], h_.keys), 1, h_.keys, at(l_.score), 16 * l_.key_tiles,
                false);
    }
    const Taken joined = take(r, m + r);
    pack(l_.attended(), {{columns(joined.values, 0, m, m + r, l_.value_k_tiles),
                          columns(joined.values, m, r, m + r, l_.output_k_tiles)},
                         r,
                         false,
                         {joined.scales}});
  }

  void pack_whole(const DecodeStage& stage, int64_t count, int64_t columns) {
    const Taken taken = take(count, columns);
    pack(stage, {{whole(taken.values, columns)}, count, false, {taken.scales}});
  }
  void pack(const DecodeStage& stage, const PackMatrix& matrix) const {
    check_launch(pack_stage_cuda(args_, stage, matrix, stream_));
  }
  void pack_rows(const float* from, int64_t count, int64_t columns, float* to, int64_t stride,
                 bool gates) const {
    check_launch(pack_rows_cuda(from, count, columns, to, stride, gates, 0, stream_));
  }

  const std::vector<Tensor>& matrices_;
  const std::vector<Tensor>& scales_;  // of each, or none
  const std::vector<Tensor>& biases_;
  const Tensor& inputs_;
  const PackedHeader& h_;
  const DecodeLayout& l_;
  const DecodePackArgs& args_;
  const Stream stream_ = current_stream();
  float* bias_;
  size_t next_ = 0;
  std::vector<Tensor> kept_;
};

}  // namespace

Tensor decode_pack(const std::vector<Tensor>& matrices, const std::vector<Tensor>& scales,
                   const std::vector<Tensor>& biases, const std::vector<Tensor>& norms,
                   const Tensor& inputs, int64_t num_layers, bool projected, bool table,
                   int64_t heads, bool additive, bool feeding, double zoneout_hidden,
                   double zoneout_cell) {
  STD_TORCH_CHECK(norms.empty() && zoneout_hidden == 0 && zoneout_cell == 0,
                  "norms, zoneout_hidden, zoneout_cell: expected none for CUDA, which has no "
                  "kernels with layer norm or zoneout");
  STD_TORCH_CHECK(num_layers >= 1, "num_layers: expected at least 1, got ", num_layers);
  PackedHeader header = decode_arguments::describe_pack(
      matrices, biases, norms, inputs,
      {num_layers, projected, table, heads, additive, feeding, zoneout_hidden, zoneout_cell});
  header.weights = weight_type(matrices[0].scalar_type());
  const size_t scaled = header.weights == WeightType::kInt8 ? matrices.size() : 0;
  STD_TORCH_CHECK(scales.size() == scaled, "scales: expected ", scaled, " tensors, got ",
                  scales.size());
  DecodePackArgs args{{}, header.weights, nullptr};
  header.bytes = packed_decode_bytes(problem_of(header), args.layout);
  Tensor packed = torch::stable::new_zeros(inputs, {header.bytes}, ScalarType::Byte);
  args.packed = static_cast<unsigned char*>(state(packed));
  CudaPacker(matrices, scales, biases, inputs, header, args).run();
  return packed;
}

}  // namespace cuda
}  // namespace fast_s2s
