// The arguments of the decode ops: what is checked alike on the CPU and on CUDA. What differs,
// where a tensor must be and whether its values can be looked at, is the caller's.
#pragma once

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <string>
#include <vector>

#include "../empty_tensor.h"
#include "decode.h"

namespace fast_s2s {
namespace decode_arguments {

using torch::headeronly::toString;

constexpr int64_t kAny = -1;
// of a `Header` of contract.py
constexpr size_t kHeaderNumbers = 14;

// The tensor, of this type and shape; a copy only if it is not dense.
inline Tensor dense_of(const Tensor& tensor, const std::string& name, ScalarType type,
                       const std::vector<int64_t>& shape) {
  STD_TORCH_CHECK(tensor.scalar_type() == type, name, ": expected dtype ", toString(type), ", got ",
                  toString(tensor.scalar_type()));
  const auto sizes = tensor.sizes();
  bool fits = sizes.size() == shape.size();
  for (size_t i = 0; fits && i < shape.size(); ++i) fits = shape[i] == kAny || shape[i] == sizes[i];
  if (!fits) {
    std::string message = name + ": expected shape (";
    for (int64_t size : shape) message += (size == kAny ? "any" : std::to_string(size)) + ",";
    message += "), got (";
    for (int64_t size : sizes) message += std::to_string(size) + ",";
    STD_TORCH_CHECK(false, message, ")");
  }
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

// Of packed weights, but for what depends on how they are laid out: `Header` of contract.py.
inline std::vector<int64_t> numbers_of(const PackedHeader& h) {
  return {static_cast<int64_t>(h.weights),
          h.layers,
          h.hidden,
          h.output,
          h.vocab,
          h.inputs,
          h.projected,
          h.table,
          h.heads,
          h.keys,
          h.values,
          h.additive,
          h.feeding,
          h.normed};
}

// The inverse, of weights of so many bytes; raises for sizes that none have.
inline PackedHeader header_of(const std::vector<int64_t>& numbers, int64_t bytes) {
  STD_TORCH_CHECK(numbers.size() == kHeaderNumbers, "header: expected ", kHeaderNumbers,
                  " numbers, got ", numbers.size());
  PackedHeader h{};
  h.weights = static_cast<WeightType>(numbers[0]);
  h.layers = numbers[1], h.hidden = numbers[2], h.output = numbers[3], h.vocab = numbers[4];
  h.inputs = numbers[5], h.projected = numbers[6] != 0, h.table = numbers[7] != 0;
  h.heads = numbers[8], h.keys = numbers[9], h.values = numbers[10];
  h.additive = numbers[11] != 0, h.feeding = numbers[12] != 0;
  h.normed = numbers[13] != 0;
  bool fits = numbers[0] >= 0 && numbers[0] <= static_cast<int64_t>(WeightType::kInt8);
  // each has a byte at least
  for (int64_t size : {h.layers, h.hidden, h.output, h.vocab, h.inputs})
    fits = fits && size >= 1 && size <= bytes;
  for (int64_t size : {h.heads, h.keys, h.values})
    fits = fits && size >= (h.heads > 0 ? 1 : 0) && size <= bytes;
  fits = fits && (h.projected || h.output == h.hidden) && (!h.table || h.inputs == 4 * h.hidden);
  if (h.heads > 0) {
    fits = fits && h.keys % h.heads == 0 && h.values % h.heads == 0;
    fits = fits && (h.additive || h.keys == h.output);
  } else {
    fits = fits && h.keys == 0 && h.values == 0 && !h.additive && !h.feeding;
  }
  STD_TORCH_CHECK(fits, "header: expected that of the packed weights");
  return h;
}

inline DecodeOptions read_options(const std::vector<int64_t>& options,
                                  const std::vector<double>& parameters, int64_t vocab) {
  STD_TORCH_CHECK(options.size() == 11, "options: expected 11 numbers, got ", options.size());
  STD_TORCH_CHECK(parameters.size() == 5, "parameters: expected 5 numbers, got ",
                  parameters.size());
  const auto check = [](const char* name, int64_t value, int64_t low, int64_t high) {
    STD_TORCH_CHECK(value >= low && value <= high, name, ": expected a value in ", low, "..", high,
                    ", got ", value);
  };
  constexpr int64_t kMost = int64_t{1} << 40;
  check("strategy", options[0], 0, 2);
  check("width", options[1], 1, kMost);
  check("min_new_tokens", options[2], 0, kMost);
  check("no_repeat_ngram_size", options[3], 0, kMost);
  check("top_k", options[4], 0, kMost);
  check("early_stopping", options[5], 0, 2);
  check("forced_bos", options[7], -1, vocab - 1);
  check("renormalize", options[8], 0, 1);
  check("sample_beams", options[9], 0, 1);
  check("keep", options[10], 0, 15);
  STD_TORCH_CHECK(parameters[0] > 0, "temperature: expected a number > 0, got ", parameters[0]);
  STD_TORCH_CHECK(parameters[3] > 0, "repetition_penalty: expected a number > 0, got ",
                  parameters[3]);
  return {static_cast<Strategy>(options[0]),
          options[1],
          options[2],
          options[3],
          options[4],
          static_cast<EarlyStopping>(options[5]),
          options[6],
          options[7],
          options[8] != 0,
          options[9] != 0,
          parameters[0],
          parameters[1],
          parameters[2],
          parameters[3],
          parameters[4]};
}

// Raises unless there are the tensors of a state, with whole rows of slots.
inline void check_call(const std::vector<Tensor>& state, const DecodeOptions& options,
                       int64_t max_steps) {
  const size_t expected = options.strategy == Strategy::kBeam ? 15 : 8;
  STD_TORCH_CHECK(state.size() == expected, "state: expected ", expected, " tensors, got ",
                  state.size());
  STD_TORCH_CHECK(max_steps >= 0, "max_steps: expected at least 0, got ", max_steps);
  STD_TORCH_CHECK(state[2].dim() == 2 && state[2].size(1) >= 1,
                  "state.tokens: expected (N, 1 + T) with the first input in front");
  STD_TORCH_CHECK(state[2].size(0) % options.width == 0, "state: expected rows of ", options.width,
                  " slots, got ", state[2].size(0), " slots");
}

struct StateSizes {
  int64_t layers, hidden_states, hidden, output, slots, columns;
  ScalarType acc;
};

// The tensors of a state, checked.
struct StateTensors {
  std::vector<Tensor> tensors;
  bool has_finished;

  // As kernels take them; `pointer` gives where a tensor's values are.
  template <class Pointer>
  DecodeState pointers(const Pointer& pointer) const {
    size_t next = 0;
    const auto take = [&]() { return pointer(tensors[next++]); };
    DecodeState s = {};
    s.h = take();
    s.c = take();
    s.tokens = static_cast<int64_t*>(take());
    s.token_scores = static_cast<double*>(take());
    s.position = static_cast<int64_t*>(take());
    s.score = static_cast<double*>(take());
    if (has_finished) s.finished = static_cast<bool*>(take());
    s.node = static_cast<int64_t*>(take());
    return s;
  }
};

// From the tensor `first` on; `check` takes a tensor, its name, type and shape, and returns it.
template <class Check>
StateTensors take_state(const std::vector<Tensor>& given, size_t first, const std::string& prefix,
                        bool has_finished, const StateSizes& s, const Check& check) {
  StateTensors state{{}, has_finished};
  const auto take = [&](const char* name, ScalarType type, std::vector<int64_t> shape) {
    state.tensors.push_back(check(given[first + state.tensors.size()], prefix + name, type, shape));
  };
  take("h", s.acc, {s.hidden_states, s.slots, s.output});
  take("c", s.acc, {s.layers, s.slots, s.hidden});
  take("tokens", ScalarType::Long, {s.slots, 1 + s.columns});
  take("token_scores", ScalarType::Double, {s.slots, s.columns});
  take("position", ScalarType::Long, {s.slots});
  take("score", ScalarType::Double, {s.slots});
  if (has_finished) take("finished", ScalarType::Bool, {s.slots});
  take("node", ScalarType::Long, {s.slots});
  return state;
}

// Room for so many steps more.
inline StateTensors grown(const StateTensors& like, int64_t max_steps) {
  StateTensors out{{}, like.has_finished};
  for (size_t i = 0; i < like.tensors.size(); ++i) {
    const auto sizes = like.tensors[i].sizes();
    std::vector<int64_t> shape(sizes.begin(), sizes.end());
    if (i == 2 || i == 3) shape[1] += max_steps;
    out.tensors.push_back(empty(like.tensors[i], shape));
  }
  return out;
}

// What the call keeps, where `room(shape, type)` puts it; bits of `keep`: scores, logits, path
// alone, weights of attention over `steps`.
template <class Room>
DecodeKept take_kept(int64_t keep, int64_t slots, const PackedHeader& header, int64_t steps,
                     int64_t max_steps, const Room& room) {
  if (keep == 0) return {};
  const auto take = [&](bool wanted, std::vector<int64_t> shape, ScalarType type) {
    if (!wanted) shape[0] = 0;
    void* at = room(shape, type);
    return wanted ? at : nullptr;
  };
  DecodeKept kept{};
  const std::vector<int64_t> all{max_steps, slots, header.vocab}, each{max_steps, slots};
  kept.scores = static_cast<float*>(take(keep & 1, all, ScalarType::Float));
  kept.logits = static_cast<float*>(take(keep & 2, all, ScalarType::Float));
  kept.attention = static_cast<float*>(
      take(keep & 8, {max_steps, slots, header.heads, steps}, ScalarType::Float));
  kept.tokens = static_cast<int64_t*>(take(true, each, ScalarType::Long));
  kept.parents = static_cast<int64_t*>(take(true, each, ScalarType::Long));
  return kept;
}

// What attention looks at, no tensors without it; `check` as in `take_state`.
template <class Check>
std::vector<Tensor> take_memory(const std::vector<Tensor>& given, const PackedHeader& header,
                                int64_t rows, ScalarType acc, const Check& check) {
  const size_t expected = header.heads > 0 ? 3 : 0;
  STD_TORCH_CHECK(given.size() == expected, "memory: expected ", expected, " tensors, got ",
                  given.size());
  if (expected == 0) return {};
  std::vector<Tensor> taken;
  const std::string name = "memory.";
  taken.push_back(check(given[0], name + "values", acc, {rows, kAny, header.values}));
  const int64_t steps = taken[0].size(1);
  taken.push_back(check(given[1], name + "keys", acc, {rows, steps, header.keys}));
  taken.push_back(check(given[2], name + "lengths", ScalarType::Long, {rows}));
  return taken;
}

template <class Pointer>
DecodeMemory memory_of(const std::vector<Tensor>& tensors, const Pointer& pointer) {
  if (tensors.empty()) return {};
  return {pointer(tensors[0]), pointer(tensors[1]),
          static_cast<const int64_t*>(pointer(tensors[2])), tensors[0].size(1)};
}

// The tensors of the rules, in the order of DecodeRules; `check` as in `take_state`.
template <class Check>
std::vector<Tensor> take_rules(const std::vector<Tensor>& given, int64_t rows, bool samples,
                               const Check& check) {
  STD_TORCH_CHECK(given.size() == 14, "rules: expected 14 tensors, got ", given.size());
  std::vector<Tensor> taken;
  const auto take = [&](const char* name, std::vector<int64_t> shape,
                        ScalarType type = ScalarType::Long) {
    const Tensor& tensor = given[taken.size()];
    taken.push_back(check(tensor, std::string("rules.") + name, type, shape));
  };
  take("seeds", {samples ? rows : kAny});
  take("limits", {rows});
  take("prefix", {rows, kAny});
  take("prefix_lengths", {rows});
  for (const char* name : {"eos", "forced_eos", "suppress", "begin_suppress", "bad_tokens",
                           "bad_offsets", "node_offsets", "arc_tokens"})
    take(name, {kAny});
  take("arc_targets", {taken[11].numel()});
  take("final", {std::max<int64_t>(0, taken[10].numel() - 1)}, ScalarType::Bool);
  return taken;
}

template <class Pointer>
DecodeRules rules_of(const std::vector<Tensor>& tensors, const Pointer& pointer) {
  const auto numbers = [&](int i) { return static_cast<const int64_t*>(pointer(tensors[i])); };
  const auto list = [&](int i) { return Ids{numbers(i), tensors[i].numel()}; };
  return {numbers(0),
          numbers(1),
          numbers(2),
          numbers(3),
          tensors[2].size(1),
          list(4),
          list(5),
          list(6),
          list(7),
          list(8),
          list(9),
          list(10),
          list(11),
          list(12),
          static_cast<const bool*>(pointer(tensors[13]))};
}

}  // namespace decode_arguments
}  // namespace fast_s2s
