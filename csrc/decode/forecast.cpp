// Host side of the op that forecasts: check, allocate, dispatch.

#include "forecast.h"

#include "../cpu/thread_count.h"
#include "decode_ops.h"
#include "packs.h"

namespace fast_s2s {

using namespace decode_checks;

namespace {

template <class T>
T named(int64_t number, int64_t count, const char* name) {
  STD_TORCH_CHECK(number >= 0 && number < count, name, ": expected a number in 0..", count - 1,
                  ", got ", number);
  return static_cast<T>(number);
}

}  // namespace

std::vector<Tensor> forecast(const std::vector<Tensor>& packed, const Numbers& headers,
                             const Tensor& h, const Tensor& c, const Tensor& history,
                             const Tensor& known, const Tensor& seeds, const Numbers& lags,
                             int64_t paths, int64_t family, int64_t positive) {
  STD_TORCH_CHECK(packed.size() == 2, "packed: expected a network and its output, got ",
                  packed.size(), " tensors");
  Packs packs(packed, headers);
  ForecastArgs args{};
  const Tensor network = packs.take(1)[0];
  const PackedHeader header = read_header(network, packs.numbers());
  STD_TORCH_CHECK(header.heads == 0 && !header.table,
                  "packed: expected a network without attention and without a table");
  const Tensor output = packs.take(1)[0];
  const PackedHeader made = read_header(output, packs.numbers(), /*of_layers=*/false);
  STD_TORCH_CHECK(made.weights == header.weights, "packed: expected weights of one type");
  STD_TORCH_CHECK(made.output == header.output, "packed: expected a linear layer of ",
                  header.output, " inputs, got one of ", made.output);
  args.network = network.const_data_ptr();
  args.output = output.const_data_ptr();
  args.family = named<Family>(family, 3, "family");
  args.positive = named<Positive>(positive, 3, "positive");
  STD_TORCH_CHECK(paths >= 1, "paths: expected at least 1, got ", paths);
  args.paths = paths;

  const ScalarType acc = acc_type(header.weights);
  const Tensor before = dense(history, "history", acc, {kAny, kAny, kAny});
  args.rows = before.size(0);
  args.past = before.size(1);
  args.series = before.size(2);
  STD_TORCH_CHECK(made.vocab == num_parameters(args.family) * args.series,
                  "packed: expected a linear layer of ", num_parameters(args.family),
                  " parameters of each of ", args.series, " series, got one of ", made.vocab);
  args.num_lags = static_cast<int64_t>(lags.size());
  args.lags = lags.data();
  for (int64_t lag : lags)
    STD_TORCH_CHECK(lag >= 1 && lag <= args.past, "lags: expected values in 1..", args.past,
                    ", got ", lag);
  const Tensor given = dense(known, "known", acc, {args.rows, kAny, kAny});
  args.steps = given.size(1);
  args.known_size = given.size(2);
  STD_TORCH_CHECK(header.inputs == args.num_lags * args.series + args.known_size,
                  "packed: expected a network of ", args.num_lags * args.series, " values and ",
                  args.known_size, " that are known, got one of ", header.inputs);
  const bool draws = seeds.numel() > 0;
  const Tensor streams = dense(seeds, "seeds", ScalarType::Long, {draws ? args.rows : 0});
  if (draws) args.seeds = data<int64_t>(streams);
  const Tensor h0 = dense(h, "h", acc, {header.layers, args.rows, header.output});
  const Tensor c0 = dense(c, "c", acc, {header.layers, args.rows, header.hidden});
  const int64_t count = args.rows * paths;
  const Tensor values = empty(h0, {count, args.steps, args.series});
  const Tensor h_n = empty(h0, {header.layers, count, header.output});
  const Tensor c_n = empty(c0, {header.layers, count, header.hidden});
  args.history = before.const_data_ptr();
  args.known = given.const_data_ptr();
  args.h = h0.const_data_ptr();
  args.c = c0.const_data_ptr();
  args.values = values.mutable_data_ptr();
  args.h_n = h_n.mutable_data_ptr();
  args.c_n = c_n.mutable_data_ptr();
  forecast_cpu(args, thread_count());
  return {values, h_n, c_n};
}

}  // namespace fast_s2s
