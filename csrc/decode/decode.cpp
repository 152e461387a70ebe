// Host side of the decode ops: check, allocate, dispatch.

#include "decode.h"

#include <cstring>
#include <string>

#include "../cpu/thread_count.h"
#include "checks.h"
#include "decode_ops.h"

namespace fast_s2s {

using namespace decode_checks;

namespace {

PackedHeader read_header(const Tensor& packed) {
  PackedHeader header{};
  STD_TORCH_CHECK(packed.is_cpu() && packed.dim() == 1 && packed.is_contiguous() &&
                      packed.scalar_type() == ScalarType::Byte &&
                      packed.numel() >= static_cast<int64_t>(sizeof(header)),
                  "packed: expected what decode_pack gave, on the CPU");
  std::memcpy(&header, packed.const_data_ptr(), sizeof(header));
  STD_TORCH_CHECK(std::memcmp(header.magic, kPackedMagic, sizeof(header.magic)) == 0,
                  "packed: expected what decode_pack of this version gave");
  PackedHeader here = header;
  decode_describe_cpu(here);
  STD_TORCH_CHECK(here.layout == header.layout,
                  "packed: expected weights packed for this machine's instruction set; pack again");
  STD_TORCH_CHECK(here.bytes == header.bytes && header.bytes == packed.numel(), "packed: expected ",
                  here.bytes, " bytes, got ", packed.numel());
  return header;
}

// The tensors of a state, checked, with the pointers that kernels take.
struct StateTensors {
  std::vector<Tensor> tensors;
  bool has_finished;

  DecodeState pointers() const {
    const bool* finished = has_finished ? data<bool>(tensors[6]) : nullptr;
    return {const_cast<void*>(tensors[0].const_data_ptr()),
            const_cast<void*>(tensors[1].const_data_ptr()),
            const_cast<int64_t*>(data<int64_t>(tensors[2])),
            const_cast<double*>(data<double>(tensors[3])),
            const_cast<int64_t*>(data<int64_t>(tensors[4])),
            const_cast<double*>(data<double>(tensors[5])),
            const_cast<bool*>(finished),
            const_cast<int64_t*>(data<int64_t>(tensors.back()))};
  }
};

struct Geometry {
  int64_t layers, hidden_states, hidden, output, vocab, slots, columns, nodes;
  ScalarType acc;
};

StateTensors check_state(const std::vector<Tensor>& given, size_t first, const std::string& prefix,
                         bool has_finished, const Geometry& g) {
  StateTensors state{{}, has_finished};
  size_t next = first;
  const auto take = [&](const char* name, ScalarType type, std::vector<int64_t> shape) {
    state.tensors.push_back(dense(given[next++], prefix + name, type, shape));
  };
  take("h", g.acc, {g.hidden_states, g.slots, g.output});
  take("c", g.acc, {g.layers, g.slots, g.hidden});
  take("tokens", ScalarType::Long, {g.slots, 1 + g.columns});
  take("token_scores", ScalarType::Double, {g.slots, g.columns});
  take("position", ScalarType::Long, {g.slots});
  take("score", ScalarType::Double, {g.slots});
  if (has_finished) take("finished", ScalarType::Bool, {g.slots});
  take("node", ScalarType::Long, {g.slots});
  check_range(state.tensors[4], prefix + "position", 0, g.columns);
  if (g.nodes > 0) check_range(state.tensors.back(), prefix + "node", -1, g.nodes - 1);
  return state;
}

// Slots that run read their last token.
void check_inputs(const DecodeState& s, const Geometry& g) {
  for (int64_t slot = 0; slot < g.slots; ++slot) {
    const int64_t token = s.tokens[slot * (1 + g.columns) + s.position[slot]];
    STD_TORCH_CHECK(s.finished[slot] || (token >= 0 && token < g.vocab),
                    "state.tokens: expected ids in 0..", g.vocab - 1, ", got ", token);
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

StateTensors grown(const StateTensors& like, int64_t max_steps) {
  StateTensors out{{}, like.has_finished};
  for (size_t i = 0; i < like.tensors.size(); ++i) {
    const auto sizes = like.tensors[i].sizes();
    std::vector<int64_t> shape(sizes.begin(), sizes.end());
    if (i == 2 || i == 3) shape[1] += max_steps;
    out.tensors.push_back(torch::stable::new_empty(like.tensors[i], shape));
  }
  return out;
}

Ids ids(const Tensor& tensor) { return {data<int64_t>(tensor), tensor.numel()}; }

// What attention looks at, checked.
struct MemoryTensors {
  std::vector<Tensor> tensors;

  MemoryTensors(const std::vector<Tensor>& given, const PackedHeader& header, int64_t rows,
                ScalarType acc) {
    const size_t expected = header.heads > 0 ? 3 : 0;
    STD_TORCH_CHECK(given.size() == expected, "memory: expected ", expected, " tensors, got ",
                    given.size());
    if (expected == 0) return;
    tensors.push_back(dense(given[0], "memory.values", acc, {rows, kAny, header.values}));
    const int64_t steps = tensors[0].size(1);
    tensors.push_back(dense(given[1], "memory.keys", acc, {rows, steps, header.keys}));
    tensors.push_back(dense(given[2], "memory.lengths", ScalarType::Long, {rows}));
    check_range(tensors[2], "memory.lengths", 0, steps);
  }

  DecodeMemory pointers() const {
    if (tensors.empty()) return {};
    return {tensors[0].const_data_ptr(), tensors[1].const_data_ptr(), data<int64_t>(tensors[2]),
            tensors[0].size(1)};
  }
};

// The rules' tensors, checked, in the order of DecodeRules.
struct RuleTensors {
  std::vector<Tensor> tensors;

  RuleTensors(const std::vector<Tensor>& given, int64_t rows, int64_t vocab, bool samples,
              bool beam) {
    STD_TORCH_CHECK(given.size() == 14, "rules: expected 14 tensors, got ", given.size());
    const auto take = [&](const char* name, ScalarType type, std::vector<int64_t> shape) {
      tensors.push_back(dense(given[tensors.size()], std::string("rules.") + name, type, shape));
      return tensors.back();
    };
    const auto take_ids = [&](const char* name) {
      check_range(take(name, ScalarType::Long, {kAny}), std::string("rules.") + name, 0, vocab - 1);
    };
    take("seeds", ScalarType::Long, {samples ? rows : kAny});
    check_range(take("limits", ScalarType::Long, {rows}), "rules.limits", beam ? 1 : 0,
                int64_t{1} << 40);
    const int64_t columns = take("prefix", ScalarType::Long, {rows, kAny}).size(1);
    check_range(tensors.back(), "rules.prefix", 0, vocab - 1);
    check_range(take("prefix_lengths", ScalarType::Long, {rows}), "rules.prefix_lengths", 0,
                columns);
    for (const char* name : {"eos", "forced_eos", "suppress", "begin_suppress", "bad_tokens"})
      take_ids(name);
    const Tensor offsets = take("bad_offsets", ScalarType::Long, {kAny});
    check_offsets(offsets, tensors[8].numel());
    take("node_offsets", ScalarType::Long, {kAny});
    take("arc_tokens", ScalarType::Long, {kAny});
    take("arc_targets", ScalarType::Long, {tensors[11].numel()});
    take("final", ScalarType::Bool, {nodes()});
  }

  int64_t nodes() const { return std::max<int64_t>(0, tensors[10].numel() - 1); }

  DecodeRules pointers() const {
    return {data<int64_t>(tensors[0]), data<int64_t>(tensors[1]), data<int64_t>(tensors[2]),
            data<int64_t>(tensors[3]), tensors[2].size(1),        ids(tensors[4]),
            ids(tensors[5]),           ids(tensors[6]),           ids(tensors[7]),
            ids(tensors[8]),           ids(tensors[9]),           ids(tensors[10]),
            ids(tensors[11]),          ids(tensors[12]),          data<bool>(tensors[13])};
  }

 private:
  static void check_offsets(const Tensor& offsets, int64_t size) {
    const int64_t* values = data<int64_t>(offsets);
    int64_t before = 0;
    for (int64_t i = 0; i < offsets.numel(); ++i) {
      STD_TORCH_CHECK(i == 0 ? values[i] == 0 : values[i] > before && values[i] <= size,
                      "rules.bad_offsets: expected to rise from 0 to ", size, ", got ", values[i]);
      before = values[i];
    }
  }
};

DecodeOptions read_options(const std::vector<int64_t>& options,
                           const std::vector<double>& parameters, int64_t vocab) {
  STD_TORCH_CHECK(options.size() == 9, "options: expected 9 numbers, got ", options.size());
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
          parameters[0],
          parameters[1],
          parameters[2],
          parameters[3],
          parameters[4]};
}

}  // namespace

std::vector<Tensor> decode(const Tensor& packed, const std::vector<Tensor>& state,
                           const std::vector<Tensor>& rules, const std::vector<int64_t>& options,
                           const std::vector<double>& parameters, int64_t max_steps) {
  return decode_attending(packed, state, {}, rules, options, parameters, max_steps);
}

std::vector<Tensor> decode_attending(const Tensor& packed, const std::vector<Tensor>& state,
                                     const std::vector<Tensor>& memory,
                                     const std::vector<Tensor>& rules,
                                     const std::vector<int64_t>& options,
                                     const std::vector<double>& parameters, int64_t max_steps) {
  const PackedHeader header = read_header(packed);
  DecodeArgs args{};
  args.options = read_options(options, parameters, header.vocab);
  const bool beam = args.options.strategy == Strategy::kBeam;
  const size_t expected = beam ? 15 : 8;
  STD_TORCH_CHECK(state.size() == expected, "state: expected ", expected, " tensors, got ",
                  state.size());
  STD_TORCH_CHECK(max_steps >= 0, "max_steps: expected at least 0, got ", max_steps);
  STD_TORCH_CHECK(state[2].dim() == 2 && state[2].size(1) >= 1,
                  "state.tokens: expected (N, 1 + T) with the first input in front");
  Geometry g{header.layers,
             header.hidden_states(),
             header.hidden,
             header.output,
             header.vocab,
             state[2].size(0),
             state[2].size(1) - 1,
             0,
             acc_type(header.weights)};
  STD_TORCH_CHECK(g.slots % args.options.width == 0, "state: expected rows of ", args.options.width,
                  " slots, got ", g.slots, " slots");
  args.packed = packed.const_data_ptr();
  args.rows = g.slots / args.options.width;
  args.columns = g.columns;
  args.max_steps = max_steps;
  const MemoryTensors checked_memory(memory, header, args.rows, g.acc);
  args.memory = checked_memory.pointers();
  const RuleTensors checked_rules(rules, args.rows, header.vocab,
                                  args.options.strategy == Strategy::kSample, beam);
  g.nodes = checked_rules.nodes();
  args.rules = checked_rules.pointers();
  const StateTensors begin = check_state(state, 0, "state.", true, g);
  args.begin = begin.pointers();
  check_inputs(args.begin, g);
  StateTensors after = grown(begin, max_steps);
  args.state = after.pointers();
  std::vector<Tensor> results = after.tensors;
  StateTensors begin_hypotheses{{}, false}, hypotheses{{}, false};
  if (beam) {
    check_beams(args.begin, args.rows, args.options.width);
    begin_hypotheses = check_state(state, 8, "hypotheses.", false, g);
    hypotheses = grown(begin_hypotheses, max_steps);
    args.begin_hypotheses = begin_hypotheses.pointers();
    args.hypotheses = hypotheses.pointers();
    results.insert(results.end(), hypotheses.tensors.begin(), hypotheses.tensors.end());
  }
  results.push_back(torch::stable::new_empty(begin.tensors[4], {4}));
  args.counts = mutable_data<int64_t>(results.back());
  decode_cpu(args, thread_count());
  return results;
}

}  // namespace fast_s2s
