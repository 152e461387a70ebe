#include "layer_cuda.h"

namespace fast_s2s {
namespace cuda {

namespace {

Precision precision_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return allows_tf32() ? Precision::kTf32 : Precision::kFp32;
    case ScalarType::BFloat16:
      return Precision::kBf16;
    case ScalarType::Half:
      return Precision::kFp16;
    default:
      STD_TORCH_CHECK(false, "x: expected dtype Float, BFloat16 or Half, got ",
                      torch::headeronly::toString(tensor.scalar_type()));
  }
}

void check_device(const Tensor& tensor, const std::string& name, const Tensor& x) {
  STD_TORCH_CHECK(tensor.get_device() == x.get_device() && tensor.is_cuda() == x.is_cuda(), name,
                  ": expected on the device of x");
}

// Dense, of this type and shape, on the device of x.
Tensor checked(const Tensor& tensor, const std::string& name, const Tensor& x, ScalarType type,
               const std::vector<int64_t>& sizes) {
  check_device(tensor, name, x);
  return dense(tensor, name.c_str(), type, sizes);
}

std::optional<Tensor> checked(const std::optional<Tensor>& tensor, const std::string& name,
                              const Tensor& x, ScalarType type, const std::vector<int64_t>& sizes) {
  if (!tensor.has_value()) return std::nullopt;
  return checked(*tensor, name, x, type, sizes);
}

Weights check_weights(const Weights& w, const std::string& suffix, const Layer& layer) {
  const int64_t h = layer.hidden, r = layer.outputs;
  const auto check = [&](const auto& tensor, const char* name, const std::vector<int64_t>& sizes) {
    return checked(tensor, name + suffix, layer.x, layer.type, sizes);
  };
  STD_TORCH_CHECK(w.w_hr.has_value() == layer.weights[0].w_hr.has_value(), "w_hr", suffix,
                  ": expected one in both directions or in none");
  return {check(w.w_ih, "w_ih", {4 * h, layer.inputs}), check(w.w_hh, "w_hh", {4 * h, r}),
          check(w.b_ih, "b_ih", {4 * h}), check(w.b_hh, "b_hh", {4 * h}),
          check(w.w_hr, "w_hr", {r, h})};
}

std::vector<int64_t> with_directions(int64_t directions, const std::vector<int64_t>& sizes) {
  std::vector<int64_t> all = sizes;
  if (directions == 2) all.insert(all.begin(), 2);
  return all;
}

}  // namespace

Sequence Layer::sequence() const {
  Sequence sequence{precision, steps, batch,           hidden, projected() ? outputs : 0,
                    {},        {},    current_stream()};
  for (const Weights& w : weights) {
    sequence.w_hh.push_back(w.w_hh);
    if (w.w_hr.has_value()) sequence.w_hr.push_back(*w.w_hr);
  }
  return sequence;
}

Tensor Layer::of_each(const std::vector<int64_t>& sizes, ScalarType of_type) const {
  return torch::stable::new_empty(x, with_directions(directions(), sizes), of_type);
}

std::optional<Tensor> Layer::checked(const std::optional<Tensor>& tensor, const char* name,
                                     const std::vector<int64_t>& sizes, ScalarType of_type) const {
  if (!tensor.has_value()) return std::nullopt;
  return cuda::checked(tensor, name, x, of_type, with_directions(directions(), sizes));
}

Layer check_layer(const LayerArguments& given) {
  const Tensor &x = given.x, &w_hh = given.weights[0].w_hh;
  STD_TORCH_CHECK(x.dim() == 3, "x: expected (T, B, I), got ", x.dim(), " dimensions");
  // which kernels count in 32 bits
  STD_TORCH_CHECK(x.size(0) <= INT32_MAX, "x: expected at most 2^31 - 1 steps, got ", x.size(0));
  STD_TORCH_CHECK(w_hh.dim() == 2, "w_hh: expected (4H, R), got ", w_hh.dim(), " dimensions");
  STD_TORCH_CHECK(w_hh.size(0) % 4 == 0 && w_hh.size(0) > 0,
                  "w_hh: expected a first dimension 4H, got ", w_hh.size(0));
  const int64_t t = x.size(0), b = x.size(1), h = w_hh.size(0) / 4, r = w_hh.size(1);
  STD_TORCH_CHECK(given.weights[0].w_hr.has_value() ? r > 0 : r == h,
                  "w_hh: expected (4H, H) without w_hr, got (", 4 * h, ", ", r, ")");
  const ScalarType type = x.scalar_type();
  Layer layer{t,
              b,
              x.size(2),
              h,
              r,
              precision_of(x),
              type,
              given.reverse,
              given.x,
              given.h0,
              given.c0,
              given.weights,
              std::nullopt,
              {}};
  layer.x = dense(x, "x", type, {t, b, layer.inputs});
  layer.h0 = *layer.checked(given.h0, "h0", {b, r}, type);
  layer.c0 = *layer.checked(given.c0, "c0", {b, h}, type);
  for (size_t i = 0; i < given.weights.size(); ++i)
    layer.weights[i] = check_weights(given.weights[i], i == 0 ? "" : "_reverse", layer);
  layer.lengths = checked(given.lengths, "lengths", x, ScalarType::Long, {b});
  for (size_t i = 0; i < given.weights.size(); ++i)
    layer.resets.push_back(
        checked(given.resets[i], i == 0 ? "reset" : "reset_reverse", x, ScalarType::Bool, {t, b}));
  return layer;
}

}  // namespace cuda
}  // namespace fast_s2s
