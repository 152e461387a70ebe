// Host side of the op that reads: check, allocate, dispatch.

#include "read.h"

#include "../cpu/thread_count.h"
#include "checks.h"
#include "decode_ops.h"

namespace fast_s2s {

using namespace decode_checks;

std::tuple<Tensor, Tensor, Tensor> decode_read(const std::vector<Tensor>& packed,
                                               const std::vector<int64_t>& numbers, const Tensor& h,
                                               const Tensor& c, const Tensor& inputs,
                                               const Tensor& lengths, bool outputs) {
  STD_TORCH_CHECK(packed.size() == 1 || packed.size() == 2,
                  "packed: expected weights of one direction or of two, got ", packed.size());
  ReadArgs args{};
  PackedHeader header{};
  for (const Tensor& direction : packed) {
    header = read_header(direction, numbers);
    args.packed[args.directions++] = direction.const_data_ptr();
  }
  STD_TORCH_CHECK(header.heads == 0, "packed: expected weights without attention");
  STD_TORCH_CHECK(args.directions == 1 || header.layers == 1,
                  "packed: expected one layer in each of two directions, got ", header.layers);
  const ScalarType acc = acc_type(header.weights);
  const int64_t layers = args.directions * header.layers;
  const bool ids = inputs.scalar_type() == ScalarType::Long;
  STD_TORCH_CHECK(ids || !header.table, "packed: expected weights without a table for values");
  const Tensor given = ids ? dense(inputs, "inputs", ScalarType::Long, {kAny, kAny})
                           : dense(inputs, "inputs", acc, {kAny, kAny, header.inputs});
  args.rows = given.size(0);
  args.steps = given.size(1);
  const Tensor ends = dense(lengths, "lengths", ScalarType::Long, {args.rows});
  const Tensor h0 = dense(h, "h", acc, {layers, args.rows, header.output});
  const Tensor c0 = dense(c, "c", acc, {layers, args.rows, header.hidden});
  if (ids) check_range(given, "inputs", 0, header.vocab - 1);
  check_range(ends, "lengths", 0, args.steps);
  const Tensor h_n = empty(h0, {layers, args.rows, header.output});
  const Tensor c_n = empty(c0, {layers, args.rows, header.hidden});
  const Tensor y =
      empty(h0, {outputs ? args.rows : 0, args.steps, args.directions * header.output});
  args.h = h0.const_data_ptr();
  args.c = c0.const_data_ptr();
  if (ids) {
    args.tokens = data<int64_t>(given);
  } else {
    args.values = given.const_data_ptr();
  }
  args.lengths = data<int64_t>(ends);
  args.h_n = h_n.mutable_data_ptr();
  args.c_n = c_n.mutable_data_ptr();
  if (outputs) args.outputs = y.mutable_data_ptr();
  decode_read_cpu(args, thread_count());
  return {h_n, c_n, y};
}

}  // namespace fast_s2s
