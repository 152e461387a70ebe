// What a call keeps of its steps: see DecodeKept. Groups count their steps each for itself. The
// same on the CPU: kept_cpu.h.
#pragma once

#include "scores_cuda.cuh"

namespace fast_s2s {

// What is there before: zeros, and -1 in tokens and parents.
class KeptSteps {
 public:
  FAST_S2S_DEVICE KeptSteps(const DecodeCudaArgs& args, const Group& group)
      : kept_(args.call.kept),
        slots_(args.call.rows * args.call.options.width),
        first_slot_(group.first_row * args.call.options.width),
        vocab_(args.layout.vocab),
        heads_(args.layout.heads),
        steps_(args.call.memory.steps) {}

  FAST_S2S_DEVICE bool logits() const { return kept_.logits != nullptr; }
  FAST_S2S_DEVICE void next_step() { first_ += slots_; }

  // Of a slot of the group.
  FAST_S2S_DEVICE void keep_logit(int slot, int64_t token, float logit) const {
    if (logits() && token < vocab_)
      store(kept_.logits + (first_ + first_slot_ + slot) * vocab_ + token, logit);
  }
  FAST_S2S_DEVICE bool attention() const { return kept_.attention != nullptr; }
  FAST_S2S_DEVICE void keep_attention(int slot, int head, int64_t step, float weight) const {
    store(kept_.attention + ((first_ + first_slot_ + slot) * heads_ + head) * steps_ + step,
          weight);
  }
  // Of slots of the call.
  FAST_S2S_DEVICE void keep_scores(int64_t slot, const BlockScores& found) const {
    if (kept_.scores == nullptr) return;
    float* to = kept_.scores + (first_ + slot) * vocab_;
    found.for_scores(
        [&](int64_t token, double score) { store(to + token, static_cast<float>(score)); });
  }
  // The prefix allows one token.
  FAST_S2S_DEVICE void keep_forced(int64_t slot, int64_t forced) const {
    if (kept_.scores == nullptr) return;
    float* to = kept_.scores + (first_ + slot) * vocab_;
    for (int64_t token = thread_rank(); token < vocab_; token += block_threads())
      store(to + token, token == forced ? 0.0f : -HUGE_VALF);
  }
  // `slot` continues the sequence of `parent`; by one thread.
  FAST_S2S_DEVICE void goes_on(int64_t slot, int64_t token, int64_t parent) const {
    if (kept_.tokens == nullptr) return;
    store(kept_.tokens + first_ + slot, token);
    store(kept_.parents + first_ + slot, parent);
  }

 private:
  const DecodeKept& kept_;
  const int64_t slots_, first_slot_, vocab_, heads_, steps_;
  int64_t first_ = 0;
};

}  // namespace fast_s2s
