// Host side of the decode ops: check, allocate, dispatch.

#include "decode.h"

#include <string>

#include "../cpu/thread_count.h"
#include "checks.h"
#include "decode_ops.h"

namespace fast_s2s {

using namespace decode_checks;
using namespace decode_arguments;

namespace {

const void* values_of(const Tensor& tensor) { return tensor.const_data_ptr(); }
void* writable_values_of(const Tensor& tensor) { return const_cast<void*>(values_of(tensor)); }

// `nodes`: of the automaton
StateTensors check_state(const std::vector<Tensor>& given, size_t first, const std::string& prefix,
                         bool has_finished, const StateSizes& s, int64_t nodes) {
  const StateTensors state = take_state(given, first, prefix, has_finished, s, dense);
  check_range(state.tensors[4], prefix + "position", 0, s.columns);
  if (nodes > 0) check_range(state.tensors.back(), prefix + "node", -1, nodes - 1);
  return state;
}

// Slots that run read their last token.
void check_inputs(const DecodeState& state, const StateSizes& s, int64_t vocab) {
  for (int64_t slot = 0; slot < s.slots; ++slot) {
    const int64_t token = state.tokens[slot * (1 + s.columns) + state.position[slot]];
    STD_TORCH_CHECK(state.finished[slot] || (token >= 0 && token < vocab),
                    "state.tokens: expected ids in 0..", vocab - 1, ", got ", token);
  }
}

// Beams of a row take their steps together.
void check_beams(const DecodeState& s, int64_t rows, int64_t width) {
  for (int64_t row = 0; row < rows; ++row) {
    int64_t position = -1;
    for (int64_t slot = row * width; slot < (row + 1) * width; ++slot) {
      if (s.finished[slot]) continue;
      STD_TORCH_CHECK(position < 0 || position == s.position[slot],
                      "state.position: expected one for the beams of a row, got ", position,
                      " and ", s.position[slot]);
      position = s.position[slot];
    }
  }
}

// Their values are in range too.
std::vector<Tensor> check_memory(const std::vector<Tensor>& given, const PackedHeader& header,
                                 int64_t rows, ScalarType acc) {
  const std::vector<Tensor> memory = take_memory(given, header, rows, acc, dense);
  if (!memory.empty()) check_range(memory[2], "memory.lengths", 0, memory[0].size(1));
  return memory;
}

void check_offsets(const Tensor& offsets, int64_t size) {
  const int64_t* values = data<int64_t>(offsets);
  int64_t before = 0;
  for (int64_t i = 0; i < offsets.numel(); ++i) {
    STD_TORCH_CHECK(i == 0 ? values[i] == 0 : values[i] > before && values[i] <= size,
                    "rules.bad_offsets: expected to rise from 0 to ", size, ", got ", values[i]);
    before = values[i];
  }
}

// Their values are in range too.
std::vector<Tensor> check_rules(const std::vector<Tensor>& given, int64_t rows, int64_t vocab,
                                const DecodeOptions& options) {
  const bool beam = options.strategy == Strategy::kBeam;
  const std::vector<Tensor> rules =
      take_rules(given, rows, options.strategy == Strategy::kSample || options.sample_beams, dense);
  check_range(rules[1], "rules.limits", beam ? 1 : 0, int64_t{1} << 40);
  check_range(rules[2], "rules.prefix", 0, vocab - 1);
  check_range(rules[3], "rules.prefix_lengths", 0, rules[2].size(1));
  check_range(rules[4], "rules.eos", 0, vocab - 1);
  check_range(rules[5], "rules.forced_eos", 0, vocab - 1);
  check_range(rules[6], "rules.suppress", 0, vocab - 1);
  check_range(rules[7], "rules.begin_suppress", 0, vocab - 1);
  check_range(rules[8], "rules.bad_tokens", 0, vocab - 1);
  check_offsets(rules[9], rules[8].numel());
  return rules;
}

// A checked call of the network or networks that `args` name; `header` says what it can keep.
std::vector<Tensor> run(DecodeArgs& args, const PackedHeader& header, const StateSizes& s,
                        const std::vector<Tensor>& state, const std::vector<Tensor>& rules,
                        int64_t keep) {
  const std::vector<Tensor> checked_rules =
      check_rules(rules, args.rows, header.vocab, args.options);
  args.rules = rules_of(checked_rules, values_of);
  const int64_t nodes = checked_rules[13].numel();
  const StateTensors begin = check_state(state, 0, "state.", true, s, nodes);
  args.begin = begin.pointers(writable_values_of);
  check_inputs(args.begin, s, header.vocab);
  const StateTensors after = grown(begin, args.max_steps);
  args.state = after.pointers(writable_values_of);
  std::vector<Tensor> results = after.tensors;
  StateTensors begin_hypotheses{{}, false}, hypotheses{{}, false};
  if (args.options.strategy == Strategy::kBeam) {
    check_beams(args.begin, args.rows, args.options.width);
    begin_hypotheses = check_state(state, 8, "hypotheses.", false, s, nodes);
    hypotheses = grown(begin_hypotheses, args.max_steps);
    args.begin_hypotheses = begin_hypotheses.pointers(writable_values_of);
    args.hypotheses = hypotheses.pointers(writable_values_of);
    results.insert(results.end(), hypotheses.tensors.begin(), hypotheses.tensors.end());
  }
  const auto room = [&](const std::vector<int64_t>& shape, ScalarType type) {
    results.push_back(empty(begin.tensors[4], shape, type));
    return results.back().mutable_data_ptr();
  };
  args.kept = take_kept(keep, s.slots, header, args.memory.steps, args.max_steps, room);
  results.push_back(empty(begin.tensors[4], {5}));
  args.counts = mutable_data<int64_t>(results.back());
  decode_cpu(args, thread_count());
  return results;
}

// With options read and sizes taken, and checked as far as they go.
DecodeArgs begin_call(const std::vector<Tensor>& state, const std::vector<int64_t>& options,
                      const std::vector<double>& parameters, int64_t max_steps, int64_t vocab) {
  DecodeArgs args{};
  args.options = read_options(options, parameters, vocab);
  check_call(state, args.options, max_steps);
  args.rows = state[2].size(0) / args.options.width;
  args.columns = state[2].size(1) - 1;
  args.max_steps = max_steps;
  return args;
}

// The networks of an ensemble: what they are, and the sums of their states' sizes.
struct Members {
  Members(const std::vector<Tensor>& packed, const std::vector<int64_t>& numbers) {
    STD_TORCH_CHECK(!packed.empty(), "packed: expected at least one tensor, got none");
    STD_TORCH_CHECK(numbers.size() == kHeaderNumbers * packed.size(), "headers: expected ",
                    kHeaderNumbers * packed.size(), " numbers, got ", numbers.size());
    for (size_t i = 0; i < packed.size(); ++i) {
      const auto first = numbers.begin() + i * kHeaderNumbers;
      headers.push_back(read_header(packed[i], {first, first + kHeaderNumbers}));
      const PackedHeader &one = headers.front(), &other = headers.back();
      STD_TORCH_CHECK(other.vocab == one.vocab && acc_type(other.weights) == acc_type(one.weights),
                      "packed: expected networks of ", one.vocab, " tokens and states of ",
                      toString(acc_type(one.weights)), ", got ", other.vocab, " and ",
                      toString(acc_type(other.weights)));
      hidden += other.hidden_states() * other.output;
      cell += other.layers * other.hidden;
      members.push_back({packed[i].const_data_ptr(), {}});
    }
  }

  // Gives each network with attention what it looks at, of the op's list.
  void take_memories(const std::vector<Tensor>& given, int64_t rows) {
    size_t attending = 0, next = 0;
    for (const PackedHeader& header : headers) attending += header.heads > 0;
    const size_t expected = attending > 0 ? 2 * attending + 1 : 0;
    STD_TORCH_CHECK(given.size() == expected, "memory: expected ", expected, " tensors, got ",
                    given.size());
    for (size_t i = 0; i < headers.size(); ++i) {
      if (headers[i].heads == 0) continue;
      memories.push_back(check_memory({given[next], given[next + 1], given.back()}, headers[i],
                                      rows, acc_type(headers[i].weights)));
      members[i].memory = memory_of(memories.back(), values_of);
      next += 2;
    }
  }

  std::vector<PackedHeader> headers;
  std::vector<DecodeMember> members;
  std::vector<std::vector<Tensor>> memories;  // checked, alive
  int64_t hidden = 0, cell = 0;
};

}  // namespace

std::vector<Tensor> decode(const Tensor& packed, const std::vector<int64_t>& numbers,
                           const std::vector<Tensor>& state, const std::vector<Tensor>& memory,
                           const std::vector<Tensor>& rules, const std::vector<int64_t>& options,
                           const std::vector<double>& parameters, int64_t max_steps) {
  const PackedHeader header = read_header(packed, numbers);
  DecodeArgs args = begin_call(state, options, parameters, max_steps, header.vocab);
  const StateSizes s{header.layers,           header.hidden_states(), header.hidden,
                     header.output,           state[2].size(0),       args.columns,
                     acc_type(header.weights)};
  args.packed = packed.const_data_ptr();
  const std::vector<Tensor> checked_memory = check_memory(memory, header, args.rows, s.acc);
  args.memory = memory_of(checked_memory, values_of);
  return run(args, header, s, state, rules, options[10]);
}

std::vector<Tensor> decode_ensemble(const std::vector<Tensor>& packed,
                                    const std::vector<int64_t>& numbers,
                                    const std::vector<Tensor>& state,
                                    const std::vector<Tensor>& memory,
                                    const std::vector<Tensor>& rules,
                                    const std::vector<int64_t>& options,
                                    const std::vector<double>& parameters, int64_t max_steps) {
  Members networks(packed, numbers);
  PackedHeader header{};
  header.vocab = networks.headers[0].vocab;
  DecodeArgs args = begin_call(state, options, parameters, max_steps, header.vocab);
  STD_TORCH_CHECK((options[10] & 8) == 0,
                  "keep: expected no attention of several networks, got it");
  const StateSizes s{1,
                     1,
                     networks.cell,
                     networks.hidden,
                     state[2].size(0),
                     args.columns,
                     acc_type(networks.headers[0].weights)};
  networks.take_memories(memory, args.rows);
  args.members = networks.members.data();
  args.models = static_cast<int64_t>(networks.members.size());
  return run(args, header, s, state, rules, options[10]);
}

}  // namespace fast_s2s
