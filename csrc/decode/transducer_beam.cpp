// Host side of the transducer's beam search: check, allocate, dispatch.

#include "transducer_beam.h"

#include <algorithm>

#include "../cpu/thread_count.h"
#include "decode_ops.h"
#include "transducer_networks.h"

namespace fast_s2s {

using namespace decode_checks;

namespace {

// Checked and dense: h, c, token, score, counts, tokens, frames, seen.
struct BeamTensors {
  Tensor h, c, token, score, counts, tokens, frames, seen;
  int64_t columns;  // U

  BeamTensors(const std::vector<Tensor>& state, const PackedHeader& header, int64_t slots,
              int64_t rows) {
    const ScalarType acc = acc_type(header.weights), whole = ScalarType::Long;
    h = dense(state[0], "h", acc, {header.layers, slots, header.output});
    c = dense(state[1], "c", acc, {header.layers, slots, header.hidden});
    token = dense(state[2], "token", whole, {slots});
    score = dense(state[3], "score", ScalarType::Double, {slots});
    counts = dense(state[4], "counts", whole, {slots});
    tokens = dense(state[5], "tokens", whole, {slots, kAny});
    columns = tokens.size(1);
    frames = dense(state[6], "frames", whole, {slots, columns});
    seen = dense(state[7], "seen", whole, {rows});
    check_range(token, "token", 0, header.vocab - 1);
    check_range(tokens, "tokens", 0, header.vocab - 1);
    check_range(counts, "counts", 0, columns);
  }
};

// Those of each row that are any.
std::vector<std::vector<TransducerHypothesis>> read_hypotheses(const BeamTensors& state,
                                                               int64_t rows, int64_t width) {
  std::vector<std::vector<TransducerHypothesis>> found(rows);
  for (int64_t slot = 0; slot < rows * width; ++slot) {
    const double score = data<double>(state.score)[slot];
    auto& row = found[slot / width];
    // an empty slot, and what is behind one
    if (!(score > -std::numeric_limits<double>::infinity()) ||
        static_cast<int64_t>(row.size()) < slot % width)
      continue;
    const int64_t first = slot * state.columns, end = first + data<int64_t>(state.counts)[slot];
    row.push_back({{data<int64_t>(state.tokens) + first, data<int64_t>(state.tokens) + end},
                   {data<int64_t>(state.frames) + first, data<int64_t>(state.frames) + end},
                   score,
                   data<int64_t>(state.token)[slot]});
  }
  return found;
}

// The same, behind h and c; `blank`, -1 and -inf where there is none.
std::vector<Tensor> write_hypotheses(const std::vector<std::vector<TransducerHypothesis>>& found,
                                     const Tensor& like, int64_t width, int64_t blank) {
  const int64_t slots = static_cast<int64_t>(found.size()) * width;
  size_t longest = 0;
  for (const auto& row : found)
    for (const TransducerHypothesis& each : row) longest = std::max(longest, each.tokens.size());
  const int64_t columns = static_cast<int64_t>(longest);
  const Tensor token = empty(like, {slots}), score = empty(like, {slots}, ScalarType::Double),
               count = empty(like, {slots}), tokens = empty(like, {slots, columns}),
               frames = empty(like, {slots, columns});
  const TransducerHypothesis none{{}, {}, -std::numeric_limits<double>::infinity(), blank};
  for (int64_t slot = 0; slot < slots; ++slot) {
    const auto& row = found[slot / width];
    const int64_t place = slot % width;
    const TransducerHypothesis& each = place < static_cast<int64_t>(row.size()) ? row[place] : none;
    mutable_data<int64_t>(token)[slot] = each.last;
    mutable_data<double>(score)[slot] = each.score;
    mutable_data<int64_t>(count)[slot] = static_cast<int64_t>(each.tokens.size());
    int64_t *of_tokens = mutable_data<int64_t>(tokens) + slot * columns,
            *of_frames = mutable_data<int64_t>(frames) + slot * columns;
    std::fill(std::copy(each.tokens.begin(), each.tokens.end(), of_tokens), of_tokens + columns,
              blank);
    std::fill(std::copy(each.frames.begin(), each.frames.end(), of_frames), of_frames + columns,
              -1);
  }
  return {token, score, count, tokens, frames};
}

}  // namespace

std::vector<Tensor> transducer_beam(const std::vector<Tensor>& packed, const Numbers& headers,
                                    const std::vector<Tensor>& state, const Tensor& encoded,
                                    const Tensor& lengths, int64_t blank, int64_t max_symbols,
                                    bool relu) {
  STD_TORCH_CHECK(state.size() == 8, "state: expected 8 tensors, got ", state.size());
  const TransducerNetworks networks(packed, headers);
  const PackedHeader& header = networks.header;
  networks.check_joiner(0);
  networks.check_numbers(blank, max_symbols);
  TransducerBeamArgs args{};
  args.predictor = networks.predictor;
  args.projection = networks.projection;
  args.joiner = networks.joiner;
  args.blank = blank;
  args.max_symbols = max_symbols;
  args.relu = relu;
  const Tensor x =
      dense(encoded, "encoded", acc_type(header.weights), {kAny, kAny, networks.joined});
  args.rows = x.size(0);
  args.frames = x.size(1);
  const Tensor ends = dense(lengths, "lengths", ScalarType::Long, {args.rows});
  check_range(ends, "lengths", 0, args.frames);
  STD_TORCH_CHECK(state[2].dim() == 1, "token: expected 1 dimension, got ", state[2].dim());
  const int64_t slots = state[2].size(0);
  STD_TORCH_CHECK(args.rows == 0 ? slots == 0 : slots > 0 && slots % args.rows == 0,
                  "token: expected a multiple of ", args.rows, " rows, got ", slots);
  args.width = args.rows == 0 ? 1 : slots / args.rows;
  const BeamTensors begin(state, header, slots, args.rows);
  const Tensor h_n = empty(begin.h, {header.layers, slots, header.output}),
               c_n = empty(begin.c, {header.layers, slots, header.hidden}),
               seen = empty(begin.seen, {args.rows});
  args.encoded = x.const_data_ptr();
  args.lengths = data<int64_t>(ends);
  args.seen = data<int64_t>(begin.seen);
  args.h = begin.h.const_data_ptr();
  args.c = begin.c.const_data_ptr();
  args.h_n = h_n.mutable_data_ptr();
  args.c_n = c_n.mutable_data_ptr();
  std::vector<std::vector<TransducerHypothesis>> found =
      read_hypotheses(begin, args.rows, args.width);
  args.found = found.data();
  transducer_beam_cpu(args, thread_count());
  for (int64_t row = 0; row < args.rows; ++row)
    mutable_data<int64_t>(seen)[row] = args.seen[row] + args.lengths[row];
  std::vector<Tensor> results = write_hypotheses(found, ends, args.width, blank);
  results.insert(results.begin(), {h_n, c_n});
  results.push_back(seen);
  return results;
}

}  // namespace fast_s2s
