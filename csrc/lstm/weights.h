// The weights of one layer and direction, as ops are given them.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <vector>

namespace fast_s2s {

struct Weights {
  torch::stable::Tensor w_ih, w_hh;
  std::optional<torch::stable::Tensor> b_ih, b_hh, w_hr;
};

// From a list, as the ops for both directions have it; `name` is its name.
inline Weights weights_of(const std::vector<torch::stable::Tensor>& list, bool bias,
                          const char* name) {
  const size_t fewest = bias ? 4 : 2;
  STD_TORCH_CHECK(list.size() == fewest || list.size() == fewest + 1, name, ": expected w_ih, w_hh",
                  bias ? ", b_ih, b_hh" : "", " and perhaps w_hr, got ", list.size(), " tensors");
  Weights w{list[0], list[1], std::nullopt, std::nullopt, std::nullopt};
  if (bias) w.b_ih = list[2], w.b_hh = list[3];
  if (list.size() > fewest) w.w_hr = list[fewest];
  return w;
}

}  // namespace fast_s2s
