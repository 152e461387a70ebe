// Inference with an LSTM on CPU tensors: all layers and directions in one call.

#include "../cpu/thread_count.h"
#include "layer_cpu.h"
#include "lstm_ops.h"

namespace fast_s2s {

namespace {

// Where the reverse direction forgets: before t what the forward one forgets before t + 1.
std::optional<Tensor> reversed(const std::optional<Tensor>& reset, const LstmShape& s) {
  if (!reset.has_value()) return std::nullopt;
  Tensor shifted = empty(*reset, {s.steps, s.batch});
  bool* out = static_cast<bool*>(shifted.mutable_data_ptr());
  if (s.steps == 0) return shifted;
  const int64_t all = s.steps * s.batch;
  std::copy(data<bool>(reset) + s.batch, data<bool>(reset) + all, out);
  std::fill(out + all - s.batch, out + all, false);
  return shifted;
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> lstm_infer(const Tensor& x, const std::optional<Tensor>& h0,
                                              const std::optional<Tensor>& c0,
                                              const std::vector<Tensor>& weights, bool bias,
                                              bool projected, bool bidirectional,
                                              const std::optional<Tensor>& lengths,
                                              const std::optional<Tensor>& reset) {
  const int64_t each = 2 + 2 * bias + projected, directions = 1 + bidirectional;
  const int64_t given = weights.size(), count = given / each;
  STD_TORCH_CHECK(given > 0 && given % (each * directions) == 0, "weights: expected ",
                  each * directions, " tensors for each layer, got ", given);
  LstmShape s = shape_of(x, weights[1], projected, false);
  const ScalarType type = x.scalar_type();
  Tensor in = cpu_dense(x, "x", type, {s.steps, s.batch, s.input});
  const auto h = cpu_dense(h0, "h0", type, {count, s.batch, s.output});
  const auto c = cpu_dense(c0, "c0", type, {count, s.batch, s.hidden});
  const auto limits = cpu_dense(lengths, "lengths", ScalarType::Long, {s.batch});
  const auto resets = cpu_dense(reset, "reset", ScalarType::Bool, {s.steps, s.batch});
  const auto reverse_resets = bidirectional ? reversed(resets, s) : std::nullopt;
  s.lengths = data<int64_t>(limits);
  check_lengths(s);
  Tensor h_n = empty(in, {count, s.batch, s.output}), c_n = empty(in, {count, s.batch, s.hidden});
  const int64_t bytes = x.element_size(), width = directions * s.output;
  for (int64_t k = 0; k < count; k += directions) {
    Tensor y = empty(in, {s.steps, s.batch, width});
    const auto layer_weights = [&](int64_t index) {
      const Tensor* w = &weights[index * each];
      const auto given_if = [&](bool there, int64_t at) {
        return there ? std::optional<Tensor>(w[at]) : std::nullopt;
      };
      return check_weights(
          s, type,
          {w[0], w[1], given_if(bias, 2), given_if(bias, 3), given_if(projected, each - 1)});
    };
    const auto arguments = [&](int64_t direction, const LayerWeights& layer) {
      const int64_t index = k + direction;
      LstmForwardArgs args{s,
                           layer.pointers(),
                           in.const_data_ptr(),
                           after(data(h), index * s.batch * s.output * bytes),
                           after(data(c), index * s.batch * s.hidden * bytes),
                           after(y.mutable_data_ptr(), direction * s.output * bytes),
                           width,
                           after(h_n.mutable_data_ptr(), index * s.batch * s.output * bytes),
                           after(c_n.mutable_data_ptr(), index * s.batch * s.hidden * bytes),
                           nullptr,
                           nullptr};
      args.shape.reverse = direction == 1;
      args.shape.reset = data<bool>(direction == 1 ? reverse_resets : resets);
      return args;
    };
    const LayerWeights layer = layer_weights(k);
    const std::optional<LayerWeights> other =
        bidirectional ? std::optional(layer_weights(k + 1)) : std::nullopt;
    if (s.batch > 0 && bidirectional)
      lstm_forward_cpu(arguments(0, layer), arguments(1, *other), thread_count());
    if (s.batch > 0 && !bidirectional) lstm_forward_cpu(arguments(0, layer), thread_count());
    in = y;
    s.input = width;
  }
  return {in, h_n, c_n};
}

}  // namespace fast_s2s
