// What attention finds in the rows' memory. The same on the CPU: memory_cpu.h; in plain torch:
// `attend` in fast_s2s/attention.py.
#pragma once

#include "kept_cuda.cuh"
#include "network_cuda.cuh"

namespace fast_s2s {

// Slots of a row read the same memory. A head has its part of each query, key and value. Warps take
// items in turns, block by block, so that few items go to many blocks; what is found in an item
// does not depend on who takes it.
template <class Network>
class MemoryReader {
 public:
  FAST_S2S_DEVICE MemoryReader(const DecodeCudaArgs& args, const Group& group,
                               const Network& network, const LiveSlots& live)
      : l_(args.layout),
        m_(args.call.memory),
        width_(static_cast<int>(args.call.options.width)),
        group_(group),
        network_(network),
        live_(live),
        scores_(l_.heads == 0 ? nullptr : args.scores + group.index * scores_of(l_.slots)) {}

  // Scores of the slots' steps.
  FAST_S2S_DEVICE void score(int count) const {
    for_items(count * m_.steps, [&](int64_t item) {
      const int i = static_cast<int>(item / m_.steps);
      const int64_t step = item % m_.steps;
      if (step < length(i)) score_step(i, step);
    });
  }

  // Contexts: the steps' values by their softmax.
  FAST_S2S_DEVICE void mix(int count, const KeptSteps& kept) const {
    const int size = l_.values / l_.heads, pieces = (size + 31) / 32;
    for_items(static_cast<int64_t>(count) * l_.heads * pieces, [&](int64_t item) {
      const int64_t of_head = item / pieces;
      const int i = static_cast<int>(of_head / l_.heads),
                head = static_cast<int>(of_head % l_.heads);
      const int column = static_cast<int>(item % pieces) * 32 + lane();
      const Softmax softmax = mix_column(i, head, column < size ? head * size + column : -1);
      if (!kept.attention() || item % pieces > 0) return;
      for (int64_t step = lane(); step < length(i); step += 32)
        kept.keep_attention(live_.slot(i), head, step,
                            softmax.power(scores(i, head) + step) / softmax.total);
    });
  }

 private:
  // f(item) by whole warps
  template <class F>
  FAST_S2S_DEVICE void for_items(int64_t count, const F& f) const {
    for (int64_t item = group_.rank + static_cast<int64_t>(warp()) * l_.ranks; item < count;
         item += static_cast<int64_t>(l_.ranks) * kDecodeWarps)
      f(item);
  }
  FAST_S2S_DEVICE int64_t scores_of(int64_t slots) const { return slots * l_.heads * m_.steps; }
  FAST_S2S_DEVICE float* scores(int i, int head) const {
    return scores_ + scores_of(i) + head * m_.steps;
  }
  FAST_S2S_DEVICE int64_t row(int i) const { return group_.first_row + live_.slot(i) / width_; }
  // What is past the steps is not there.
  FAST_S2S_DEVICE int64_t length(int i) const {
    const int64_t given = load_constant(m_.lengths + row(i));
    return given < 0 ? 0 : given < m_.steps ? given : m_.steps;
  }

  FAST_S2S_DEVICE void score_step(int i, int64_t step) const {
    const float* query = network_.query(i);
    const float* key = static_cast<const float*>(m_.keys) + (row(i) * m_.steps + step) * l_.keys;
    const int size = l_.keys / l_.heads;
    for (int head = 0; head < l_.heads; ++head) {
      float sum = 0;
#pragma unroll 4
      for (int at = head * size + lane(); at < (head + 1) * size; at += 32) {
        const float q = load(query + at), k = load_constant(key + at);
        sum += l_.additive ? load(network_.score() + at) * DeviceMath::tanh(q + k) : q * k;
      }
      for (int mask = 16; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
      if (lane() == 0) store(scores(i, head) + step, sum);
    }
  }

  struct Softmax {
    FAST_S2S_DEVICE float power(const float* score) const { return ::expf(load(score) - most); }
    float most, total;
  };

  // A context's value at `column`, or at none; in order of steps, every lane adds up all weights.
  FAST_S2S_DEVICE Softmax mix_column(int i, int head, int column) const {
    const float* found = scores(i, head);
    const int64_t steps = length(i);
    float most = -HUGE_VALF;
    for (int64_t step = lane(); step < steps; step += 32) most = larger(load(found + step), most);
    for (int mask = 16; mask > 0; mask /= 2) most = larger(shuffle_xor(most, mask), most);
    const float* value = static_cast<const float*>(m_.values) + row(i) * m_.steps * l_.values +
                         (column < 0 ? 0 : column);
    Softmax softmax{most, 0};
    float sum = 0;
#pragma unroll 4
    for (int64_t step = 0; step < steps; ++step) {
      const float weight = softmax.power(found + step);
      softmax.total += weight;
      sum += weight * load_constant(value + step * l_.values);
    }
    if (column >= 0) store(network_.context(i) + column, steps > 0 ? sum / softmax.total : 0.0f);
    return softmax;
  }
  FAST_S2S_DEVICE static float larger(float a, float b) { return a > b ? a : b; }

  const DecodeLayout& l_;
  const DecodeMemory& m_;
  const int width_;
  const Group& group_;
  const Network& network_;
  const LiveSlots& live_;
  float* scores_;
};

}  // namespace fast_s2s
