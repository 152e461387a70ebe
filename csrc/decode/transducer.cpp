// Host side of the transducer's greedy search: check, allocate, dispatch.

#include "transducer.h"

#include <algorithm>

#include "../cpu/thread_count.h"
#include "decode_ops.h"
#include "transducer_networks.h"

namespace fast_s2s {

using namespace decode_checks;

namespace {

// tokens, frames, scores (B, U) and their counts (B); `blank`, -1 and 0 behind a row's last.
std::vector<Tensor> found_tensors(const std::vector<std::vector<TransducerToken>>& found,
                                  const Tensor& lengths, int64_t blank) {
  const int64_t rows = static_cast<int64_t>(found.size());
  size_t longest = 0;
  for (const auto& row : found) longest = std::max(longest, row.size());
  const int64_t columns = static_cast<int64_t>(longest);
  const Tensor tokens = empty(lengths, {rows, columns}), frames = empty(lengths, {rows, columns});
  const Tensor scores = empty(lengths, {rows, columns}, ScalarType::Double);
  const Tensor counts = empty(lengths, {rows});
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t first = row * columns, count = static_cast<int64_t>(found[row].size());
    for (int64_t i = 0; i < columns; ++i) {
      const TransducerToken token = i < count ? found[row][i] : TransducerToken{blank, -1, 0};
      mutable_data<int64_t>(tokens)[first + i] = token.token;
      mutable_data<int64_t>(frames)[first + i] = token.frame;
      mutable_data<double>(scores)[first + i] = token.score;
    }
    mutable_data<int64_t>(counts)[row] = count;
  }
  return {tokens, frames, scores, counts};
}

}  // namespace

std::vector<Tensor> transducer_greedy(const std::vector<Tensor>& packed, const Numbers& headers,
                                      const std::vector<Tensor>& state, const Tensor& encoded,
                                      const Tensor& lengths, const Numbers& durations,
                                      int64_t blank, int64_t max_symbols, bool relu) {
  // sums of some of them stay far from what a number can hold
  constexpr int64_t kLongest = int64_t{1} << 40;
  STD_TORCH_CHECK(state.size() == 4, "state: expected 4 tensors, got ", state.size());
  TransducerArgs args{};
  const TransducerNetworks networks(packed, headers);
  const PackedHeader& header = networks.header;
  args.predictor = networks.predictor;
  args.projection = networks.projection;
  args.joiner = networks.joiner;
  const int64_t joined = networks.joined;
  args.durations = durations.data();
  args.num_durations = static_cast<int64_t>(durations.size());
  networks.check_joiner(args.num_durations);
  for (int64_t duration : durations)
    STD_TORCH_CHECK(duration >= 0 && duration <= kLongest, "durations: expected values in 0..",
                    kLongest, ", got ", duration);
  networks.check_numbers(blank, max_symbols);
  args.blank = blank;
  args.max_symbols = max_symbols;
  args.relu = relu;

  const ScalarType acc = acc_type(header.weights);
  const Tensor x = dense(encoded, "encoded", acc, {kAny, kAny, joined});
  args.rows = x.size(0);
  args.frames = x.size(1);
  const Tensor ends = dense(lengths, "lengths", ScalarType::Long, {args.rows});
  const Tensor h = dense(state[0], "h", acc, {header.layers, args.rows, header.output});
  const Tensor c = dense(state[1], "c", acc, {header.layers, args.rows, header.hidden});
  const Tensor token = dense(state[2], "token", ScalarType::Long, {args.rows});
  const Tensor skip = dense(state[3], "skip", ScalarType::Long, {args.rows});
  check_range(ends, "lengths", 0, args.frames);
  check_range(token, "token", 0, header.vocab - 1);
  check_range(skip, "skip", 0, kLongest);
  const Tensor h_n = empty(h, {header.layers, args.rows, header.output});
  const Tensor c_n = empty(c, {header.layers, args.rows, header.hidden});
  const Tensor token_n = empty(token, {args.rows}), skip_n = empty(skip, {args.rows});
  args.encoded = x.const_data_ptr();
  args.lengths = data<int64_t>(ends);
  args.h = h.const_data_ptr();
  args.c = c.const_data_ptr();
  args.token = data<int64_t>(token);
  args.skip = data<int64_t>(skip);
  args.h_n = h_n.mutable_data_ptr();
  args.c_n = c_n.mutable_data_ptr();
  args.token_n = mutable_data<int64_t>(token_n);
  args.skip_n = mutable_data<int64_t>(skip_n);
  std::vector<std::vector<TransducerToken>> found(args.rows);
  args.found = found.data();
  transducer_greedy_cpu(args, thread_count());
  std::vector<Tensor> results = found_tensors(found, ends, blank);
  for (const Tensor& result : {h_n, c_n, token_n, skip_n}) results.push_back(result);
  return results;
}

}  // namespace fast_s2s
